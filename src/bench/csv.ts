import { type BenchResult, rateOf } from "./result.ts";

const COLUMNS = [
  "group",
  "kind",
  "name",
  "bytes",
  "layout",
  "mode",
  "n",
  "median_ms",
  "low_ms",
  "high_ms",
  "min_ms",
  "p95_ms",
  "gpu_median_ms",
  "bytes_per_second",
  "error",
] as const;

/** One line per row of the result, for spreadsheets; RFC 4180. */
export function toCsv(result: BenchResult): string {
  const lines = result.rows.map((row) => {
    const { group, kind, name, bytes, layout, mode, ms, gpu, error } = row;
    const times = ms === null ? Array(6).fill("") : [ms.n, ms.median, ms.low, ms.high, ms.min, ms.p95];
    const rate = rateOf(row);
    const cells = [group, kind, name, bytes, layout, mode ?? "warm", ...times, gpu?.median ?? ""];
    return [...cells, rate === null ? "" : Math.round(rate), error ?? ""].map(quoted).join(",");
  });
  return `${[COLUMNS.join(","), ...lines].join("\r\n")}\r\n`;
}

function quoted(value: unknown): string {
  const text = String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

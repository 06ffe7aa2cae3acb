import type { Summary } from "./stats.ts";

/**
 * The result of a benchmark run, as it is written to a file. A change that an old reader would misread increments
 * `version`; new optional fields do not.
 */
export interface BenchResult {
  readonly format: "webgpu-svm-bench";
  readonly version: 1;
  /** ISO 8601. */
  readonly date: string;
  readonly options: { readonly quick: boolean; readonly filter: string; readonly seed: number };
  /** Where it ran; the fields that only the caller of the page knows are null when it did not tell. */
  readonly environment: Environment;
  readonly rows: readonly BenchRow[];
}

export interface Environment {
  readonly userAgent: string;
  readonly cores: number;
  readonly crossOriginIsolated: boolean;
  readonly browser: { readonly version: string; readonly args: readonly string[] } | null;
  /** Null when no group needed the GPU. */
  readonly gpu: {
    readonly adapter: { vendor: string; architecture: string; description: string; fallback: boolean };
    readonly limits: Readonly<Record<string, number>>;
    readonly features: readonly string[];
  } | null;
}

/** One measured case. Times are milliseconds. */
export interface BenchRow {
  /** `"paths"`; the groups are listed in groups.ts. */
  readonly group: string;
  /** What is compared with what: `"upload"`, `"bound"`. */
  readonly kind: string;
  readonly name: string;
  /** Bytes moved by one sample; 0 where the case moves none. */
  readonly bytes: number;
  /** Shape of the data where there is more than one: `"contiguous"`, `"random"`. */
  readonly layout: string;
  /** Null when the case failed before it was measured. */
  readonly ms: Summary | null;
  /** Why the case is wrong or was not measured; null when the self-check passed. */
  readonly error: string | null;
  /** What the figure means beside others of the run, in a few words. */
  readonly note?: string;
}

/** Stable name of a row: what `--filter` looks at, and what two results are joined by. */
export function rowId(row: Pick<BenchRow, "group" | "kind" | "name" | "bytes" | "layout">): string {
  return [row.group, row.kind, row.name, formatBytes(row.bytes), row.layout].filter((part) => part !== "").join("/");
}

/** `"64KiB"`; empty for 0. */
export function formatBytes(bytes: number): string {
  if (bytes === 0) return "";
  const units = ["B", "KiB", "MiB", "GiB"];
  const unit = Math.min(units.length - 1, Math.floor(Math.log2(bytes) / 10));
  return `${+(bytes / 1024 ** unit).toFixed(1)}${units[unit]}`;
}

import { type BenchResult, type BenchRow, rowId } from "./result.ts";
import { medianInterval } from "./stats.ts";

/**
 * What changed from one result to another beyond the noise.
 *
 * Rows are joined by their ids. The ratio of the two medians lies between the quotients of the ends of their intervals;
 * both intervals hold at 99.5 %, so this one does at 99 % and more, whatever the distribution. A change counts when the
 * interval leaves out 1 and the medians differ by 5 % or more; below 9 samples no interval holds at 99.5 %, and what would
 * count is unclear. What this cannot see is a machine that was busier in one of the runs: the bounds, which depend on no
 * path, tell of that.
 */
export interface Comparison {
  readonly changes: readonly Change[];
  /** Ids that only one of the results has. */
  readonly onlyBefore: readonly string[];
  readonly onlyAfter: readonly string[];
  /** Where the two ran under different conditions, one sentence each. */
  readonly conditions: readonly string[];
  /** After over before, the median over all bounds that both have; null without any. */
  readonly bound: number | null;
}

export interface Change {
  readonly id: string;
  readonly before: BenchRow;
  readonly after: BenchRow;
  readonly verdict: "faster" | "slower" | "same" | "unclear" | "broken" | "mended";
  /** Time after over time before, and its interval; null where one of them was not measured. */
  readonly ratio: { readonly value: number; readonly low: number; readonly high: number } | null;
}

const LEVEL = 0.995;
const LEAST = 0.05;
/** The range of n samples holds the median with probability 1 - 2^(1 - n): 99.6 % from here on. */
const ENOUGH = 9;

export function compareResults(before: BenchResult, after: BenchResult): Comparison {
  const earlier = new Map(before.rows.map((row) => [rowId(row), row]));
  const later = new Map(after.rows.map((row) => [rowId(row), row]));
  const changes: Change[] = [];
  for (const [id, row] of later) {
    const old = earlier.get(id);
    if (old !== undefined) changes.push(changeOf(id, old, row));
  }
  const bounds = changes
    .filter(({ before: row, ratio }) => row.kind === "bound" && ratio !== null)
    .map(({ ratio }) => ratio!.value)
    .sort((a, b) => a - b);
  return {
    changes,
    onlyBefore: [...earlier.keys()].filter((id) => !later.has(id)),
    onlyAfter: [...later.keys()].filter((id) => !earlier.has(id)),
    conditions: conditionsOf(before, after),
    bound: bounds.length === 0 ? null : bounds[bounds.length >> 1]!,
  };
}

function changeOf(id: string, before: BenchRow, after: BenchRow): Change {
  const ratio = ratioOf(before, after);
  if (before.error === null && after.error !== null) return { id, before, after, verdict: "broken", ratio };
  if (before.error !== null && after.error === null) return { id, before, after, verdict: "mended", ratio };
  const verdict = verdictOf(ratio);
  const few = verdict !== "same" && Math.min(before.ms!.n, after.ms!.n) < ENOUGH;
  return { id, before, after, verdict: few ? "unclear" : verdict, ratio };
}

function verdictOf(ratio: Change["ratio"]): Change["verdict"] {
  if (ratio === null) return "same";
  if (ratio.low > 1 && ratio.value >= 1 + LEAST) return "slower";
  if (ratio.high < 1 && ratio.value <= 1 / (1 + LEAST)) return "faster";
  return "same";
}

function ratioOf(before: BenchRow, after: BenchRow): Change["ratio"] {
  if (before.ms === null || after.ms === null || !(before.ms.median > 0)) return null;
  const from = intervalOf(before);
  const to = intervalOf(after);
  return { value: after.ms.median / before.ms.median, low: to.low / from.high, high: to.high / from.low };
}

/** From the samples where the file has them; the 95 % interval where it has not. */
function intervalOf(row: BenchRow): { low: number; high: number } {
  if (row.samples === undefined || row.samples.length === 0) return row.ms!;
  return medianInterval(Float64Array.from(row.samples).sort(), LEVEL);
}

/** What only one of the two tells of is not compared. */
function conditionsOf(before: BenchResult, after: BenchResult): string[] {
  const found: string[] = [];
  const note = (what: string, from: string, to: string) => {
    if (from !== to && from !== "" && to !== "") found.push(`${what}: ${from} before, ${to} after`);
  };
  const [a, b] = [before.environment, after.environment];
  note("adapter", adapterOf(before), adapterOf(after));
  note("browser", browserOf(before), browserOf(after));
  note("flags", a?.browser?.args.join(" ") ?? "", b?.browser?.args.join(" ") ?? "");
  note("cores", String(a?.cores ?? ""), String(b?.cores ?? ""));
  note("limits", before.options.limits ?? "adapter", after.options.limits ?? "adapter");
  const effort = ({ options }: BenchResult) => (options.quick ? "quick" : "thorough");
  note("effort", effort(before), effort(after));
  return found;
}

/** `"156.0"`: the part of the version that the user agent tells too. */
export function browserOf({ environment }: BenchResult): string {
  const version =
    environment?.browser?.version ?? /(?:Chrome|Firefox|Version)\/([\d.]+)/.exec(environment?.userAgent ?? "")?.[1];
  return /^\d+\.\d+/.exec(version ?? "")?.[0] ?? version ?? "";
}

/** As far as the adapter tells; empty when no benchmark needed one. */
export function adapterOf(result: BenchResult): string {
  const adapter = result.environment?.gpu?.adapter;
  if (adapter === undefined) return "";
  const { vendor, architecture, description, fallback } = adapter;
  return [vendor, architecture, description, fallback ? "(software)" : ""].filter((part) => part !== "").join(" ");
}

import type { Summary } from "./stats.ts";

/**
 * The result of a benchmark run, as it is written to a file; docs/bench-result.schema.json is the same for other
 * programs. A change that an old reader would misread increments `version`; new optional fields do not.
 */
export interface BenchResult {
  readonly format: "webgpu-svm-bench";
  readonly version: 1;
  /** ISO 8601. */
  readonly date: string;
  readonly options: {
    readonly quick: boolean;
    readonly filter: string;
    readonly seed: number;
    /** The limits that the device was asked for: the adapter's, or WebGPU's defaults. */
    readonly limits?: "adapter" | "default";
    /** What was chosen in the page. */
    readonly selection?: Selection;
  };
  /** Where it ran; the fields that only the caller of the page knows are null when it did not tell. */
  readonly environment: Environment | null;
  readonly rows: readonly BenchRow[];
  /** Why the run ended before it was done: the rows are those that were measured until then. */
  readonly incomplete?: string;
  /** Loops that ran in Node beside it. */
  readonly loops?: readonly BenchLoop[];
}

/** What of the copy paths is to be measured; a list that is left out leaves nothing out. */
export interface Selection {
  readonly kinds?: readonly string[];
  readonly names?: readonly string[];
  /** Bytes. */
  readonly sizes?: readonly number[];
  readonly layouts?: readonly string[];
  readonly modes?: readonly string[];
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
  /** Left out where the memory was used before and one transfer is made at a time. */
  readonly mode?: "first touch" | "8 in flight";
  /** Null when the case failed before it was measured. */
  readonly ms: Summary | null;
  /** Why the case is wrong or was not measured; null when the self-check passed. */
  readonly error: string | null;
  /** What the figure means beside others of the run, in a few words. */
  readonly note?: string;
  /**
   * Of a path that takes what the copy engine chooses: the way it took and where its table came from, the best path by median,
   * and the time of the choice over the best path's (auto-choice.ts).
   */
  readonly choice?: {
    readonly way: string;
    readonly table: "default" | "pinned" | "calibrated" | "cached";
    readonly best: string;
    readonly ratio: number;
  };
  /** The GPU's own time, by timestamp queries in runs of their own. */
  readonly gpu?: Summary;
  /** The single times, in the order in which they were taken, to a ten-thousandth of a millisecond. */
  readonly samples?: readonly number[];
}

export interface BenchLoop {
  readonly group: string;
  readonly name: string;
  readonly opsPerSecond: number;
  readonly cPerSecond: number;
  readonly ratio: number;
}

/** What names a row. */
export type RowKey = Pick<BenchRow, "group" | "kind" | "name" | "bytes" | "layout" | "mode">;

/** Stable name of a row: what `--filter` looks at, and what two results are joined by. */
export function rowId(row: RowKey): string {
  return [row.group, row.kind, row.name, formatBytes(row.bytes), row.layout, row.mode ?? ""]
    .filter((part) => part !== "")
    .join("/");
}

/** `"64KiB"`; empty for 0. */
export function formatBytes(bytes: number): string {
  if (bytes === 0) return "";
  const units = ["B", "KiB", "MiB", "GiB"];
  const unit = Math.min(units.length - 1, Math.floor(Math.log2(bytes) / 10));
  return `${+(bytes / 1024 ** unit).toFixed(1)}${units[unit]}`;
}

/** True for the two rows that bound the others: a plain copy in JavaScript's memory, and the least wait there is. */
export function isBound(row: Pick<BenchRow, "kind">): boolean {
  return row.kind === "bound";
}

/** Bytes per second of a row's median; null where it moved none, was not measured, or measures a wait. */
export function rateOf(row: BenchRow): number | null {
  if (row.ms === null || row.bytes === 0 || WAITS.has(row.name) || row.ms.median <= 0) return null;
  return (row.bytes * 1000) / row.ms.median;
}

/** No path beats the first; the second, of 4 bytes, is the least that a readback costs. */
export const MEMORY_COPY = "JavaScript memory copy";
export const ROUND_TRIP = "submit + mapAsync";
/** The same behind a dispatch, without the engine's messages (device/nudge.ts). */
export const BROWSER_WAIT = "wait left to the browser";
const WAITS: ReadonlySet<string> = new Set([ROUND_TRIP, BROWSER_WAIT]);

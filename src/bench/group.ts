import type { Random } from "../base/random.ts";
import type { BenchRow, Environment, RowKey } from "./result.ts";

/** A set of benchmarks that belong together. To add one, write its module and list it in groups.ts. */
export interface BenchGroup {
  /** First part of the row ids. */
  readonly name: string;
  run(context: BenchContext): Promise<BenchRow[]>;
}

/** What a group is given. */
export interface BenchContext {
  readonly quick: boolean;
  /** True when the caller chose sizes and shapes itself; `quick` then only means fewer samples. */
  readonly chosen: boolean;
  /** The limits to ask the adapter for. */
  readonly limits: "adapter" | "default";
  readonly seed: number;
  readonly random: Random;
  readonly now: () => number;
  /** True when the row is to be measured; a group skips the others, and the work for them. */
  selected(row: RowKey): boolean;
  /** `done` of this group, 0 to 1, and what it is at. */
  progress(done: number, text: string): void;
  /** Rows that are ready while the group goes on; it returns them at the end all the same. */
  found(rows: readonly BenchRow[]): void;
  /** For the report; the last group that tells wins. */
  gpu(info: NonNullable<Environment["gpu"]>): void;
}

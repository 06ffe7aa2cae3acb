import type { GpuCounters } from "../../hal/gpu.ts";
import type { Commands } from "../commands.ts";
import type { Health } from "../health.ts";
import type { Readback } from "../readback.ts";
import type { BankRuns } from "./bank-runs.ts";
import type { PagePipelines } from "./page-pipelines.ts";

/**
 * Overview. A way is one manner of moving pages between host memory and the buffers of a GPU, or among those. The copy
 * engine takes the way that path-choice.ts names for a list of runs; the copy-path benchmark (paths/) drives the same ways,
 * one by one. They are made of few parts:
 *
 *   upload    a stager brings bytes from the host into a buffer (WriteStager, RingStager), either each run to its
 *             place, or packed ones to a staging buffer from which a kernel scatters them (Scatter)
 *   readback  a fetch brings pages into a mappable slot (CopyFetch, GatherFetch); Downloads cuts lists into slots,
 *             and in a ring submits each slot by itself
 *   device    buffer copies (CopyPerRun) or a kernel (ComputeCopy)
 *   fill      ClearPerRun, ZeroWrites, ComputeFill
 */
export interface CopyWay {
  /** Records the runs, or puts them on the queue. What comes from the host is taken before this returns. */
  record(runs: BankRuns): void;
}

/** What ways work with. */
export interface WayContext {
  readonly commands: Commands;
  readonly health: Health;
  readonly readback: Readback;
  readonly counters: GpuCounters;
  readonly banks: readonly GPUBuffer[];
  /** Source of uploads, destination of readbacks. */
  readonly hostMemory: Uint8Array;
  readonly pagePipelines: PagePipelines;
}

/** From the host into a buffer. */
export interface Stager {
  /**
   * Takes `bytes` of `source` from byte `from` on, for byte `at` of `target`; all multiples of 4. What goes to neighbouring
   * places one after the other goes as one.
   */
  put(source: Uint8Array, from: number, bytes: number, target: GPUBuffer, at: number): void;
  /** What was put is recorded, or goes to the queue before whatever is recorded next. */
  flush(): void;
}

/** From a buffer into a mappable slot. */
export interface Fetch {
  /** Lists or records pages for byte `at` of `slot`. Between two flushes, one behind the other in one slot. */
  take(bank: number, page: number, pages: number, slot: GPUBuffer, at: number): void;
  /** What was taken is recorded. */
  flush(): void;
}

/** A shader that copies or fills single pages by a list. */
export interface PageKernel {
  /** Banks of the staging buffers, behind those of memory. */
  readonly uploadBank: number;
  readonly downloadBank: number;
  copy(sourceBank: number, sourcePage: number, bank: number, page: number): void;
  /** With zeros. */
  fill(bank: number, page: number): void;
  /** What was listed is recorded. */
  flush(): void;
}

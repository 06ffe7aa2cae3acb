import type { GpuCounters } from "../hal/gpu.ts";
import type { Commands } from "./commands.ts";
import type { Health } from "./health.ts";
import type { Memory } from "./memory.ts";
import type { Pipelines } from "./pipelines.ts";
import type { Readback } from "./readback.ts";

/** What the parts of the copy engine work with. */
export interface CopyContext {
  readonly commands: Commands;
  readonly memory: Memory;
  readonly pipelines: Pipelines;
  readonly readback: Readback;
  readonly health: Health;
  readonly counters: GpuCounters;
  readonly hostMemory: Uint8Array;
  /** The shape that the copy pipelines were made for, see copy.wgsl. */
  readonly pagePerWorkgroup: boolean;
}

/** The page number in word 0 or 1 of a scatter entry. */
export const SG_PAGE_MASK = 0x0fffffff;

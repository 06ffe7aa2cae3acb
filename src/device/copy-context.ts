import type { GpuCounters } from "../hal/gpu.ts";
import type { Commands } from "./commands.ts";
import type { TransferWays } from "./copy-staging.ts";
import type { Health } from "./health.ts";
import type { Memory } from "./memory.ts";
import type { Pipelines } from "./pipelines.ts";
import type { PtWriter } from "./pt-writer.ts";
import type { Readback } from "./readback.ts";
import type { Tlb } from "./tlb.ts";

/** What the parts of the copy engine work with. */
export interface CopyContext {
  readonly commands: Commands;
  readonly memory: Memory;
  readonly pipelines: Pipelines;
  readonly readback: Readback;
  readonly health: Health;
  readonly counters: GpuCounters;
  readonly ptWriter: PtWriter;
  readonly tlb: Tlb;
  /** Bind group of `Pipelines.tables`. */
  readonly tables: GPUBindGroup;
  /** The most that a storage binding may hold, bytes. */
  readonly maxBindingBytes: number;
  readonly hostMemory: Uint8Array;
  /** Overrides the choice that uploads and downloads make. */
  readonly ways: TransferWays | null;
  /** The shape that the copy pipelines were made for, see copy.wgsl. */
  readonly pagePerWorkgroup: boolean;
}

/** The page number in word 0 or 1 of a scatter entry. */
export const SG_PAGE_MASK = 0x0fffffff;

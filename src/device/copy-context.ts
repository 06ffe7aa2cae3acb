import type { VramSpace } from "../abi/tiles.ts";
import { AP_VRAM } from "../hal/gpu.ts";
import type { GpuCounters } from "../hal/gpu.ts";
import type { Commands } from "./commands.ts";
import type { TransferWays } from "./copy-staging.ts";
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
  /** See `Gpu.ptWrite`. */
  readonly ptWrite: (pa: number, words: Uint32Array) => void;
  /** Records the writes of page-table entries, among others. */
  readonly settle: () => void;
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

/** An address of an aperture as its memory counts: the PAs of VRAM have gaps, its linear addresses have not. */
export function placeInMemory(vram: VramSpace, aperture: number, address: number): number {
  return aperture === AP_VRAM ? vram.linear(address) : address;
}

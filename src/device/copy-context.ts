import type { VramSpace } from "../abi/tiles.ts";
import { AP_VRAM } from "../hal/gpu.ts";
import type { Memory } from "./memory.ts";
import type { PathTable } from "./path-choice.ts";
import type { Pipelines } from "./pipelines.ts";
import type { WayContext } from "./ways/way.ts";

/** What the parts of the copy engine work with. */
export interface CopyContext extends WayContext {
  readonly memory: Memory;
  readonly pipelines: Pipelines;
  /** See `Gpu.ptWrite`. */
  readonly ptWrite: (pa: number, words: Uint32Array) => void;
  /** Records the writes of page-table entries, among others. */
  readonly settle: () => void;
  /** Says that something else than `ptWrite` writes where page tables lie, or may. */
  readonly writesTables: () => void;
  /** The most that a storage binding may hold, bytes. */
  readonly maxBindingBytes: number;
  /** Which way lists of pages go. */
  readonly paths: PathTable;
  /** The shape that the pipelines of jobs were made for, see copy.wgsl. */
  readonly pagePerWorkgroup: boolean;
}

/** The page number in word 0 or 1 of a scatter entry. */
export const SG_PAGE_MASK = 0x0fffffff;

/** An address of an aperture as its memory counts: the PAs of VRAM have gaps, its linear addresses have not. */
export function placeInMemory(vram: VramSpace, aperture: number, address: number): number {
  return aperture === AP_VRAM ? vram.linear(address) : address;
}

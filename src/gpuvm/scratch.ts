import type { Address } from "./arithmetic.ts";
import type { GpuVa } from "./gpuva.ts";
import {
  GPUVA_OP_MAP,
  GPUVA_OP_REMAP,
  GPUVA_OP_UNMAP,
  type MapPiece,
  type MapStep,
  type RemapStep,
  type UnmapStep,
} from "./steps.ts";

/**
 * The steps of a VM that callbacks are handed, used again for every step so that generating them allocates nothing.
 * What a callback wants to keep it has to copy.
 */
export class StepScratch<A extends Address> {
  readonly map: MapStep<A>;
  readonly unmap: UnmapStep<A>;
  readonly remap: RemapStep<A>;
  readonly prev: MapPiece<A>;
  readonly next: MapPiece<A>;

  /** `va` stands where a step names a mapping, until the first step. */
  constructor(va: GpuVa<A>, zero: A) {
    this.map = { kind: GPUVA_OP_MAP, addr: zero, range: zero, obj: null, offset: zero };
    this.unmap = { kind: GPUVA_OP_UNMAP, va, keep: false };
    this.remap = { kind: GPUVA_OP_REMAP, prev: null, next: null, unmap: { kind: GPUVA_OP_UNMAP, va, keep: false } };
    this.prev = { addr: zero, range: zero, obj: null, offset: zero };
    this.next = { addr: zero, range: zero, obj: null, offset: zero };
  }
}

import type { Address } from "./arithmetic.ts";
import type { GemObject } from "./gem-object.ts";
import type { GpuVm } from "./gpuvm.ts";
import type { MapPiece } from "./steps.ts";
import type { GpuVmBo } from "./vm-bo.ts";

/** The backing store is invalid: page table entries must not be trusted. @kernel DRM_GPUVA_INVALIDATED */
export const GPUVA_INVALIDATED = 1;
/** Sparse mapping: reads give zero, writes vanish. @kernel DRM_GPUVA_SPARSE */
export const GPUVA_SPARSE = 2;
/** First bit free for drivers. @kernel DRM_GPUVA_USERBITS */
export const GPUVA_USERBITS = 4;

/**
 * A mapping: `range` units of GPU address space at `addr`, backed by `obj` from `offset` on, or by nothing (`obj` null:
 * sparse, user memory, CPU mirror).
 *
 * The caller owns its storage; drivers extend it. The manager never reads the flags. Position and object are constant
 * while it is inserted.
 *
 * @kernel drm_gpuva, drm_gpuva_init
 */
export class GpuVa<A extends Address = number> {
  addr: A;
  range: A;
  /** `addr + range - 1`; set by insertion. */
  last: A;
  obj: GemObject<A> | null;
  /** Offset in the object of what is mapped at `addr`. */
  offset: A;
  flags = 0;
  /** The VM it was last inserted in; removal does not clear it. */
  vm: GpuVm<A> | null = null;
  isInserted = false;
  /** What it is linked to. */
  vmBo: GpuVmBo<A> | null = null;

  // NoInfer: literals as arguments must not become the type.
  constructor(addr: NoInfer<A>, range: NoInfer<A>, obj: GemObject<A> | null, offset: NoInfer<A>) {
    this.addr = addr;
    this.range = range;
    this.last = addr;
    this.obj = obj;
    this.offset = offset;
  }

  /** The address again, under the name the interval tree knows it by. */
  get start(): A {
    return this.addr;
  }

  /** Position and object of a map op or of a piece of a remap op; nothing else changes. @kernel drm_gpuva_init_from_op */
  initFromOp(piece: MapPiece<A>): void {
    this.addr = piece.addr;
    this.range = piece.range;
    this.obj = piece.obj;
    this.offset = piece.offset;
  }

  /** @kernel drm_gpuva_invalidate, drm_gpuva_invalidated */
  get invalidated(): boolean {
    return (this.flags & GPUVA_INVALIDATED) !== 0;
  }

  set invalidated(invalid: boolean) {
    this.flags = invalid ? this.flags | GPUVA_INVALIDATED : this.flags & ~GPUVA_INVALIDATED;
  }
}

import type { Address } from "./arithmetic.ts";
import type { GemObject } from "./gem-object.ts";
import type { GpuVa } from "./gpuva.ts";

/** @kernel DRM_GPUVA_OP_MAP */
export const GPUVA_OP_MAP = 0;
/** @kernel DRM_GPUVA_OP_REMAP */
export const GPUVA_OP_REMAP = 1;
/** @kernel DRM_GPUVA_OP_UNMAP */
export const GPUVA_OP_UNMAP = 2;
/** @kernel DRM_GPUVA_OP_PREFETCH */
export const GPUVA_OP_PREFETCH = 3;
/** First number free for a driver's own steps. @kernel DRM_GPUVA_OP_DRIVER */
export const GPUVA_OP_DRIVER = 4;

/** What a new mapping will be. The offset is computed even where there is no object; then it means nothing. */
export interface MapPiece<A extends Address> {
  addr: A;
  range: A;
  obj: GemObject<A> | null;
  offset: A;
}

/** A request to map; also what is asked of `smUnmap`, which looks at `addr` and `range`. @kernel drm_gpuvm_map_req */
export type MapRequest<A extends Address = number> = Readonly<MapPiece<A>>;

/** Create a mapping. @kernel drm_gpuva_op_map */
export interface MapStep<A extends Address = number> extends MapPiece<A> {
  readonly kind: typeof GPUVA_OP_MAP;
}

/**
 * Remove a mapping. `keep`: the request maps the same object at the same place, so page table entries may stay if all
 * other attributes are equal too. Ignoring it is always right.
 *
 * @kernel drm_gpuva_op_unmap
 */
export interface UnmapStep<A extends Address = number> {
  readonly kind: typeof GPUVA_OP_UNMAP;
  va: GpuVa<A>;
  keep: boolean;
}

/** Remove a mapping and create what is left of it before and behind the request. @kernel drm_gpuva_op_remap */
export interface RemapStep<A extends Address = number> {
  readonly kind: typeof GPUVA_OP_REMAP;
  prev: MapPiece<A> | null;
  next: MapPiece<A> | null;
  unmap: UnmapStep<A>;
}

/** Bring a mapping to where it is wanted. @kernel drm_gpuva_op_prefetch */
export interface PrefetchStep<A extends Address = number> {
  readonly kind: typeof GPUVA_OP_PREFETCH;
  va: GpuVa<A>;
}

export type Step<A extends Address = number> = MapStep<A> | RemapStep<A> | UnmapStep<A> | PrefetchStep<A>;

/** Half-open range of what really disappears in a remap. @kernel drm_gpuva_op_remap_to_unmap_range */
export function remapToUnmapRange(step: RemapStep): { start: number; range: number } {
  const { va } = step.unmap;
  const start = step.prev === null ? va.addr : step.prev.addr + step.prev.range;
  const end = step.next === null ? va.addr + va.range : step.next.addr;
  return { start, range: end - start };
}

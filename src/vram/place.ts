/** Host pages that the GPU cannot reach. @kernel TTM_PL_SYSTEM */
export const PL_SYSTEM = 0;
/** Host memory in slots of the system window. @kernel TTM_PL_TT */
export const PL_TT = 1;
/** Memory of the device's first tile; the tile `t` is `PL_VRAM + t`. @kernel TTM_PL_VRAM, XE_PL_VRAM0 */
export const PL_VRAM = 2;

/** Blocks that touch, in ascending order. @kernel TTM_PL_FLAG_CONTIGUOUS */
export const PL_CONTIGUOUS = 1;
/** Highest addresses first. @kernel TTM_PL_FLAG_TOPDOWN */
export const PL_TOPDOWN = 2;
/** A stop on the way; never a place to stay. @kernel TTM_PL_FLAG_TEMPORARY */
export const PL_TEMPORARY = 4;
/** Only if there is room without eviction. @kernel TTM_PL_FLAG_DESIRED */
export const PL_DESIRED = 8;
/** Only if the others would need eviction. @kernel TTM_PL_FLAG_FALLBACK */
export const PL_FALLBACK = 16;

/** Where a buffer may lie: pages `[fpfn, lpfn)` of one memory, `lpfn` 0 for its end. @kernel ttm_place */
export interface TtmPlace {
  readonly memType: number;
  readonly fpfn?: number;
  readonly lpfn?: number;
  /** PL_* flags. */
  readonly flags?: number;
}

/** Places in the order of preference. Empty: none, the content may go. @kernel ttm_placement */
export type TtmPlacement = readonly TtmPlace[];

export function hasFlag(place: { readonly flags?: number }, flag: number): boolean {
  return ((place.flags ?? 0) & flag) !== 0;
}

/** The two attempts to place a buffer. */
export type Pass = "without eviction" | "with eviction";
export const PASSES: readonly Pass[] = ["without eviction", "with eviction"];

export function countsIn(place: TtmPlace, pass: Pass): boolean {
  return !hasFlag(place, pass === "without eviction" ? PL_FALLBACK : PL_DESIRED);
}

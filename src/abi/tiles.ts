import type { Pa } from "../base/addr.ts";

/**
 * Tiles: the parts of a card, each with VRAM of its own (spec/device.md 1.1). Tile t has the physical addresses from
 * `t * TILE_STRIDE` upward, so that the PAs of a card have gaps.
 */
export const MAX_TILES = 4;
/** Bytes from the PA of one tile to that of the next: 64 GiB. */
export const TILE_STRIDE = 2 ** 36;
/** The same in pages of 4 KiB: the tile of a page number of VRAM. */
export const TILE_STRIDE_PAGES = 2 ** 24;
/** Position of the tile in the high word of a PA. */
export const TILE_HI_POS = 4;

/** PA of the first byte of a tile. */
export function tileBase(tile: number): Pa {
  return tile * TILE_STRIDE;
}

/** The tile of a PA, whether it exists or not. */
export function tileOf(pa: Pa): number {
  return Math.floor(pa / TILE_STRIDE);
}

/**
 * VRAM of all tiles as one range of bytes, tile behind tile: what it means to be the n-th byte of a device whose physical
 * addresses have gaps. On a device of one tile linear addresses are its PAs.
 */
export class VramSpace {
  /** Bytes of each tile. */
  readonly tileBytes: readonly number[];
  /** Linear address of the first byte of each tile. */
  readonly starts: readonly number[];
  /** First linear address behind all tiles. */
  readonly end: number;

  /** Tiles begin at multiples of `alignment` bytes. */
  constructor(tileBytes: readonly number[], alignment: number) {
    const starts: number[] = [];
    let end = 0;
    for (const bytes of tileBytes) {
      const start = Math.ceil(end / alignment) * alignment;
      starts.push(start);
      end = start + bytes;
    }
    this.tileBytes = tileBytes;
    this.starts = starts;
    this.end = end;
  }

  /** True when `[pa, pa + bytes)` lies in one tile. */
  contains(pa: Pa, bytes: number): boolean {
    const tile = tileOf(pa);
    return pa - tileBase(tile) + bytes <= (this.tileBytes[tile] ?? -1);
  }

  /** PA of a linear address. */
  pa(linear: number): Pa {
    const tile = this.starts.findLastIndex((start) => start <= linear);
    return tileBase(tile) + (linear - this.starts[tile]!);
  }

  /** Linear address of a PA that exists. */
  linear(pa: Pa): number {
    const tile = tileOf(pa);
    return this.starts[tile]! + (pa - tileBase(tile));
  }
}

import { PAGE_SIZE } from "../base/addr.ts";
import { TILE_HI_POS, VramSpace } from "./tiles.ts";

/** What decides where in its buffers a device's memory lies. */
export interface MemoryShape {
  /** Bytes of VRAM of each tile. */
  readonly tileBytes: readonly number[];
  /** Bytes of the page-table aperture of each tile. */
  readonly ptBytes: number;
  readonly syswBytes: number;
  readonly segShift: number;
  /** Segments of all tiles. */
  readonly nseg: number;
}

/** Where VRAM lies in the space of locations: location l is word l of the linear range. Tiles begin with a segment. */
export function vramSpace(shape: MemoryShape): VramSpace {
  return new VramSpace(shape.tileBytes, 2 ** shape.segShift);
}

/** Location of word 0 of the window. With one segment it follows VRAM at once, so that a carve-out needs no bank select. */
export function windowLocation(shape: MemoryShape): number {
  return shape.nseg === 1 ? shape.tileBytes[0]! / 4 : shape.nseg * 2 ** (shape.segShift - 2);
}

/**
 * From addresses to locations, straight-line, and what the shaders may touch. Generated, because a device of one tile is not
 * to pay for the others.
 *
 *     bank_has(pa, vram)          memory stands behind the physical address: VRAM, or else the window
 *     bank_location(pa)           location of the word at an address of VRAM
 *     bank_stores(l, words)       kernels may write there: the heap and the window, not page tables, nothing past their end
 */
export function memoryWgsl(shape: MemoryShape): string {
  return shape.tileBytes.length === 1 ? oneTile(shape) : severalTiles(shape);
}

function oneTile(shape: MemoryShape): string {
  const first = shape.ptBytes / 4;
  // Behind the window no buffer ends; between VRAM and a window of its own lies nothing that has a location.
  const words = windowLocation(shape) + shape.syswBytes / 4 - first;
  return `
fn bank_has(pa: vec2u, vram: bool) -> bool {
  let pfn = select(0xffffffffu, (pa.y << 20u) | (pa.x >> 12u), pa.y < 16u);
  return pfn < select(SYSW_PAGES, ${shape.tileBytes[0]! / PAGE_SIZE}u, vram);
}
fn bank_location(pa: vec2u) -> u32 { return (pa.y << 30u) | (pa.x >> 2u); }
fn bank_stores(location: u32, words: u32) -> bool { return location - ${first}u <= ${words}u - words; }
`;
}

function severalTiles(shape: MemoryShape): string {
  const { starts } = vramSpace(shape);
  const byTile = (values: readonly number[]) =>
    values.reduce((rest, value, tile) => `select(${rest}, ${value}u, tile == ${tile}u)`, "0u");
  const heaps = starts.map((start, tile) => [
    (start + shape.ptBytes) / 4,
    (shape.tileBytes[tile]! - shape.ptBytes) / 4,
  ]);
  if (shape.syswBytes > 0) heaps.push([windowLocation(shape), shape.syswBytes / 4]);
  const inHeap = heaps.map(([first, words]) => `(location - ${first}u <= ${words}u - words)`);
  return `
fn bank_has(pa: vec2u, vram: bool) -> bool {
  let tile = pa.y >> ${TILE_HI_POS}u;
  let pages = ${byTile(shape.tileBytes.map((bytes) => bytes / PAGE_SIZE))};
  let pfn = ((pa.y & 15u) << 20u) | (pa.x >> 12u);
  return pfn < select(select(0u, SYSW_PAGES, tile == 0u), pages, vram);
}
fn bank_location(pa: vec2u) -> u32 {
  let tile = pa.y >> ${TILE_HI_POS}u;
  return (((pa.y & 15u) << 30u) | (pa.x >> 2u)) + ${byTile(starts.map((start) => start / 4))};
}
fn bank_stores(location: u32, words: u32) -> bool { return ${inHeap.join(" | ")}; }
`;
}

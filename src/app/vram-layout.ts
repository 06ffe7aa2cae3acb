import type { DeviceSize } from "../worker/protocol.ts";

/** VRAM is drawn as tiles of one 2 MiB frame each: 512 pages in rows of 32, so that a 64 KiB chunk is half a row. */
export const TILE_PAGES = 512;
const TILE_COLUMNS = 32;

/** The part of the box in which one device's VRAM is drawn. */
export interface DeviceBand {
  readonly name: string;
  /** Its first page and tile, counted over all devices. */
  readonly firstPage: number;
  readonly firstTile: number;
  readonly pages: number;
  /** CSS pixels from the top of the box; its name stands above. */
  readonly top: number;
}

export interface VramLayout {
  /** One per device, from the top. */
  readonly bands: readonly DeviceBand[];
  /** Tiles in a row. */
  readonly across: number;
  /** Pages that one cell stands for: 1, or a power of four where VRAM is too large for the box. */
  readonly pagesPerCell: number;
  /** Cells in a tile's row, and rows of a tile. */
  readonly columns: number;
  readonly rows: number;
  /** Side of a cell in CSS pixels, and the space between tiles. */
  readonly cell: number;
  readonly gap: number;
}

/** Cells of this size and more, CSS pixels, are drawn apart from each other and aligned to device pixels. */
export const GRID_CELL = 6;
const LARGEST_CELL = 10;
/** Room above each device for its name, where there are several. CSS pixels. */
export const NAME_HEIGHT = 16;

/**
 * The largest cells with which the VRAM of all devices fits into the box. Each device has whole tiles. `ratio`:
 * device pixels per CSS pixel.
 */
export function layOutVram(devices: readonly DeviceSize[], width: number, height: number, ratio: number): VramLayout {
  const tiles = devices.map(({ pages }) => Math.max(1, Math.ceil(pages / TILE_PAGES)));
  const most = Math.max(1, ...tiles);
  const nameHeight = tiles.length > 1 ? NAME_HEIGHT : 0;
  for (let shift = 0; ; shift++) {
    const columns = TILE_COLUMNS >> shift;
    const rows = (TILE_PAGES / TILE_COLUMNS) >> shift;
    const gap = shift === 0 ? 5 : 2;
    let best = { across: 1, cell: 0 };
    for (let across = 1; across <= most; across++) {
      const wide = (width - (across - 1) * gap) / (across * columns);
      const down = tiles.reduce((sum, n) => sum + Math.ceil(n / across), 0);
      const free = height - tiles.length * nameHeight - (down - 1) * gap;
      const cell = Math.min(LARGEST_CELL, wide, free / (Math.max(1, down) * rows));
      if (cell > best.cell) best = { across, cell };
      if (wide < best.cell) break;
    }
    if (best.cell * ratio < 1 && shift < 4) continue;
    const { across } = best;
    const cell = best.cell < GRID_CELL ? Math.max(best.cell, 1 / ratio) : Math.floor(best.cell * ratio) / ratio;
    const bands = bandsOf(devices, tiles, across, rows * cell + gap, nameHeight);
    return { bands, across, pagesPerCell: 4 ** shift, columns, rows, cell, gap };
  }
}

function bandsOf(
  devices: readonly DeviceSize[],
  tiles: readonly number[],
  across: number,
  rowHeight: number,
  nameHeight: number,
): DeviceBand[] {
  let [firstPage, firstTile, top] = [0, 0, 0];
  return tiles.map((n, i) => {
    const band = { ...devices[i]!, firstPage, firstTile, top: top + nameHeight };
    firstPage += band.pages;
    firstTile += n;
    top = band.top + Math.ceil(n / across) * rowHeight;
    return band;
  });
}

/** Top left corner of a tile, counted over all devices. */
export function tileOrigin(layout: VramLayout, tile: number): { x: number; y: number } {
  const band = layout.bands.findLast(({ firstTile }) => firstTile <= tile);
  const own = tile - (band?.firstTile ?? 0);
  const column = own % layout.across;
  const row = (own - column) / layout.across;
  return {
    x: column * (layout.columns * layout.cell + layout.gap),
    y: (band?.top ?? 0) + row * (layout.rows * layout.cell + layout.gap),
  };
}

/** The page at a point of the box, counted over all devices, or -1 between tiles and past the end of a device. */
export function pageAt(layout: VramLayout, x: number, y: number): number {
  const band = layout.bands.findLast(({ top }) => top <= y);
  if (band === undefined) return -1;
  const wide = layout.columns * layout.cell + layout.gap;
  const tall = layout.rows * layout.cell + layout.gap;
  const column = Math.floor(x / wide);
  const cellX = Math.floor((x - column * wide) / layout.cell);
  const row = Math.floor((y - band.top) / tall);
  const cellY = Math.floor((y - band.top - row * tall) / layout.cell);
  if (x < 0 || column >= layout.across || cellX >= layout.columns || cellY >= layout.rows) return -1;
  const page = (row * layout.across + column) * TILE_PAGES + (cellY * layout.columns + cellX) * layout.pagesPerCell;
  return page < band.pages ? band.firstPage + page : -1;
}

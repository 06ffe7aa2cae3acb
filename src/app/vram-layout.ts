/** VRAM is drawn as tiles of one 2 MiB frame each: 512 pages in rows of 32, so that a 64 KiB chunk is half a row. */
export const TILE_PAGES = 512;
const TILE_COLUMNS = 32;

export interface VramLayout {
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

/** The largest cells with which all of VRAM fits into the box. `ratio`: device pixels per CSS pixel. */
export function layOutVram(pages: number, width: number, height: number, ratio: number): VramLayout {
  const tiles = Math.max(1, Math.ceil(pages / TILE_PAGES));
  for (let shift = 0; ; shift++) {
    const columns = TILE_COLUMNS >> shift;
    const rows = (TILE_PAGES / TILE_COLUMNS) >> shift;
    const gap = shift === 0 ? 5 : 2;
    let best = { across: 1, cell: 0 };
    for (let across = 1; across <= tiles; across++) {
      const wide = (width - (across - 1) * gap) / (across * columns);
      const down = Math.ceil(tiles / across);
      const cell = Math.min(LARGEST_CELL, wide, (height - (down - 1) * gap) / (down * rows));
      if (cell > best.cell) best = { across, cell };
      if (wide < best.cell) break;
    }
    if (best.cell * ratio < 1 && shift < 4) continue;
    const { across } = best;
    const cell = best.cell < GRID_CELL ? Math.max(best.cell, 1 / ratio) : Math.floor(best.cell * ratio) / ratio;
    return { across, pagesPerCell: 4 ** shift, columns, rows, cell, gap };
  }
}

/** Top left corner of a tile. */
export function tileOrigin(layout: VramLayout, tile: number): { x: number; y: number } {
  const column = tile % layout.across;
  const row = (tile - column) / layout.across;
  return {
    x: column * (layout.columns * layout.cell + layout.gap),
    y: row * (layout.rows * layout.cell + layout.gap),
  };
}

/** The page at a point of the box, or -1 between tiles and past the end. */
export function pageAt(layout: VramLayout, pages: number, x: number, y: number): number {
  const wide = layout.columns * layout.cell + layout.gap;
  const tall = layout.rows * layout.cell + layout.gap;
  const column = Math.floor(x / wide);
  const cellX = Math.floor((x - column * wide) / layout.cell);
  const row = Math.floor(y / tall);
  const cellY = Math.floor((y - row * tall) / layout.cell);
  if (x < 0 || y < 0 || column >= layout.across || cellX >= layout.columns || cellY >= layout.rows) return -1;
  const page = (row * layout.across + column) * TILE_PAGES + (cellY * layout.columns + cellX) * layout.pagesPerCell;
  return page < pages ? page : -1;
}

import { SZ_2M, SZ_4K, SZ_64K } from "../base/addr.ts";
import { COPY_PATHS, type CopyPath, type Layout, regionBytesOf } from "../device/paths/index.ts";
import type { BenchContext } from "./group.ts";
import type { BenchRow, RowKey } from "./result.ts";
import { WARM } from "./selection.ts";

const KIB = 1024;
const MIB = 1024 * KIB;

/** Bytes of one transfer. A size whose region one binding cannot reach is left out. */
export const PATH_SIZES = [SZ_4K, 16 * KIB, SZ_64K, 256 * KIB, SZ_2M, 16 * MIB, 64 * MIB, 256 * MIB] as const;
export const PATH_LAYOUTS: readonly Layout[] = ["contiguous", "strided", "random"];
export const PATH_KINDS = ["upload", "readback", "device", "fill", "access"] as const;

const QUICK_SIZES: readonly number[] = [SZ_4K, SZ_64K, SZ_2M];
/** Scattered pages beyond this tell nothing new and take minutes. */
const MAX_SCATTERED = 64 * MIB;

/** How a cell differs from one transfer at a time in memory that was used before. */
interface Mode {
  readonly mode: BenchRow["mode"];
  readonly sizes: readonly number[];
  readonly layouts: readonly Layout[];
  readonly kinds: readonly string[];
}

export const IN_FLIGHT = 8;
const MODES: readonly Mode[] = [
  { mode: undefined, sizes: PATH_SIZES, layouts: PATH_LAYOUTS, kinds: PATH_KINDS },
  // A fresh buffer is zero already, so there is no first touch of a fill to check.
  {
    mode: "first touch",
    sizes: [SZ_64K, SZ_2M, 16 * MIB],
    layouts: ["contiguous"],
    kinds: ["upload", "readback", "device"],
  },
  // The uses of system memory share device memory, so they cannot overlap.
  {
    mode: "8 in flight",
    sizes: [SZ_4K, SZ_64K, SZ_2M],
    layouts: ["contiguous", "random"],
    kinds: ["upload", "readback", "device", "fill"],
  },
];

/** What one size, layout and mode compares: all paths, and the two bounds measured beside them. */
export interface Cell {
  readonly bytes: number;
  readonly layout: Layout;
  readonly mode: BenchRow["mode"];
  readonly paths: readonly CopyPath[];
}

/** The cells that the context selects, in the order in which they are measured; `largestRegion`: PathLab's. */
export function planCells(
  context: Pick<BenchContext, "quick" | "selected"> & { readonly chosen: boolean },
  largestRegion: number,
): Cell[] {
  const quick = context.quick && !context.chosen;
  const cells: Cell[] = [];
  for (const { mode, sizes, layouts, kinds } of quick ? MODES.slice(0, 1) : MODES) {
    for (const layout of quick ? layouts.slice(0, 1) : layouts) {
      for (const bytes of quick ? QUICK_SIZES : sizes) {
        // One page has one layout.
        if (bytes === SZ_4K && layout !== "contiguous") continue;
        if (layout !== "contiguous" && bytes > MAX_SCATTERED) continue;
        if (regionBytesOf(layout, bytes) > largestRegion) continue;
        const cell = { bytes, layout, mode };
        const paths = COPY_PATHS.filter(
          (path) => kinds.includes(path.direction) && context.selected(keyOf(path.direction, path.name, cell)),
        );
        if (paths.length > 0) cells.push({ ...cell, paths });
      }
    }
  }
  return cells;
}

export function keyOf(kind: string, name: string, cell: Pick<Cell, "bytes" | "layout" | "mode">): RowKey {
  const { bytes, layout, mode } = cell;
  return { group: "paths", kind, name, bytes, layout, ...(mode !== undefined && { mode }) };
}

/** All paths, for whoever lets people choose: the direction, and how the bytes go in one sentence. */
export const PATHS = COPY_PATHS.map(({ name, direction, how }) => ({ name, kind: direction, how }));
export const PATH_MODES = MODES.map(({ mode }) => mode ?? WARM);

import type { Pa, Va } from "../base/addr.ts";
import { isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import type { Gpu } from "../hal/gpu.ts";
import { PageRuns } from "./page-table-runs.ts";
import type { PtEntries, PtLeaf, PtLookup } from "./page-table-tree.ts";
import type { PtUpdate, TableAllocator } from "./page-table-update.ts";
import { GpuPageTables } from "./page-tables.ts";
import type { PageTableOptions } from "./page-tables.ts";

/** Where a mapping stands, bit t for tile t. `tileInvalidated` lies in `tilePresent` until the mapping is unbound. */
export interface TilePresence {
  /** Bound. @kernel xe_vma->tile_present, xe_svm_range->tile_present */
  tilePresent: number;
  /** Bound, and zapped since. @kernel xe_vma->tile_invalidated, xe_svm_range->tile_invalidated */
  tileInvalidated: number;
}

/** The tiles of a mapping that says itself where it wants to stand. */
export interface TileBits extends TilePresence {
  /** Wanted. @kernel xe_vma->tile_mask */
  readonly tileMask: number;
}

/**
 * The page tables of one address space on a card of several tiles (spec/device.md 1.1): a root per tile, because a walker
 * finds tables in its own aperture only. Tiles may map the same address, and to the same page of any tile, or not.
 *
 * An update of several tiles is carried out on all of them or, where one has no room for tables, on none. On a card of one
 * tile every method is that of the one `GpuPageTables`, at once.
 *
 * Locking. As for GpuPageTables; the bits of a mapping change with its entries.
 *
 * Example:
 *
 *     const ret = tables.bind(range, start, runs);            // on the tiles of range.tileMask
 *     if (isErr(ret)) return ret;
 *     tables.flush((start, end, tile) => gpu.tlbInvalidate(asid, start, end - 1, tile));
 */
export class TilePageTables {
  /** By tile. */
  readonly tiles: readonly GpuPageTables[];
  readonly #first: GpuPageTables;
  readonly #isOne: boolean;
  readonly #runs = new PageRuns();

  private constructor(tiles: readonly GpuPageTables[]) {
    this.tiles = tiles;
    this.#first = tiles[0]!;
    this.#isOne = tiles.length === 1;
  }

  /** `allocators`: pages of each tile's aperture. Others, and errors: as for `GpuPageTables.create`. */
  static create(
    gpu: Gpu,
    allocators: readonly TableAllocator[],
    leafSizes: readonly number[],
    options: PageTableOptions = {},
  ): TilePageTables | Errno {
    const tiles: GpuPageTables[] = [];
    for (const allocator of allocators) {
      const tables = GpuPageTables.create(gpu, allocator, leafSizes, options);
      if (isErr(tables)) {
        for (const made of tiles) made.destroy();
        return tables;
      }
      tiles.push(tables);
    }
    return new TilePageTables(tiles);
  }

  /** Bit t for each tile there is. */
  get allTiles(): number {
    return 2 ** this.tiles.length - 1;
  }
  /** Bytes of VRAM that the tables of all tiles hold. */
  get bytes(): number {
    return this.tiles.reduce((sum, tables) => sum + tables.bytes, 0);
  }

  get levels(): number {
    return this.#first.levels;
  }
  /** See `GpuPageTables.vaEnd`. */
  get vaEnd(): Va {
    return this.#first.vaEnd;
  }

  /** PA of the root on a tile. @kernel xe_vm->pt_root */
  root(tile: number): Pa {
    return this.tiles[tile]!.root;
  }

  /** See `GpuPageTables.map`, on the tiles of the mask. @kernel xe_vm_range_rebind */
  map(start: Va, npages: number, pas: Float64Array, flags: Uint32Array, mask = this.allTiles): 0 | Errno {
    if (this.#isOne) return this.#first.map(start, npages, pas, flags);
    this.#runs.clear();
    this.#runs.pushPages(npages, pas, flags);
    return this.mapRuns(start, this.#runs, mask);
  }

  /** The same for pages given as runs: on all tiles of the mask, or -ENOMEM with nothing changed. */
  mapRuns(start: Va, runs: PageRuns, mask = this.allTiles): 0 | Errno {
    if (this.#isOne) return this.#first.mapRuns(start, runs);
    return this.#onTiles(mask, (tables) => tables.stageRuns(start, runs));
  }

  /**
   * Maps the runs from `start` on every tile that the mapping wants, and notes where it stands now. -ENOMEM: no room for
   * tables on one of them, with nothing changed. @kernel xe_vma_rebind, xe_vm_range_rebind
   */
  bind(bits: TileBits, start: Va, runs: PageRuns): 0 | Errno {
    const ret = this.mapRuns(start, runs, bits.tileMask);
    if (ret === 0) noteBound(bits, bits.tileMask);
    return ret;
  }

  /** Makes leaves end at `start` and at `end` on the tiles of the mask: on all of them, or -ENOMEM with nothing changed. */
  split(start: Va, end: Va, mask = this.allTiles): 0 | Errno {
    if (this.#isOne) return this.#first.split(start, end);
    return this.#onTiles(mask, (tables) => tables.stageSplit(start, end));
  }

  /**
   * Takes the entries of `[start, end)` away where the mapping stands and is valid; tables stay. Returns the tiles on which
   * something was present: those whose TLBs have to forget it. @kernel xe_vm_invalidate_vma, xe_pt_zap_ptes_range
   */
  zap(bits: TilePresence, start: Va, end: Va, reason: number): number {
    const zapped = this.zapOn(bits.tilePresent & ~bits.tileInvalidated, start, end, reason);
    bits.tileInvalidated |= zapped;
    return zapped;
  }

  /** The same on the tiles of the mask, whatever stands there. */
  zapOn(mask: number, start: Va, end: Va, reason: number): number {
    let zapped = 0;
    for (let tile = 0; tile < this.tiles.length; tile++) {
      if ((mask & (1 << tile)) !== 0 && this.tiles[tile]!.zap(start, end, reason) > 0) zapped |= 1 << tile;
    }
    return zapped;
  }

  /** Takes the mapping away for good; returns the tiles that it stood on. @kernel xe_vma_unbind, xe_vm_range_unbind */
  unbind(bits: TilePresence, start: Va, end: Va): number {
    const { tilePresent } = bits;
    this.unmap(start, end, tilePresent);
    bits.tilePresent = 0;
    bits.tileInvalidated = 0;
    return tilePresent;
  }

  /** See `GpuPageTables.unmap`, on the tiles of the mask. */
  unmap(start: Va, end: Va, mask = this.allTiles): void {
    for (let tile = 0; tile < this.tiles.length; tile++) {
      if ((mask & (1 << tile)) !== 0) this.tiles[tile]!.unmap(start, end);
    }
  }

  /** See `GpuPageTables.isStale`, of any tile. */
  get isStale(): boolean {
    for (let tile = 0; tile < this.tiles.length; tile++) if (this.tiles[tile]!.isStale) return true;
    return false;
  }

  /** See `GpuPageTables.flush`: at most one invalidation per tile, none on tiles where nothing became stale. */
  flush(invalidate: (start: Va, end: Va, tile: number) => void): void {
    for (let tile = 0; tile < this.tiles.length; tile++) {
      const tables = this.tiles[tile]!;
      if (tables.isStale) tables.flush((start, end) => invalidate(start, end, tile));
    }
  }

  lookup(va: Va, tile = 0): PtLookup {
    return this.tiles[tile]!.lookup(va);
  }

  /** See `GpuPageTables.forEachLeaf`, of one tile. */
  forEachLeaf(lo: Va, hi: Va, tile = 0): Generator<PtLeaf> {
    return this.tiles[tile]!.forEachLeaf(lo, hi);
  }

  /** See `GpuPageTables.entriesIn`, of one tile. */
  entriesIn(lo: Va, hi: Va, tile = 0): Generator<PtEntries> {
    return this.tiles[tile]!.entriesIn(lo, hi);
  }

  /** Frees all tables. The address space must be unreachable for the GPU already, on every tile. */
  destroy(): void {
    for (const tables of this.tiles) tables.destroy();
  }

  #onTiles(mask: number, stage: (tables: GpuPageTables) => PtUpdate | Errno): 0 | Errno {
    const updates: [GpuPageTables, PtUpdate][] = [];
    let failed: 0 | Errno = 0;
    for (const [tile, tables] of this.tiles.entries()) {
      if ((mask & (1 << tile)) === 0 || failed !== 0) continue;
      const update = stage(tables);
      if (isErr(update)) failed = update;
      else updates.push([tables, update]);
    }
    for (const [tables, update] of updates) {
      if (failed === 0) tables.commit(update);
      else update.abort();
    }
    return failed;
  }
}

/** The mapping stands on the tiles of the mask now. */
export function noteBound(bits: TilePresence, mask: number): void {
  bits.tilePresent |= mask;
  bits.tileInvalidated &= ~mask;
}

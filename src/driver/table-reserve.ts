import { alignDown, alignUp, isAligned } from "../base/addr.ts";
import type { Pa, Va } from "../base/addr.ts";
import { isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { PTE_NULL } from "../abi/pte.ts";
import type { PageRuns } from "./page-table-runs.ts";
import { SPAN } from "./page-table-tree.ts";
import type { PtLookup } from "./page-table-tree.ts";
import type { TableAllocator } from "./page-table-update.ts";
import type { GpuPageTables } from "./page-tables.ts";

/**
 * Pages for the tables of one address space. What several updates together can want is set aside beforehand, so that none
 * of them fails when others have been carried out already.
 * @kernel xe_pt_prepare_bind, xe_vm_pgtable_update_ops
 */
export class TableReserve implements TableAllocator {
  readonly #source: TableAllocator;
  readonly #reserved: Pa[] = [];

  constructor(source: TableAllocator) {
    this.#source = source;
  }

  alloc(): Pa | Errno {
    return this.#reserved.pop() ?? this.#source.alloc();
  }

  free(pa: Pa): void {
    this.#source.free(pa);
  }

  /** Sets `count` pages aside: all, or -ENOMEM. */
  reserve(count: number): 0 | Errno {
    for (let i = 0; i < count; i++) {
      const pa = this.#source.alloc();
      if (isErr(pa)) {
        this.release();
        return pa;
      }
      this.#reserved.push(pa);
    }
    return 0;
  }

  /** Gives back what was not used. */
  release(): void {
    for (const pa of this.#reserved.splice(0)) this.#source.free(pa);
  }
}

/** The reserves of an address space, by tile. */
export class TileReserves {
  readonly tiles: readonly TableReserve[];
  #tables: readonly GpuPageTables[] = [];

  /** `sources`: pages of each tile's aperture. */
  constructor(sources: readonly TableAllocator[]) {
    this.tiles = sources.map((source) => new TableReserve(source));
  }

  /** The tables that take from them; once. */
  serve(tables: readonly GpuPageTables[]): void {
    this.#tables = tables;
  }

  /** Sets aside on each tile what its tables can want: all, or -ENOMEM. */
  reserve(demandOf: (tables: GpuPageTables) => number): 0 | Errno {
    for (const [tile, tables] of this.#tables.entries()) {
      const ret = this.tiles[tile]!.reserve(demandOf(tables));
      if (ret === 0) continue;
      this.release();
      return ret;
    }
    return 0;
  }

  /** Gives back what was not used. */
  release(): void {
    for (const tile of this.tiles) tile.release();
  }
}

/**
 * The most tables that the updates of one call can want, asked for in their order before the first is carried out. Those
 * that stand already count as there until something has been taken away.
 */
export class TableDemand {
  /** Tables so far. */
  count = 0;
  readonly #tables: GpuPageTables;
  readonly #leafSizes: readonly number[];
  /** Tables counted, by the stretch that they translate. */
  readonly #counted = new Set<number>();
  /** Stretches that will be mapped. */
  readonly #mapped: { start: Va; end: Va }[] = [];
  #hasUnmapped = false;

  /** `leafSizes`: those that the tables may use, bytes. */
  constructor(tables: GpuPageTables, leafSizes: readonly number[]) {
    this.#tables = tables;
    this.#leafSizes = leafSizes;
  }

  /** Mapping `runs` from `start`. */
  map(start: Va, runs: PageRuns): void {
    let va = start;
    for (let i = 0; i < runs.count; i++) {
      const end = va + runs.pages[i]! * SPAN[0]!;
      const isNull = (runs.flags[i]! & PTE_NULL) !== 0;
      const shift = isNull ? 0 : Math.abs(runs.pas[i]! - va);
      for (let level = 0; level < this.#tables.levels - 1; level++) this.#mapAt(level, va, end, shift);
      va = end;
    }
    this.#mapped.push({ start, end: va });
  }

  /** A table of `level` wherever `[start, end)` is not made of leaves that take its place. */
  #mapAt(level: number, start: Va, end: Va, shift: number): void {
    const size = SPAN[level + 1]!;
    const isLeaf = this.#leafSizes.includes(size) && isAligned(shift, size);
    const from = isLeaf ? Math.min(alignUp(start, size), end) : end;
    const to = isLeaf ? Math.max(alignDown(end, size), from) : end;
    this.#count(level, start, from);
    this.#count(level, to, end);
  }

  #count(level: number, start: Va, end: Va): void {
    const size = SPAN[level + 1]!;
    for (let slot = Math.floor(start / size); slot * size < end; slot++) {
      const key = slot * SPAN.length + level;
      if (this.#counted.has(key) || this.#stands(level, Math.max(slot * size, start))) continue;
      this.#counted.add(key);
      this.count += 1;
    }
  }

  /** A table of pages may have to give way to one of the other kind, so it never counts as standing. */
  #stands(level: number, va: Va): boolean {
    return level > 0 && !this.#hasUnmapped && reachedLevel(this.#tables.lookup(va)) <= level;
  }

  /** Taking `[start, end)` away: leaves that are cut want tables for their pieces. */
  unmap(start: Va, end: Va): void {
    for (const cut of [start, end]) this.count += this.#tablesToCut(cut);
    this.#hasUnmapped = true;
    this.#counted.clear();
  }

  #tablesToCut(cut: Va): number {
    // What this call maps first may be cut anywhere.
    if (this.#mapped.some(({ start, end }) => start < cut && cut < end)) return 2;
    if (cut >= this.#tables.vaEnd) return 0;
    const found = this.#tables.lookup(cut);
    return found.kind === "leaf" && found.va < cut ? Math.max(1, reachedLevel(found)) : 0;
  }
}

/** The level of the entry at which a walk ends. */
function reachedLevel(found: PtLookup): number {
  return found.kind === "leaf" ? Math.max(0, SPAN.indexOf(found.size)) : found.level;
}

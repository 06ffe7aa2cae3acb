import { PAGE_SIZE, SZ_2M, SZ_64K, alignDown, hex, isAligned } from "../base/addr.ts";
import type { Pa, Va } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { ENOMEM, isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { PTE_PS64, encodeDirectory, encodeLeaf, encodeLeafInto, encodeNotPresent } from "../abi/pte.ts";
import type { Gpu } from "../hal/gpu.ts";

/**
 * GPU page tables of one address space (spec/device.md section 2).
 *
 * Overview. The tables live in the page-table aperture of VRAM and are write-only for the host; this class keeps the
 * mirror (which slots hold what, how many are live) and queues every change through `Gpu.ptWrite`, whole entries at a
 * time. A table private to a mapping is filled before it is linked, so no walk ever meets a half-built one.
 *
 * Leaves. 2 MiB where a whole aligned 2 MiB of VA lies in one aligned run of VRAM, else 4 KiB entries, which carry the
 * 64 KiB hint in every aligned contiguous group of 16.
 *
 * Locking. Callers change entries of a range under the notifier lock of its gpusvm; nothing here waits.
 */
export interface TableAllocator {
  /** PA of a free page of the aperture, or -ENOMEM. Its content is unknown. */
  alloc(): Pa | Errno;
  free(pa: Pa): void;
}

const ENTRIES = 512;
const NONE = 0;
const LEAF = 1;
const TABLE = 2;
const TOP_LEVEL = 3;
/** Bytes one entry covers, by level. */
const SPAN = [PAGE_SIZE, SZ_2M, SZ_2M * 512, SZ_2M * 512 * 512] as const;
const PAGES_PER_2M = SZ_2M / PAGE_SIZE;

class Table {
  readonly pa: Pa;
  readonly level: number;
  readonly slots = new Uint8Array(ENTRIES);
  readonly children: (Table | null)[];
  live = 0;

  constructor(pa: Pa, level: number) {
    this.pa = pa;
    this.level = level;
    this.children = level > 0 ? new Array<Table | null>(ENTRIES).fill(null) : [];
  }

  set(index: number, kind: number): void {
    if (this.slots[index] === NONE && kind !== NONE) this.live += 1;
    else if (this.slots[index] !== NONE && kind === NONE) this.live -= 1;
    this.slots[index] = kind;
  }
}

function indexAt(va: Va, level: number): number {
  return Math.floor(va / SPAN[level]!) % ENTRIES;
}

export class GpuPageTables {
  readonly #gpu: Gpu;
  readonly #allocator: TableAllocator;
  readonly #leafSizes: readonly number[];
  readonly #root: Table;
  #tables = 1;

  /** `leafSizes`: allowed leaf sizes, bytes; 4096 is always allowed. */
  private constructor(gpu: Gpu, allocator: TableAllocator, leafSizes: readonly number[], root: Table) {
    this.#gpu = gpu;
    this.#allocator = allocator;
    this.#leafSizes = leafSizes;
    this.#root = root;
  }

  static create(gpu: Gpu, allocator: TableAllocator, leafSizes: readonly number[]): GpuPageTables | Errno {
    const pa = allocator.alloc();
    if (isErr(pa)) return pa;
    gpu.ptWrite(pa, new Uint32Array(ENTRIES * 2));
    return new GpuPageTables(gpu, allocator, leafSizes, new Table(pa, TOP_LEVEL));
  }

  get root(): Pa {
    return this.#root.pa;
  }
  /** Bytes of VRAM that the tables hold. */
  get bytes(): number {
    return this.#tables * PAGE_SIZE;
  }

  /**
   * Maps `npages` pages from `start`: page `i` to `pas[i]` with the leaf flags `flags[i]` (PTE bits W, AE, DM, NULL).
   * All or nothing: -ENOMEM when the aperture is full, with nothing changed.
   */
  map(start: Va, npages: number, pas: Float64Array, flags: Uint32Array): 0 | Errno {
    const reserved = this.#reserve(start, npages, pas, flags);
    if (isErr(reserved)) return reserved;
    let i = 0;
    while (i < npages) {
      const va = start + i * PAGE_SIZE;
      const count = Math.min(npages - i, PAGES_PER_2M - indexAt(va, 0));
      if (this.#isBigLeaf(va, i, count, pas, flags)) this.#writeBigLeaf(va, pas[i]!, flags[i]!);
      else this.#writeSmallLeaves(va, i, count, pas, flags);
      i += count;
    }
    return 0;
  }

  /** Clears the entries of `[start, end)`; tables stay. Returns the number of leaves that were present. */
  zap(start: Va, end: Va, reason: number): number {
    let zapped = 0;
    for (let va = start; va < end; va = alignDown(va, SZ_2M) + SZ_2M) {
      const directory = this.#find(va, 1);
      if (directory === null) continue;
      const at = indexAt(va, 1);
      const stop = Math.min(end, alignDown(va, SZ_2M) + SZ_2M);
      if (directory.slots[at] === LEAF) {
        assert(isAligned(va, SZ_2M) && stop === va + SZ_2M, () => `zap splits the 2 MiB leaf at ${hex(va)}`);
        directory.set(at, NONE);
        this.#gpu.ptWrite(directory.pa + at * 8, encodeNotPresent(reason));
        zapped += 1;
      } else if (directory.slots[at] === TABLE) {
        zapped += this.#zapSmall(directory.children[at]!, indexAt(va, 0), (stop - va) / PAGE_SIZE, reason);
      }
    }
    return zapped;
  }

  /** Clears `[start, end)` and frees tables that hold nothing any more. */
  unmap(start: Va, end: Va): number {
    const zapped = this.zap(start, end, 0);
    for (let va = alignDown(start, SZ_2M); va < end; va += SZ_2M) this.#prune(this.#root, va);
    return zapped;
  }

  /** Frees all tables. The address space must be unreachable for the GPU already. */
  destroy(): void {
    this.#freeTree(this.#root);
  }

  #isBigLeaf(va: Va, i: number, count: number, pas: Float64Array, flags: Uint32Array): boolean {
    if (count !== PAGES_PER_2M || !this.#leafSizes.includes(SZ_2M)) return false;
    const base = pas[i]!;
    if (!isAligned(base, SZ_2M) || !isAligned(va, SZ_2M)) return false;
    return isContiguous(pas, flags, i, count);
  }

  #writeBigLeaf(va: Va, pa: Pa, flags: number): void {
    const directory = this.#make(va, 1);
    const at = indexAt(va, 1);
    const old = directory.children[at];
    this.#gpu.ptWrite(directory.pa + at * 8, encodeLeaf(pa, flags, 1));
    directory.set(at, LEAF);
    if (old != null) {
      assert(old.live === 0, () => `a 2 MiB leaf over live entries at ${hex(va)}`);
      directory.children[at] = null;
      this.#freeTable(old);
    }
  }

  #writeSmallLeaves(va: Va, from: number, count: number, pas: Float64Array, flags: Uint32Array): void {
    const directory = this.#make(va, 1);
    const slot = indexAt(va, 1);
    let table = directory.children[slot] ?? null;
    const isNew = table === null;
    if (table === null) {
      assert(directory.slots[slot] === NONE, () => `4 KiB entries under a live 2 MiB leaf at ${hex(va)}`);
      table = this.#allocTable(0);
    }
    const first = indexAt(va, 0);
    // A new table is written whole, so that its unknown content never shows.
    const base = isNew ? 0 : first;
    const words = new Uint32Array((isNew ? ENTRIES : count) * 2);
    const hint64 = this.#leafSizes.includes(SZ_64K);
    let groupEnd = 0;
    for (let k = 0; k < count; k++) {
      const i = from + k;
      if (hint64 && k >= groupEnd && isHintGroup(va, k, from, count, pas, flags)) groupEnd = k + 16;
      const hint = k < groupEnd ? PTE_PS64 : 0;
      encodeLeafInto(words, (first - base + k) * 2, pas[i]!, flags[i]! | hint, 0);
      table.set(first + k, LEAF);
    }
    this.#gpu.ptWrite(table.pa + base * 8, words);
    if (isNew) this.#link(directory, slot, table);
  }

  #zapSmall(table: Table, first: number, count: number, reason: number): number {
    let zapped = 0;
    const words = new Uint32Array(count * 2);
    for (let k = 0; k < count; k++) {
      if (table.slots[first + k] !== LEAF) continue;
      table.set(first + k, NONE);
      words[k * 2] = reason << 1;
      zapped += 1;
    }
    if (zapped > 0) this.#gpu.ptWrite(table.pa + first * 8, words);
    return zapped;
  }

  /** Makes sure that `map` cannot run out of tables half way: counts what is missing and tries to get it first. */
  #reserve(start: Va, npages: number, pas: Float64Array, flags: Uint32Array): 0 | Errno {
    const missing = this.#countMissing(start, npages, pas, flags);
    const taken: Pa[] = [];
    let result: 0 | Errno = 0;
    for (let i = 0; i < missing; i++) {
      const pa = this.#allocator.alloc();
      if (isErr(pa)) {
        result = ENOMEM;
        break;
      }
      taken.push(pa);
    }
    for (const pa of taken) this.#allocator.free(pa);
    return result;
  }

  #countMissing(start: Va, npages: number, pas: Float64Array, flags: Uint32Array): number {
    const missing = new Set<string>();
    for (let i = 0; i < npages; ) {
      const va = start + i * PAGE_SIZE;
      const count = Math.min(npages - i, PAGES_PER_2M - indexAt(va, 0));
      const lowest = this.#isBigLeaf(va, i, count, pas, flags) ? 1 : 0;
      for (let level = TOP_LEVEL - 1; level >= lowest; level--) {
        if (this.#find(va, level) === null) missing.add(`${level}:${Math.floor(va / SPAN[level + 1]!)}`);
      }
      i += count;
    }
    return missing.size;
  }

  /** The table of `level` that covers `va`, or null. */
  #find(va: Va, level: number): Table | null {
    let table: Table | null = this.#root;
    while (table !== null && table.level > level) table = table.children[indexAt(va, table.level)] ?? null;
    return table;
  }

  #make(va: Va, level: number): Table {
    let table = this.#root;
    while (table.level > level) {
      const at = indexAt(va, table.level);
      let child = table.children[at] ?? null;
      if (child === null) {
        child = this.#allocTable(table.level - 1);
        this.#gpu.ptWrite(child.pa, new Uint32Array(ENTRIES * 2));
        this.#link(table, at, child);
      }
      table = child;
    }
    return table;
  }

  #link(parent: Table, at: number, child: Table): void {
    parent.children[at] = child;
    parent.set(at, TABLE);
    this.#gpu.ptWrite(parent.pa + at * 8, encodeDirectory(child.pa));
  }

  #allocTable(level: number): Table {
    const pa = this.#allocator.alloc();
    assert(!isErr(pa), "page tables: the reservation was too small");
    this.#tables += 1;
    return new Table(pa, level);
  }

  #freeTable(table: Table): void {
    this.#tables -= 1;
    this.#allocator.free(table.pa);
  }

  /** True when the table itself holds nothing any more. */
  #prune(table: Table, va: Va): void {
    if (table.level === 0) return;
    const at = indexAt(va, table.level);
    const child = table.children[at] ?? null;
    if (child === null) return;
    this.#prune(child, va);
    if (child.live > 0) return;
    table.children[at] = null;
    table.set(at, NONE);
    this.#gpu.ptWrite(table.pa + at * 8, new Uint32Array(2));
    this.#freeTable(child);
  }

  #freeTree(table: Table): void {
    for (const child of table.children) if (child !== null) this.#freeTree(child);
    this.#freeTable(table);
  }
}

function isContiguous(pas: Float64Array, flags: Uint32Array, from: number, count: number): boolean {
  const base = pas[from]!;
  const flag = flags[from]!;
  for (let k = 1; k < count; k++) {
    if (pas[from + k] !== base + k * PAGE_SIZE || flags[from + k] !== flag) return false;
  }
  return true;
}

function isHintGroup(
  va: Va,
  k: number,
  from: number,
  count: number,
  pas: Float64Array,
  flags: Uint32Array,
): boolean {
  if (k + 16 > count || !isAligned(va + k * PAGE_SIZE, SZ_64K)) return false;
  return isAligned(pas[from + k]!, SZ_64K) && isContiguous(pas, flags, from + k, 16);
}

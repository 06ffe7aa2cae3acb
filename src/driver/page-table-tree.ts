import { PAGE_SIZE, SZ_1G, SZ_2M, SZ_64K, fromHiLo } from "../base/addr.ts";
import type { Pa, Va } from "../base/addr.ts";
import { PTE_AE, PTE_DM, PTE_NULL, PTE_PAT, PTE_P, PTE_PS, PTE_PS64, PTE_W } from "../abi/pte.ts";

export const ENTRIES = 512;
export const COMPACT_ENTRIES = 32;
/** Entries of an ordinary table that make up a 64 KiB page. */
export const HINT_GROUP = 16;
/** Bytes that one entry covers, by level. */
export const SPAN: readonly number[] = [PAGE_SIZE, SZ_2M, SZ_1G, SZ_1G * 512, SZ_1G * 512 * 512];
/** What a leaf says besides its address. */
export const LEAF_FLAGS = PTE_W | PTE_PAT | PTE_NULL | PTE_AE | PTE_DM;

const NO_CHILDREN: (PtTable | null)[] = [];

/**
 * The host's mirror of one page table. `words` is what the walker finds at `pa`.
 *
 * A child whose entry is present is linked. A child whose entry is not present is parked: a zap cleared the one pointer
 * instead of all that is below it, and the table waits, with its old content, for the next mapping of its addresses.
 *
 * @kernel xe_pt
 */
export class PtTable {
  readonly pa: Pa;
  /** First address that the table translates. */
  readonly va: Va;
  readonly level: number;
  /** A table of 32 entries of 64 KiB (level 0 only). */
  readonly compact: boolean;
  readonly entries: number;
  /** Bytes that one entry covers. */
  readonly span: number;
  /** Low and high word of each entry. */
  readonly words: Uint32Array<ArrayBuffer>;
  readonly children: (PtTable | null)[];
  /** Present entries, leaves and pointers. @kernel xe_pt->num_live */
  live = 0;
  /** Part of an update that is not committed: no walk can reach it. */
  isStaged = true;

  constructor(pa: Pa, va: Va, level: number, compact: boolean, children?: readonly (PtTable | null)[]) {
    this.pa = pa;
    this.va = va;
    this.level = level;
    this.compact = compact;
    this.entries = compact ? COMPACT_ENTRIES : ENTRIES;
    this.span = compact ? SZ_64K : SPAN[level]!;
    this.words = new Uint32Array(this.entries * 2);
    this.children = level === 0 ? NO_CHILDREN : (children?.slice() ?? new Array<PtTable | null>(ENTRIES).fill(null));
  }

  isPresent(index: number): boolean {
    return (this.words[index * 2]! & PTE_P) !== 0;
  }
  isLeaf(index: number): boolean {
    return this.isPresent(index) && (this.level === 0 || (this.words[index * 2]! & PTE_PS) !== 0);
  }
  /** True for an entry of a 64 KiB page in an ordinary table. */
  isHinted(index: number): boolean {
    return this.level === 0 && !this.compact && this.isPresent(index) && (this.words[index * 2]! & PTE_PS64) !== 0;
  }
  /** Index of the entry of `va`; `entries` for the address behind the table. */
  indexOf(va: Va): number {
    return Math.floor((va - this.va) / this.span);
  }
  entryVa(index: number): Va {
    return this.va + index * this.span;
  }
  /** PA in the entry. */
  paOf(index: number): Pa {
    return fromHiLo(this.words[index * 2 + 1]! & 0x3fff, (this.words[index * 2]! & 0xfffff000) >>> 0);
  }
  /** The table that the entry points to, or null. */
  linked(index: number): PtTable | null {
    return this.isPresent(index) ? (this.children[index] ?? null) : null;
  }
}

/** Leaf entries that a walk reaches below `table`; the 16 entries of a 64 KiB page count one by one. */
export function countLeaves(table: PtTable): number {
  if (table.level === 0 || table.live === 0) return table.live;
  let leaves = 0;
  for (let i = 0, left = table.live; left > 0; i++) {
    if (!table.isPresent(i)) continue;
    left -= 1;
    leaves += table.isLeaf(i) ? 1 : countLeaves(table.children[i]!);
  }
  return leaves;
}

/** True when every address of the table is mapped. */
export function isFull(table: PtTable): boolean {
  if (table.live < table.entries) return false;
  for (let i = 0; table.level > 0 && i < table.entries; i++)
    if (!table.isLeaf(i) && !isFull(table.children[i]!)) return false;
  return true;
}

/** True when a leaf below `table` lies outside `[lo, hi)`, which lies in the table at least in part. */
export function hasLeafOutside(table: PtTable, lo: Va, hi: Va): boolean {
  const first = Math.max(0, table.indexOf(lo));
  const end = Math.min(table.entries, table.indexOf(hi - 1) + 1);
  let inside = 0;
  for (let i = first; i < end; i++) {
    if (!table.isPresent(i)) continue;
    inside += 1;
    const start = table.entryVa(i);
    if (start >= lo && start + table.span <= hi) continue;
    if (table.isLeaf(i) || hasLeafOutside(table.children[i]!, lo, hi)) return true;
  }
  if (inside === table.live) return false;
  // The entries outside may all lead to tables that hold nothing.
  for (let i = 0; i < table.entries; i++) {
    if (i === first) i = end;
    if (i < table.entries && table.isPresent(i) && (table.isLeaf(i) || hasLeaf(table.children[i]!))) return true;
  }
  return false;
}

/** True when a walk reaches a leaf below `table`. */
export function hasLeaf(table: PtTable): boolean {
  if (table.level === 0) return table.live > 0;
  for (let i = 0, left = table.live; left > 0; i++) {
    if (!table.isPresent(i)) continue;
    left -= 1;
    if (table.isLeaf(i) || hasLeaf(table.children[i]!)) return true;
  }
  return false;
}

/** A mapping of one page of any size. */
export interface PtLeaf {
  readonly va: Va;
  /** Bytes: 4 KiB, 64 KiB, 2 MiB or 1 GiB. */
  readonly size: number;
  /** Start of the page; 0 for a NULL leaf. */
  readonly pa: Pa;
  /** Of PTE_W, PTE_AE, PTE_DM and PTE_NULL. */
  readonly flags: number;
}

/** What the tables say of an address. */
export type PtLookup =
  | ({ readonly kind: "leaf" } & PtLeaf)
  | { readonly kind: "not-present"; readonly level: number; readonly reason: number };

/** The walk of the hardware, over the mirror. */
export function lookupIn(root: PtTable, va: Va): PtLookup {
  let table = root;
  for (;;) {
    const index = table.indexOf(va);
    if (table.isLeaf(index)) return { kind: "leaf", ...leafAt(table, index) };
    const child = table.linked(index);
    if (child === null) return { kind: "not-present", level: table.level, reason: (table.words[index * 2]! >>> 1) & 7 };
    table = child;
  }
}

/** The leaves that touch `[lo, hi)`, in order of address. */
export function* leavesIn(table: PtTable, lo: Va, hi: Va): Generator<PtLeaf> {
  const end = Math.min(table.entries, table.indexOf(hi - 1) + 1);
  for (let i = Math.max(0, table.indexOf(lo)); i < end; i++) {
    if (table.isLeaf(i)) {
      yield leafAt(table, i);
      if (table.isHinted(i)) i += HINT_GROUP - 1 - (i % HINT_GROUP);
    } else {
      const child = table.linked(i);
      if (child !== null) yield* leavesIn(child, lo, hi);
    }
  }
}

/** Whole entries of one table, side by side: the words, and where the walker finds them. */
export interface PtEntries {
  readonly pa: Pa;
  readonly words: Uint32Array;
}

/** The present entries, pointers before what they lead to, of all tables that translate addresses of `[lo, hi)`. */
export function* entriesIn(table: PtTable, lo: Va, hi: Va): Generator<PtEntries> {
  const first = Math.max(0, table.indexOf(lo));
  const end = Math.min(table.entries, table.indexOf(hi - 1) + 1);
  for (let i = first; i < end; i++) {
    if (!table.isPresent(i)) continue;
    const from = i;
    while (i + 1 < end && table.isPresent(i + 1)) i++;
    yield { pa: table.pa + from * 8, words: table.words.slice(from * 2, (i + 1) * 2) };
  }
  for (let i = first; i < end; i++) {
    const child = table.isLeaf(i) ? null : table.linked(i);
    if (child !== null) yield* entriesIn(child, lo, hi);
  }
}

/** The leaf that the entry is, or is a part of. */
export function leafAt(table: PtTable, index: number): PtLeaf {
  const flags = table.words[index * 2]! & LEAF_FLAGS;
  const first = table.isHinted(index) ? index - (index % HINT_GROUP) : index;
  const size = table.isHinted(index) ? SZ_64K : table.span;
  return { va: table.entryVa(first), size, pa: (flags & PTE_NULL) === 0 ? table.paOf(first) : 0, flags };
}

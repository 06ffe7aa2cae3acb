import { PAGE_SIZE } from "../base/addr.ts";
import type { Pa, Va } from "../base/addr.ts";
import { isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { PTE_AE, PTE_NULL, PTE_P, PTE_PS64, PTE_W } from "../abi/pte.ts";
import type { PtSink } from "./page-table-sink.ts";
import { ENTRIES, HINT_GROUP, PtTable, hasLeaf } from "./page-table-tree.ts";

export interface TableAllocator {
  /** PA of a free page of the aperture, or -ENOMEM. Its content is unknown. */
  alloc(): Pa | Errno;
  free(pa: Pa): void;
}

/** What an update leaves to be done: addresses to flush as one interval, tables to free behind the flush. */
export class PtAftermath {
  start: Va = Infinity;
  end: Va = -Infinity;
  /** Roots of the subtrees that no walk reaches any more. */
  detached: PtTable[] = [];

  add(start: Va, end: Va): void {
    if (start < this.start) this.start = start;
    if (end > this.end) this.end = end;
  }
}

/** New entries of a shared table of level 0, from index `first`. */
export interface LeafChange {
  readonly table: PtTable;
  readonly first: number;
  readonly words: Uint32Array;
}

/** New entries of a shared directory. */
interface EntryChange {
  readonly table: PtTable;
  readonly first: number;
  readonly words: number[];
  readonly children: (PtTable | null)[];
}

/** A table of the update's own. `from`: the parked table whose page it takes over. */
interface Staged {
  readonly table: PtTable;
  readonly from: PtTable | null;
}

/**
 * One change of the page tables, staged first and then committed or aborted as a whole. Entries are read from the tables
 * as they were; no entry is staged twice with different content.
 *
 * Order of the writes: tables of the update's own are complete before an entry that walks can reach points to them, and a
 * table that leaves is detached by one write and freed behind the invalidation. Entries that do not change are not
 * written; neighbours that change are written at once.
 *
 * @kernel xe_vm_pgtable_update, xe_vm_pgtable_update_op
 */
export class PtUpdate {
  readonly #allocator: TableAllocator;
  readonly #start: Va;
  readonly #end: Va;
  readonly #staged: Staged[] = [];
  readonly #leaves: LeafChange[] = [];
  readonly #entries: EntryChange[] = [];

  /** `[start, end)`: the addresses that the update is about. */
  constructor(allocator: TableAllocator, start: Va, end: Va) {
    this.#allocator = allocator;
    this.#start = start;
    this.#end = end;
  }

  /** Pages of the aperture that the update has taken. */
  get taken(): number {
    return this.#staged.reduce((n, s) => n + (s.from === null ? 1 : 0), 0);
  }

  /** An empty table. -ENOMEM: the aperture is full. */
  newTable(va: Va, level: number, compact: boolean): PtTable | Errno {
    const pa = this.#allocator.alloc();
    if (isErr(pa)) return pa;
    const table = new PtTable(pa, va, level, compact);
    this.#staged.push({ table, from: null });
    return table;
  }

  /** An empty table in the place of a parked one; what is parked below it stays so. */
  revive(from: PtTable, compact: boolean): PtTable {
    const table = new PtTable(from.pa, from.va, from.level, compact, from.children);
    this.#staged.push({ table, from });
    return table;
  }

  /** Sets an entry of a directory. */
  setEntry(table: PtTable, index: number, lo: number, hi: number, child: PtTable | null): void {
    if (table.isStaged) {
      table.live += (lo & PTE_P) - (table.words[index * 2]! & PTE_P);
      table.words[index * 2] = lo;
      table.words[index * 2 + 1] = hi;
      table.children[index] = child;
      return;
    }
    let change = this.#entries.at(-1);
    if (change?.table !== table || change.first + change.words.length / 2 !== index) {
      change = { table, first: index, words: [], children: [] };
      this.#entries.push(change);
    }
    change.words.push(lo, hi);
    change.children.push(child);
  }

  /** Sets neighbouring entries of a table of level 0. Those of a table of the update's own are set where they stand. */
  setLeaves({ table, first, words }: LeafChange): void {
    if (!table.isStaged) this.#leaves.push({ table, first, words });
    else table.live = countPresent(table.words);
  }

  /** Forgets the update; nothing has been changed. */
  abort(): void {
    for (const { table, from } of this.#staged) if (from === null) this.#allocator.free(table.pa);
  }

  /** Carries the update out. */
  commit(sink: PtSink, after: PtAftermath): void {
    for (const { table, from } of this.#staged) {
      table.isStaged = false;
      if (from === null || from.compact !== table.compact) sink.write(table, 0, table.words.length);
      else writeChanged(sink, table, 0, from.words);
      if (from !== null) detachChildren(after, from.children, table.children, 0);
    }
    for (const change of this.#leaves) applyLeaves(sink, after, change);
    for (const change of this.#entries) this.#apply(sink, after, change);
    // The NULL pages that stood where nothing was mapped may be cached (2.4: scratch -> real).
    if (sink.hasScratch && this.#leaves.length > 0) after.add(this.#start, this.#end);
  }

  /** One pass, as `applyLeaves`. */
  #apply(sink: PtSink, after: PtAftermath, { table, first, words, children }: EntryChange): void {
    const mine = table.words;
    const end = first * 2 + words.length;
    let run = -1;
    for (let at = first * 2, i = 0; at < end; at += 2, i += 2) {
      const index = at / 2;
      const lo = words[i]!;
      const hi = words[i + 1]!;
      const child = children[i / 2]!;
      const before = table.children[index]!;
      const oldLo = mine[at]!;
      if (oldLo === lo && mine[at + 1] === hi) {
        if (run >= 0) sink.write(table, run, at);
        run = -1;
      } else {
        table.live += (lo & PTE_P) - (oldLo & PTE_P);
        // All of what the entry covers: the holes below it change their size.
        if (sink.hasScratch) after.add(table.entryVa(index), table.entryVa(index + 1));
        if ((oldLo & PTE_P) !== 0) this.#flushEntry(after, table, index, lo, hi, child);
        if (run < 0) run = at;
        mine[at] = lo;
        mine[at + 1] = hi;
      }
      table.children[index] = child;
      if (before !== null && before.pa !== child?.pa) after.detached.push(before);
    }
    if (run >= 0) sink.write(table, run, end);
  }

  /** What has to be flushed when a present entry of a directory becomes `lo`, `hi`; the table still holds the old one. */
  #flushEntry(after: PtAftermath, table: PtTable, index: number, lo: number, hi: number, child: PtTable | null): void {
    const start = table.entryVa(index);
    const end = start + table.span;
    if (table.isLeaf(index)) {
      if (wantsFlush(table.words[index * 2]!, table.words[index * 2 + 1]!, lo, hi)) after.add(start, end);
      return;
    }
    const before = table.children[index]!;
    if (child !== null && (lo & PTE_P) !== 0) flushDifferences(after, before, child);
    else if (!hasLeaf(before)) return;
    else if ((lo & PTE_P) !== 0) after.add(start, end);
    else after.add(Math.max(start, this.#start), Math.min(end, this.#end));
  }
}

/** One pass: compares, takes over, and writes each stretch of changed entries when it ends. */
export function applyLeaves(sink: PtSink, after: PtAftermath, { table, first, words }: LeafChange): void {
  const mine = table.words;
  const end = first * 2 + words.length;
  let live = 0;
  let run = -1;
  let lowest = -1;
  let highest = -1;
  for (let at = first * 2, i = 0; at < end; at += 2, i += 2) {
    const oldLo = mine[at]!;
    const oldHi = mine[at + 1]!;
    const lo = words[i]!;
    const hi = words[i + 1]!;
    if (oldLo === lo && oldHi === hi) {
      if (run >= 0) sink.write(table, run, at);
      run = -1;
      continue;
    }
    if (run < 0) run = at;
    mine[at] = lo;
    mine[at + 1] = hi;
    live += (lo & PTE_P) - (oldLo & PTE_P);
    if ((oldLo & PTE_P) === 0 || !wantsFlush(oldLo, oldHi, lo, hi)) continue;
    if (lowest < 0) lowest = at;
    highest = at;
  }
  if (run >= 0) sink.write(table, run, end);
  table.live += live;
  if (lowest >= 0) after.add(table.entryVa(lowest / 2), table.entryVa(highest / 2 + 1));
}

function countPresent(words: Uint32Array): number {
  let present = 0;
  for (let i = 0; i < words.length; i += 2) present += words[i]! & PTE_P;
  return present;
}

/** Writes the entries from `first` on that differ from `old`, neighbours in one write. */
function writeChanged(sink: PtSink, table: PtTable, first: number, old: Uint32Array): void {
  const { words } = table;
  let run = -1;
  for (let i = 0; i <= old.length; i += 2) {
    const at = first * 2 + i;
    const changed = i < old.length && (words[at] !== old[i] || words[at + 1] !== old[i + 1]);
    if (changed && run < 0) run = at;
    if (changed || run < 0) continue;
    sink.write(table, run, at);
    run = -1;
  }
}

function detachChildren(after: PtAftermath, before: (PtTable | null)[], now: (PtTable | null)[], first: number): void {
  for (let i = 0; i < before.length; i++) {
    const old = before[i]!;
    if (old !== null && old.pa !== now[first + i]?.pa) after.detached.push(old);
  }
}

/** Whether a TLB entry made from the old leaf would be wrong under the new entry; a permission more is none (2.4). */
function wantsFlush(oldLo: number, oldHi: number, lo: number, hi: number): boolean {
  const permissions = PTE_W | PTE_AE;
  return ((oldLo ^ lo) & ~permissions) !== 0 || oldHi !== hi || (oldLo & ~lo & permissions) !== 0;
}

/** A table of level 0 gave way to one of the other kind: only pages that are mapped otherwise than before are flushed. */
function flushDifferences(after: PtAftermath, before: PtTable, now: PtTable): void {
  for (let page = 0; page < ENTRIES; page++) {
    const old = pageEntry(before, page);
    if ((old & PTE_P) === 0) continue;
    if (wantsFlush(old, pageEntryHi(before, page), pageEntry(now, page), pageEntryHi(now, page))) {
      after.add(before.va + page * PAGE_SIZE, before.va + (page + 1) * PAGE_SIZE);
    }
  }
}

/** Low word of a page's entry as an ordinary table would have it. */
function pageEntry(table: PtTable, page: number): number {
  if (!table.compact) return table.words[page * 2]!;
  const lo = table.words[Math.floor(page / HINT_GROUP) * 2]!;
  if ((lo & PTE_P) === 0) return lo;
  return (lo | PTE_PS64 | ((lo & PTE_NULL) === 0 ? (page % HINT_GROUP) << 12 : 0)) >>> 0;
}

function pageEntryHi(table: PtTable, page: number): number {
  return table.words[(table.compact ? Math.floor(page / HINT_GROUP) : page) * 2 + 1]!;
}

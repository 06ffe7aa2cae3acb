import { SZ_64K, hi32, lo32 } from "../base/addr.ts";
import type { Pa } from "../base/addr.ts";
import { isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { PTE_COMPACT, PTE_NULL, PTE_P, PTE_PS, PTE_PS64, PTE_W } from "../abi/pte.ts";
import { HINT_GROUP, LEAF_FLAGS } from "./page-table-tree.ts";
import type { PtTable } from "./page-table-tree.ts";
import type { PtUpdate } from "./page-table-update.ts";

/** What an address space may use. */
export interface PtPolicy {
  /** By level: leaves of 2 MiB at 1, of 1 GiB at 2. */
  readonly leaves: readonly boolean[];
  /** The 64 KiB hint in ordinary tables. */
  readonly hint64K: boolean;
  readonly compact: boolean;
}

/** Neighbouring entries of a table of level 0, to be changed and staged; a copy where walks reach the table. */
export interface Edit {
  readonly table: PtTable;
  readonly first: number;
  readonly words: Uint32Array;
}

/**
 * Opens the entries `[first, end)`. A 64 KiB page that is only partly among them ceases to be one: all its entries are
 * part of the edit, and those outside lose the hint.
 */
export function openEntries(table: PtTable, first: number, end: number): Edit {
  const low = first % HINT_GROUP !== 0 && table.isHinted(first) ? first - (first % HINT_GROUP) : first;
  const high = end % HINT_GROUP !== 0 && table.isHinted(end - 1) ? end - (end % HINT_GROUP) + HINT_GROUP : end;
  const words = table.isStaged ? table.words.subarray(low * 2, high * 2) : table.words.slice(low * 2, high * 2);
  for (let i = low; i < first; i++) words[(i - low) * 2]! &= ~PTE_PS64;
  for (let i = end; i < high; i++) words[(i - low) * 2]! &= ~PTE_PS64;
  return { table, first: low, words };
}

/** Stages a leaf in a directory. */
export function linkLeaf(update: PtUpdate, table: PtTable, index: number, pa: Pa, flags: number): void {
  update.setEntry(table, index, (lo32(pa) | flags | PTE_P | PTE_PS) >>> 0, hi32(pa), null);
}

/**
 * Stages a new table below an entry, which the caller fills. A parked table's page is used again. -ENOMEM: no page for it.
 */
export function newChild(update: PtUpdate, table: PtTable, index: number, compact: boolean): PtTable | Errno {
  const old = table.children[index]!;
  if (old !== null && !table.isPresent(index)) return linked(update, table, index, update.revive(old, compact));
  const fresh = update.newTable(table.entryVa(index), table.level - 1, compact);
  return isErr(fresh) ? fresh : linked(update, table, index, fresh);
}

/**
 * The same, with all that the entry says now: what a leaf maps in smaller leaves, the pages of a compact table with hints,
 * or the reason why nothing is mapped.
 */
export function replaceEntry(
  update: PtUpdate,
  table: PtTable,
  index: number,
  compact: boolean,
  policy: PtPolicy,
): PtTable | Errno {
  const lo = table.words[index * 2]!;
  const pa = table.paOf(index);
  const isLeaf = table.isLeaf(index);
  const old = table.linked(index);
  const fresh = newChild(update, table, index, compact);
  if (isErr(fresh)) return fresh;
  if (isLeaf) {
    for (let i = 0; i < fresh.entries; i++) fillEntry(fresh, i, pa + i * fresh.span, lo & LEAF_FLAGS, policy.hint64K);
  } else if (old !== null) {
    fillFromCompact(fresh, old, policy.hint64K);
  } else if (lo !== 0) {
    for (let i = 0; i < fresh.entries; i++) fresh.words[i * 2] = lo;
  }
  return fresh;
}

/** Stages the entry that points to `child`. */
function linked(update: PtUpdate, table: PtTable, index: number, child: PtTable): PtTable {
  const lo = (lo32(child.pa) | PTE_P | PTE_W | (child.compact ? PTE_COMPACT : 0)) >>> 0;
  update.setEntry(table, index, lo, hi32(child.pa), child);
  return child;
}

function fillFromCompact(fresh: PtTable, compact: PtTable, hint: boolean): void {
  for (let i = 0; i < fresh.entries; i++) {
    const from = Math.floor(i / HINT_GROUP);
    const pa = compact.paOf(from) + (i % HINT_GROUP) * fresh.span;
    if (compact.isPresent(from)) fillEntry(fresh, i, pa, compact.words[from * 2]! & LEAF_FLAGS, hint);
    else fresh.words[i * 2] = compact.words[from * 2]!;
  }
}

/** A leaf in a table that no walk reaches; `hint`: ordinary tables of level 0 get the 64 KiB hint. */
function fillEntry(table: PtTable, index: number, pa: Pa, flags: number, hint: boolean): void {
  const at = (flags & PTE_NULL) === 0 ? pa : 0;
  const kind = table.level > 0 ? PTE_PS : hint && table.span !== SZ_64K ? PTE_PS64 : 0;
  table.words[index * 2] = (lo32(at) | flags | kind | PTE_P) >>> 0;
  table.words[index * 2 + 1] = hi32(at);
  table.live += 1;
}

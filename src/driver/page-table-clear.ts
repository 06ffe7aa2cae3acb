import { hex, isAligned } from "../base/addr.ts";
import type { Va } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { PTE_P } from "../abi/pte.ts";
import { openEntries } from "./page-table-edit.ts";
import { countLeaves, hasLeafOutside, isFull } from "./page-table-tree.ts";
import type { PtTable } from "./page-table-tree.ts";
import type { PtUpdate } from "./page-table-update.ts";

/**
 * Stages `[lo, hi)` as not present and lets all tables stay. Where a table is mapped throughout and lies in the range, its
 * pointer is cleared and not the entries below. Returns the number of leaf entries that were present.
 *
 * @kernel xe_pt_zap_ptes
 */
export function stageZap(update: PtUpdate, table: PtTable, lo: Va, hi: Va, reason: number): number {
  const word = reason << 1;
  if (table.level === 0) return zapEntries(update, table, lo, hi, word);
  let zapped = 0;
  for (let va = lo; va < hi;) {
    const index = table.indexOf(va);
    const next = Math.min(hi, table.entryVa(index + 1));
    const covers = next - va === table.span;
    const child = table.linked(index);
    if (table.isLeaf(index)) {
      assert(covers, () => `part of the big leaf at ${hex(table.entryVa(index))} is zapped before it was split`);
      update.setEntry(table, index, word, 0, null);
      zapped += 1;
    } else if (child !== null && covers && isFull(child)) {
      update.setEntry(table, index, word, 0, child);
      zapped += countLeaves(child);
    } else if (child !== null) {
      zapped += stageZap(update, child, va, next, reason);
    }
    va = next;
  }
  return zapped;
}

/**
 * Stages `[lo, hi)` as never mapped; tables that hold nothing outside it are detached as they are, the highest ones that
 * can be. Returns the number of leaf entries that were present. @kernel xe_pt_stage_unbind
 */
export function stageUnmap(update: PtUpdate, table: PtTable, lo: Va, hi: Va): number {
  if (table.level === 0) return unmapEntries(update, table, lo, hi);
  let unmapped = 0;
  for (let va = lo; va < hi;) {
    const index = table.indexOf(va);
    const next = Math.min(hi, table.entryVa(index + 1));
    const child = table.linked(index);
    const isLeaf = table.isLeaf(index);
    assert(
      !isLeaf || next - va === table.span,
      () => `part of the big leaf at ${hex(table.entryVa(index))} is unmapped before it was split`,
    );
    if (child !== null && hasLeafOutside(child, va, next)) {
      unmapped += stageUnmap(update, child, va, next);
    } else if (table.words[index * 2] !== 0 || table.children[index] !== null) {
      unmapped += isLeaf ? 1 : child === null ? 0 : countLeaves(child);
      update.setEntry(table, index, 0, 0, null);
    }
    va = next;
  }
  return unmapped;
}

/** Entries that are absent keep their own reason. */
function zapEntries(update: PtUpdate, table: PtTable, lo: Va, hi: Va, word: number): number {
  const [from, to] = indices(table, lo, hi);
  const edit = openEntries(table, from, to);
  const { first, words } = edit;
  let zapped = 0;
  for (let i = (from - first) * 2; i < (to - first) * 2; i += 2) {
    if ((words[i]! & PTE_P) === 0) continue;
    words[i] = word;
    words[i + 1] = 0;
    zapped += 1;
  }
  update.setLeaves(edit);
  return zapped;
}

function unmapEntries(update: PtUpdate, table: PtTable, lo: Va, hi: Va): number {
  const [from, to] = indices(table, lo, hi);
  const edit = openEntries(table, from, to);
  let unmapped = 0;
  for (let i = from; i < to; i++) if (table.isPresent(i)) unmapped += 1;
  edit.words.fill(0, (from - edit.first) * 2, (to - edit.first) * 2);
  update.setLeaves(edit);
  return unmapped;
}

function indices(table: PtTable, lo: Va, hi: Va): [from: number, to: number] {
  const whole = isAligned(lo, table.span) && isAligned(hi, table.span);
  assert(whole, () => `part of a 64 KiB page at ${hex(lo)} is taken away before it was split`);
  return [table.indexOf(lo), table.indexOf(hi)];
}

import { PAGE_SIZE, SZ_64K, alignUp, hi32, isAligned, lo32 } from "../base/addr.ts";
import type { Va } from "../base/addr.ts";
import { isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { PTE_P, PTE_PS64 } from "../abi/pte.ts";
import { linkLeaf, newChild, openEntries, replaceEntry } from "./page-table-edit.ts";
import type { PtPolicy } from "./page-table-edit.ts";
import { HINT_GROUP } from "./page-table-tree.ts";
import type { PtTable } from "./page-table-tree.ts";
import type { RunCursor } from "./page-table-runs.ts";
import type { PtUpdate } from "./page-table-update.ts";

const U32 = 2 ** 32;

/**
 * Stages the mapping of `[lo, hi)` below `table` with the largest leaves that fit. What stands there is replaced; a big
 * leaf that sticks out is split. -ENOMEM: no page for a table. @kernel xe_pt_stage_bind
 */
export function stageMap(
  update: PtUpdate,
  table: PtTable,
  lo: Va,
  hi: Va,
  runs: RunCursor,
  policy: PtPolicy,
): 0 | Errno {
  if (table.level === 0) {
    if (table.compact) stageCompact(update, table, lo, hi, runs);
    else stagePages(update, table, lo, hi, runs, policy.hint64K);
    return 0;
  }
  for (let va = lo; va < hi;) {
    const index = table.indexOf(va);
    const entry = table.entryVa(index);
    const next = Math.min(hi, entry + table.span);
    const covers = next - va === table.span;
    runs.seek(va);
    if (covers && policy.leaves[table.level] === true && runs.isLeaf(va, table.span)) {
      linkLeaf(update, table, index, runs.paAt(va), runs.flags);
    } else {
      const child = childFor(update, table, index, va, next, runs, policy);
      if (isErr(child)) return child;
      const staged = stageMap(update, child, va, next, runs, policy);
      if (staged !== 0) return staged;
    }
    va = next;
  }
  return 0;
}

/** The table below an entry that shall map `[va, end)`: the one that is there if it is of the right kind. */
function childFor(
  update: PtUpdate,
  table: PtTable,
  index: number,
  va: Va,
  end: Va,
  runs: RunCursor,
  policy: PtPolicy,
): PtTable | Errno {
  const old = table.linked(index);
  const covers = end - va === table.span;
  // A compact table is begun for a whole 2 MiB only: what is not mapped yet may want 4 KiB pages.
  const isWhole = covers || table.isLeaf(index) || old?.compact === true;
  const compact = table.level === 1 && policy.compact && isWhole && runs.isMadeOf64K(va, end);
  if (old !== null && old.compact === compact) return old;
  return covers ? newChild(update, table, index, compact) : replaceEntry(update, table, index, compact, policy);
}

function stageCompact(update: PtUpdate, table: PtTable, lo: Va, hi: Va, runs: RunCursor): void {
  const edit = openEntries(table, table.indexOf(lo), table.indexOf(hi));
  const { words } = edit;
  for (let i = 0; i < words.length; i += 2) {
    const va = lo + (i / 2) * SZ_64K;
    runs.seek(va);
    const pa = runs.paAt(va);
    words[i] = lo32(pa) | runs.flags | PTE_P;
    words[i + 1] = hi32(pa);
  }
  update.setLeaves(edit);
}

function stagePages(update: PtUpdate, table: PtTable, lo: Va, hi: Va, runs: RunCursor, hint64K: boolean): void {
  const from = table.indexOf(lo);
  const edit = openEntries(table, from, table.indexOf(hi));
  const { words } = edit;
  let at = (from - edit.first) * 2;
  for (let va = lo; va < hi;) {
    runs.seek(va);
    const end = Math.min(hi, runs.end);
    const pages = (end - va) / PAGE_SIZE;
    const pa = runs.paAt(va);
    const step = runs.isNull ? 0 : PAGE_SIZE;
    const bits = runs.flags | PTE_P;
    // Whole 64 KiB pages begin at page `head` of the run; `tail` is the first page behind them.
    const hinted = hint64K && pages >= HINT_GROUP && (step === 0 || isAligned(pa - va, SZ_64K));
    const head = hinted ? Math.min(pages, (alignUp(va, SZ_64K) - va) / PAGE_SIZE) : pages;
    const tail = pages - ((pages - head) % HINT_GROUP);
    // The halves of the address are carried along: splitting each would cost more than all the rest.
    let high = Math.floor(pa / U32);
    let low = pa - high * U32;
    for (let k = 0; k < pages; k++, at += 2) {
      words[at] = low | (k >= head && k < tail ? bits | PTE_PS64 : bits);
      words[at + 1] = high;
      low += step;
      if (low === U32) {
        low = 0;
        high += 1;
      }
    }
    va = end;
  }
  update.setLeaves(edit);
}

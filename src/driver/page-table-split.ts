import { SZ_64K, isAligned } from "../base/addr.ts";
import type { Va } from "../base/addr.ts";
import { isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { PTE_PS64 } from "../abi/pte.ts";
import { openEntries, replaceEntry } from "./page-table-edit.ts";
import type { PtPolicy } from "./page-table-edit.ts";
import { HINT_GROUP } from "./page-table-tree.ts";
import type { PtTable } from "./page-table-tree.ts";
import type { PtUpdate } from "./page-table-update.ts";

/**
 * Stages smaller leaves in the place of those that a cut goes through: 2 MiB for 1 GiB, then 64 KiB if all cuts allow it,
 * else 4 KiB. -ENOMEM: no page for a table.
 */
export function stageSplit(update: PtUpdate, table: PtTable, cuts: readonly Va[], policy: PtPolicy): 0 | Errno {
  if (table.level === 0) {
    splitHints(update, table, cuts);
    return 0;
  }
  let done = -1;
  for (const cut of cuts) {
    const index = table.indexOf(cut);
    if (index <= done || index >= table.entries || !table.isPresent(index)) continue;
    done = index;
    const inside = cuts.filter((c) => c > table.entryVa(index) && c < table.entryVa(index + 1));
    if (inside.length === 0) continue;
    const child = splitEntry(update, table, index, inside, policy);
    if (isErr(child)) return child;
    const staged = stageSplit(update, child, inside, policy);
    if (staged !== 0) return staged;
  }
  return 0;
}

/** The table below an entry, in which the cuts lie between entries or in smaller leaves. */
function splitEntry(
  update: PtUpdate,
  table: PtTable,
  index: number,
  cuts: readonly Va[],
  policy: PtPolicy,
): PtTable | Errno {
  const old = table.linked(index);
  const by64K = cuts.every((cut) => isAligned(cut, SZ_64K));
  if (old !== null && (!old.compact || by64K)) return old;
  return replaceEntry(update, table, index, table.level === 1 && policy.compact && by64K, policy);
}

/** All 16 entries of a 64 KiB page that is cut lose the hint. */
function splitHints(update: PtUpdate, table: PtTable, cuts: readonly Va[]): void {
  const edit = openEntries(table, 0, table.entries);
  for (const cut of cuts) {
    const index = table.indexOf(cut);
    if (isAligned(cut, SZ_64K) || !table.isHinted(index)) continue;
    const first = index - (index % HINT_GROUP);
    for (let i = first; i < first + HINT_GROUP; i++) edit.words[i * 2]! &= ~PTE_PS64;
  }
  update.setLeaves(edit);
}

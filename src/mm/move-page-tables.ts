import { PAGE_SIZE, SZ_2M, type Va } from "../base/addr.ts";
import { PG_KIND, PG_ZERO } from "./frame-table.ts";
import type { Mm } from "./mm.ts";
import { PTE_KIND, PTE_NONE, PTE_SHIFT, PTE_SWAP, pteIndex } from "./page-table.ts";

/**
 * Moves the entries of `[start, end)` as they are, whatever they stand for, to `target`, where there are none. The old
 * interval has been announced. A huge entry moves whole if its new place is aligned; others have been split.
 * @kernel move_page_tables
 */
export function movePageTables(mm: Mm, start: Va, end: Va, target: Va): void {
  const { tables } = mm;
  for (let at = start; at < end;) {
    const next = Math.min(end, (Math.floor(at / SZ_2M) + 1) * SZ_2M);
    const table = tables.find(at);
    if (table !== null) {
      const index = Math.floor(at / SZ_2M);
      const isHuge = tables.isHuge(index);
      moveTable(mm, table, at, next, target + (at - start));
      if (isHuge) {
        tables.clearPmd(index);
        tables.joinPmd(Math.floor((target + (at - start)) / SZ_2M));
      }
    }
    at = next;
  }
}

/** `[start, end)` lies in `table`; its new place may lie in two. @kernel move_ptes */
function moveTable(mm: Mm, table: Uint32Array, start: Va, end: Va, target: Va): void {
  const { tables, phys } = mm;
  let to = target;
  for (let at = start, i = pteIndex(start); at < end; at += PAGE_SIZE, to += PAGE_SIZE, i++) {
    const word = table[i]!;
    if (word === PTE_NONE) continue;
    table[i] = PTE_NONE;
    tables.make(to)[pteIndex(to)] = word;
    const pfn = word >>> PTE_SHIFT;
    if ((word & PTE_KIND) === PTE_SWAP || (phys.frames.flags[pfn]! & PG_KIND) === PG_ZERO) continue;
    phys.rmap.remove(pfn, mm.id, at / PAGE_SIZE);
    phys.rmap.add(pfn, mm.id, to / PAGE_SIZE);
  }
}

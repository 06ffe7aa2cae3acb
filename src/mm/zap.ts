import { PAGE_SIZE, SZ_2M, type Pfn, type Va } from "../base/addr.ts";
import { PG_KIND, PG_ZERO } from "./frame-table.ts";
import type { Mm } from "./mm.ts";
import { PTES, PTE_KIND, PTE_MIGRATION, PTE_NONE, PTE_PRESENT, PTE_SWAP, pteIndex } from "./page-table.ts";

/** Visits the part of each existing table that lies in `[start, end)`; `vpn` is the page of word `from`. */
export function forEachTable(
  mm: Mm,
  start: Va,
  end: Va,
  visit: (table: Uint32Array, from: number, to: number, vpn: number) => void,
): void {
  for (let at = start; at < end;) {
    const next = Math.min(end, Math.floor(at / SZ_2M) * SZ_2M + SZ_2M);
    const table = mm.tables.find(at);
    if (table !== null) {
      const from = pteIndex(at);
      visit(table, from, from + (next - at) / PAGE_SIZE, at / PAGE_SIZE);
    }
    at = next;
  }
}

/**
 * Clears every entry of `[start, end)` and drops its page. The interval has been announced.
 * @kernel zap_page_range, unmap_page_range
 */
export function zapRange(mm: Mm, start: Va, end: Va): void {
  forEachTable(mm, start, end, (table, from, to, vpn) => {
    // A huge entry goes as a whole. One that came after the caller split those it found stays in part: its other pages
    // stay where they are, so nobody need be told.
    mm.tables.splitPmd(Math.floor(vpn / PTES));
    for (let i = from; i < to; i++) {
      const word = table[i]!;
      if (word === PTE_NONE) continue;
      table[i] = PTE_NONE;
      dropEntry(mm, word, vpn + i - from);
    }
  });
}

/** Undoes the mapping that `word`, just cleared or replaced, stood for. May free the page. */
export function dropEntry(mm: Mm, word: number, vpn: number): void {
  const pfn: Pfn = word >>> 6;
  const { phys } = mm;
  if ((word & PTE_KIND) === PTE_SWAP) {
    phys.swap.put(pfn);
    return;
  }
  const { flags, mapcount } = phys.frames;
  if ((word & PTE_KIND) === PTE_PRESENT && (flags[pfn]! & PG_KIND) === PG_ZERO) return;
  phys.rmap.remove(pfn, mm.id, vpn);
  // A migration entry holds neither count nor reference: the migrator's last put frees the page.
  if ((word & PTE_KIND) === PTE_MIGRATION) return;
  mapcount[pfn]! -= 1;
  phys.putPage(pfn);
}

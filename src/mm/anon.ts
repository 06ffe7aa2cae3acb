import type { Pfn } from "../base/addr.ts";
import { HPAGE_PAGES, PG_ANON, PG_ANON_EXCLUSIVE, PG_KIND, PG_LRU } from "./frame-table.ts";
import type { Mm } from "./mm.ts";
import { PTE_NOACCESS, PTE_PRESENT, PTE_SHIFT, PTE_WRITE } from "./page-table.ts";
import type { PhysMemory } from "./phys-mem.ts";
import type { VmaView } from "./types.ts";

/** The permission bits of an entry of `vma` whose page is exclusively its mm's. */
export function accessBits(vma: VmaView): number {
  return (vma.writable ? PTE_WRITE : 0) | (vma.readable ? 0 : PTE_NOACCESS);
}

/**
 * Turns a frame of the caller's with its one reference into a mapping of anonymous memory that this mm alone owns;
 * returns the entry, which the caller writes. @kernel folio_add_new_anon_rmap
 */
export function mapNewAnonPage(mm: Mm, vma: VmaView, pfn: Pfn, vpn: number): number {
  const { frames, rmap } = mm.phys;
  frames.mapcount[pfn] = 1;
  frames.flags[pfn]! |= PG_ANON | PG_ANON_EXCLUSIVE | PG_LRU;
  rmap.add(pfn, mm.id, vpn);
  return (pfn << PTE_SHIFT) | PTE_PRESENT | accessBits(vma);
}

/** The same for the 2 MiB folio at `head` and entry `index`, which is none and which it writes. @kernel map_anon_folio_pmd */
export function mapNewAnonFolio(mm: Mm, vma: VmaView, head: Pfn, index: number): void {
  const vpn = index * HPAGE_PAGES;
  const word = mapNewAnonPage(mm, vma, head, vpn);
  for (let i = 1; i < HPAGE_PAGES; i++) mapNewAnonPage(mm, vma, head + i, vpn + i);
  mm.tables.setPmd(index, word);
}

/**
 * Makes anonymous pages exclusively ours of which nobody else has a mapping or a reference any more, as after the end of
 * a forked child; false, and nothing changed, unless all `count` are. @kernel wp_can_reuse_anon_folio
 */
export function reuseIfSole(phys: PhysMemory, first: Pfn, count: number): boolean {
  const { flags, refcount } = phys.frames;
  for (let pfn = first; pfn < first + count; pfn++) {
    if (refcount[pfn] !== 1 || (flags[pfn]! & (PG_KIND | PG_ANON)) !== PG_ANON) return false;
  }
  for (let pfn = first; pfn < first + count; pfn++) flags[pfn]! |= PG_ANON_EXCLUSIVE;
  return true;
}

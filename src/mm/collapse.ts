import { SZ_2M, type Pfn, type Va, isAligned } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { EAGAIN, EINVAL, ENOMEM, type Errno } from "../base/errno.ts";
import { announce } from "./announce.ts";
import { mapNewAnonFolio } from "./anon.ts";
import { settleBytes } from "./folio.ts";
import { HPAGE_PAGES, PG_ANON, PG_KIND, PG_LOCKED, PG_LRU, PG_SYSTEM, PG_ZERO } from "./frame-table.ts";
import type { Mm } from "./mm.ts";
import { PTE_KIND, PTE_NONE, PTE_PRESENT, PTE_SWAP, ptePfn } from "./page-table.ts";
import type { Steps } from "./steps.ts";
import { doSwapPage } from "./swap.ts";
import type { Vma } from "./vma.ts";
import { dropEntry } from "./zap.ts";

/**
 * Makes one huge page of the small ones at `[start, start + 2 MiB)`; holes become zeros, swapped pages come back first.
 * Raises CLEAR over the 2 MiB. 0, also when it is huge already. -EINVAL: not an aligned 2 MiB of one anonymous area, or a
 * page in device memory. -EAGAIN: a page is locked, pinned, being migrated or shared with another process.
 * -ENOMEM: no large folio. Nothing has changed then but that swapped pages are back. mmap lock held for write.
 * Difference: an area that asked for no huge pages can be collapsed too, since this is asked for later.
 * @kernel madvise_collapse, collapse_huge_page
 */
export function* collapseHuge(mm: Mm, start: Va): Steps<0 | Errno> {
  assert(mm.mmapLock.isWriteHeld, "collapsing needs the mmap lock for write");
  const vma = mm.vmas.lookup(start);
  if (!isAligned(start, SZ_2M) || vma === null || !vma.anonymous || vma.end < start + SZ_2M) return EINVAL;
  const index = start / SZ_2M;
  if (mm.tables.isHuge(index)) return 0;
  const swapped = swapIn(mm, vma, index);
  if (swapped !== 0) return swapped;
  const before = scan(mm, index);
  if (before !== 0) return before;
  const head = mm.phys.allocHuge();
  if (head < 0) return ENOMEM;
  yield* announce(mm, start, start + SZ_2M);
  for (let i = 0; i < HPAGE_PAGES; i++) {
    const word = mm.tables.read(index * HPAGE_PAGES + i);
    if ((word & PTE_KIND) === PTE_PRESENT) yield* settleBytes(mm.phys, ptePfn(word));
  }
  // Migration by frame needs no mmap lock and may have come between.
  const after = scan(mm, index);
  if (after === 0) replace(mm, vma, index, head);
  else mm.phys.putPages(head, HPAGE_PAGES);
  mm.notifiers.end();
  return after;
}

/** @kernel __collapse_huge_page_swapin */
function swapIn(mm: Mm, vma: Vma, index: number): 0 | Errno {
  for (let vpn = index * HPAGE_PAGES; vpn < (index + 1) * HPAGE_PAGES; vpn++) {
    const word = mm.tables.read(vpn);
    if ((word & PTE_KIND) === PTE_SWAP && doSwapPage(mm, vma, vpn, word) !== 0) return ENOMEM;
  }
  return 0;
}

/** Why the 512 pages cannot become one, or 0. @kernel hpage_collapse_scan_pmd */
function scan(mm: Mm, index: number): 0 | Errno {
  const { flags, refcount } = mm.phys.frames;
  for (let i = 0; i < HPAGE_PAGES; i++) {
    const word = mm.tables.read(index * HPAGE_PAGES + i);
    if (word === PTE_NONE) continue;
    if ((word & PTE_KIND) !== PTE_PRESENT) return mm.phys.isZoneDevice(ptePfn(word)) ? EINVAL : EAGAIN;
    const pfn = ptePfn(word);
    const bits = flags[pfn]!;
    if ((bits & PG_KIND) === PG_ZERO) continue;
    if ((bits & PG_KIND) !== PG_SYSTEM) return EINVAL;
    const isFree = (bits & (PG_ANON | PG_LRU | PG_LOCKED)) === (PG_ANON | PG_LRU) && refcount[pfn] === 1;
    if (!isFree) return EAGAIN;
  }
  return 0;
}

function replace(mm: Mm, vma: Vma, index: number, head: Pfn): void {
  const { phys, tables } = mm;
  phys.zeroPage(head, HPAGE_PAGES);
  for (let i = 0; i < HPAGE_PAGES; i++) {
    const vpn = index * HPAGE_PAGES + i;
    const word = tables.read(vpn);
    if (word === PTE_NONE) continue;
    phys.copyPage(head + i, ptePfn(word));
    tables.write(vpn, PTE_NONE);
    dropEntry(mm, word, vpn);
  }
  mapNewAnonFolio(mm, vma, head, index);
}

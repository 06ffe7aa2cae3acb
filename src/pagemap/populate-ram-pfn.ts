import { PAGE_SIZE } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { ENOMEM, type Errno } from "../base/errno.ts";
import { MIGRATE_PFN_MIGRATE, type PhysMem, migratePfn, migratePfnToPage } from "../mm/types.ts";
import type { Zdd } from "./zdd.ts";

/** The pages of one way home: what migrates, where to, and the arrays for the copy. One slot per page. */
export interface RamDestination {
  /** Migrate words of the device pages. */
  readonly src: Uint32Array;
  /** Migrate words of the RAM pages; empty on entry. */
  readonly dst: Uint32Array;
  /** Device frame numbers to copy from, 0: none; empty on entry. */
  readonly pages: Uint32Array;
  /** DMA addresses to copy to, 0: none; empty on entry. */
  readonly addrs: Float64Array;
}

/**
 * A locked RAM page for every migrating source page, and the copy lists. With `only` given, pages of other migrations
 * are left where they are: they belong to other allocations, maybe with other operations. Returns the number of pages
 * to move, or -ENOMEM with nothing allocated. New pages are not zeroed: every one of them receives a copy.
 * @kernel drm_pagemap_migrate_populate_ram_pfn
 */
export function migratePopulateRamPfn(phys: PhysMem, to: RamDestination, only: Zdd | null): number | Errno {
  const { src, dst, pages, addrs } = to;
  let mpages = 0;
  for (let i = 0; i < src.length; i++) {
    const word = src[i];
    if ((word & MIGRATE_PFN_MIGRATE) === 0) continue;
    const from = migratePfnToPage(word);
    if (from < 0 || (only !== null && phys.zoneDeviceData(from) !== only)) continue;
    pages[i] = from;
    mpages += 1;
  }
  // All at once, so that the destination is as few runs as RAM has: each is one transfer of the copy.
  const ram = new Uint32Array(mpages);
  if (phys.allocPages(ram, mpages) !== 0) return ENOMEM;
  for (let i = 0, next = 0; i < src.length; i++) {
    if (pages[i] === 0) continue;
    const pfn = ram[next++];
    const locked = phys.tryLockPage(pfn);
    assert(locked, "somebody locked a page that was allocated this moment");
    dst[i] = migratePfn(pfn);
    addrs[i] = pfn * PAGE_SIZE;
  }
  return mpages;
}

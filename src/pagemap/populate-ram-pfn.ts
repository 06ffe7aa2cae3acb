import { PAGE_SIZE } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { ENOMEM, type Errno, isErr } from "../base/errno.ts";
import { MIGRATE_PFN_COMPOUND, MIGRATE_PFN_MIGRATE, type PhysMem, migratePfn, migratePfnToPage } from "../mm/types.ts";
import { pagesOfWord } from "./compound.ts";
import { type Zdd, pageZoneDeviceData } from "./zdd.ts";

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
 * to move, or -ENOMEM with nothing allocated. New pages are not zeroed: every one of them receives a copy. A folio of
 * 2 MiB gets one in RAM, or single pages where RAM has none left.
 * @kernel drm_pagemap_migrate_populate_ram_pfn, drm_gpusvm_migrate_populate_ram_pfn
 */
export function migratePopulateRamPfn(phys: PhysMem, to: RamDestination, only: Zdd | null): number | Errno {
  const { src, pages } = to;
  let mpages = 0;
  for (let i = 0; i < src.length;) {
    const word = src[i];
    const count = pagesOfWord(word);
    const from = (word & MIGRATE_PFN_MIGRATE) === 0 ? -1 : migratePfnToPage(word);
    if (from >= 0 && (only === null || pageZoneDeviceData(phys, from) === only)) {
      for (let k = 0; k < count; k++) pages[i + k] = from + k;
      mpages += count;
    }
    i += count;
  }
  return allocate(phys, to, mpages) ? mpages : ENOMEM;
}

function allocate(phys: PhysMem, to: RamDestination, mpages: number): boolean {
  const { src, dst, pages } = to;
  let singles = mpages;
  for (let i = 0; i < src.length; i += pagesOfWord(src[i])) {
    const count = pagesOfWord(src[i]);
    if (count === 1 || pages[i] === 0) continue;
    const head = phys.allocHuge();
    if (isErr(head)) continue;
    dst[i] = migratePfn(head) | MIGRATE_PFN_COMPOUND;
    singles -= count;
  }
  // All at once, so that the destination is as few runs as RAM has: each is one transfer of the copy.
  const ram = new Uint32Array(singles);
  if (phys.allocPages(ram, singles) !== 0) {
    freeFolios(phys, dst);
    return false;
  }
  let next = 0;
  for (let i = 0; i < src.length; i++) {
    if (pages[i] === 0) continue;
    if (dst[i] === 0) dst[i] = migratePfn(ram[next++]);
    i += lockDestination(phys, to, i) - 1;
  }
  return true;
}

function freeFolios(phys: PhysMem, dst: Uint32Array): void {
  for (let i = 0; i < dst.length; i++) {
    const head = migratePfnToPage(dst[i]);
    if (head < 0) continue;
    for (let k = 0; k < pagesOfWord(dst[i]); k++) phys.putPage(head + k);
    dst[i] = 0;
  }
}

/** Locks the destination of word `i` and lists its addresses; how many pages it is. */
function lockDestination(phys: PhysMem, { dst, addrs }: RamDestination, i: number): number {
  const first = migratePfnToPage(dst[i]);
  const count = pagesOfWord(dst[i]);
  for (let k = 0; k < count; k++) {
    const locked = phys.tryLockPage(first + k);
    assert(locked, "somebody locked a page that was allocated this moment");
    addrs[i + k] = (first + k) * PAGE_SIZE;
  }
  return count;
}

import { PAGE_SIZE, SZ_2M, type Pfn, type Va } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import { mapNewAnonPage } from "./anon.ts";
import { headOf, isCompound, settleBytes, splitFolio } from "./folio.ts";
import { PG_ANON, PG_KIND, PG_LRU, PG_SYSTEM } from "./frame-table.ts";
import { splitHuge } from "./huge.ts";
import { putBack, removeMigrationPtes } from "./migrate-entries.ts";
import { unmapCollected } from "./migrate-unmap.ts";
import type { Mm } from "./mm.ts";
import { PTE_KIND, PTE_MIGRATION, PTE_NOACCESS, PTE_PRESENT, PTE_SHIFT, PTE_SWAP, ptePfn } from "./page-table.ts";
import type { PhysMemory } from "./phys-mem.ts";
import type { Mapping } from "./rmap.ts";
import { type Steps, run, wait } from "./steps.ts";
import { MIGRATE_PFN_MIGRATE, MIGRATE_PFN_VALID, VM_FAULT_OOM } from "./types.ts";
import type { Vma } from "./vma.ts";

/**
 * Moves the anonymous pages of `[start, end)` to swap: announces CLEAR in every mm that maps them, writes the bytes to
 * slots, and frees the frames. Resolves to the pages that went; those that are pinned, locked by `mlock`, being migrated,
 * in device memory or not anonymous stay. mmap lock held. @kernel reclaim_pages, shrink_folio_list, madvise_pageout
 */
export function swapOut(mm: Mm, start: Va, end: Va): MaybePromise<number> {
  return run(swapOutRange(mm, start, end));
}

function* swapOutRange(mm: Mm, start: Va, end: Va): Steps<number> {
  assert(mm.mmapLock.isHeld, "swapping out by address needs the mmap lock");
  let gone = 0;
  for (const vma of mm.vmas.within(start, end)) {
    if (vma.locked || vma.hugetlb) continue;
    const to = Math.min(end, vma.end);
    for (let at = Math.max(start, vma.start); at < to;) {
      const next = Math.min(to, (Math.floor(at / SZ_2M) + 1) * SZ_2M);
      gone += yield* swapOutTable(mm, at, next);
      at = next;
    }
  }
  return gone;
}

/** The part of one page table. */
function* swapOutTable(mm: Mm, start: Va, end: Va): Steps<number> {
  const { phys } = mm;
  yield* splitLarge(mm, start, end);
  const src = collect(mm, start, end);
  yield* wait(unmapCollected(phys, src, -1));
  const point = phys.sched.point("mm:swap:unmapped");
  if (point !== undefined) yield* wait(point);
  let gone = 0;
  for (const word of src) {
    if ((word & MIGRATE_PFN_VALID) === 0) continue;
    yield* settleBytes(phys, word >>> 6);
    if (writeOut(phys, word >>> 6)) gone += 1;
  }
  return gone;
}

/** Large folios go page by page. */
function* splitLarge(mm: Mm, start: Va, end: Va): Steps<void> {
  yield* splitHuge(mm, Math.floor(start / SZ_2M));
  let refused = -1;
  for (let at = start; at < end; at += PAGE_SIZE) {
    const word = mm.tables.read(at / PAGE_SIZE);
    if ((word & PTE_KIND) !== PTE_PRESENT || !isCompound(mm.phys, ptePfn(word))) continue;
    const head = headOf(ptePfn(word));
    if (head !== refused && !(yield* splitFolio(mm.phys, ptePfn(word), -1))) refused = head;
  }
}

/** Locks and references the pages that can be reclaimed; migrate words, 0 for the others. */
function collect(mm: Mm, start: Va, end: Va): Uint32Array {
  const { frames, locks } = mm.phys;
  const src = new Uint32Array((end - start) / PAGE_SIZE);
  for (let i = 0; i < src.length; i++) {
    const word = mm.tables.read(start / PAGE_SIZE + i);
    if ((word & PTE_KIND) !== PTE_PRESENT) continue;
    const pfn = ptePfn(word);
    const flags = frames.flags[pfn]!;
    if ((flags & PG_KIND) !== PG_SYSTEM || isCompound(mm.phys, pfn)) continue;
    if ((flags & (PG_ANON | PG_LRU)) !== (PG_ANON | PG_LRU) || !locks.tryLock(pfn)) continue;
    frames.refcount[pfn]! += 1;
    src[i] = (pfn << PTE_SHIFT) | MIGRATE_PFN_VALID | MIGRATE_PFN_MIGRATE;
  }
  return src;
}

/**
 * Turns the migration entries of a collected page into swap entries and frees it. False when swap is full, somebody has
 * locked it, or nobody wants it any more: then it is as it was, or gone.
 */
function writeOut(phys: PhysMemory, pfn: Pfn): boolean {
  const mappings = phys.rmap.list(pfn);
  const stays = mappings.length === 0 || isMlocked(phys, mappings) || phys.fails("swap-out");
  const slot = stays ? 0 : phys.swap.store(phys.bytesOf(pfn));
  if (slot === 0) {
    removeMigrationPtes(phys, pfn, pfn);
    phys.locks.unlock(pfn);
    putBack(phys, pfn, 1);
    return false;
  }
  for (const { mm: id, vpn } of mappings) {
    const { tables } = phys.mmById(id);
    const word = tables.read(vpn);
    assert(
      (word & PTE_KIND) === PTE_MIGRATION && ptePfn(word) === pfn,
      () => `page ${pfn} is mapped while swapped out`,
    );
    tables.write(vpn, (slot << PTE_SHIFT) | PTE_SWAP | (word & PTE_NOACCESS));
    phys.rmap.remove(pfn, id, vpn);
    phys.swap.get(slot);
  }
  phys.swap.put(slot);
  phys.locks.unlock(pfn);
  phys.putPage(pfn);
  return true;
}

/** Some process maps it in a locked area. @kernel folio_test_mlocked */
function isMlocked(phys: PhysMemory, mappings: readonly Mapping[]): boolean {
  return mappings.some(({ mm, vpn }) => phys.mmById(mm).vmas.lookup(vpn * PAGE_SIZE)?.locked === true);
}

/**
 * A CPU access to a page in swap: it comes back to a frame of this mm's own, writable where the area is. After a fork
 * another mm may name the slot too, and reads it for itself, where the kernel would share the page in the swap cache and
 * copy it on write: nobody can tell. @kernel do_swap_page
 */
export function doSwapPage(mm: Mm, vma: Vma, vpn: number, word: number): number {
  const { phys } = mm;
  const slot = word >>> PTE_SHIFT;
  const pfn = phys.allocPage();
  if (pfn < 0) return VM_FAULT_OOM;
  phys.bytesOf(pfn).set(phys.swap.read(slot));
  mm.tables.write(vpn, mapNewAnonPage(mm, vma, pfn, vpn));
  phys.swap.put(slot);
  return 0;
}

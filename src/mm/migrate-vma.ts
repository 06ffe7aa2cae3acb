import { PAGE_SIZE, SZ_2M, alignDown, isAligned } from "../base/addr.ts";
import { EINVAL, type Errno } from "../base/errno.ts";
import { assert } from "../base/assert.ts";
import { clearArray } from "../base/length-pool.ts";
import { type MaybePromise, isPromise } from "../base/maybe-promise.ts";
import { mutated } from "../base/mutation.ts";
import { accessBits } from "./anon.ts";
import { headOf, isCompound, splitFolio } from "./folio.ts";
import {
  PG_ANON,
  PG_ANON_EXCLUSIVE,
  PG_COMPOUND,
  PG_DEVICE_COHERENT,
  PG_DEVICE_PRIVATE,
  PG_KIND,
  PG_LRU,
  PG_ZERO,
} from "./frame-table.ts";
import { isEmpty } from "./huge.ts";
import { finalizePages, migratePage, pagesOf, toMigrationEntries, toMigrationEntry } from "./migrate-entries.ts";
import { unmapCollected } from "./migrate-unmap.ts";
import type { Mm } from "./mm.ts";
import {
  PTES,
  PTE_DEVICE_PRIVATE,
  PTE_KIND,
  PTE_NONE,
  PTE_PRESENT,
  PTE_SHIFT,
  PTE_WRITE,
  isMapping,
  pteIndex,
  ptePfn,
} from "./page-table.ts";
import { type Steps, run, wait } from "./steps.ts";
import {
  MIGRATE_PFN_COMPOUND,
  MIGRATE_PFN_MIGRATE,
  MIGRATE_PFN_VALID,
  MIGRATE_PFN_WRITE,
  MIGRATE_VMA_SELECT_COMPOUND,
  MIGRATE_VMA_SELECT_DEVICE_COHERENT,
  MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
  MIGRATE_VMA_SELECT_SYSTEM,
  MMU_NOTIFY_MIGRATE,
  type MigrateVma,
} from "./types.ts";

/**
 * Collects and unmaps what of `[m.start, m.end)` can migrate. mmap lock held. 0 (even when nothing could be collected)
 * or -EINVAL for arguments that make no sense.
 *
 * After it every word with VALID and MIGRATE is a page that is locked and mapped nowhere, so that its content stands
 * still; a word with MIGRATE alone is a hole. With COMPOUND a word stands for 2 MiB and counts once. @kernel migrate_vma_setup
 */
export function migrateVmaSetup(mm: Mm, m: MigrateVma): MaybePromise<0 | Errno> {
  assert(mm.mmapLock.isHeld, "migrate_vma_setup needs the mmap lock");
  if (!isValid(mm, m)) return EINVAL;
  clearArray(m.src);
  clearArray(m.dst);
  m.cpages = 0;
  if (mm.phys.fails("migrate-collect")) return 0;
  const started = mm.notifiers.start({
    start: m.start,
    end: m.end,
    event: MMU_NOTIFY_MIGRATE,
    blockable: true,
    owner: m.pgmapOwner,
  });
  if (isPromise(started) || mustSplit(mm, m)) return run(setupLater(mm, m, started));
  collect(mm, m);
  mm.notifiers.end();
  const point = mm.sched.point("mm:migrate:collected");
  if (point !== undefined) return run(unmapLater(mm, m, point));
  const refused = unmapCollected(mm.phys, m.src, m.faultPage);
  if (isPromise(refused)) return run(refuseLater(m, refused));
  m.cpages -= refused;
  return 0;
}

/** The same where something has to be waited for. */
function* setupLater(mm: Mm, m: MigrateVma, started: MaybePromise<unknown>): Steps<0 | Errno> {
  yield* wait(started);
  yield* splitForCollection(mm, m);
  collect(mm, m);
  mm.notifiers.end();
  const point = mm.sched.point("mm:migrate:collected");
  if (point !== undefined) yield* wait(point);
  return yield* refuseLater(m, unmapCollected(mm.phys, m.src, m.faultPage));
}

function* unmapLater(mm: Mm, m: MigrateVma, point: Promise<void>): Steps<0 | Errno> {
  yield* wait(point);
  return yield* refuseLater(m, unmapCollected(mm.phys, m.src, m.faultPage));
}

function* refuseLater(m: MigrateVma, refused: MaybePromise<number>): Steps<0 | Errno> {
  m.cpages -= yield* wait(refused);
  return 0;
}

function isValid(mm: Mm, m: MigrateVma): boolean {
  const { vma, start, end, faultPage } = m;
  if (vma.hugetlb || vma.special) return false;
  if (!isAligned(start, PAGE_SIZE) || !isAligned(end, PAGE_SIZE) || start >= end) return false;
  if (start < vma.start || end > vma.end) return false;
  const npages = (end - start) / PAGE_SIZE;
  if (m.src.length !== npages || m.dst.length !== npages) return false;
  return faultPage < 0 || (mm.phys.isDevicePrivate(faultPage) && mm.phys.locks.isLocked(faultPage));
}

/** Whether `splitForCollection` has something to split. */
function mustSplit(mm: Mm, m: MigrateVma): boolean {
  for (let at = alignDown(m.start, SZ_2M); at < m.end; at += SZ_2M) {
    const index = at / SZ_2M;
    const table = mm.tables.at(index);
    if (table === null || isCollectedWhole(mm, m, index)) continue;
    const from = Math.max(0, (m.start - at) / PAGE_SIZE);
    const to = Math.min(PTES, (m.end - at) / PAGE_SIZE);
    for (let i = from; i < to; i++) {
      const word = table[i]!;
      if (isMapping(word) && isCompound(mm.phys, ptePfn(word))) return true;
    }
  }
  return false;
}

/**
 * Splits the large folios that cannot be collected as a whole. One that somebody holds stays, and what it maps is skipped.
 * @kernel migrate_vma_split_folio
 */
function* splitForCollection(mm: Mm, m: MigrateVma): Steps<void> {
  for (let at = alignDown(m.start, SZ_2M); at < m.end; at += SZ_2M) {
    const index = at / SZ_2M;
    const table = mm.tables.at(index);
    if (table === null || isCollectedWhole(mm, m, index)) continue;
    let seen = -1;
    const from = Math.max(0, (m.start - at) / PAGE_SIZE);
    const to = Math.min(PTES, (m.end - at) / PAGE_SIZE);
    for (let i = from; i < to; i++) {
      const word = table[i]!;
      if (!isMapping(word) || !isCompound(mm.phys, ptePfn(word)) || headOf(ptePfn(word)) === seen) continue;
      seen = headOf(ptePfn(word));
      yield* splitFolio(mm.phys, ptePfn(word), m.faultPage);
    }
  }
}

/** The interval has all of huge entry `index`, and the caller takes large folios. */
function isCollectedWhole(mm: Mm, m: MigrateVma, index: number): boolean {
  const isInside = index * SZ_2M >= m.start && (index + 1) * SZ_2M <= m.end;
  return isInside && (m.flags & MIGRATE_VMA_SELECT_COMPOUND) !== 0 && mm.tables.isHuge(index);
}

/** The page-table walk: fills `src`, puts migration entries, counts `cpages`. @kernel migrate_vma_collect_pmd */
function collect(mm: Mm, m: MigrateVma): void {
  const { src } = m;
  const hole = m.vma.anonymous ? MIGRATE_PFN_MIGRATE : 0;
  let i = 0;
  for (let at = m.start; at < m.end;) {
    const next = Math.min(m.end, Math.floor(at / SZ_2M) * SZ_2M + SZ_2M);
    const npages = (next - at) / PAGE_SIZE;
    const index = Math.floor(at / SZ_2M);
    const table = mm.tables.at(index);
    const compound = npages === PTES && (m.flags & MIGRATE_VMA_SELECT_COMPOUND) !== 0;
    if (mm.tables.isHuge(index)) {
      if (compound) collectHuge(mm, m, index, i);
    } else if (hole !== 0 && compound && isEmpty(mm, index)) {
      src[i] = hole | MIGRATE_PFN_COMPOUND;
      m.cpages += 1;
    } else if (table === null) {
      src.fill(hole, i, i + npages);
      if (hole !== 0) m.cpages += npages;
    } else {
      collectTable(mm, m, table, pteIndex(at), i, npages);
    }
    i += npages;
    at = next;
  }
}

/** Huge entry `index` into the one word `src[i]`: all of it or nothing. @kernel migrate_vma_collect_huge_pmd */
function collectHuge(mm: Mm, m: MigrateVma, index: number, i: number): void {
  const { phys } = mm;
  const { flags, refcount } = phys.frames;
  const word = mm.tables.pmd(index);
  const head = ptePfn(word);
  if (!isMapping(word) || !isCompound(phys, head) || (flags[head]! & PG_ANON) === 0) return;
  if (!isSelected(mm, m, head, flags[head]! & PG_KIND)) return;
  const first = head === m.faultPage ? head + 1 : head;
  if (!phys.locks.tryLockRun(first, head + PTES - first)) return;
  const table = mm.tables.at(index)!;
  for (let pfn = head; pfn < head + PTES; pfn++) refcount[pfn]! += 1;
  toMigrationEntries(phys, table, 0, head, PTES);
  const write = (word & PTE_WRITE) === 0 ? 0 : MIGRATE_PFN_WRITE;
  m.src[i] = (head << 6) | MIGRATE_PFN_VALID | MIGRATE_PFN_MIGRATE | MIGRATE_PFN_COMPOUND | write;
  m.cpages += 1;
}

/** `npages` entries from `table[from]` into `src[at..]`. */
function collectTable(mm: Mm, m: MigrateVma, table: Uint32Array, from: number, at: number, npages: number): void {
  const { phys } = mm;
  const { src, faultPage } = m;
  const { flags, refcount } = phys.frames;
  const hole = m.vma.anonymous ? MIGRATE_PFN_MIGRATE : 0;
  const system = (m.flags & MIGRATE_VMA_SELECT_SYSTEM) !== 0;
  let collected = 0;
  for (let k = 0; k < npages; k++) {
    const word = table[from + k]!;
    const kind = word & PTE_KIND;
    if (kind === PTE_NONE) {
      src[at + k] = hole;
      if (hole !== 0) collected += 1;
      continue;
    }
    if (kind !== PTE_PRESENT && kind !== PTE_DEVICE_PRIVATE) continue;
    const pfn = word >>> PTE_SHIFT;
    const pageKind = flags[pfn]! & PG_KIND;
    if (pageKind === PG_ZERO) {
      if (!system) continue;
      src[at + k] = MIGRATE_PFN_MIGRATE;
      collected += 1;
      continue;
    }
    // A large folio that could not be split: the kernel gives up on the rest of the table.
    if ((flags[pfn]! & PG_COMPOUND) !== 0) break;
    if (!isSelected(mm, m, pfn, pageKind) || (flags[pfn]! & PG_ANON) === 0) continue;
    if (pfn !== faultPage && !phys.locks.tryLock(pfn) && !mutated("collect-unlocked")) continue;
    refcount[pfn]! += 1;
    table[from + k] = toMigrationEntry(phys, pfn, word);
    const write = (word & PTE_WRITE) === 0 ? 0 : MIGRATE_PFN_WRITE;
    src[at + k] = (pfn << 6) | MIGRATE_PFN_VALID | MIGRATE_PFN_MIGRATE | write;
    collected += 1;
  }
  m.cpages += collected;
}

function isSelected(mm: Mm, m: MigrateVma, pfn: number, pageKind: number): boolean {
  if (pageKind === PG_DEVICE_PRIVATE) {
    return (m.flags & MIGRATE_VMA_SELECT_DEVICE_PRIVATE) !== 0 && mm.phys.pgmapOf(pfn).owner === m.pgmapOwner;
  }
  if (pageKind === PG_DEVICE_COHERENT) {
    return (m.flags & MIGRATE_VMA_SELECT_DEVICE_COHERENT) !== 0 && mm.phys.pgmapOf(pfn).owner === m.pgmapOwner;
  }
  return (m.flags & MIGRATE_VMA_SELECT_SYSTEM) !== 0;
}

/**
 * Commits: fills holes with their destination pages and moves the others' identity. A word that loses its MIGRATE bit
 * did not move. mmap lock held. @kernel migrate_vma_pages
 */
export function migrateVmaPages(mm: Mm, m: MigrateVma): MaybePromise<void> {
  const { src, dst } = m;
  const firstHole = findHoleToFill(src, dst);
  if (firstHole < 0) return commit(mm, m);
  const started = mm.notifiers.start({
    start: m.start + firstHole * PAGE_SIZE,
    end: m.end,
    event: MMU_NOTIFY_MIGRATE,
    blockable: true,
    owner: m.pgmapOwner,
  });
  if (isPromise(started)) return run(fillLater(mm, m, started));
  commit(mm, m);
  mm.notifiers.end();
}

function* fillLater(mm: Mm, m: MigrateVma, started: Promise<unknown>): Steps<void> {
  yield* wait(started);
  commit(mm, m);
  mm.notifiers.end();
}

/** Announced, where it fills holes. */
function commit(mm: Mm, m: MigrateVma): void {
  const { src, dst } = m;
  for (let i = 0; i < src.length; i++) {
    if ((src[i]! & MIGRATE_PFN_VALID) !== 0 || (dst[i]! & MIGRATE_PFN_VALID) === 0) {
      migratePage(mm.phys, src, dst, i, m.faultPage);
    } else if ((src[i]! & MIGRATE_PFN_MIGRATE) !== 0) {
      fillHole(mm, m, i);
    }
  }
}

/** The first hole that gets a page, or -1. */
function findHoleToFill(src: Uint32Array, dst: Uint32Array): number {
  for (let i = 0; i < src.length; i++) {
    if ((src[i]! & (MIGRATE_PFN_MIGRATE | MIGRATE_PFN_VALID)) === MIGRATE_PFN_MIGRATE && dst[i] !== 0) return i;
  }
  return -1;
}

/** A hole of 2 MiB that gets single pages becomes 512 holes, which the caller comes to next. */
function fillHole(mm: Mm, m: MigrateVma, i: number): void {
  const { src, dst } = m;
  const isLarge = pagesOf(dst[i]!) > 1;
  if (isLarge !== pagesOf(src[i]!) > 1) {
    if (isLarge) {
      src[i] = 0;
      return;
    }
    src.fill(MIGRATE_PFN_MIGRATE, i, i + PTES);
  }
  if (isLarge ? insertHuge(mm, m, i) : insertPage(mm, m, i)) src[i]! &= MIGRATE_PFN_MIGRATE | MIGRATE_PFN_COMPOUND;
  else src[i] = 0;
}

/** @kernel migrate_vma_insert_huge_pmd_page */
function insertHuge(mm: Mm, m: MigrateVma, i: number): boolean {
  const index = (m.start + i * PAGE_SIZE) / SZ_2M;
  if (!m.vma.anonymous || !isEmpty(mm, index)) return false;
  const { phys } = mm;
  const head = m.dst[i]! >>> 6;
  const { flags, mapcount, refcount } = phys.frames;
  const isSystem = (flags[head]! & PG_KIND) < PG_DEVICE_PRIVATE;
  for (let k = 0; k < PTES; k++) {
    refcount[head + k]! += 1;
    mapcount[head + k]! += 1;
    flags[head + k]! |= PG_ANON | PG_ANON_EXCLUSIVE | (isSystem ? PG_LRU : 0);
    phys.rmap.add(head + k, mm.id, index * PTES + k);
  }
  const kind = phys.isDevicePrivate(head) ? PTE_DEVICE_PRIVATE : PTE_PRESENT;
  mm.tables.setPmd(index, (head << PTE_SHIFT) | kind | accessBits(m.vma));
  return true;
}

/** Maps the destination of a hole, if a CPU fault has not filled it meanwhile. @kernel migrate_vma_insert_page */
function insertPage(mm: Mm, m: MigrateVma, i: number): boolean {
  const { vma, start, dst } = m;
  if (!vma.anonymous) return false;
  const { frames, rmap } = mm.phys;
  const { flags, mapcount, refcount } = frames;
  const addr = start + i * PAGE_SIZE;
  const table = mm.tables.make(addr);
  const index = pteIndex(addr);
  const word = table[index]!;
  const isZero = (word & PTE_KIND) === PTE_PRESENT && (flags[word >>> PTE_SHIFT]! & PG_KIND) === PG_ZERO;
  if (word !== PTE_NONE && !isZero && !mutated("hole-overwritten")) return false;
  const pfn = dst[i]! >>> 6;
  const isPrivate = (flags[pfn]! & PG_KIND) === PG_DEVICE_PRIVATE;
  const isSystem = (flags[pfn]! & PG_KIND) < PG_DEVICE_PRIVATE;
  refcount[pfn]! += 1;
  mapcount[pfn]! += 1;
  flags[pfn]! |= PG_ANON | PG_ANON_EXCLUSIVE | (isSystem ? PG_LRU : 0);
  rmap.add(pfn, mm.id, addr / PAGE_SIZE);
  table[index] = (pfn << PTE_SHIFT) | (isPrivate ? PTE_DEVICE_PRIVATE : PTE_PRESENT) | accessBits(vma);
  return true;
}

/** Ends the migration: pages become accessible where they now are. @kernel migrate_vma_finalize */
export function migrateVmaFinalize(mm: Mm, m: MigrateVma): void {
  finalizePages(mm.phys, m.src, m.dst, m.faultPage);
}

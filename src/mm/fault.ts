import { PAGE_SIZE, type Pfn, type Va } from "../base/addr.ts";
import { InvariantError } from "../base/assert.ts";
import { type MaybePromise, isPromise } from "../base/maybe-promise.ts";
import { PG_ANON, PG_ANON_EXCLUSIVE, PG_KIND, PG_LRU, PG_ZERO } from "./frame-table.ts";
import type { Mm } from "./mm.ts";
import {
  PTE_DEVICE_PRIVATE,
  PTE_KIND,
  PTE_MIGRATION,
  PTE_NOACCESS,
  PTE_NONE,
  PTE_PRESENT,
  PTE_SHIFT,
  PTE_WRITE,
  pteIndex,
  ptePfn,
} from "./page-table.ts";
import { ZERO_PFN } from "./phys-mem.ts";
import { type Steps, run, wait } from "./steps.ts";
import { MMU_NOTIFY_CLEAR, VM_FAULT_OOM, VM_FAULT_SIGSEGV, type VmaView } from "./types.ts";
import type { Vma } from "./vma.ts";
import { dropEntry } from "./zap.ts";

/**
 * Serves one CPU fault. mmap lock held for read or write. 0 means "try the access again", which need not succeed yet;
 * otherwise VM_FAULT_*. @kernel handle_mm_fault
 */
export function handleMmFault(mm: Mm, vma: Vma, address: Va, write: boolean): MaybePromise<number> {
  if (write ? !vma.writable : !vma.readable) return VM_FAULT_SIGSEGV;
  const vpn = Math.floor(address / PAGE_SIZE);
  const word = mm.tables.read(vpn);
  switch (word & PTE_KIND) {
    case PTE_NONE:
      return doAnonymousPage(mm, vma, vpn, write);
    case PTE_PRESENT:
      return write && (word & PTE_WRITE) === 0 ? doWpPage(mm, vpn, word) : 0;
    case PTE_MIGRATION:
      return run(migrationEntryWait(mm, ptePfn(word)));
    case PTE_DEVICE_PRIVATE:
      return run(doDevicePrivate(mm, vma, address, word, write));
    default:
      throw new InvariantError(`no such entry: ${word}`);
  }
}

/** A none entry is filled without an event: nobody maps a hole. @kernel do_anonymous_page */
function doAnonymousPage(mm: Mm, vma: Vma, vpn: number, write: boolean): number {
  const table = mm.tables.make(vpn * PAGE_SIZE);
  if (!write) {
    table[pteIndex(vpn * PAGE_SIZE)] = (ZERO_PFN << PTE_SHIFT) | PTE_PRESENT;
    return 0;
  }
  const pfn = mm.phys.allocZeroedPage();
  if (pfn < 0) return VM_FAULT_OOM;
  table[pteIndex(vpn * PAGE_SIZE)] = mapNewAnonPage(mm, vma, pfn, vpn);
  return 0;
}

/** Turns a frame of the caller's with its one reference into a mapping; returns its entry. @kernel folio_add_new_anon_rmap */
function mapNewAnonPage(mm: Mm, vma: VmaView, pfn: Pfn, vpn: number): number {
  const { frames, rmap } = mm.phys;
  frames.mapcount[pfn] = 1;
  frames.flags[pfn]! |= PG_ANON | PG_ANON_EXCLUSIVE | PG_LRU;
  rmap.add(pfn, mm.id, vpn);
  return (pfn << PTE_SHIFT) | PTE_PRESENT | (vma.writable ? PTE_WRITE : 0) | (vma.readable ? 0 : PTE_NOACCESS);
}

/** Write to a page that is mapped read-only in a writable area. @kernel do_wp_page */
function doWpPage(mm: Mm, vpn: number, word: number): MaybePromise<number> {
  const flags = mm.phys.frames.flags[ptePfn(word)]!;
  if ((flags & PG_ANON_EXCLUSIVE) !== 0) {
    mm.tables.write(vpn, word | PTE_WRITE);
    return 0;
  }
  return run(wpPageCopy(mm, vpn, word));
}

/** @kernel wp_page_copy */
function* wpPageCopy(mm: Mm, vpn: number, word: number): Steps<number> {
  const { phys } = mm;
  const old = ptePfn(word);
  const isZero = (phys.frames.flags[old]! & PG_KIND) === PG_ZERO;
  const pfn = isZero ? phys.allocZeroedPage() : phys.allocPage();
  if (pfn < 0) return VM_FAULT_OOM;
  const start = vpn * PAGE_SIZE;
  const range = { start, end: start + PAGE_SIZE, event: MMU_NOTIFY_CLEAR, blockable: true, owner: null };
  const started = mm.notifiers.start(range);
  if (isPromise(started)) yield* wait(started);
  // Another fault may have replaced the entry meanwhile: then there is nothing left to do.
  const vma = mm.vmaLookup(start);
  if (mm.tables.read(vpn) !== word || vma === null) {
    phys.putPage(pfn);
  } else {
    // After the event, so that the copy has what was written until the mapping changed.
    if (!isZero) phys.copyPage(pfn, old);
    mm.tables.write(vpn, mapNewAnonPage(mm, vma, pfn, vpn));
    dropEntry(mm, word, vpn);
  }
  mm.notifiers.end();
  return 0;
}

/** @kernel migration_entry_wait */
export function* migrationEntryWait(mm: Mm, pfn: Pfn): Steps<0> {
  yield* wait(mm.phys.locks.waitUnlocked(pfn));
  return 0;
}

/**
 * The page is in device memory. The trylock makes the threads that touch one page at once take turns instead of
 * undoing each other's references; a loser waits and looks again. @kernel do_swap_page
 */
function* doDevicePrivate(mm: Mm, vma: Vma, address: Va, word: number, write: boolean): Steps<number> {
  const { phys } = mm;
  const pfn = ptePfn(word);
  if (!phys.locks.tryLock(pfn)) {
    yield* wait(phys.locks.waitUnlocked(pfn));
    return 0;
  }
  phys.getPage(pfn);
  mm.deviceFaults += 1;
  mm.trace?.record("cpu-fault", mm.id, address, address + 1, write ? 1 : 0);
  const result = phys.pgmapOf(pfn).ops.migrateToRam({ mm, vma, address, pfn, write });
  const code = isPromise(result) ? yield* wait(result) : result;
  phys.locks.unlock(pfn);
  phys.putPage(pfn);
  return code;
}

/**
 * Fills the none entries of `[start, end)`, which lies in `vma`, with zeroed pages and without waiting: a write fault
 * per page in one go. False when RAM is used up; what was filled stays. @kernel populate_vma_page_range
 */
export function populateHoles(mm: Mm, vma: Vma, start: Va, end: Va): boolean {
  const { phys } = mm;
  phys.wantRun((end - start) / PAGE_SIZE);
  for (let at = start; at < end; at += PAGE_SIZE) {
    const table = mm.tables.make(at);
    if (table[pteIndex(at)] !== PTE_NONE) continue;
    const pfn = phys.allocZeroedPage();
    if (pfn < 0) return false;
    table[pteIndex(at)] = mapNewAnonPage(mm, vma, pfn, at / PAGE_SIZE);
  }
  return true;
}

/**
 * Fills the none entries from `start` on with pages that hold anything, up to the first entry that is not none, and
 * says how many bytes. The caller overwrites them before it awaits anything, so nobody sees what was in them.
 */
export function populateToOverwrite(mm: Mm, vma: Vma, start: Va, end: Va): number {
  const { phys } = mm;
  phys.wantRun((end - start) / PAGE_SIZE);
  let at = start;
  for (; at < end; at += PAGE_SIZE) {
    const table = mm.tables.make(at);
    if (table[pteIndex(at)] !== PTE_NONE) break;
    const pfn = phys.allocPage();
    if (pfn < 0) break;
    table[pteIndex(at)] = mapNewAnonPage(mm, vma, pfn, at / PAGE_SIZE);
  }
  return at - start;
}

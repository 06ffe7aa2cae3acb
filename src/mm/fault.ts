import { PAGE_SIZE, SZ_2M, type Pfn, type Va } from "../base/addr.ts";
import { causedBy } from "../base/cause.ts";
import { InvariantError } from "../base/assert.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import { mutated } from "../base/mutation.ts";
import { announce } from "./announce.ts";
import { mapNewAnonPage, reuseIfSole } from "./anon.ts";
import { removeDeviceExclusive } from "./exclusive-entry.ts";
import { doFilePage } from "./file-fault.ts";
import { headOf, settleBytes } from "./folio.ts";
import { PG_ANON_EXCLUSIVE, PG_KIND, PG_ZERO } from "./frame-table.ts";
import { hugetlbFault, mapHugeAnon, wpHugePage } from "./huge.ts";
import type { Mm } from "./mm.ts";
import {
  PTE_DEVICE_EXCLUSIVE,
  PTE_DEVICE_PRIVATE,
  PTE_KIND,
  PTE_MIGRATION,
  PTE_NONE,
  PTE_PRESENT,
  PTE_SHIFT,
  PTE_SWAP,
  PTE_WRITE,
  pteIndex,
  ptePfn,
} from "./page-table.ts";
import { ZERO_PFN } from "./phys-mem.ts";
import { type Steps, run, wait } from "./steps.ts";
import { doSwapPage } from "./swap.ts";
import { VM_FAULT_OOM, VM_FAULT_SIGBUS, VM_FAULT_SIGSEGV } from "./types.ts";
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
      return doNoPage(mm, vma, vpn, write);
    case PTE_PRESENT:
      return write && (word & PTE_WRITE) === 0 ? doWpPage(mm, vma, vpn, word) : 0;
    case PTE_MIGRATION:
      return run(migrationEntryWait(mm, ptePfn(word)));
    case PTE_DEVICE_PRIVATE:
      return run(doDevicePrivate(mm, vma, address, word, write));
    case PTE_SWAP:
      return doSwapPage(mm, vma, vpn, word);
    case PTE_DEVICE_EXCLUSIVE:
      return run(removeDeviceExclusive(mm, vpn, word));
    default:
      throw new InvariantError(`no such entry: ${word}`);
  }
}

/** A none entry is filled without an event: nobody maps a hole. @kernel do_pte_missing */
function doNoPage(mm: Mm, vma: Vma, vpn: number, write: boolean): MaybePromise<number> {
  if (mm.isUnstable && !vma.shared) return VM_FAULT_SIGBUS;
  if (vma.special) return VM_FAULT_SIGBUS;
  if (vma.hugetlb) return hugetlbFault(mm, vma, Math.floor((vpn * PAGE_SIZE) / SZ_2M));
  return vma.file === null ? doAnonymousPage(mm, vma, vpn, write) : doFilePage(mm, vma, vpn, write);
}

/** @kernel do_anonymous_page */
function doAnonymousPage(mm: Mm, vma: Vma, vpn: number, write: boolean): number {
  if (write && mapHugeAnon(mm, vma, vpn * PAGE_SIZE, "zeroed")) return 0;
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

/** Write to a page that is mapped read-only in a writable area. @kernel do_wp_page */
function doWpPage(mm: Mm, vma: Vma, vpn: number, word: number): MaybePromise<number> {
  const index = Math.floor((vpn * PAGE_SIZE) / SZ_2M);
  if (mm.tables.isHuge(index)) return run(wpHugePage(mm, vma, index));
  const flags = mm.phys.frames.flags[ptePfn(word)]!;
  if (vma.shared || (flags & PG_ANON_EXCLUSIVE) !== 0 || reuseIfSole(mm.phys, ptePfn(word), 1)) {
    mm.tables.write(vpn, word | PTE_WRITE);
    return 0;
  }
  return run(unshare(mm, vpn, word));
}

/**
 * Gives the mm a copy of its own of the page at present entry `word`; raises CLEAR. mmap lock held. 0 or VM_FAULT_OOM.
 * @kernel wp_page_copy, FAULT_FLAG_UNSHARE
 */
export function* unshare(mm: Mm, vpn: number, word: number): Steps<number> {
  const { phys } = mm;
  const old = ptePfn(word);
  const isZero = (phys.frames.flags[old]! & PG_KIND) === PG_ZERO;
  const pfn = isZero ? phys.allocZeroedPage() : phys.allocPage();
  if (pfn < 0) return VM_FAULT_OOM;
  const start = vpn * PAGE_SIZE;
  yield* announce(mm, start, start + PAGE_SIZE);
  yield* settleBytes(phys, old);
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
 * undoing each other's references; a loser waits and looks again. For a huge entry that page is the head of the folio.
 * @kernel do_swap_page, do_huge_pmd_device_private
 */
function* doDevicePrivate(mm: Mm, vma: Vma, address: Va, word: number, write: boolean): Steps<number> {
  const { phys } = mm;
  const pfn = mm.tables.isHuge(Math.floor(address / SZ_2M)) ? headOf(ptePfn(word)) : ptePfn(word);
  if (!phys.locks.tryLock(pfn) && !mutated("fault-page-unlocked")) {
    yield* wait(phys.locks.waitUnlocked(pfn));
    return 0;
  }
  phys.getPage(pfn);
  mm.deviceFaults += 1;
  const cause = mm.trace?.record("cpu-fault", mm.id, address, address + 1, write ? 1 : 0) ?? 0;
  const { ops } = phys.pgmapOf(pfn);
  const code = yield* wait(causedBy(cause, () => ops.migrateToRam({ mm, vma, address, pfn, write })));
  phys.locks.unlock(pfn);
  phys.putPage(pfn);
  return code;
}

/**
 * Fills the none entries of `[start, end)`, which lies in anonymous `vma`, with zeroed pages and without waiting: a write
 * fault per page in one go. False when RAM is used up; what was filled stays. @kernel populate_vma_page_range
 */
export function populateHoles(mm: Mm, vma: Vma, start: Va, end: Va): boolean {
  const { phys } = mm;
  phys.wantRun((end - start) / PAGE_SIZE);
  for (let at = start; at < end; at += PAGE_SIZE) {
    const table = mm.tables.make(at);
    if (table[pteIndex(at)] !== PTE_NONE) continue;
    if (mapHugeAnon(mm, vma, at, "zeroed")) continue;
    const pfn = phys.allocZeroedPage();
    if (pfn < 0) return false;
    table[pteIndex(at)] = mapNewAnonPage(mm, vma, pfn, at / PAGE_SIZE);
  }
  return true;
}

/**
 * Fills the none entries of anonymous memory from `start` on with pages that hold anything, up to the first entry that is
 * not none. The caller overwrites them before it awaits anything, so nobody sees what was in them.
 */
export function populateToOverwrite(mm: Mm, vma: Vma, start: Va, end: Va): void {
  const { phys } = mm;
  phys.wantRun((end - start) / PAGE_SIZE);
  for (let at = start; at < end;) {
    const table = mm.tables.make(at);
    if (table[pteIndex(at)] !== PTE_NONE) return;
    const nextHuge = (Math.floor(at / SZ_2M) + 1) * SZ_2M;
    const isWhole = at % SZ_2M === 0 && nextHuge <= end;
    if (mapHugeAnon(mm, vma, at, isWhole ? "any" : "zeroed")) {
      at = nextHuge;
      continue;
    }
    const pfn = phys.allocPage();
    if (pfn < 0) return;
    table[pteIndex(at)] = mapNewAnonPage(mm, vma, pfn, at / PAGE_SIZE);
    at += PAGE_SIZE;
  }
}

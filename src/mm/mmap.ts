import { PAGE_SIZE, type Va, alignUp, isAligned, isPowerOfTwo } from "../base/addr.ts";
import { EINVAL, ENOMEM, type Errno } from "../base/errno.ts";
import { populateHoles } from "./fault.ts";
import type { Mm } from "./mm.ts";
import { PG_ANON_EXCLUSIVE } from "./frame-table.ts";
import {
  PTE_DEVICE_PRIVATE,
  PTE_EXCLUSIVE,
  PTE_KIND,
  PTE_MIGRATION,
  PTE_NOACCESS,
  PTE_NONE,
  PTE_PRESENT,
  PTE_WRITE,
  ptePfn,
} from "./page-table.ts";
import { type Steps, wait } from "./steps.ts";
import { MMU_NOTIFY_CLEAR, MMU_NOTIFY_PROTECTION_VMA, MMU_NOTIFY_UNMAP } from "./types.ts";
import { type Prot, TASK_SIZE } from "./vma.ts";
import { forEachTable, zapRange } from "./zap.ts";

export interface MmapOptions {
  /** Fixed address; replaces what is mapped there. Without it the address is chosen, never below 4 GiB. */
  readonly at?: Va;
  /** A power of two, at least a page. A fixed address must have it too. */
  readonly align?: number;
  readonly prot?: Prot;
  /** Fill the pages now; running out of RAM is no error, the rest is filled on demand. */
  readonly populate?: boolean;
}

/**
 * Maps private anonymous memory; the length is rounded up to pages. The address, -EINVAL or -ENOMEM (no room in the
 * address space). Takes the mmap lock for write. @kernel mmap
 */
export function* mmap(mm: Mm, length: number, options: MmapOptions): Steps<Va | Errno> {
  const { at, align = PAGE_SIZE, prot = "RW" } = options;
  if (!isLength(length) || !isPowerOfTwo(align) || align < PAGE_SIZE) return EINVAL;
  if (at !== undefined && (!isAddress(at) || !isAligned(at, align))) return EINVAL;
  const bytes = alignUp(length, PAGE_SIZE);
  if ((at ?? 0) + bytes > TASK_SIZE) return ENOMEM;
  yield* wait(mm.sched.point("mm:mmap"));
  const guard = yield* wait(mm.mmapLock.write());
  const start = at ?? mm.vmas.findGap(bytes, align);
  if (start < 0 || mm.isExiting) {
    guard.release();
    return ENOMEM;
  }
  if (at !== undefined) yield* unmapLocked(mm, start, start + bytes);
  mm.vmas.insert(start, start + bytes, prot);
  mm.trace?.record("mmap", mm.id, start, start + bytes, 0);
  if (options.populate === true && prot === "RW") {
    populateHoles(mm, mm.vmas.lookup(start)!, start, start + bytes);
  }
  guard.release();
  return start;
}

/** Any piece, over holes too. 0 or -EINVAL. Takes the mmap lock for write. @kernel munmap */
export function* munmap(mm: Mm, start: Va, length: number): Steps<0 | Errno> {
  if (!isAddress(start) || !isLength(length)) return EINVAL;
  const end = start + alignUp(length, PAGE_SIZE);
  if (end > TASK_SIZE) return EINVAL;
  yield* wait(mm.sched.point("mm:munmap"));
  const guard = yield* wait(mm.mmapLock.write());
  yield* unmapLocked(mm, start, end);
  mm.trace?.record("munmap", mm.id, start, end, 0);
  guard.release();
  return 0;
}

/**
 * Changes the protection; removing write takes it from the entries at once, adding it lets a later fault set it but for
 * pages that are exclusively ours. 0, -EINVAL, -ENOMEM for a hole. Takes the mmap lock for write. @kernel mprotect
 *
 * Linux changes what lies before a hole and then fails; here nothing changes.
 */
export function* mprotect(mm: Mm, start: Va, length: number, prot: Prot): Steps<0 | Errno> {
  if (!isAddress(start) || !isLengthOrZero(length)) return EINVAL;
  if (length === 0) return 0;
  const end = start + alignUp(length, PAGE_SIZE);
  yield* wait(mm.sched.point("mm:mprotect"));
  const guard = yield* wait(mm.mmapLock.write());
  if (!mm.vmas.covers(start, end)) {
    guard.release();
    return ENOMEM;
  }
  for (const vma of mm.vmas.within(start, end)) {
    if (vma.prot === prot) continue;
    const from = Math.max(start, vma.start);
    const to = Math.min(end, vma.end);
    yield* wait(
      mm.notifiers.start({ start: from, end: to, event: MMU_NOTIFY_PROTECTION_VMA, blockable: true, owner: null }),
    );
    yield* wait(mm.sched.point("mm:mprotect:announced"));
    mm.vmas.protect(from, to, prot);
    changeProtection(mm, from, to, prot);
    mm.notifiers.end();
  }
  guard.release();
  return 0;
}

/** Drops the pages and keeps the area. 0, -EINVAL, -ENOMEM for a hole (then nothing is dropped). @kernel madvise MADV_DONTNEED */
export function* dontneed(mm: Mm, start: Va, length: number): Steps<0 | Errno> {
  if (!isAddress(start) || !isLengthOrZero(length)) return EINVAL;
  if (length === 0) return 0;
  const end = start + alignUp(length, PAGE_SIZE);
  yield* wait(mm.sched.point("mm:dontneed"));
  const guard = yield* wait(mm.mmapLock.read());
  if (!mm.vmas.covers(start, end)) {
    guard.release();
    return ENOMEM;
  }
  for (const vma of mm.vmas.within(start, end)) {
    const from = Math.max(start, vma.start);
    const to = Math.min(end, vma.end);
    yield* wait(mm.notifiers.start({ start: from, end: to, event: MMU_NOTIFY_CLEAR, blockable: true, owner: null }));
    yield* wait(mm.sched.point("mm:dontneed:announced"));
    zapRange(mm, from, to);
    mm.notifiers.end();
  }
  guard.release();
  return 0;
}

/** Unmaps `[start, end)`, one event per run of areas without a hole between them. mmap lock held for write. */
export function* unmapLocked(mm: Mm, start: Va, end: Va): Steps<void> {
  for (let at = start; at < end;) {
    const first = mm.vmas.findIntersection(at, end);
    if (first === null) return;
    const from = Math.max(at, first.start);
    let to = Math.min(first.end, end);
    for (let next = mm.vmas.lookup(to); next !== null && to < end; next = mm.vmas.lookup(to)) {
      to = Math.min(next.end, end);
    }
    yield* wait(mm.notifiers.start({ start: from, end: to, event: MMU_NOTIFY_UNMAP, blockable: true, owner: null }));
    yield* wait(mm.sched.point("mm:unmap:announced"));
    mm.vmas.remove(from, to);
    zapRange(mm, from, to);
    mm.freeTables(from, to);
    mm.notifiers.end();
    at = to;
  }
}

/** @kernel change_protection */
function changeProtection(mm: Mm, start: Va, end: Va, prot: Prot): void {
  const { flags } = mm.phys.frames;
  forEachTable(mm, start, end, (table, from, to) => {
    for (let i = from; i < to; i++) {
      let word = table[i]!;
      if (word === PTE_NONE) continue;
      word &= ~PTE_NOACCESS;
      if (prot === "NONE") word |= PTE_NOACCESS;
      if (prot !== "RW") {
        word = withoutWrite(word);
      } else {
        const kind = word & PTE_KIND;
        const mapped = kind === PTE_PRESENT || kind === PTE_DEVICE_PRIVATE;
        if (mapped && (flags[ptePfn(word)]! & PG_ANON_EXCLUSIVE) !== 0) word |= PTE_WRITE;
      }
      table[i] = word;
    }
  });
}

function withoutWrite(word: number): number {
  // A migration entry remembers that its page was ours alone; for mapped pages the frame itself knows.
  const wasExclusive = (word & PTE_KIND) === PTE_MIGRATION && (word & PTE_WRITE) !== 0;
  return (word & ~PTE_WRITE) | (wasExclusive ? PTE_EXCLUSIVE : 0);
}

function isAddress(addr: number): boolean {
  return Number.isSafeInteger(addr) && addr >= 0 && isAligned(addr, PAGE_SIZE);
}

function isLength(length: number): boolean {
  return isLengthOrZero(length) && length > 0;
}

function isLengthOrZero(length: number): boolean {
  return Number.isSafeInteger(length) && length >= 0;
}

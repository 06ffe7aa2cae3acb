import { PAGE_SIZE, SZ_2M, type Va, alignUp, isAligned, isPowerOfTwo } from "../base/addr.ts";
import { EACCES, EEXIST, EINVAL, ENOMEM, EOVERFLOW, type Errno } from "../base/errno.ts";
import { mutated } from "../base/mutation.ts";
import { announce } from "./announce.ts";
import type { DeviceMemory } from "./device-memory.ts";
import { MemFile } from "./file.ts";
import { splitHugeRange } from "./huge.ts";
import type { Mm } from "./mm.ts";
import { populate } from "./populate.ts";
import { type Steps, wait } from "./steps.ts";
import { traced } from "./traced.ts";
import { MMU_NOTIFY_UNMAP } from "./types.ts";
import { endOf, isAddress, isLength, isLengthOrZero } from "./validate.ts";
import { ANONYMOUS, type Prot, TASK_SIZE } from "./vma.ts";
import { zapRange } from "./zap.ts";

export interface MmapOptions {
  /** Fixed address; replaces what is mapped there. Without it the address is chosen, never below 4 GiB. @kernel MAP_FIXED */
  readonly at?: Va;
  /** A fixed address refuses to replace anything. @kernel MAP_FIXED_NOREPLACE */
  readonly noReplace?: boolean;
  /** The address to choose if it is free; rounded up to pages. */
  readonly hint?: Va;
  /** A power of two, at least a page. A fixed address must have it too. */
  readonly align?: number;
  readonly prot?: Prot;
  /** Fill the pages now; running out of RAM is no error, the rest is filled on demand. @kernel MAP_POPULATE */
  readonly populate?: boolean;
  /** Stores reach everybody who maps the same, forked children too. @kernel MAP_SHARED */
  readonly shared?: boolean;
  /** Map this memory of a device from byte `offset` on, shared. The caller knows that the area lies inside it. */
  readonly device?: DeviceMemory;
  /** Map this file from byte `offset` on, which is whole pages. */
  readonly file?: MemFile;
  readonly offset?: number;
  /** Whole 2 MiB pages, which are never split; the length is rounded up to them. Private memory only. @kernel MAP_HUGETLB */
  readonly hugetlb?: boolean;
  /** Bytes (whole pages) on either side that stay a hole as long as addresses are chosen. @kernel stack_guard_gap */
  readonly guard?: number;
}

/**
 * Maps anonymous memory or a file; the length is rounded up to pages. The address, or, with nothing changed:
 * -EINVAL; -ENOMEM (no room in the address space); -EEXIST (`noReplace`); -EACCES (a shared writable mapping of a file
 * that must not be changed); -EOVERFLOW (the file's offsets). Takes the mmap lock for write. @kernel mmap, do_mmap
 */
export function* mmap(mm: Mm, length: number, options: MmapOptions): Steps<Va | Errno> {
  const error = checkOptions(length, options);
  if (error !== 0) return error;
  const { at, guard = 0, hugetlb = false, prot = "RW" } = options;
  const page = hugetlb ? SZ_2M : PAGE_SIZE;
  const bytes = alignUp(length, page);
  if ((at ?? 0) + bytes > TASK_SIZE) return ENOMEM;
  yield* wait(mm.sched.point("mm:mmap"));
  const lock = yield* wait(mm.mmapLock.write());
  const start = at ?? chooseAddress(mm, bytes, Math.max(options.align ?? page, page), options);
  const refused = mm.isExiting || start < 0 ? ENOMEM : at === undefined ? 0 : checkReplaced(mm, at, bytes, options);
  if (refused !== 0) {
    lock.release();
    return refused;
  }
  if (at !== undefined) yield* unmapLocked(mm, start, start + bytes);
  const { shared = false, offset = 0, device = null } = options;
  const file = options.file ?? (shared && device === null ? sharedMemory(mm, bytes) : null);
  mm.vmas.insert(start, start + bytes, { ...ANONYMOUS, prot, shared, file, device, hugetlb, guard }, offset);
  if (options.file === undefined) file?.close();
  mm.trace?.record("mmap", mm.id, start, start + bytes, 0);
  if (options.populate === true) yield* populate(mm, start, start + bytes);
  lock.release();
  return start;
}

function checkOptions(length: number, options: MmapOptions): 0 | Errno {
  const { at, hint, align = PAGE_SIZE, guard = 0, offset = 0, file, hugetlb = false } = options;
  if (!isLength(length) || !isPowerOfTwo(align) || align < PAGE_SIZE) return EINVAL;
  if (at !== undefined && (!isAddress(at) || !isAligned(at, align))) return EINVAL;
  if (hint !== undefined && !isLengthOrZero(hint)) return EINVAL;
  if (options.noReplace === true && at === undefined) return EINVAL;
  if (!isAddress(guard) || !isAddress(offset)) return EINVAL;
  if (hugetlb && (file !== undefined || options.shared === true)) return EINVAL;
  if (hugetlb && at !== undefined && !isAligned(at, SZ_2M)) return EINVAL;
  if (file === undefined) return 0;
  if (!file.isOpen) return EINVAL;
  if (!Number.isSafeInteger(offset + alignUp(length, PAGE_SIZE))) return EOVERFLOW;
  const stores = options.shared === true && (options.prot ?? "RW") === "RW";
  return stores && file.readOnly ? EACCES : 0;
}

/** The address hinted at if it is free and has the alignment, else the lowest gap; -1. @kernel get_unmapped_area */
function chooseAddress(mm: Mm, bytes: number, align: number, { hint, guard = 0 }: MmapOptions): Va {
  if (hint !== undefined) {
    const at = alignUp(hint, PAGE_SIZE);
    const fits = isAligned(at, align) && at + bytes <= TASK_SIZE;
    if (fits && mm.vmas.isFree(at, at + bytes, guard)) return at;
  }
  return mm.vmas.findGap(bytes, align, guard);
}

/** Whether a fixed mapping may take the place of what is there. */
function checkReplaced(mm: Mm, at: Va, bytes: number, options: MmapOptions): 0 | Errno {
  if (options.noReplace === true && mm.vmas.findIntersection(at, at + bytes) !== null) return EEXIST;
  return mm.vmas.canCut(at, at + bytes) ? 0 : EINVAL;
}

/** A file without a name for shared anonymous memory. @kernel shmem_zero_setup */
function sharedMemory(mm: Mm, bytes: number): MemFile {
  return new MemFile(mm.phys, { size: bytes });
}

/** Any piece, over holes too. 0, or -EINVAL with nothing changed. Takes the mmap lock for write. @kernel munmap */
export function* munmap(mm: Mm, start: Va, length: number): Steps<0 | Errno> {
  if (!isAddress(start) || !isLength(length)) return EINVAL;
  const end = endOf(start, length);
  if (end < 0) return EINVAL;
  yield* wait(mm.sched.point("mm:munmap"));
  const guard = yield* wait(mm.mmapLock.write());
  const error = mm.vmas.canCut(start, end) ? 0 : EINVAL;
  if (error === 0) {
    yield* traced(mm, { kind: "munmap", start, end, detail: 0 }, () => unmapLocked(mm, start, end));
  }
  guard.release();
  return error;
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
    yield* splitHugeRange(mm, from, to);
    yield* announce(mm, from, mutated("munmap-unannounced") ? 0 : to, MMU_NOTIFY_UNMAP);
    yield* wait(mm.sched.point("mm:unmap:announced"));
    mm.vmas.remove(from, to);
    zapRange(mm, from, to);
    mm.freeTables(from, to);
    mm.notifiers.end();
    at = to;
  }
}

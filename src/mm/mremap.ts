import { PAGE_SIZE, SZ_2M, type Va, alignUp, isAligned } from "../base/addr.ts";
import { EFAULT, EINVAL, ENOMEM, EOVERFLOW, type Errno } from "../base/errno.ts";
import { mutated } from "../base/mutation.ts";
import { announce } from "./announce.ts";
import { splitHuge, splitHugeRange } from "./huge.ts";
import type { Mm } from "./mm.ts";
import { unmapLocked } from "./mmap.ts";
import { movePageTables } from "./move-page-tables.ts";
import { populate } from "./populate.ts";
import { type Steps, wait } from "./steps.ts";
import { traced } from "./traced.ts";
import { MMU_NOTIFY_UNMAP } from "./types.ts";
import { endOf, isAddress, isLength, isLengthOrZero } from "./validate.ts";
import { TASK_SIZE } from "./vma.ts";

export interface MremapOptions {
  /** It may go elsewhere. True unless given where `to` or `dontunmap` is, which need it. @kernel MREMAP_MAYMOVE */
  readonly mayMove?: boolean;
  /** It goes to this address and replaces what is mapped there. @kernel MREMAP_FIXED */
  readonly to?: Va;
  /** The old area stays, without its pages. The length must stay too. @kernel MREMAP_DONTUNMAP */
  readonly dontunmap?: boolean;
}

/**
 * Makes a mapping longer or shorter, or moves it; lengths are rounded up to pages. What moves is announced as UNMAP at
 * its old place alone: nobody can have mapped the new one. The pages themselves stay where they are, in RAM or on a
 * device. With `oldLength` 0 a shared mapping is mapped a second time. Takes the mmap lock for write.
 *
 * The address, or, with nothing changed: -EINVAL (arguments that make no sense, or hugetlb cut or grown), -EFAULT (not
 * within one area), -ENOMEM (it cannot grow in place and must not move, or there is no room), -EOVERFLOW (the file's
 * offsets). @kernel mremap
 */
export function* mremap(
  mm: Mm,
  oldStart: Va,
  oldLength: number,
  newLength: number,
  options: MremapOptions,
): Steps<Va | Errno> {
  const { to, dontunmap = false } = options;
  const mayMove = options.mayMove ?? (to !== undefined || dontunmap);
  if (!isAddress(oldStart) || !isLengthOrZero(oldLength) || !isLength(newLength)) return EINVAL;
  const oldEnd = endOf(oldStart, oldLength);
  const length = alignUp(newLength, PAGE_SIZE);
  if (oldEnd < 0 || length > TASK_SIZE) return EINVAL;
  if (!mayMove && (to !== undefined || dontunmap)) return EINVAL;
  if (dontunmap && oldEnd - oldStart !== length) return EINVAL;
  // Nor over the page that a second mapping is to be made of.
  if (to !== undefined && !isTarget(to, length, oldStart, Math.max(oldEnd, oldStart + PAGE_SIZE))) return EINVAL;
  yield* wait(mm.sched.point("mm:mremap"));
  const guard = yield* wait(mm.mmapLock.write());
  const error = check(mm, oldStart, oldEnd, length, to);
  const request = { oldStart, oldEnd, length, mayMove, to, dontunmap };
  const call = { kind: "mremap", start: oldStart, end: oldEnd, detail: to ?? 0 } as const;
  const result = error === 0 ? yield* traced(mm, call, () => remapLocked(mm, request)) : error;
  guard.release();
  return result;
}

interface Request {
  readonly oldStart: Va;
  readonly oldEnd: Va;
  readonly length: number;
  readonly mayMove: boolean;
  readonly to: Va | undefined;
  readonly dontunmap: boolean;
}

/** Where a mapping may go: a page's address, in the address space, and not over the old place. */
function isTarget(to: Va, length: number, oldStart: Va, oldEnd: Va): boolean {
  if (!isAddress(to) || to + length > TASK_SIZE) return false;
  return to + length <= oldStart || oldEnd <= to;
}

/** @kernel check_prep_vma */
function check(mm: Mm, oldStart: Va, oldEnd: Va, length: number, to: Va | undefined): 0 | Errno {
  const vma = mm.vmas.lookup(oldStart);
  if (mm.isExiting || vma === null) return EFAULT;
  if (oldEnd === oldStart && !vma.shared) return EINVAL;
  if (oldEnd > vma.end) return EFAULT;
  if (vma.hugetlb && !canRemapHugetlb(oldStart, oldEnd, length, to)) return EINVAL;
  if (to !== undefined && !mm.vmas.canCut(to, to + length)) return EINVAL;
  const isTooLong = vma.file !== null && !Number.isSafeInteger(vma.offsetOf(oldStart) + length);
  return isTooLong ? EOVERFLOW : 0;
}

/** Whole huge pages, and no more of them than before. */
function canRemapHugetlb(oldStart: Va, oldEnd: Va, length: number, to: Va | undefined): boolean {
  const isWhole = [oldStart, oldEnd, length, to ?? 0].every((x) => isAligned(x, SZ_2M));
  return isWhole && length <= oldEnd - oldStart;
}

function* remapLocked(mm: Mm, request: Request): Steps<Va | Errno> {
  const { oldStart, oldEnd, length, to } = request;
  const oldLength = oldEnd - oldStart;
  if (to === undefined && !request.dontunmap) {
    if (oldLength >= length) {
      yield* unmapLocked(mm, oldStart + length, oldEnd);
      return oldStart;
    }
    if (oldLength > 0 && canGrow(mm, oldEnd, oldStart + length)) {
      yield* grow(mm, oldStart, oldEnd, oldStart + length);
      return oldStart;
    }
    if (!request.mayMove) return ENOMEM;
  }
  const vma = mm.vmas.lookup(oldStart)!;
  const target = to ?? mm.vmas.findGap(length, vma.hugetlb ? SZ_2M : PAGE_SIZE, vma.guard);
  if (target < 0) return ENOMEM;
  if (to !== undefined) yield* unmapLocked(mm, to, to + length);
  if (oldLength > length) yield* unmapLocked(mm, oldStart + length, oldEnd);
  yield* move(mm, request, Math.min(oldEnd, oldStart + length), target);
  return target;
}

/** The area ends at `oldEnd` and what follows is free. @kernel vma_expandable */
function canGrow(mm: Mm, oldEnd: Va, newEnd: Va): boolean {
  const vma = mm.vmas.lookup(oldEnd - 1)!;
  return vma.end === oldEnd && newEnd <= TASK_SIZE && mm.vmas.findIntersection(oldEnd, newEnd) === null;
}

/** @kernel expand_vma_in_place */
function* grow(mm: Mm, start: Va, oldEnd: Va, newEnd: Va): Steps<void> {
  const vma = mm.vmas.lookup(start)!;
  mm.vmas.insert(oldEnd, newEnd, vma.traits, vma.offsetOf(oldEnd));
  mm.trace?.record("mmap", mm.id, oldEnd, newEnd, 0);
  if (vma.locked) yield* populate(mm, oldEnd, newEnd);
}

/** Moves `[oldStart, oldEnd)`, which lies in one area, to `target`, which is free. @kernel move_vma */
function* move(mm: Mm, request: Request, oldEnd: Va, target: Va): Steps<void> {
  const { oldStart, length, dontunmap } = request;
  const vma = mm.vmas.lookup(oldStart)!;
  const { traits, locked } = vma;
  mm.vmas.insert(target, target + length, traits, vma.offsetOf(oldStart));
  mm.trace?.record("mmap", mm.id, target, target + length, 0);
  if (oldEnd > oldStart) {
    yield* prepareHuge(mm, oldStart, oldEnd, target);
    yield* announce(mm, oldStart, mutated("mremap-unannounced") ? 0 : oldEnd, MMU_NOTIFY_UNMAP);
    yield* wait(mm.sched.point("mm:mremap:announced"));
    movePageTables(mm, oldStart, oldEnd, target);
    if (dontunmap) mm.vmas.change(oldStart, oldEnd, { locked: false });
    else removeArea(mm, oldStart, oldEnd);
    mm.notifiers.end();
  }
  if (locked) yield* populate(mm, target, target + length);
}

/** Huge entries move whole where both places are aligned alike; others become small first. */
function* prepareHuge(mm: Mm, start: Va, end: Va, target: Va): Steps<void> {
  if (isAligned(target - start, SZ_2M)) yield* splitHugeRange(mm, start, end);
  else for (let at = start; at < end; at += SZ_2M) yield* splitHuge(mm, Math.floor(at / SZ_2M));
}

/** The area and its tables, whose entries are none. */
function removeArea(mm: Mm, start: Va, end: Va): void {
  mm.vmas.remove(start, end);
  mm.freeTables(start, end);
  mm.trace?.record("munmap", mm.id, start, end, 0);
}

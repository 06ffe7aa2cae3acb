import { SZ_2M, type Va, alignUp } from "../base/addr.ts";
import { EACCES, EFAULT, EINVAL, ENOMEM, type Errno } from "../base/errno.ts";
import type { Guard } from "../base/locks.ts";
import { mutated } from "../base/mutation.ts";
import { announce } from "./announce.ts";
import { collapseHuge } from "./collapse.ts";
import type { MemFile } from "./file.ts";
import { splitHugeRange } from "./huge.ts";
import type { Mm } from "./mm.ts";
import { faultInArea } from "./populate.ts";
import { type Steps, wait } from "./steps.ts";
import { traced } from "./traced.ts";
import { swapOut } from "./swap.ts";
import { VM_FAULT_OOM } from "./types.ts";
import { endOf, isAddress, isLengthOrZero } from "./validate.ts";
import type { Vma, VmaTraits } from "./vma.ts";
import { zapRange } from "./zap.ts";

/**
 * What a process says about its memory.
 *
 *     dontneed        drops the pages: private memory reads as zeros again, a file's as the file
 *     free            drops private anonymous pages. Linux may keep them until RAM is short; here it is short at once
 *     remove          takes the pages of a shared mapping out of its file
 *     populate-*      makes the pages present for reading or writing
 *     hugepage, nohugepage, collapse     2 MiB pages: wanted, not wanted, made now
 *     pageout         to swap, now
 *     cold            nothing that can be observed
 */
export type Advice =
  | "dontneed"
  | "free"
  | "remove"
  | "populate-read"
  | "populate-write"
  | "hugepage"
  | "nohugepage"
  | "collapse"
  | "pageout"
  | "cold";

/**
 * 0, or, with nothing changed: -EINVAL (unaligned, or not for this kind of memory), -ENOMEM (a hole), -EACCES (`remove`
 * where the file cannot be stored to). The populating ones can also end midway, keeping what is present: -ENOMEM (RAM is
 * used up), -EFAULT (a page that cannot be had); and `collapse` with the last reason why something stayed small.
 * @kernel madvise
 */
export function* madvise(mm: Mm, start: Va, length: number, advice: Advice): Steps<0 | Errno> {
  if (!isAddress(start) || !isLengthOrZero(length)) return EINVAL;
  if (length === 0) return 0;
  const end = endOf(start, length);
  if (end < 0) return EINVAL;
  yield* wait(mm.sched.point("mm:madvise"));
  const guard = yield* wait(NEEDS_WRITE_LOCK.has(advice) ? mm.mmapLock.write() : mm.mmapLock.read());
  const error = check(mm, start, end, advice);
  if (error !== 0) {
    guard.release();
    return error;
  }
  const call = { kind: "madvise", start, end, detail: DISCARDS.has(advice) ? 1 : 0 } as const;
  return yield* traced(mm, call, () => checked(mm, start, end, advice, guard));
}

function* checked(mm: Mm, start: Va, end: Va, advice: Advice, guard: Guard): Steps<0 | Errno> {
  // A file is changed under its own lock, which is outside of the mmap lock.
  const pieces = advice === "remove" ? filePieces(mm, start, end) : [];
  const result = yield* takeAdvice(mm, start, end, advice);
  guard.release();
  for (const { file, offset, length } of pieces) {
    yield* wait(file.punchHole(offset, length));
    file.release();
  }
  return result;
}

/** Those after which what was there is gone. */
const DISCARDS: ReadonlySet<Advice> = new Set(["dontneed", "free", "remove"]);
/** Those that change areas, or what kind of entry memory has. */
const NEEDS_WRITE_LOCK: ReadonlySet<Advice> = new Set(["hugepage", "nohugepage", "collapse"]);

/** Linux advises about what is mapped beside a hole and then fails; here nothing happens. */
function check(mm: Mm, start: Va, end: Va, advice: Advice): 0 | Errno {
  if (!mm.vmas.covers(start, end)) return ENOMEM;
  if (advice === "dontneed" && !mm.vmas.canCut(start, end)) return EINVAL;
  for (const vma of mm.vmas.within(start, end)) {
    const error = checkKind(vma, advice);
    if (error !== 0) return error;
  }
  return 0;
}

function checkKind(vma: Vma, advice: Advice): 0 | Errno {
  switch (advice) {
    case "dontneed":
      return vma.locked ? EINVAL : 0;
    case "free":
      return vma.locked || !vma.anonymous ? EINVAL : 0;
    case "remove":
      if (vma.locked || vma.file === null) return EINVAL;
      return vma.shared && vma.writable ? 0 : EACCES;
    case "populate-read":
      return vma.readable ? 0 : EINVAL;
    case "populate-write":
      return vma.writable ? 0 : EINVAL;
    case "hugepage":
    case "nohugepage":
      return vma.hugetlb ? EINVAL : 0;
    case "collapse":
      return vma.anonymous && vma.thp !== "never" ? 0 : EINVAL;
    case "pageout":
    case "cold":
      return vma.hugetlb || vma.locked ? EINVAL : 0;
  }
}

/** Area by area; the areas permit it. */
function* takeAdvice(mm: Mm, start: Va, end: Va, advice: Advice): Steps<0 | Errno> {
  for (const vma of mm.vmas.within(start, end)) {
    const from = Math.max(start, vma.start);
    const to = Math.min(end, vma.end);
    const error = yield* adviseArea(mm, vma, from, to, advice);
    if (error !== 0) return error;
  }
  return 0;
}

function* adviseArea(mm: Mm, vma: Vma, from: Va, to: Va, advice: Advice): Steps<0 | Errno> {
  switch (advice) {
    case "dontneed":
    case "free":
      yield* discard(mm, from, to);
      return 0;
    case "populate-read":
    case "populate-write": {
      const code = yield* faultInArea(mm, vma, from, to, advice === "populate-write");
      return code === 0 ? 0 : (code & VM_FAULT_OOM) !== 0 ? ENOMEM : EFAULT;
    }
    case "hugepage":
    case "nohugepage":
      yield* adviseHuge(mm, vma, from, to, advice === "hugepage" ? "always" : "never");
      return 0;
    case "collapse":
      return yield* collapse(mm, from, to);
    case "pageout":
      yield* wait(swapOut(mm, from, to));
      return 0;
    case "remove":
    case "cold":
      return 0;
  }
}

/** What can be collapsed is; the last reason why something cannot. @kernel madvise_collapse */
function* collapse(mm: Mm, from: Va, to: Va): Steps<0 | Errno> {
  let result: 0 | Errno = 0;
  for (let at = alignUp(from, SZ_2M); at + SZ_2M <= to; at += SZ_2M) {
    const error = yield* collapseHuge(mm, at);
    if (error !== 0) result = error;
  }
  return result;
}

/** @kernel madvise_dontneed_single_vma, madvise_free_single_vma */
function* discard(mm: Mm, from: Va, to: Va): Steps<void> {
  yield* splitHugeRange(mm, from, to);
  yield* announce(mm, from, mutated("dontneed-unannounced") ? 0 : to);
  yield* wait(mm.sched.point("mm:dontneed:announced"));
  zapRange(mm, from, to);
  mm.notifiers.end();
}

/** @kernel hugepage_madvise */
function* adviseHuge(mm: Mm, vma: Vma, from: Va, to: Va, thp: VmaTraits["thp"]): Steps<void> {
  if (vma.thp === thp) return;
  yield* splitHugeRange(mm, from, to);
  mm.vmas.change(from, to, { thp });
}

interface FilePiece {
  readonly file: MemFile;
  readonly offset: number;
  readonly length: number;
}

/** What of which files `[start, end)` maps; each is held, so that it outlives an munmap. @kernel madvise_remove */
function filePieces(mm: Mm, start: Va, end: Va): FilePiece[] {
  return mm.vmas.within(start, end).map((vma) => {
    const from = Math.max(start, vma.start);
    const file = vma.file!;
    file.hold();
    return { file, offset: vma.offsetOf(from), length: Math.min(end, vma.end) - from };
  });
}

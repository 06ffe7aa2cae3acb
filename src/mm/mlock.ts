import { PAGE_SIZE, type Va, alignDown, alignUp } from "../base/addr.ts";
import { EAGAIN, EINVAL, ENOMEM, type Errno } from "../base/errno.ts";
import { splitHugeRange } from "./huge.ts";
import type { Mm } from "./mm.ts";
import { populate } from "./populate.ts";
import { type Steps, wait } from "./steps.ts";
import { VM_FAULT_OOM } from "./types.ts";
import { isLengthOrZero } from "./validate.ts";
import { TASK_SIZE } from "./vma.ts";

/**
 * Makes every page of the areas' pages that `[start, start + length)` touches present, and keeps it from being swapped
 * out or dropped by advice. A device may still have it: migration does not ask. 0, or, with no area changed: -EINVAL (no
 * such interval), -ENOMEM (a hole, memory without access or a page beyond the end of its file), -EAGAIN (RAM is used up).
 * Takes the mmap lock for write. @kernel mlock, do_mlock
 */
export function* mlock(mm: Mm, start: Va, length: number): Steps<0 | Errno> {
  return yield* setLocked(mm, start, length, true);
}

/** The contrary, without the pages. 0, -EINVAL, -ENOMEM. @kernel munlock */
export function* munlock(mm: Mm, start: Va, length: number): Steps<0 | Errno> {
  return yield* setLocked(mm, start, length, false);
}

function* setLocked(mm: Mm, start: Va, length: number, locked: boolean): Steps<0 | Errno> {
  if (!Number.isSafeInteger(start) || start < 0 || !isLengthOrZero(length)) return EINVAL;
  if (length === 0) return 0;
  const from = alignDown(start, PAGE_SIZE);
  const to = alignUp(start + length, PAGE_SIZE);
  if (to > TASK_SIZE) return Number.isSafeInteger(start + length) ? ENOMEM : EINVAL;
  yield* wait(mm.sched.point("mm:mlock"));
  const guard = yield* wait(mm.mmapLock.write());
  const error = (yield* check(mm, from, to, locked)) || (yield* apply(mm, from, to, locked));
  guard.release();
  return error;
}

/** The pages first, the areas after: a call that fails has locked nothing. */
function* check(mm: Mm, from: Va, to: Va, locked: boolean): Steps<0 | Errno> {
  if (!mm.vmas.covers(from, to)) return ENOMEM;
  if (!locked) return 0;
  if (mm.vmas.within(from, to).some((vma) => !vma.readable)) return ENOMEM;
  const code = yield* populate(mm, from, to);
  return code === 0 ? 0 : (code & VM_FAULT_OOM) !== 0 ? EAGAIN : ENOMEM;
}

/** @kernel apply_vma_lock_flags; a lock is on whole huge pages of hugetlb, which are never swapped anyway. */
function* apply(mm: Mm, from: Va, to: Va, locked: boolean): Steps<0> {
  for (const vma of mm.vmas.within(from, to)) {
    if (vma.locked === locked || vma.hugetlb) continue;
    const start = Math.max(from, vma.start);
    const end = Math.min(to, vma.end);
    yield* splitHugeRange(mm, start, end);
    mm.vmas.change(start, end, { locked });
  }
  return 0;
}

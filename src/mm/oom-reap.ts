import type { Mm } from "./mm.ts";
import { type Steps, wait } from "./steps.ts";
import { MMU_NOTIFY_UNMAP } from "./types.ts";
import { zapRange } from "./zap.ts";

/**
 * Takes the private memory of a process that is being killed for want of RAM, without waiting for anybody: the UNMAP of
 * each area is announced as non-blockable, and an area of which some mirror refuses is left for the exit. What is gone is
 * not filled again, an access is a bus error. True when all of it went; false too when the mmap lock is held for write.
 * @kernel __oom_reap_task_mm
 */
export function* oomReap(mm: Mm): Steps<boolean> {
  yield* wait(mm.sched.point("mm:oom-reap"));
  const guard = mm.mmapLock.tryRead();
  if (guard === null) return false;
  mm.isUnstable = true;
  let isReaped = true;
  for (const { start, end, shared, hugetlb } of mm.vmas.all()) {
    if (shared || hugetlb) continue;
    const range = { start, end, event: MMU_NOTIFY_UNMAP, blockable: false, owner: null };
    const refused = yield* wait(mm.notifiers.start(range));
    if (refused !== 0) {
      isReaped = false;
      continue;
    }
    zapRange(mm, start, end);
    mm.notifiers.end();
  }
  guard.release();
  return isReaped;
}

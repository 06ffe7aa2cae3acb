import { PAGE_SIZE, type Va } from "../base/addr.ts";
import { EFAULT, ENOMEM, type Errno } from "../base/errno.ts";
import { isPromise } from "../base/maybe-promise.ts";
import { handleMmFault, populateHoles } from "./fault.ts";
import type { Mm } from "./mm.ts";
import { PTE_KIND, PTE_NOACCESS, PTE_PRESENT, PTE_WRITE } from "./page-table.ts";
import { type Steps, wait } from "./steps.ts";
import { VM_FAULT_OOM } from "./types.ts";
import type { Vma } from "./vma.ts";

/** After so many faults in a row that made nothing present, other work runs between two more. */
const FAULTS_BEFORE_SLEEP = 4;

/**
 * Makes the pages of `[start, end)`, which is mapped, present: for writing where the area is writable, else for
 * reading. Memory without access is left alone. 0 or the VM_FAULT_* that ended it; what was filled stays. mmap lock
 * held. @kernel __mm_populate
 */
export function* populate(mm: Mm, start: Va, end: Va): Steps<number> {
  for (const vma of mm.vmas.within(start, end)) {
    if (!vma.readable || vma.special) continue;
    const from = Math.max(start, vma.start);
    const code = yield* faultInArea(mm, vma, from, Math.min(end, vma.end), vma.writable);
    if (code !== 0) return code;
  }
  return 0;
}

/** See `MigrateMm.faultinPages`. */
export function* faultinPages(mm: Mm, start: Va, end: Va, access: "read" | "write"): Steps<0 | Errno> {
  const guard = yield* wait(mm.mmapLock.read());
  try {
    for (const vma of mm.vmas.within(start, end)) {
      if (!vma.readable || vma.special || (access === "write" && !vma.writable)) return EFAULT;
      const [from, to] = [Math.max(start, vma.start), Math.min(end, vma.end)];
      const code = yield* faultInArea(mm, vma, from, to, access === "write");
      if (code !== 0) return (code & VM_FAULT_OOM) !== 0 ? ENOMEM : EFAULT;
    }
    return 0;
  } finally {
    guard.release();
  }
}

/** Faults every page of `[start, end)`, which lies in `vma`, until it is present. 0 or VM_FAULT_*. @kernel faultin_page_range */
export function* faultInArea(mm: Mm, vma: Vma, start: Va, end: Va, write: boolean): Steps<number> {
  // What has never been touched is filled in one go; if RAM is used up, the loop says so.
  if (write && vma.anonymous) populateHoles(mm, vma, start, end);
  const want = write ? PTE_PRESENT | PTE_WRITE : PTE_PRESENT;
  const mask = PTE_KIND | PTE_NOACCESS | (write ? PTE_WRITE : 0);
  for (let at = start; at < end; at += PAGE_SIZE) {
    for (let faults = 0; (mm.tables.read(at / PAGE_SIZE) & mask) !== want; faults++) {
      // A fault may be served without making the page present, as while the GPU has its timeslice.
      if (faults >= FAULTS_BEFORE_SLEEP) yield* wait(mm.sched.sleep(0));
      const result = handleMmFault(mm, vma, at, write);
      const code = isPromise(result) ? yield* wait(result) : result;
      if (code !== 0) return code;
    }
  }
  return 0;
}

import { EIO } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { inActivity } from "../base/lock-order.ts";
import { type Steps, run, wait } from "../base/steps.ts";
import { JOB_OK, JobBatch } from "../hal/copy-job.ts";
import type { JobResult } from "../hal/copy-job.ts";
import type { SvmVm } from "./vm.ts";

/**
 * Has the copy engine write the entries of `[start, end)` once more, down from the root: what a bind by the GPU does, whose
 * entries are jobs in its queue. The walker finds the same words; that it does is what is to be seen.
 * -EIO: the device is lost. Takes the VM's lock and the notifier lock. @kernel xe_migrate_update_pgtables
 */
export function rewriteEntries(vm: SvmVm, start: number, end: number): Promise<0 | Errno> {
  return inActivity(async () => run(rewriteSteps(vm, start, end)));
}

function* rewriteSteps(vm: SvmVm, start: number, end: number): Steps<0 | Errno> {
  const guard = yield* wait(vm.lock.write());
  try {
    if (vm.isClosed) return 0;
    const held = yield* wait(vm.gpusvm.notifierLock.read());
    // Queued in one go, so no change of an entry can come between its mirror and its job.
    const done: Promise<JobResult[]>[] = [];
    for (const [tile, tables] of vm.tables.tiles.entries()) {
      const batch = new JobBatch();
      for (const { pa, words } of tables.entriesIn(start, end)) batch.ptWrite(pa, words);
      if (batch.count > 0) done.push(vm.device.gpu.submitJobs(batch, tile));
    }
    held.release();
    if (done.length === 0) return 0;
    const results = yield* wait(vm.sched.external(Promise.all(done)));
    return results.flat().every(({ status }) => status === JOB_OK) ? 0 : EIO;
  } finally {
    guard.release();
  }
}

import { EBUSY, EFAULT, ETIME, type Errno } from "../base/errno.ts";
import { type Steps, wait } from "../mm/steps.ts";
import { HMM_PFN_REQ_FAULT, HMM_RANGE_DEFAULT_TIMEOUT } from "../mm/types.ts";
import type { GpuSvm } from "./gpusvm.ts";
import { HmmLookup } from "./hmm-lookup.ts";
import type { GpuSvmRange } from "./range.ts";

/** See `GpuSvm.rangeEvict`. @kernel drm_gpusvm_range_evict */
export function* rangeEvict<R extends GpuSvmRange>(gpusvm: GpuSvm<R>, range: R): Steps<0 | Errno> {
  const { mirroredMm: mm, scheduler } = gpusvm;
  if (!mm.mmget()) return EFAULT;
  const deadline = scheduler.now() + HMM_RANGE_DEFAULT_TIMEOUT;
  // Without an owner every device page is foreign, and the look-up makes the CPU fault it home.
  const hmm = new HmmLookup(range.notifier!.notifier, range.start, range.end, HMM_PFN_REQ_FAULT, null);
  try {
    for (;;) {
      hmm.notifierSeq = yield* wait(mm.readBegin(hmm.notifier));
      if (scheduler.now() > deadline) return ETIME;
      const guard = yield* wait(mm.mmapLock.read());
      let err: 0 | Errno;
      try {
        err = yield* wait(mm.hmmRangeFault(hmm));
      } finally {
        guard.release();
      }
      if (err !== EBUSY) return err;
      yield* wait(scheduler.point("gpusvm:range_evict:busy"));
    }
  } finally {
    mm.mmput();
  }
}

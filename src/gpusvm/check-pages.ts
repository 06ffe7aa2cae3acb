import type { Va } from "../base/addr.ts";
import { EBUSY, type Errno } from "../base/errno.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import { type Steps, run, wait } from "../mm/steps.ts";
import { HMM_PFN_VALID, HMM_RANGE_DEFAULT_TIMEOUT } from "../mm/types.ts";
import type { GpuSvmCtx } from "./ctx.ts";
import type { GpuSvm } from "./gpusvm.ts";
import { HmmLookup, hmmPfnToOrder } from "./hmm-lookup.ts";
import type { GpuSvmNotifier } from "./notifier.ts";
import type { GpuSvmRange } from "./range.ts";

/**
 * Whether the CPU has every page of `[start, end)` present, so that migrating the chunk does not drag along address
 * space that was never touched. A heuristic: the snapshot faults nothing in and is not checked again. The mmap lock is
 * held. @kernel drm_gpusvm_check_pages
 */
export function checkPages<R extends GpuSvmRange>(
  gpusvm: GpuSvm<R>,
  notifier: GpuSvmNotifier<R>,
  start: Va,
  end: Va,
  ctx: GpuSvmCtx,
): MaybePromise<boolean> {
  return run(snapshotIsFull(gpusvm, notifier, start, end, ctx));
}

function* snapshotIsFull<R extends GpuSvmRange>(
  gpusvm: GpuSvm<R>,
  notifier: GpuSvmNotifier<R>,
  start: Va,
  end: Va,
  ctx: GpuSvmCtx,
): Steps<boolean> {
  const { mirroredMm: mm, scheduler } = gpusvm;
  const deadline = scheduler.now() + HMM_RANGE_DEFAULT_TIMEOUT;
  const hmm = new HmmLookup(notifier.notifier, start, end, 0, gpusvm.ownerFor(ctx));
  let err: 0 | Errno;
  do {
    hmm.notifierSeq = yield* wait(mm.readBegin(hmm.notifier));
    err = yield* wait(mm.hmmRangeFault(hmm));
  } while (err === EBUSY && scheduler.now() <= deadline);
  return err === 0 && allValid(hmm, gpusvm.quirks.rawOrder);
}

function allValid(hmm: HmmLookup, rawOrder: boolean): boolean {
  const { npages, flags, orders, pfns } = hmm;
  for (let i = 0; i < npages;) {
    if ((flags[i] & HMM_PFN_VALID) === 0) return false;
    // The raw order, where it is asked for, can step over pages behind a huge page.
    i += 2 ** (rawOrder ? orders[i] : hmmPfnToOrder(orders[i], pfns[i], i, npages));
  }
  return true;
}

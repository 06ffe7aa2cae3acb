import { EBUSY, type Errno } from "../base/errno.ts";
import { type Steps, wait } from "../mm/steps.ts";
import { type DevPagemap, HMM_PFN_VALID, HMM_RANGE_DEFAULT_TIMEOUT, type PageInfo } from "../mm/types.ts";
import type { GpuSvm } from "./gpusvm.ts";
import { HmmLookup, hmmPfnToOrder, hmmRangeFaultUnlocked } from "./hmm-lookup.ts";
import type { GpuSvmRange } from "./range.ts";

/** Where the CPU has the pages of a range, as a hint. @kernel drm_gpusvm_scan_result */
export type ScanResult = 0 | 1 | 2 | 3 | 4 | 5;
/** Some page is absent or of another owner, or the look-up failed. @kernel DRM_GPUSVM_SCAN_UNPOPULATED */
export const DRM_GPUSVM_SCAN_UNPOPULATED = 0;
/** All in the page map asked for. @kernel DRM_GPUSVM_SCAN_EQUAL */
export const DRM_GPUSVM_SCAN_EQUAL = 1;
/** All in one other page map of the same owner. @kernel DRM_GPUSVM_SCAN_OTHER */
export const DRM_GPUSVM_SCAN_OTHER = 2;
/** All in system memory. @kernel DRM_GPUSVM_SCAN_SYSTEM */
export const DRM_GPUSVM_SCAN_SYSTEM = 3;
/** In two page maps or more. @kernel DRM_GPUSVM_SCAN_MIXED_DEVICE */
export const DRM_GPUSVM_SCAN_MIXED_DEVICE = 4;
/** In system and device memory. @kernel DRM_GPUSVM_SCAN_MIXED */
export const DRM_GPUSVM_SCAN_MIXED = 5;

/** See `GpuSvm.scanMm`. @kernel drm_gpusvm_scan_mm */
export function* scanMm<R extends GpuSvmRange>(
  gpusvm: GpuSvm<R>,
  range: R,
  owner: unknown,
  pagemap: DevPagemap | null,
): Steps<ScanResult> {
  const { mirroredMm: mm, scheduler, notifierLock } = gpusvm;
  if (!mm.mmget()) return DRM_GPUSVM_SCAN_UNPOPULATED;
  const deadline = scheduler.now() + HMM_RANGE_DEFAULT_TIMEOUT;
  const expired = () => scheduler.now() > deadline;
  const hmm = new HmmLookup(range.notifier!.notifier, range.start, range.end, 0, owner);
  try {
    for (;;) {
      hmm.notifierSeq = yield* wait(mm.readBegin(hmm.notifier));
      const err: 0 | Errno = expired() ? EBUSY : yield* wait(hmmRangeFaultUnlocked(mm, hmm, expired));
      if (err !== 0) return DRM_GPUSVM_SCAN_UNPOPULATED;
      const guard = yield* wait(notifierLock.read());
      const stale = mm.readRetry(hmm.notifier, hmm.notifierSeq);
      const result = stale ? DRM_GPUSVM_SCAN_UNPOPULATED : foldPages(hmm, mm.pages, pagemap);
      guard.release();
      if (!stale) return result;
    }
  } finally {
    mm.mmput();
  }
}

function foldPages(hmm: HmmLookup, frames: PageInfo, pagemap: DevPagemap | null): ScanResult {
  const { npages, flags, pfns, orders } = hmm;
  let state: ScanResult = DRM_GPUSVM_SCAN_UNPOPULATED;
  let other: DevPagemap | null = null;
  for (let i = 0; i < npages; i += 2 ** hmmPfnToOrder(orders[i], pfns[i], i, npages)) {
    if ((flags[i] & HMM_PFN_VALID) === 0) return DRM_GPUSVM_SCAN_UNPOPULATED;
    const here = frames.isZoneDevice(pfns[i]) ? frames.pgmapOf(pfns[i]) : null;
    let page: ScanResult;
    if (here === pagemap) page = DRM_GPUSVM_SCAN_EQUAL;
    else if (here === null) page = DRM_GPUSVM_SCAN_SYSTEM;
    else {
      page = other === null || other === here ? DRM_GPUSVM_SCAN_OTHER : DRM_GPUSVM_SCAN_MIXED_DEVICE;
      other = here;
    }
    state = i === 0 ? page : combine(state, page);
  }
  return state;
}

function combine(state: ScanResult, page: ScanResult): ScanResult {
  if (state === page) return state;
  if (state === DRM_GPUSVM_SCAN_SYSTEM || page === DRM_GPUSVM_SCAN_SYSTEM) return DRM_GPUSVM_SCAN_MIXED;
  return state === DRM_GPUSVM_SCAN_MIXED ? state : DRM_GPUSVM_SCAN_MIXED_DEVICE;
}

import { PAGE_SIZE, type Va } from "../base/addr.ts";
import { EAGAIN, EBUSY, EFAULT, EOPNOTSUPP, type Errno, isErr } from "../base/errno.ts";
import { mutated } from "../base/mutation.ts";
import { type MaybePromise, isPromise } from "../base/maybe-promise.ts";
import { type Steps, run, wait } from "../mm/steps.ts";
import {
  type DevPagemap,
  HMM_PFN_REQ_FAULT,
  HMM_PFN_REQ_WRITE,
  HMM_PFN_WRITE,
  HMM_RANGE_DEFAULT_TIMEOUT,
  type MmuIntervalNotifier,
  type SvmMm,
} from "../mm/types.ts";
import {
  DMA_BIDIRECTIONAL,
  DMA_TO_DEVICE,
  DRM_INTERCONNECT_SYSTEM,
  type DmaDirection,
  type PagemapAddrArray,
} from "../pagemap/pagemap-addr.ts";
import { nrPages } from "../pagemap/compound.ts";
import { type DrmPagemap, drmPagemapPageToDpagemap } from "../pagemap/pagemap.ts";
import { dropAddrs, takeAddrs } from "./addr-arrays.ts";
import type { Quirks } from "./compat.ts";
import type { GpuSvmCtx } from "./ctx.ts";
import { HAS_DEVMEM_PAGES, HAS_DMA_MAPPING, UNMAPPED } from "./flags.ts";
import type { GpuSvm } from "./gpusvm.ts";
import { HmmLookup, hmmPfnToOrder, hmmRangeFaultUnlocked } from "./hmm-lookup.ts";
import type { GpuSvmPages } from "./pages.ts";
import type { GpuSvmRange } from "./range.ts";
import { undoEntries } from "./unmap-pages.ts";

/** One call of `getPages`: what to look up, for whom, and how. */
export interface GetPages {
  readonly pages: GpuSvmPages;
  readonly mm: SvmMm;
  readonly notifier: MmuIntervalNotifier;
  /** `[start, end)`, bytes, page aligned. */
  readonly start: Va;
  readonly end: Va;
  readonly ctx: GpuSvmCtx;
}

/**
 * See `GpuSvm.getPages`. The rounds of the state machine:
 *
 *     begin       readBegin; mappings that are valid already end the call
 *     collect     the page look-up, faulting in what is missing
 *     map         under the notifier lock: dead range, stale look-up (next round), or the mappings are made
 *
 * All mapping happens under the notifier lock: either a callback waits and then undoes what was built, or it ran first
 * and the sequence check sees it. @kernel drm_gpusvm_get_pages, drm_gpusvm_range_get_pages
 */
export function* getPages<R extends GpuSvmRange>(gpusvm: GpuSvm<R>, call: GetPages): Steps<0 | Errno> {
  const { pages, mm, notifier, start, end, ctx } = call;
  const { scheduler, notifierLock, quirks } = gpusvm;
  const deadline = scheduler.lately() + HMM_RANGE_DEFAULT_TIMEOUT;
  const expired = () => scheduler.now() > deadline;
  const request = ctx.readOnly ? HMM_PFN_REQ_FAULT : HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE;

  // Tested instead of delegated where there is mostly nothing to wait for: this runs for every page that faults by itself.
  for (let isFirst = true; ; isFirst = false) {
    if (!isFirst && !quirks.unboundedRetry && expired()) return EBUSY;
    const begun = mm.readBegin(notifier);
    const seq = isPromise(begun) ? yield* wait(begun) : begun;
    let point = scheduler.point("gpusvm:get_pages:after_read_begin");
    if (point !== undefined) yield point;
    if (pages.dmaAddr !== null) {
      const valid = pagesValidUnlocked(gpusvm, pages);
      if (isPromise(valid) ? yield* wait(valid) : valid) {
        pages.notifierSeq = seq;
        return 0;
      }
    }

    const hmm = new HmmLookup(notifier, start, end, request, gpusvm.ownerFor(ctx));
    hmm.notifierSeq = seq;
    if (!mm.mmget()) return EFAULT;
    let err: 0 | Errno;
    try {
      const found = hmmRangeFaultUnlocked(mm, hmm, expired);
      err = isPromise(found) ? yield* wait(found) : found;
    } finally {
      mm.mmput();
    }
    if (err !== 0) return err;
    point = scheduler.point("gpusvm:get_pages:after_hmm");
    if (point !== undefined) yield point;

    // Allocated before the lock and not under it: nothing that may reclaim memory belongs under the notifier lock.
    pages.dmaAddr ??= takeAddrs(hmm.npages);
    point = scheduler.point("gpusvm:get_pages:before_notifier_lock");
    if (point !== undefined) yield point;
    const guard = notifierLock.enterRead() ? null : yield* wait(notifierLock.read());
    const isDead = (pages.flags & UNMAPPED) !== 0;
    const isStale = mm.readRetry(notifier, hmm.notifierSeq) && !mutated("seq-recheck");
    if (!isDead && !isStale) err = mapPages(call, hmm, quirks);
    if (guard === null) notifierLock.leaveRead();
    else guard.release();
    hmm.release();
    if (isDead) return EFAULT;
    if (isStale) continue;
    if (pages.unmapping !== null) yield pages.unmapping;
    point = scheduler.point("gpusvm:get_pages:after_map");
    if (point !== undefined) yield point;
    if (err === EAGAIN) continue;
    if (err === 0) pages.notifierSeq = hmm.notifierSeq;
    return err;
  }
}

/**
 * Whether mappings made before still stand. If not, their array is dropped, and none is on its way out any more.
 * @kernel drm_gpusvm_pages_valid_unlocked, drm_gpusvm_range_pages_valid_unlocked
 */
function pagesValidUnlocked<R extends GpuSvmRange>(gpusvm: GpuSvm<R>, pages: GpuSvmPages): MaybePromise<boolean> {
  const { notifierLock } = gpusvm;
  if (pages.unmapping !== null || !notifierLock.enterRead()) return run(pagesValidLater(gpusvm, pages));
  const valid = keepIfValid(gpusvm, pages);
  notifierLock.leaveRead();
  return valid;
}

function* pagesValidLater<R extends GpuSvmRange>(gpusvm: GpuSvm<R>, pages: GpuSvmPages): Steps<boolean> {
  const guard = yield* wait(gpusvm.notifierLock.read());
  const valid = keepIfValid(gpusvm, pages);
  guard.release();
  if (pages.unmapping !== null) yield pages.unmapping;
  return valid;
}

/** Notifier lock held. */
function keepIfValid<R extends GpuSvmRange>(gpusvm: GpuSvm<R>, pages: GpuSvmPages): boolean {
  const valid = gpusvm.pagesValid(pages);
  if (!valid) dropAddrs(pages);
  return valid;
}

/**
 * Maps what was looked up and publishes it, or undoes what it mapped. Under the notifier lock; waits for nothing.
 * -EOPNOTSUPP: a mix that one address array cannot hold. -EFAULT: a mapping failed, or a system page where only device
 * memory will do. -EAGAIN: a device page whose page map is not known (yet).
 */
function mapPages(call: GetPages, hmm: HmmLookup, quirks: Quirks): 0 | Errno {
  const { pages, ctx } = call;
  const addrs = pages.dmaAddr!;
  addrs.clear();
  const dir = ctx.readOnly && !quirks.alwaysBidirectional ? DMA_TO_DEVICE : DMA_BIDIRECTIONAL;
  const mapper = new PageMapper(call, addrs, dir, quirks);
  const { npages, pfns, flags, orders } = hmm;
  const maxOrder = pages.drm.dmaMaxOrder ?? Infinity;
  const { pages: frames } = call.mm;
  let err: 0 | Errno = 0;
  for (let i = 0; i < npages && err === 0;) {
    const pfn = pfns[i];
    if (mapper.mapsInRuns && !frames.isZoneDevice(pfn)) {
      const first = i;
      while (i < npages && !frames.isZoneDevice(pfns[i])) i += 1;
      err = mapper.mapSystemRun(pfns, first, i - first);
      continue;
    }
    const whole = quirks.rawOrder ? orders[i] : hmmPfnToOrder(orders[i], pfn, i, npages);
    const order = whole > maxOrder && !frames.isZoneDevice(pfn) ? maxOrder : whole;
    err = mapper.map(i, pfn, order, (flags[i] & HMM_PFN_WRITE) !== 0);
    i += nrPages(order);
  }
  if (err === 0 && pages.state !== 0) err = pages.drm.iova!.sync(pages.state, pages.stateOffset / PAGE_SIZE);
  if (err !== 0) {
    if (quirks.undo !== "none") undoEntries(pages, mapper.dpagemap, quirks.undo);
    addrs.clear();
    return err;
  }
  const { dpagemap } = mapper;
  if (dpagemap !== null) {
    dpagemap.get();
    pages.dpagemap?.put();
    pages.dpagemap = dpagemap;
  }
  pages.flags |= dpagemap === null ? HAS_DMA_MAPPING : HAS_DMA_MAPPING | HAS_DEVMEM_PAGES;
  return 0;
}

/** The decisions for one page after the other, and what they depend on: the device memory seen so far. */
class PageMapper {
  /** Of the device pages mapped so far. */
  dpagemap: DrmPagemap | null = null;
  #pagemap: DevPagemap | null = null;
  #zdd: unknown = null;
  readonly #call: GetPages;
  readonly #addrs: PagemapAddrArray;
  readonly #dir: DmaDirection;
  readonly #quirks: Quirks;

  constructor(call: GetPages, addrs: PagemapAddrArray, dir: DmaDirection, quirks: Quirks) {
    this.#call = call;
    this.#addrs = addrs;
    this.#dir = dir;
    this.#quirks = quirks;
  }

  map(index: number, pfn: number, order: number, writable: boolean): 0 | Errno {
    const { pages: frames } = this.#call.mm;
    if (!frames.isZoneDevice(pfn)) return this.#mapSystem(index, pfn, order);
    if (frames.isDevicePrivate(pfn) || frames.isDeviceCoherent(pfn))
      return this.#mapDevice(index, pfn, order, writable);
    return EOPNOTSUPP;
  }

  #mapDevice(index: number, pfn: number, order: number, writable: boolean): 0 | Errno {
    const { mm, ctx, pages } = this.#call;
    const zdd = mm.pages.zoneDeviceData(pfn);
    // Also a device page behind system pages: no zdd was seen before it.
    if (!ctx.allowMixed && index > 0 && zdd !== this.#zdd) return EOPNOTSUPP;
    this.#zdd = zdd;
    const pagemap = mm.pages.pgmapOf(pfn);
    if (pagemap !== this.#pagemap) {
      if (this.#pagemap !== null || (this.#quirks.deviceBehindSystemRefused && index > 0)) return EOPNOTSUPP;
      this.#pagemap = pagemap;
      this.dpagemap = drmPagemapPageToDpagemap(mm.pages, pfn);
      if (this.dpagemap === null) return EAGAIN;
    }
    // A device page is looked up without a fault even if it is shared copy-on-write: the GPU must not write to it.
    const isShared = !writable && !mutated("write-shared-device-page");
    if (!ctx.readOnly && isShared && !this.#quirks.acceptReadOnlyDevicePage) return EOPNOTSUPP;
    const { dpagemap } = this;
    const err = dpagemap!.ops.deviceMap(dpagemap!, pages.drm, pfn, order, this.#dir, this.#addrs);
    return err === 0 ? 0 : EFAULT;
  }

  /** Whether the device takes single pages of system memory many at a time. */
  get mapsInRuns(): boolean {
    const { drm } = this.#call.pages;
    return drm.dmaMaxOrder === 0 && drm.dmaMapPages !== undefined && drm.iova === undefined;
  }

  /** `map` for `count` RAM frames from `pfns[first]` on. */
  mapSystemRun(pfns: Float64Array, first: number, count: number): 0 | Errno {
    const refused = this.#refusesSystem();
    if (refused !== 0) return refused;
    const { drm } = this.#call.pages;
    return drm.dmaMapPages!(pfns, first, count, this.#dir, this.#addrs) === count ? 0 : EFAULT;
  }

  #refusesSystem(): 0 | Errno {
    const { ctx } = this.#call;
    if (this.#pagemap !== null && !ctx.allowMixed) return EOPNOTSUPP;
    return ctx.devmemOnly ? EFAULT : 0;
  }

  #mapSystem(index: number, pfn: number, order: number): 0 | Errno {
    const { pages } = this.#call;
    const refused = this.#refusesSystem();
    if (refused !== 0) return refused;
    // A run of addresses only for what begins in RAM: a range of device pages would not use it.
    if (index === 0 && pages.drm.iova !== undefined) pages.state = pages.drm.iova.tryAlloc(this.#addrs.capacity);
    const addr = pages.state === 0 ? pages.drm.dmaMapPage(pfn, order, this.#dir) : this.#link(pfn, order);
    if (isErr(addr)) return EFAULT;
    this.#addrs.push(addr, DRM_INTERCONNECT_SYSTEM, order, this.#dir);
    return 0;
  }

  /** The next addresses of the run. */
  #link(pfn: number, order: number): number | Errno {
    const { pages } = this.#call;
    const addr = pages.state + pages.stateOffset;
    const err = pages.drm.iova!.link(addr, pfn, order, this.#dir);
    if (err !== 0) return err;
    pages.stateOffset += PAGE_SIZE * nrPages(order);
    return addr;
  }
}

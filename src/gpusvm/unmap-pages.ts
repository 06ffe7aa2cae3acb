import { PAGE_SIZE } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import type { RwSemaphore } from "../base/locks.ts";
import { type MaybePromise, isPromise } from "../base/maybe-promise.ts";
import { mutated } from "../base/mutation.ts";
import { type Steps, run, wait } from "../mm/steps.ts";
import { DMA_BIDIRECTIONAL, DRM_INTERCONNECT_SYSTEM, type PagemapAddrArray } from "../pagemap/pagemap-addr.ts";
import type { DrmPagemap } from "../pagemap/pagemap.ts";
import { HAS_DEVMEM_PAGES, HAS_DMA_MAPPING } from "./flags.ts";
import type { GpuSvmPages } from "./pages.ts";

/**
 * Undoes all mappings; a second call does nothing. The notifier lock is held, in any mode. The address array stays.
 * What the device has to write back may still be under way afterwards: `pages.unmapping`.
 * @kernel __drm_gpusvm_unmap_pages, __drm_gpusvm_range_unmap_pages
 */
export function unmapPagesLocked(pages: GpuSvmPages): void {
  if ((pages.flags & HAS_DMA_MAPPING) === 0) return;
  undoEntries(pages, pages.dpagemap, "all");
  pages.flags &= ~(HAS_DEVMEM_PAGES | HAS_DMA_MAPPING);
  pages.dpagemap?.put();
  pages.dpagemap = null;
}

/** Unmaps the entries of the array, or those of system memory alone; `dpagemap` is that of its device entries. */
export function undoEntries(pages: GpuSvmPages, dpagemap: DrmPagemap | null, which: "all" | "system"): void {
  const addrs = pages.dmaAddr;
  if (addrs === null) return;
  let waits: Promise<void>[] | null = null;
  const isLinked = pages.state !== 0;
  if (isLinked) {
    const done = unlink(pages, addrs);
    if (isPromise(done)) (waits ??= []).push(done);
  }
  const inRuns = pages.drm.dmaUnmapPages !== undefined;
  for (let j = mutated("dma-unmap-forgotten") ? 1 : 0; j < addrs.count; j++) {
    if (addrs.proto(j) === DRM_INTERCONNECT_SYSTEM) {
      if (isLinked) continue;
      const run = inRuns ? addrs.pageRun(j) : 0;
      const done =
        run > 0
          ? pages.drm.dmaUnmapPages!(addrs.addr, j, run, addrs.dir(j))
          : pages.drm.dmaUnmapPage(addrs.addr[j], addrs.order(j), addrs.dir(j));
      if (isPromise(done)) (waits ??= []).push(done);
      if (run > 0) j += run - 1;
    } else if (which === "all") {
      dpagemap?.ops.deviceUnmap?.(dpagemap, pages.drm, addrs, j);
    }
  }
  if (waits !== null) noteUnmapping(pages, waits);
}

/** Takes all system pages out of the run of addresses in one go, and gives the run back. */
function unlink(pages: GpuSvmPages, addrs: PagemapAddrArray): MaybePromise<void> {
  const { drm, state, stateOffset } = pages;
  pages.state = 0;
  pages.stateOffset = 0;
  const dir = addrs.count > 0 ? addrs.dir(0) : DMA_BIDIRECTIONAL;
  return drm.iova!.destroy(state, addrs.capacity, stateOffset / PAGE_SIZE, dir);
}

function noteUnmapping(pages: GpuSvmPages, waits: Promise<void>[]): void {
  assert(pages.unmapping === null, "pages were mapped while their last unmapping was still under way");
  pages.unmapping = Promise.all(waits).then(() => {
    pages.unmapping = null;
  });
}

/** See `GpuSvm.unmapPages`. */
export function unmapPages(notifierLock: RwSemaphore, pages: GpuSvmPages, inNotifier: boolean): MaybePromise<void> {
  if (inNotifier) {
    assert(notifierLock.isWriteHeld, "unmap_pages with in_notifier outside the notifier lock");
    unmapPagesLocked(pages);
  } else {
    const guard = notifierLock.tryRead();
    if (guard === null) return run(unmapPagesWaiting(notifierLock, pages));
    unmapPagesLocked(pages);
    guard.release();
  }
  return mutated("unmap-unawaited") ? undefined : (pages.unmapping ?? undefined);
}

function* unmapPagesWaiting(notifierLock: RwSemaphore, pages: GpuSvmPages): Steps<void> {
  const guard = yield* wait(notifierLock.read());
  unmapPagesLocked(pages);
  guard.release();
  if (pages.unmapping !== null) yield pages.unmapping;
}

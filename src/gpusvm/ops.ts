import type { Pfn } from "../base/addr.ts";
import type { Errno } from "../base/errno.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import type { MmuNotifierRange } from "../mm/types.ts";
import type { DmaDirection, PagemapAddrArray } from "../pagemap/pagemap-addr.ts";
import type { GpuSvm } from "./gpusvm.ts";
import type { GpuSvmNotifier } from "./notifier.ts";
import type { GpuSvmRange } from "./range.ts";

/** What a driver does for its mirrored address space. Only `invalidate` is mandatory. @kernel drm_gpusvm_ops */
export interface GpuSvmOps<R extends GpuSvmRange = GpuSvmRange> {
  /** A fresh notifier, or null for -ENOMEM. @kernel drm_gpusvm_ops.notifier_alloc */
  notifierAlloc?(gpusvm: GpuSvm<R>): GpuSvmNotifier<R> | null;
  /** The notifier is empty and no callback of it runs or will run. @kernel drm_gpusvm_ops.notifier_free */
  notifierFree?(notifier: GpuSvmNotifier<R>): void;
  /** A fresh range, usually of the driver's subclass, or null for -ENOMEM. @kernel drm_gpusvm_ops.range_alloc */
  rangeAlloc?(gpusvm: GpuSvm<R>): R | null;
  /** The last reference on the range is gone. @kernel drm_gpusvm_ops.range_free */
  rangeFree?(range: R): void;
  /**
   * The CPU mapping of `mmuRange` is about to change; it may reach beyond the notifier on both sides. The notifier lock
   * is held for write. Before this ends, the GPU must have lost access to every intersecting range and their pages must
   * be unmapped (`unmapPages` with `inNotifier`); an UNMAP event also sets them unmapped. It must not wait for the
   * mmap lock, a page lock, a reservation, or the driver's own lock. @kernel drm_gpusvm_ops.invalidate
   */
  invalidate(gpusvm: GpuSvm<R>, notifier: GpuSvmNotifier<R>, mmuRange: MmuNotifierRange): MaybePromise<void>;
}

/** How a device reaches system memory. @kernel dma_map_page, dma_unmap_page on drm_device.dev */
export interface GpuSvmDevice {
  /** Where the device's addresses can be reserved in runs. Absent: each mapping gets an address of its own. */
  readonly iova?: DmaIova;
  /** The largest order that one mapping can have; larger CPU pages are mapped in pieces. No limit unless given. @kernel dma_max_mapping_size */
  readonly dmaMaxOrder?: number;
  /**
   * The address by which the device reaches `2^order` pages from RAM frame `pfn`: never 0. Under the notifier lock: must
   * not wait. @kernel dma_map_page, dma_mapping_error
   */
  dmaMapPage(pfn: Pfn, order: number, dir: DmaDirection): number | Errno;
  /**
   * Undoes it. From the call on the device must not use the address; when the result has come, what the device wrote
   * stands in the RAM pages. @kernel dma_unmap_page
   */
  dmaUnmapPage(addr: number, order: number, dir: DmaDirection): MaybePromise<void>;
  /**
   * `dmaMapPage` with order 0 for each of the `count` RAM frames from `pfns[first]` on, appended to `out`. Returns how many
   * were mapped: fewer where one could not be. For a device whose `dmaMaxOrder` is 0; absent: page by page.
   */
  dmaMapPages?(pfns: Float64Array, first: number, count: number, dir: DmaDirection, out: PagemapAddrArray): number;
  /** `dmaUnmapPage` for each of the `count` entries of order 0 and `dir` from `addrs[first]` on; the result is that of all. */
  dmaUnmapPages?(addrs: Float64Array, first: number, count: number, dir: DmaDirection): MaybePromise<void>;
}

/**
 * Device addresses in a row for the scattered system pages of one pages object: one reservation and one flush instead of
 * one per page. For devices behind an IOMMU. Under the notifier lock: nothing but `destroy` may wait.
 * @kernel dma_iova_state
 */
export interface DmaIova {
  /** The first address of `npages` pages that nothing is linked to, or 0 when there is no such run. @kernel dma_iova_try_alloc */
  tryAlloc(npages: number): number;
  /** Links `2^order` pages from RAM frame `pfn` at `addr`. @kernel dma_iova_link */
  link(addr: number, pfn: Pfn, order: number, dir: DmaDirection): 0 | Errno;
  /** Makes the `npages` pages linked from `addr` on visible to the device. @kernel dma_iova_sync */
  sync(addr: number, npages: number): 0 | Errno;
  /** Unlinks the first `linked` pages and gives the run of `npages` back; as `dmaUnmapPage`. @kernel dma_iova_destroy */
  destroy(addr: number, npages: number, linked: number, dir: DmaDirection): MaybePromise<void>;
}

/** The driver's outer lock, as far as it can be checked. @kernel drm_gpusvm.lock_dep_map */
export interface DriverLock {
  readonly isWriteHeld: boolean;
}

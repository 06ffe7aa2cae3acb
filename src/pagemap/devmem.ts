import type { Errno } from "../base/errno.ts";
import { Completion } from "../base/locks.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import type { MigrateMm } from "../mm/types.ts";
import type { DrmPagemap } from "./pagemap.ts";

/**
 * What a driver does for one of its allocations.
 *
 * Both copies get parallel arrays of `npages` slots: `pages[i]` is a device frame number (0: none), `addrs[i]` the DMA
 * address of a RAM page, its frame number times 4096 (0: none). A slot that lacks either is not copied. The arrays are
 * the caller's and good until the operation has ended. A failure is an errno, also that of a lost device (-EIO): the
 * pages are locked meanwhile and only an answer lets them go, so an exception here is a bug.
 *
 * @kernel drm_pagemap_devmem_ops, drm_gpusvm_devmem_ops
 */
export interface DrmPagemapDevmemOps {
  /** Drops the reference that the pages owned. Called where nothing may wait. @kernel devmem_release */
  devmemRelease?(devmem: DrmPagemapDevmem): void;
  /** Writes `npages` raw frame numbers, in allocation order. @kernel populate_devmem_pfn */
  populateDevmemPfn(devmem: DrmPagemapDevmem, npages: number, pfns: Uint32Array): 0 | Errno;
  /**
   * Copies RAM to device pages; complete when it returns, for all that any later copy, kernel or CPU fault can observe.
   *
   * A slot with a page but no address is a hole: the process never touched that page, so it must read zero, and what
   * the previous tenant left there would be a leak from another process. The operation zeroes exactly those pages, or
   * does nothing for them if the allocation was zeroed before; it is called even when all slots are holes.
   * `fence` is what the device memory still waits for (clearing, eviction of the last tenant). @kernel copy_to_devmem
   */
  copyToDevmem(
    devmem: DrmPagemapDevmem,
    pages: Uint32Array,
    addrs: Float64Array,
    npages: number,
    fence: Promise<void> | null,
  ): MaybePromise<0 | Errno>;
  /** Copies device pages to RAM; the bytes are there when it returns. All slots may be empty. @kernel copy_to_ram */
  copyToRam(devmem: DrmPagemapDevmem, pages: Uint32Array, addrs: Float64Array, npages: number): MaybePromise<0 | Errno>;
}

export interface DrmPagemapDevmemInit {
  readonly mm: MigrateMm;
  readonly ops: DrmPagemapDevmemOps;
  readonly dpagemap: DrmPagemap;
  /** Bytes; a power of two, since the window that a CPU fault brings home is derived from it. */
  readonly size: number;
  readonly preMigrateFence?: Promise<void> | null;
}

/**
 * One allocation of device memory, backing one interval of one mm. A driver's buffer object extends or embeds it. It is
 * good for one migration: `detached` never goes back. Holds no reference on the mm or the page map.
 * @kernel drm_pagemap_devmem, drm_gpusvm_devmem; the constructor is drm_pagemap_devmem_init, drm_gpusvm_devmem_init
 */
export class DrmPagemapDevmem {
  readonly mm: MigrateMm;
  readonly ops: DrmPagemapDevmemOps;
  readonly dpagemap: DrmPagemap;
  readonly size: number;
  /** Complete when no device page of the allocation exists any more. */
  readonly detached = new Completion();
  /** Until this time (ms of the scheduler's clock) a CPU fault does not take the pages away. */
  timesliceExpiration = 0;
  /** Given to the first copy, then dropped. */
  preMigrateFence: Promise<void> | null;

  constructor(init: DrmPagemapDevmemInit) {
    this.mm = init.mm;
    this.ops = init.ops;
    this.dpagemap = init.dpagemap;
    this.size = init.size;
    this.preMigrateFence = init.preMigrateFence ?? null;
  }
}

import { PAGE_SIZE, hex, isPowerOfTwo } from "../base/addr.ts";
import type { Errno } from "../base/errno.ts";
import { ConfigError } from "../base/errors.ts";
import { Completion } from "../base/locks.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import type { MigrateMm } from "../mm/types.ts";
import type { DrmPagemap } from "./pagemap.ts";
import { requireOpsOnce } from "./require-ops.ts";

/**
 * What a driver does for one of its allocations.
 *
 * Both copies get parallel arrays of `npages` slots: `pages[i]` is a frame of the device whose operation it is (0: none),
 * `addrs[i]` the address of the other end (0: none). `protos` says what kind of address: null, or 0 in a slot, is the DMA
 * address of a RAM page, its frame number times 4096; anything else is what `deviceMap` of a peer's page map gave for this
 * device, and comes only where devices share an owner. A slot that lacks either end is not copied. The arrays are the
 * caller's and good until the operation has ended. A failure is an errno, also that of a lost device (-EIO): the pages are
 * locked meanwhile and only an answer lets them go, so an exception here is a bug.
 *
 * @kernel drm_pagemap_devmem_ops, drm_gpusvm_devmem_ops
 */
export interface DrmPagemapDevmemOps {
  /**
   * Drops the reference that the pages owned. Called where nothing may wait.
   * @kernel devmem_release, drm_pagemap_devmem_ops.devmem_release, drm_gpusvm_devmem_ops.devmem_release
   */
  devmemRelease?(devmem: DrmPagemapDevmem): void;
  /**
   * Writes `npages` raw frame numbers, in allocation order.
   * @kernel populate_devmem_pfn, drm_pagemap_devmem_ops.populate_devmem_pfn, drm_gpusvm_devmem_ops.populate_devmem_pfn
   */
  populateDevmemPfn(devmem: DrmPagemapDevmem, npages: number, pfns: Uint32Array): 0 | Errno;
  /**
   * Copies to device pages; complete when it returns, for all that any later copy, kernel or CPU fault can observe.
   *
   * A slot with a page but no address is a hole: the process never touched that page, so it must read zero, and what
   * the previous tenant left there would be a leak from another process. The operation zeroes exactly those pages, or
   * does nothing for them if the allocation was zeroed before; it is called even when all slots are holes.
   * `fence` is what the device memory still waits for (clearing, eviction of the last tenant).
   * @kernel copy_to_devmem, drm_pagemap_devmem_ops.copy_to_devmem, drm_gpusvm_devmem_ops.copy_to_devmem
   */
  copyToDevmem(
    devmem: DrmPagemapDevmem,
    pages: Uint32Array,
    addrs: Float64Array,
    npages: number,
    fence: Promise<void> | null,
    protos: Uint32Array | null,
  ): MaybePromise<0 | Errno>;
  /**
   * Copies device pages to RAM, or (`protos`) into a peer's memory; the bytes are there when it returns. All slots may be
   * empty. `fence` is what the destination still waits for.
   * @kernel copy_to_ram, drm_pagemap_devmem_ops.copy_to_ram, drm_gpusvm_devmem_ops.copy_to_ram
   */
  copyToRam(
    devmem: DrmPagemapDevmem,
    pages: Uint32Array,
    addrs: Float64Array,
    npages: number,
    fence: Promise<void> | null,
    protos: Uint32Array | null,
  ): MaybePromise<0 | Errno>;
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
 * @kernel drm_pagemap_devmem, drm_gpusvm_devmem
 */
export class DrmPagemapDevmem {
  /** Of the process that it was made for; a child of it may map its pages too. @kernel drm_pagemap_devmem.mm, drm_gpusvm_devmem.mm */
  readonly mm: MigrateMm;
  /** @kernel drm_pagemap_devmem.ops, drm_gpusvm_devmem.ops */
  readonly ops: DrmPagemapDevmemOps;
  /** @kernel drm_pagemap_devmem.dpagemap, drm_gpusvm_devmem.dpagemap */
  readonly dpagemap: DrmPagemap;
  /** Bytes. @kernel drm_pagemap_devmem.size, drm_gpusvm_devmem.size */
  readonly size: number;
  /** Complete when no device page of the allocation exists any more. @kernel drm_pagemap_devmem.detached, drm_gpusvm_devmem.detached */
  readonly detached = new Completion();
  /**
   * Until this time (ms of the scheduler's clock) a CPU fault does not take the pages away.
   * @kernel drm_pagemap_devmem.timeslice_expiration, drm_gpusvm_devmem.timeslice_expiration
   */
  timesliceExpiration = 0;
  /** Given to the first copy, then dropped. @kernel drm_pagemap_devmem.pre_migrate_fence */
  preMigrateFence: Promise<void> | null;

  /**
   * Takes no references. Throws ConfigError naming what is wrong.
   * @kernel drm_pagemap_devmem_init, drm_gpusvm_devmem_init
   */
  constructor(init: DrmPagemapDevmemInit) {
    requireOpsOnce("devmem.ops", init.ops, ["populateDevmemPfn", "copyToDevmem", "copyToRam"]);
    if (!isPowerOfTwo(init.size) || init.size < PAGE_SIZE) {
      throw new ConfigError("devmem.size", `must be a power of two of at least 4096, not ${hex(init.size)}`);
    }
    this.mm = init.mm;
    this.ops = init.ops;
    this.dpagemap = init.dpagemap;
    this.size = init.size;
    this.preMigrateFence = init.preMigrateFence ?? null;
  }

  /** The device that the memory is in, as its driver knows it. @kernel drm_pagemap_devmem.dev, drm_gpusvm_devmem.dev */
  get dev(): unknown {
    return this.dpagemap.drm;
  }
}

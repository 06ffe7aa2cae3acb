/**
 * Device page maps: memory of a device as a place where pages of a process can live.
 *
 * Overview. A `DrmPagemap` wraps the run of device frames (`DevPagemap`) of one memory region and says, by its
 * operations, how a device reaches those frames and how an interval of an mm is populated into them. A
 * `DrmPagemapDevmem` is one allocation out of it, backing one interval. A `Zdd` ("zone device data") ties the live
 * device pages of one migration to their allocation: each page holds a reference, so the allocation is released when
 * the last of its pages has gone home, by whichever of the four ways:
 *
 *     to device      migrateToDevmem    GPU fault, prefetch                       VA known, mmap lock held for read
 *     to RAM         migrateToRam       the CPU touched a device page             VA known, from the fault
 *     to RAM         evictToRam         device memory runs short                  no VA: physical pages only
 *     freed          folioFree          munmap, MADV_DONTNEED, exit               the mm drops the page
 *
 * Data is always moved by the device's copy engine, through the operations of the allocation. The copy engine reaches
 * RAM by frame number, so a RAM page needs no DMA mapping for a copy: its DMA address is `pfn * 4096`.
 *
 * Locking. Page locks, migration entries and page references carry a migration; no driver lock is taken, and nothing is
 * shared between two of them, so any number of evictions may run at once. While pages are locked a copy is awaited:
 * copies must never depend on a fault being served.
 *
 * Example. A driver that moves 2 MiB at `start` into its memory (test/node/pagemap-migrate.test.ts runs it):
 *
 *     const dpagemap = new DrmPagemap({ pagemap: run, drm, ops: pagemapOps, scheduler });
 *     const run = { type: "private", firstPfn: 0, npages, owner: drm, ops: drmPagemapPagemapOpsGet(phys) };
 *     phys.addPagemap(run);
 *     …
 *     populateMm(dpagemap, start, end, mm, timesliceMs) {
 *       const bo = boCreate(end - start);                       // zeroed, or zeroed by the copy: see copyToDevmem
 *       return drmPagemapMigrateToDevmem(bo.devmem, mm, start, end, { timesliceMs });   // takes over the reference
 *     }
 */
import { assert } from "../base/assert.ts";
import type { Pfn, Va } from "../base/addr.ts";
import { EFAULT, type Errno } from "../base/errno.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import type { Scheduler } from "../base/scheduler.ts";
import { type Steps, run, wait } from "../mm/steps.ts";
import type { DevPagemap, MigrateMm, PageInfo } from "../mm/types.ts";
import type { DmaDirection, PagemapAddrArray } from "./pagemap-addr.ts";
import { Zdd } from "./zdd.ts";

/** @kernel drm_pagemap_ops */
export interface DrmPagemapOps {
  /**
   * Makes `2^order` pages from device frame `pfn` reachable for `dev`: pushes exactly one entry of that order and
   * direction on `out` and returns 0, or returns an errno and pushes nothing. Called under the notifier lock: must not
   * wait. @kernel drm_pagemap_ops.device_map
   */
  deviceMap(
    dpagemap: DrmPagemap,
    dev: unknown,
    pfn: Pfn,
    order: number,
    dir: DmaDirection,
    out: PagemapAddrArray,
  ): 0 | Errno;
  /** Undoes entry `index`. Absent where mapping takes nothing. @kernel drm_pagemap_ops.device_unmap */
  deviceUnmap?(dpagemap: DrmPagemap, dev: unknown, addrs: PagemapAddrArray, index: number): void;
  /**
   * Best effort: makes `[start, end)` of `mm` resident in this memory. The caller holds a user reference on the mm and
   * its mmap lock for read. -ENODEV when the device is gone. @kernel drm_pagemap_ops.populate_mm
   */
  populateMm(dpagemap: DrmPagemap, start: Va, end: Va, mm: MigrateMm, timesliceMs: number): MaybePromise<0 | Errno>;
  /** The last reference is gone. May be called where nothing may wait. @kernel drm_pagemap_ops.destroy */
  destroy?(dpagemap: DrmPagemap, isAtomicOrReclaim: boolean): void;
}

export interface DrmPagemapInit {
  /** The run of device frames. */
  readonly pagemap: DevPagemap;
  /** The device that owns the memory, as the driver knows it. */
  readonly drm: unknown;
  readonly ops: DrmPagemapOps;
  /** Clock of the time slices, and the named yield points. */
  readonly scheduler: Scheduler;
}

/** One memory region of a device. Starts with one reference, the creator's. @kernel drm_pagemap, drm_pagemap_init */
export class DrmPagemap {
  readonly pagemap: DevPagemap;
  readonly drm: unknown;
  readonly ops: DrmPagemapOps;
  readonly scheduler: Scheduler;
  #ref = 1;

  constructor(init: DrmPagemapInit) {
    this.pagemap = init.pagemap;
    this.drm = init.drm;
    this.ops = init.ops;
    this.scheduler = init.scheduler;
  }

  get refcount(): number {
    return this.#ref;
  }

  /** @kernel drm_pagemap_get */
  get(): this {
    assert(this.#ref > 0, "drm_pagemap_get after the last put");
    this.#ref += 1;
    return this;
  }

  /** Null once the last reference is gone. @kernel drm_pagemap_get_unless_zero */
  getUnlessZero(): this | null {
    return this.#ref > 0 ? this.get() : null;
  }

  /** @kernel drm_pagemap_put */
  put(): void {
    assert(this.#ref > 0, "drm_pagemap_put without a reference");
    this.#ref -= 1;
    if (this.#ref === 0) this.ops.destroy?.(this, true);
  }
}

/**
 * Asks `dpagemap` to make `[start, end)` of `mm` resident in its memory. Best effort: 0 does not promise residency.
 * -EFAULT when the address space is gone, else what the operation says. Takes the mmap lock for read.
 * @kernel drm_pagemap_populate_mm
 */
export function drmPagemapPopulateMm(
  dpagemap: DrmPagemap,
  start: Va,
  end: Va,
  mm: MigrateMm,
  timesliceMs: number,
): MaybePromise<0 | Errno> {
  return run(populateMm(dpagemap, start, end, mm, timesliceMs));
}

function* populateMm(dpagemap: DrmPagemap, start: Va, end: Va, mm: MigrateMm, timesliceMs: number): Steps<0 | Errno> {
  if (!mm.mmget()) return EFAULT;
  try {
    const guard = yield* wait(mm.mmapLock.read());
    try {
      return yield* wait(dpagemap.ops.populateMm(dpagemap, start, end, mm, timesliceMs));
    } finally {
      guard.release();
    }
  } finally {
    mm.mmput();
  }
}

/** The page map that a device page came from; null for one that no page map has populated. @kernel drm_pagemap_page_to_dpagemap */
export function drmPagemapPageToDpagemap(pages: PageInfo, pfn: Pfn): DrmPagemap | null {
  const zdd = pages.zoneDeviceData(pfn);
  return zdd instanceof Zdd ? zdd.dpagemap : null;
}

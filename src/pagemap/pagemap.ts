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
import { EFAULT, ENODEV, type Errno } from "../base/errno.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import type { Scheduler } from "../base/scheduler.ts";
import { type Steps, run, wait } from "../mm/steps.ts";
import type { DevPagemap, MigrateMm, PageInfo } from "../mm/types.ts";
import type { DrmPagemapCache } from "./cache.ts";
import type { DmaDirection, PagemapAddrArray } from "./pagemap-addr.ts";
import { MigrationArrayPool } from "./migration-arrays.ts";
import { requireOps } from "./require-ops.ts";
import { pageZoneDeviceData } from "./zdd.ts";

/** @kernel drm_pagemap_ops */
export interface DrmPagemapOps {
  /**
   * Makes `2^order` pages from device frame `pfn` reachable for `dev`: pushes exactly one entry of that order and
   * direction on `out` and returns 0, or returns an errno and pushes nothing. Address 0 means none in the arrays of a
   * copy: it is never given. Called under the notifier lock: must not
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

/** What a page map holds on to while it is in use: the device, and the module of its driver. @kernel drm_device */
export interface DrmPagemapDevice {
  /** False once the device is being unbound: nothing goes to its memory any more. @kernel drm_dev_enter */
  readonly isAlive: boolean;
  get(): void;
  put(): void;
}

export interface DrmPagemapInit {
  /** The run of device frames. */
  readonly pagemap: DevPagemap;
  /** The device that owns the memory, as the driver knows it. */
  readonly drm: unknown;
  /** The same device, where its lifetime is counted. */
  readonly device?: DrmPagemapDevice;
  readonly ops: DrmPagemapOps;
  /** Clock of the time slices, and the named yield points. */
  readonly scheduler: Scheduler;
}

/**
 * One memory region of a device. Starts with one reference, the creator's; others are held by migrations (`Zdd`), by pages
 * objects that map its pages, and by whatever a driver keeps it in.
 *
 *     in use (refcount > 0) --last put--> unused, on the shrinker's list --look-up in the cache--> in use
 *             |                                    '--scan, device gone--> destroyed
 *             '--last put, without a cache or with the device gone-------> destroyed
 *
 * @kernel drm_pagemap
 */
export class DrmPagemap {
  /** @kernel drm_pagemap.pagemap */
  readonly pagemap: DevPagemap;
  /** @kernel drm_pagemap.drm, drm_pagemap.dev */
  readonly drm: unknown;
  /** @kernel drm_pagemap.ops */
  readonly ops: DrmPagemapOps;
  readonly scheduler: Scheduler;
  /** For migrations to and from this memory. */
  readonly arrays = new MigrationArrayPool();
  /** Finds it again after its last put. @kernel drm_pagemap.cache, drm_pagemap.shrink_link */
  cache: DrmPagemapCache | null = null;
  readonly #device: DrmPagemapDevice | null;
  #ref = 1;

  /** Takes a hold on the device. Throws ConfigError naming what is wrong. @kernel drm_pagemap_init, drm_pagemap_create */
  constructor(init: DrmPagemapInit) {
    requireOps("pagemap.ops", init.ops, ["deviceMap", "populateMm"]);
    requireOps("pagemap.pagemap.ops", init.pagemap.ops, ["folioFree", "migrateToRam"]);
    this.pagemap = init.pagemap;
    this.drm = init.drm;
    this.ops = init.ops;
    this.scheduler = init.scheduler;
    this.#device = init.device ?? null;
    this.#device?.get();
  }

  /** @kernel drm_pagemap.ref */
  get refcount(): number {
    return this.#ref;
  }
  /** False once the device is being unbound. */
  get isAlive(): boolean {
    return this.#device === null || this.#device.isAlive;
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

  /**
   * The last one gives it to the shrinker where a cache can find it again and the device is there, else destroys it. May
   * be called where nothing may wait, so the hold on the device is dropped later. @kernel drm_pagemap_put, drm_pagemap_release
   */
  put(): void {
    assert(this.#ref > 0, "drm_pagemap_put without a reference");
    this.#ref -= 1;
    if (this.#ref > 0) return;
    if (this.cache !== null && this.isAlive) this.cache.shrinker.add(this);
    else this.destroy(true);
    const device = this.#device;
    if (device !== null) this.scheduler.defer("pagemap:unhold", () => device.put());
  }

  /** Brings one without references back: a new hold on the device, one reference. For `DrmPagemapCache`. @kernel drm_pagemap_reinit, drm_pagemap.dev_hold */
  reinit(): void {
    assert(this.#ref === 0, "drm_pagemap_reinit of a page map in use");
    this.#device?.get();
    this.#ref = 1;
  }

  /** For the shrinker and the cache: nobody can reach it any more. @kernel drm_pagemap_destroy */
  destroy(isAtomicOrReclaim: boolean): void {
    assert(this.#ref === 0, "a page map in use was destroyed");
    this.cache?.forget(this);
    this.ops.destroy?.(this, isAtomicOrReclaim);
  }
}

/**
 * Asks `dpagemap` to make `[start, end)` of `mm` resident in its memory. Best effort: 0 does not promise residency.
 * -ENODEV when the device is being unbound, -EFAULT when the address space is gone, else what the operation says. Takes the mmap lock for read.
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
  if (!dpagemap.isAlive) return ENODEV;
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
  return pageZoneDeviceData(pages, pfn)?.dpagemap ?? null;
}

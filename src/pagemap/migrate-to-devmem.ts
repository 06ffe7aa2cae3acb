import { PAGE_SIZE, type Va, pagesIn } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { EBUSY, EINVAL, ENOENT, EOPNOTSUPP, type Errno } from "../base/errno.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import { type Steps, run, wait } from "../mm/steps.ts";
import {
  MIGRATE_PFN_MIGRATE,
  MIGRATE_VMA_SELECT_DEVICE_COHERENT,
  MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
  MIGRATE_VMA_SELECT_SYSTEM,
  type MigrateMm,
  type MigrateVma,
  type PhysMem,
  type VmaView,
  migratePfn,
  migratePfnToPage,
} from "../mm/types.ts";
import type { DrmPagemapDevmem } from "./devmem.ts";
import { unlockPutPages } from "./unlock-put-pages.ts";
import { Zdd } from "./zdd.ts";

/** @kernel drm_pagemap_migrate_details */
export interface DrmPagemapMigrateDetails {
  /** Minimum residency, milliseconds: a CPU fault does not take the pages back before. 0: at once. */
  readonly timesliceMs: number;
}

/**
 * Moves `[start, end)` of `mm` into `devmem`, all of it or nothing. The mmap lock is held for read (or write).
 *
 * The caller's reference on the allocation is always consumed: by the pages on success, else by `devmemRelease`. The
 * one exception is -EOPNOTSUPP for an allocation without its mandatory operations.
 *
 * Returns 0 when every page is in this memory now; that includes the case that all were before, where the fresh
 * allocation is released unused. -ENOENT: no VMA at `start`. -EINVAL: `[start, end)` is not inside it. -EBUSY: the VMA
 * cannot migrate (files, shared memory), a page could not be collected (pinned, locked, swapped out), some pages are
 * here already and others not, or a CPU fault filled a hole meanwhile; in that last case the other pages did migrate
 * and stay. Others: from the operations.
 *
 * Differs from the kernel: source pages are RAM or pages of this same memory; peers' memory is -EOPNOTSUPP.
 * @kernel drm_pagemap_migrate_to_devmem
 */
export function drmPagemapMigrateToDevmem(
  devmem: DrmPagemapDevmem,
  mm: MigrateMm,
  start: Va,
  end: Va,
  mdetails: DrmPagemapMigrateDetails,
): MaybePromise<0 | Errno> {
  assert(mm.mmapLock.isHeld, "drm_pagemap_migrate_to_devmem without the mmap lock");
  const { ops } = devmem;
  if (!ops.populateDevmemPfn || !ops.copyToDevmem || !ops.copyToRam) return EOPNOTSUPP;
  const vma = mm.vmaLookup(start);
  const err = vma === null ? ENOENT : start >= end || end > vma.end ? EINVAL : vma.anonymous ? 0 : EBUSY;
  if (err !== 0) {
    ops.devmemRelease?.(devmem);
    return err;
  }
  assert(devmem.size >= end - start, "a migration larger than its allocation");
  return run(migrate(devmem, mm, vma!, start, end, mdetails));
}

function* migrate(
  devmem: DrmPagemapDevmem,
  mm: MigrateMm,
  vma: VmaView,
  start: Va,
  end: Va,
  mdetails: DrmPagemapMigrateDetails,
): Steps<0 | Errno> {
  const { scheduler } = devmem.dpagemap;
  const npages = pagesIn(start, end);
  const migration: MigrateVma = {
    vma,
    start,
    end,
    src: new Uint32Array(npages),
    dst: new Uint32Array(npages),
    flags: MIGRATE_VMA_SELECT_SYSTEM | MIGRATE_VMA_SELECT_DEVICE_PRIVATE | MIGRATE_VMA_SELECT_DEVICE_COHERENT,
    pgmapOwner: devmem.dpagemap.pagemap.owner,
    faultPage: -1,
    cpages: 0,
  };
  const zdd = new Zdd(devmem);

  let err = yield* wait(mm.migrateVmaSetup(migration));
  if (err === 0 && migration.cpages === 0) err = EBUSY; // Nothing is locked, so there is nothing to finish.
  if (err !== 0) {
    zdd.put();
    return err;
  }
  yield* wait(scheduler.point("pagemap:migrate_to_devmem:after_setup"));

  let ownPages = 0;
  if (migration.cpages !== npages) err = EBUSY;
  else {
    const own = countOwnPages(mm.phys, devmem, migration.src);
    if (own < 0) err = own as Errno;
    else ownPages = own;
    // A fragmented placement: this copy engine does not move pages inside one memory.
    if (err === 0 && ownPages > 0 && ownPages < npages) err = EBUSY;
    if (err === 0 && ownPages === 0) err = yield* moveToDevmem(devmem, mm.phys, migration, zdd, mdetails);
  }

  yield* wait(mm.migrateVmaPages(migration));
  if (err === 0 && countMigrating(migration.src) < npages - ownPages) err = EBUSY; // Raced while finalising.
  yield* wait(scheduler.point("pagemap:migrate_to_devmem:before_finalize"));
  mm.migrateVmaFinalize(migration);
  zdd.put();
  return err;
}

/** Populates, binds and fills the destination pages. On failure `dst` is empty and the pages are free again. */
function* moveToDevmem(
  devmem: DrmPagemapDevmem,
  phys: PhysMem,
  migration: MigrateVma,
  zdd: Zdd,
  mdetails: DrmPagemapMigrateDetails,
): Steps<0 | Errno> {
  const { src, dst } = migration;
  const { scheduler } = devmem.dpagemap;
  const npages = src.length;
  const pages = new Uint32Array(npages);
  const addrs = new Float64Array(npages);

  let err = devmem.ops.populateDevmemPfn(devmem, npages, pages);
  if (err !== 0) return err;
  yield* wait(scheduler.point("pagemap:migrate_to_devmem:after_populate"));

  for (let i = 0; i < npages; i++) {
    const pfn = pages[i];
    phys.zoneDevicePageInit(pfn, zdd.get());
    dst[i] = migratePfn(pfn);
    const from = migratePfnToPage(src[i]);
    if (from >= 0) addrs[i] = from * PAGE_SIZE;
  }

  err = yield* wait(devmem.ops.copyToDevmem(devmem, pages, addrs, npages, devmem.preMigrateFence));
  yield* wait(scheduler.point("pagemap:migrate_to_devmem:after_copy"));
  if (err !== 0) {
    unlockPutPages(phys, dst);
    return err;
  }
  devmem.preMigrateFence = null;
  devmem.timesliceExpiration = scheduler.now() + mdetails.timesliceMs;
  return 0;
}

/** How many source pages are in the destination memory already; -EOPNOTSUPP if one is in another device's. */
function countOwnPages(phys: PhysMem, devmem: DrmPagemapDevmem, src: Uint32Array): number {
  const { pagemap } = devmem.dpagemap;
  let own = 0;
  for (let i = 0; i < src.length; i++) {
    const pfn = migratePfnToPage(src[i]);
    if (pfn < 0 || !phys.isZoneDevice(pfn)) continue;
    if (phys.pgmapOf(pfn) !== pagemap) return EOPNOTSUPP;
    own += 1;
  }
  return own;
}

function countMigrating(src: Uint32Array): number {
  let count = 0;
  for (let i = 0; i < src.length; i++) if ((src[i] & MIGRATE_PFN_MIGRATE) !== 0) count += 1;
  return count;
}

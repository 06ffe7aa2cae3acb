import { type Va, pagesIn } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { EBUSY, EINVAL, ENOENT, EOPNOTSUPP, type Errno } from "../base/errno.ts";
import { type MaybePromise, isPromise } from "../base/maybe-promise.ts";
import { mutated } from "../base/mutation.ts";
import { type Steps, run, wait } from "../mm/steps.ts";
import {
  MIGRATE_PFN_COMPOUND,
  MIGRATE_PFN_MIGRATE,
  MIGRATE_VMA_SELECT_COMPOUND,
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
import { HPAGE_PMD_ORDER, canBeFolio, pagesOfWord } from "./compound.ts";
import { copyIn } from "./copy-to-devmem.ts";
import type { DrmPagemapDevmem } from "./devmem.ts";
import type { MigrationArrays } from "./migration-arrays.ts";
import { unlockPutPages } from "./unlock-put-pages.ts";
import { Zdd } from "./zdd.ts";

/** @kernel drm_pagemap_migrate_details */
export interface DrmPagemapMigrateDetails {
  /**
   * Minimum residency, milliseconds: a CPU fault does not take the pages back before. 0: at once.
   * @kernel drm_pagemap_migrate_details.timeslice_ms
   */
  readonly timesliceMs: number;
  /**
   * The copy engine can move pages inside this memory, so that an interval of which some pages are here already can be
   * gathered in one allocation. @kernel drm_pagemap_migrate_details.can_migrate_same_pagemap
   */
  readonly canMigrateSamePagemap?: boolean;
  /**
   * Pages in a peer's memory are sent by the peer's copy engine, since reading across the link is slow; false: ours
   * fetches them. Default true, as the newest kernel always does.
   * @kernel drm_pagemap_migrate_details.source_peer_migrates
   */
  readonly sourcePeerMigrates?: boolean;
  /** The contract of the kernel's first two versions: on an error the caller keeps its reference on the allocation. */
  readonly keepReferenceOnError?: boolean;
}

/**
 * Moves `[start, end)` of `mm` into `devmem`, all of it or nothing. The mmap lock is held for read (or write).
 *
 * The caller's reference on the allocation is always consumed: by the pages on success, else by `devmemRelease`. The
 * one exception is -EOPNOTSUPP for an allocation without its mandatory operations.
 *
 * Returns 0 when every page is in this memory now; that includes the case that all were before, where the fresh
 * allocation is released unused. -ENOENT: no VMA at `start`. -EINVAL: `[start, end)` is not inside it. -EBUSY: the VMA
 * cannot migrate (files, shared memory), a page could not be collected (pinned, locked, swapped out, in the memory of a
 * device of another owner), some pages are here already and others not, or a CPU fault filled a hole meanwhile; in that
 * last case the other pages did migrate and stay. Others: from the operations.
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
    if (mdetails.keepReferenceOnError !== true) ops.devmemRelease?.(devmem);
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
  const { arrays: pool } = devmem.dpagemap;
  const arrays = pool.take(pagesIn(start, end));
  const migration: MigrateVma = {
    vma,
    start,
    end,
    src: arrays.src,
    dst: arrays.dst,
    flags:
      MIGRATE_VMA_SELECT_SYSTEM |
      MIGRATE_VMA_SELECT_DEVICE_PRIVATE |
      MIGRATE_VMA_SELECT_DEVICE_COHERENT |
      MIGRATE_VMA_SELECT_COMPOUND,
    pgmapOwner: devmem.dpagemap.pagemap.owner,
    faultPage: -1,
    cpages: 0,
  };
  const zdd = new Zdd(devmem);
  // Tested instead of delegated where there is mostly nothing to wait for: this runs for every page that faults by itself.
  const setup = mm.migrateVmaSetup(migration);
  let err = isPromise(setup) ? yield* wait(setup) : setup;
  if (err === 0) {
    // With nothing collected nothing is locked, and there is nothing to finish.
    err = migration.cpages === 0 ? EBUSY : yield* migrateCollected(devmem, mm, migration, arrays, zdd, mdetails);
  }
  pool.give(arrays);
  if (mdetails.keepReferenceOnError === true) {
    // A race in the last step leaves pages behind that own the allocation: the old contract calls that a success.
    if (err !== 0 && zdd.refcount > 1) err = 0;
    if (err !== 0) zdd.disown();
  }
  zdd.put();
  return err;
}

function* migrateCollected(
  devmem: DrmPagemapDevmem,
  mm: MigrateMm,
  migration: MigrateVma,
  arrays: MigrationArrays,
  zdd: Zdd,
  mdetails: DrmPagemapMigrateDetails,
): Steps<0 | Errno> {
  const { scheduler } = devmem.dpagemap;
  const { phys } = mm;
  const { src, pages, from } = arrays;
  let point = scheduler.point("pagemap:migrate_to_devmem:after_setup");
  if (point !== undefined) yield* wait(point);

  let err: 0 | Errno = 0;
  let ownPages = 0;
  if (countMigrating(src) < src.length) err = EBUSY;
  else {
    ownPages = countOwnPages(phys, devmem, src);
    // A fragmented placement, and a copy engine that does not move pages inside one memory.
    if (ownPages > 0 && ownPages < src.length && mdetails.canMigrateSamePagemap !== true) err = EBUSY;
    else if (ownPages < src.length) err = devmem.ops.populateDevmemPfn(devmem, src.length, pages);
  }
  if (err === 0 && ownPages < src.length) {
    point = scheduler.point("pagemap:migrate_to_devmem:after_populate");
    if (point !== undefined) yield* wait(point);
    bindDestination(phys, zdd, migration, pages, from);
    if (mutated("zdd-reference-forgotten")) zdd.put();
    const { addrs } = arrays;
    const sourcePeerMigrates = mdetails.sourcePeerMigrates !== false;
    const copied = copyIn({ phys, devmem, pages, from, addrs, sourcePeerMigrates });
    err = isPromise(copied) ? yield* wait(copied) : copied;
    point = scheduler.point("pagemap:migrate_to_devmem:after_copy");
    if (point !== undefined) yield* wait(point);
    err = concludeCopy(devmem, phys, migration, mdetails, err);
  }

  const filling = mm.migrateVmaPages(migration);
  if (isPromise(filling)) yield* wait(filling);
  if (err === 0 && countMigrating(src) < src.length - ownPages) err = EBUSY; // Raced while finalising.
  point = scheduler.point("pagemap:migrate_to_devmem:before_finalize");
  if (point !== undefined) yield* wait(point);
  mm.migrateVmaFinalize(migration);
  return err;
}

/** On failure `dst` is empty and the pages are free again. */
function concludeCopy(
  devmem: DrmPagemapDevmem,
  phys: PhysMem,
  migration: MigrateVma,
  { timesliceMs }: DrmPagemapMigrateDetails,
  err: 0 | Errno,
): 0 | Errno {
  if (err !== 0 && !mutated("failed-copy-committed")) {
    unlockPutPages(phys, migration.dst);
    return err;
  }
  devmem.preMigrateFence = null;
  devmem.timesliceExpiration = timesliceMs === 0 ? 0 : devmem.dpagemap.scheduler.now() + timesliceMs;
  return 0;
}

/**
 * Binds the frames of the allocation to this migration and notes which page each is copied from. A folio of 2 MiB
 * becomes one there, where the allocation has 512 suitable frames; else the mm splits it.
 * @kernel drm_pagemap_get_devmem_page
 */
function bindDestination(
  phys: PhysMem,
  zdd: Zdd,
  { src, dst }: MigrateVma,
  pages: Uint32Array,
  from: Uint32Array,
): void {
  for (let i = 0; i < src.length;) {
    const count = pagesOfWord(src[i]);
    const source = migratePfnToPage(src[i]);
    if (source >= 0) for (let k = 0; k < count; k++) from[i + k] = source + k;
    if (count > 1 && canBeFolio(pages, i)) {
      phys.zoneDevicePageInit(pages[i], zdd.get(), HPAGE_PMD_ORDER);
      dst[i] = migratePfn(pages[i]) | MIGRATE_PFN_COMPOUND;
    } else {
      for (let k = i; k < i + count; k++) {
        phys.zoneDevicePageInit(pages[k], zdd.get());
        dst[k] = migratePfn(pages[k]);
      }
    }
    i += count;
  }
}

/** How many source pages are in the destination memory already. */
function countOwnPages(phys: PhysMem, devmem: DrmPagemapDevmem, src: Uint32Array): number {
  const { pagemap } = devmem.dpagemap;
  let own = 0;
  for (let i = 0; i < src.length; i += pagesOfWord(src[i])) {
    const pfn = migratePfnToPage(src[i]);
    if (pfn >= 0 && phys.isZoneDevice(pfn) && phys.pgmapOf(pfn) === pagemap) own += pagesOfWord(src[i]);
  }
  return own;
}

/** Pages that migrate, holes included; a folio counts all its pages. */
function countMigrating(src: Uint32Array): number {
  let count = 0;
  for (let i = 0; i < src.length; i += pagesOfWord(src[i])) {
    if ((src[i] & MIGRATE_PFN_MIGRATE) !== 0) count += pagesOfWord(src[i]);
  }
  return count;
}

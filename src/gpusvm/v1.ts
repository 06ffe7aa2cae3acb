/**
 * The first generation's names (Linux 6.15, 6.16) for what has since moved to the page map or to pages objects, with the
 * contracts of that time. What a range could do then it still can: `GpuSvm.rangePagesValid`, `rangeGetPages`,
 * `rangeUnmapPages` work on the one pages object of a range.
 */
import { assert } from "../base/assert.ts";
import { EINVAL, type Errno } from "../base/errno.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import type { DevPagemapOps, MigrateMm, PhysMem } from "../mm/types.ts";
import { DrmPagemapDevmem, type DrmPagemapDevmemOps } from "../pagemap/devmem.ts";
import { drmPagemapEvictToRam } from "../pagemap/evict-to-ram.ts";
import { drmPagemapMigrateToDevmem } from "../pagemap/migrate-to-devmem.ts";
import { drmPagemapPagemapOpsGet } from "../pagemap/migrate-to-ram.ts";
import type { DrmPagemap } from "../pagemap/pagemap.ts";
import type { GpuSvmCtx } from "./ctx.ts";
import type { GpuSvm } from "./gpusvm.ts";
import type { GpuSvmRange } from "./range.ts";

/**
 * Moves the range into `devmem`, for at least `ctx.timesliceMs`. The mmap lock is held. -EINVAL for a range that was not
 * made to migrate. Unlike today's `drmPagemapMigrateToDevmem` it leaves the reference on the allocation with the caller
 * when it fails, and calls a race with a CPU fault in the last step a success: `getPages` finds the mix.
 * @kernel drm_gpusvm_migrate_to_devmem
 */
export function drmGpusvmMigrateToDevmem<R extends GpuSvmRange>(
  gpusvm: GpuSvm<R>,
  range: R,
  devmem: DrmPagemapDevmem,
  ctx: GpuSvmCtx,
): MaybePromise<0 | Errno> {
  if (!range.migrateDevmem) return EINVAL;
  const { mm } = devmem;
  assert(mm === gpusvm.mm, "the allocation was made for another process");
  const mdetails = { timesliceMs: ctx.timesliceMs, keepReferenceOnError: true };
  return drmPagemapMigrateToDevmem(devmem, mm, range.start, range.end, mdetails);
}

/** `drmPagemapEvictToRam`. @kernel drm_gpusvm_evict_to_ram */
export function drmGpusvmEvictToRam(devmem: DrmPagemapDevmem): MaybePromise<0 | Errno> {
  return drmPagemapEvictToRam(devmem);
}

/** `drmPagemapPagemapOpsGet`. @kernel drm_gpusvm_pagemap_ops_get */
export function drmGpusvmPagemapOpsGet(phys: PhysMem): DevPagemapOps {
  return drmPagemapPagemapOpsGet(phys);
}

/** An allocation of `size` bytes of the device behind `dpagemap`, without a fence to wait for. @kernel drm_gpusvm_devmem_init */
export function drmGpusvmDevmemInit(
  mm: MigrateMm,
  ops: DrmPagemapDevmemOps,
  dpagemap: DrmPagemap,
  size: number,
): DrmPagemapDevmem {
  return new DrmPagemapDevmem({ mm, ops, dpagemap, size });
}

/** Every header declares it and no version defines it: a call is a bug. @kernel drm_gpusvm_free */
export function drmGpusvmFree(): never {
  throw new Error("drm_gpusvm_free is reserved: no version of the kernel defines it");
}

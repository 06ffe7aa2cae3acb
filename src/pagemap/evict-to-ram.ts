import { PAGE_SIZE } from "../base/addr.ts";
import { EBUSY, EFAULT, type Errno, isErr } from "../base/errno.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import { mutated } from "../base/mutation.ts";
import { type Steps, run, wait } from "../mm/steps.ts";
import type { DrmPagemapDevmem } from "./devmem.ts";
import { migratePopulateRamPfn } from "./populate-ram-pfn.ts";
import { unlockPutPages } from "./unlock-put-pages.ts";

/** A page that is locked or referenced by somebody at that moment is left behind by a pass; three of them must do. */
const EVICT_RETRIES = 2;

/**
 * Brings every page of an allocation home, wherever and by whomever it is mapped. Looks at physical pages only: virtual
 * addresses may change meanwhile. Takes no lock of the mm; the mm tells the mappers through their notifiers.
 *
 * The caller holds a reference of its own on the allocation. 0: no device page of it exists any more (whoever moved the
 * last one). -EFAULT: the process is gone, and its exit frees the pages. -EBUSY: some pages would not move. Others:
 * -ENOMEM and what the copy says. Ignores time slices.
 * @kernel drm_pagemap_evict_to_ram, drm_gpusvm_evict_to_ram
 */
export function drmPagemapEvictToRam(devmem: DrmPagemapDevmem): MaybePromise<0 | Errno> {
  return run(evictToRam(devmem));
}

function* evictToRam(devmem: DrmPagemapDevmem): Steps<0 | Errno> {
  const { mm } = devmem;
  const { scheduler } = devmem.dpagemap;
  for (let retries = EVICT_RETRIES; ; retries--) {
    if (!mm.mmget()) return EFAULT;
    const err = yield* evictPass(devmem);
    if (!mutated("mm-user-leaked")) mm.mmputAsync();
    if (devmem.detached.isDone) return 0;
    if (retries === 0) return err === 0 ? EBUSY : err;
    yield* wait(scheduler.point("pagemap:evict_to_ram:between_passes"));
    yield* wait(scheduler.sleep(0));
  }
}

function* evictPass(devmem: DrmPagemapDevmem): Steps<0 | Errno> {
  const { phys } = devmem.mm;
  const { scheduler } = devmem.dpagemap;
  const npages = devmem.size / PAGE_SIZE;
  const { arrays: pool } = devmem.dpagemap;
  const arrays = pool.take(npages);
  const { src, dst, pages, addrs } = arrays;

  let err = devmem.ops.populateDevmemPfn(devmem, npages, src);
  if (err !== 0) {
    pool.give(arrays);
    return err;
  }
  yield* wait(phys.migrateDevicePfns(src));
  yield* wait(scheduler.point("pagemap:evict_to_ram:after_setup"));

  const mpages = migratePopulateRamPfn(phys, arrays, null);
  if (isErr(mpages)) err = mpages;
  else if (mpages > 0) {
    err = yield* wait(devmem.ops.copyToRam(devmem, pages, addrs, npages, null, null));
    yield* wait(scheduler.point("pagemap:evict_to_ram:after_copy"));
    if (err !== 0) unlockPutPages(phys, dst);
  }
  phys.migrateDevicePages(src, dst);
  yield* wait(scheduler.point("pagemap:evict_to_ram:before_finalize"));
  phys.migrateDeviceFinalize(src, dst);
  pool.give(arrays);
  return err;
}

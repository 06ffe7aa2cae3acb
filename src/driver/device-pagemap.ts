import { PAGE_SIZE } from "../base/addr.ts";
import type { Pa } from "../base/addr.ts";
import { ENODEV, ENOLINK, isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { type MaybePromise, isPromise } from "../base/maybe-promise.ts";
import { type Steps, run, wait } from "../base/steps.ts";
import type { PhysMemory } from "../mm/phys-mem.ts";
import type { VmFault } from "../mm/types.ts";
import { drmPagemapMigrateToDevmem } from "../pagemap/migrate-to-devmem.ts";
import type { DrmPagemapOps } from "../pagemap/pagemap.ts";
import { Zdd } from "../pagemap/zdd.ts";
import type { TtmOperationCtx } from "../vram/fence.ts";
import type { SvmDevice } from "./device.ts";
import { INTERCONNECT_P2P } from "./peer-links.ts";
import { SvmBo } from "./svm-bo.ts";
import type { SvmVm } from "./vm.ts";
import type { VramRegion } from "./vram-region.ts";

/** What the page map of one tile's memory asks its driver. @kernel xe_drm_pagemap_ops */
export function pagemapOpsOf(device: SvmDevice, regionOf: () => VramRegion): DrmPagemapOps {
  const { links, phys, sched } = device;
  return {
    deviceMap: (_dpagemap, dev, pfn, order, dir, out) => {
      const proto = links.protocol(device, dev);
      // To its own it makes no difference.
      if (proto === null || (proto === INTERCONNECT_P2P && device.gpu.isLost)) return ENOLINK;
      out.push(regionOf().paOf(pfn), proto, order, dir);
      return 0;
    },
    destroy: (_dpagemap, isAtomic) => {
      // The page that goes last is not free yet when it says so.
      const { pgmap } = regionOf();
      if (isAtomic) sched.defer("driver:remove-pagemap", () => phys.removePagemap(pgmap));
      else phys.removePagemap(pgmap);
    },
    populateMm: (_dpagemap, start, end, mm, timesliceMs) => {
      const tile = device.regions.indexOf(regionOf());
      for (const vm of device.vms) {
        if (vm.mm === mm) return device.populateMm(vm, start, end, timesliceMs, {}, tile);
      }
      return ENODEV;
    },
  };
}

/** How one chunk moves in. */
export interface ChunkCtx extends TtmOperationCtx {
  /** It is all that was asked for, so its bytes are no part of a stream. Default false. */
  readonly isAlone?: boolean;
}

/** See `SvmDevice.populateMm`. */
export function populateBuffer(
  region: VramRegion,
  vm: SvmVm,
  start: number,
  end: number,
  timesliceMs: number,
  ctx: ChunkCtx,
): MaybePromise<0 | Errno> {
  const bo = region.allocBo(vm, start, end - start, ctx);
  if (isErr(bo)) return bo;
  bo.isStreamed = ctx.isAlone !== true;
  bo.pin();
  const vacant = region.whenVacant(bo);
  const filled = isPromise(vacant) ? vacant : fill(bo, vacant, start, end, timesliceMs);
  return isPromise(filled) ? run(filledLater(bo, vacant, filled, start, end, timesliceMs)) : filledNow(bo, filled, end);
}

function* filledLater(
  bo: SvmBo,
  vacant: MaybePromise<0 | Errno>,
  filling: Promise<0 | Errno>,
  start: number,
  end: number,
  timesliceMs: number,
): Steps<0 | Errno> {
  let result = yield* wait(filling);
  // It was the memory that had to be waited for.
  if (isPromise(vacant)) result = yield* wait(fill(bo, result, start, end, timesliceMs));
  return filledNow(bo, result, end);
}

/** Moves the pages in, if the memory is vacant; else the buffer goes back. */
function fill(bo: SvmBo, vacant: 0 | Errno, start: number, end: number, timesliceMs: number): MaybePromise<0 | Errno> {
  if (vacant === 0) return drmPagemapMigrateToDevmem(bo, bo.mm, start, end, { timesliceMs });
  bo.region.discard(bo);
  return vacant;
}

function filledNow(bo: SvmBo, result: 0 | Errno, end: number): 0 | Errno {
  const { vm, start } = bo;
  bo.unpin();
  if (result === 0) {
    vm.counters.migrationsIn += 1;
    vm.trace.record("migrate-to-devmem", vm.asid, start, end, bo.npages);
  }
  return result;
}

/** An allocation counts what it receives, from wherever. */
export function countSent(device: SvmDevice, pa: Pa, pages: number): void {
  for (const receiver of [device, ...device.links.peersOf(device)]) {
    const pfn = receiver.pfnAt(pa);
    const bo = pfn === null ? null : receiver.boBehind(pfn);
    if (bo !== null) bo.vm.counters.toDevBytes += pages * PAGE_SIZE;
  }
}

/** The CPU takes a page of device memory home. */
export function countCpuFault(phys: PhysMemory, vmf: VmFault): void {
  const zdd = phys.zoneDeviceData(vmf.pfn);
  if (!(zdd instanceof Zdd) || !(zdd.devmemAllocation instanceof SvmBo)) return;
  const { vm, start } = zdd.devmemAllocation;
  vm.counters.cpuFault += 1;
  vm.stats.add("wgsvm_cpu_fault_count");
  vm.policies.thrash.onCpuFault(start);
}

import type { Va } from "../base/addr.ts";
import { EBUSY, EFAULT, ENODEV, isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { mutated } from "../base/mutation.ts";
import { type Steps, wait } from "../base/steps.ts";
import type { TtmOperationCtx } from "../vram/fence.ts";
import type { SvmDevice } from "./device.ts";
import { microsecondsSince } from "./stats.ts";
import type { SvmRange } from "./svm-range.ts";
import type { SvmVm } from "./vm.ts";

export interface PopulateOptions extends TtmOperationCtx {
  /** Whose memory. Default: that of the address space's device. */
  readonly target?: SvmDevice;
  /** Of which tile of it. Default 0. */
  readonly tile?: number;
  /** Milliseconds for which a CPU fault does not take the pages back. Default 0. */
  readonly timesliceMs?: number;
}

/**
 * Moves a range to the memory of `target`, for at least `timesliceMs` if it can stay. 0, or why not; -ENOSPC: VRAM is full
 * of what may not leave. The VM's lock is held.
 */
export function* migrateRange(
  vm: SvmVm,
  range: SvmRange,
  target: SvmDevice,
  timesliceMs: number,
  tile = 0,
): Steps<0 | Errno> {
  const since = vm.sched.now();
  const migrated = yield* populate(vm, range.start, range.end, { target, tile, timesliceMs });
  vm.stats.addSized("migrate_us", range.size, microsecondsSince(since, vm.sched.now()));
  if (migrated !== 0) return migrated;
  vm.stats.addSized("migrate_count", range.size);
  if (range.wasInVram) {
    vm.refaults += 1;
    vm.stats.add("wgsvm_refault_count");
  }
  range.wasInVram = true;
  return 0;
}

/**
 * Moves `[start, end)`, one chunk inside one VMA, to VRAM; 0 also when it is there already. -ENOSPC: VRAM is full of what
 * may not leave, or, with `noWaitGpu`, of what has not left yet. A mix of device and system pages, which no allocation may
 * hold, is brought home first. @kernel xe_svm_alloc_vram, xe_drm_pagemap_populate_mm
 */
export function* populate(vm: SvmVm, start: Va, end: Va, o: PopulateOptions): Steps<0 | Errno> {
  const target = o.target ?? vm.device;
  if (target.isResident(vm.mm, start, end, o.tile ?? 0)) return 0;
  const result = yield* populateOnce(vm, start, end, o);
  if (result !== EBUSY || o.noWaitGpu === true) return result;
  // Also what lies in the memory of a device without a link to this one, which no copy reaches.
  let isHealed = false;
  for (const device of vm.device.links.devices) {
    const mixed = device.buffersIn(vm.mm, start, end);
    if (mixed.length === 0) continue;
    yield* wait(device.evictBuffers(mixed));
    isHealed = true;
  }
  return isHealed ? yield* populateOnce(vm, start, end, o) : result;
}

function* populateOnce(vm: SvmVm, start: Va, end: Va, o: PopulateOptions): Steps<0 | Errno> {
  const { mm } = vm;
  const target = o.target ?? vm.device;
  if (!target.isAlive) return ENODEV;
  const room = o.noWaitGpu === true ? 0 : yield* wait(target.makeRoom(end - start, o.tile));
  if (isErr(room)) return room;
  if (!mm.mmget()) return EFAULT;
  // Of a peer's memory this may be the only user.
  const dpagemap = target.regions[o.tile ?? 0]!.usePagemap();
  try {
    const guard = yield* wait(mm.mmapLock.read());
    try {
      return yield* wait(target.populateMm(vm, start, end, o.timesliceMs ?? 0, o, o.tile));
    } finally {
      if (!mutated("mmap-lock-kept")) guard.release();
    }
  } finally {
    dpagemap.put();
    mm.mmput();
  }
}

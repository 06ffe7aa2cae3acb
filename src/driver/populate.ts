import type { Va } from "../base/addr.ts";
import { EBUSY, EFAULT, ENODEV, isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { mutated } from "../base/mutation.ts";
import { type MaybePromise, isPromise } from "../base/maybe-promise.ts";
import { type Steps, run, wait } from "../base/steps.ts";
import type { DrmPagemap } from "../pagemap/pagemap.ts";
import type { SvmDevice } from "./device.ts";
import type { ChunkCtx } from "./device-pagemap.ts";
import { SIZED } from "./stats.ts";
import type { SvmRange } from "./svm-range.ts";
import type { SvmVm } from "./vm.ts";

export interface PopulateOptions extends ChunkCtx {
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
export function migrateRange(
  vm: SvmVm,
  range: SvmRange,
  target: SvmDevice,
  timesliceMs: number,
  tile = 0,
): MaybePromise<0 | Errno> {
  const since = vm.steps.start();
  const populated = populate(vm, range.start, range.end, { target, tile, timesliceMs, noWaitGpu: false });
  return isPromise(populated)
    ? run(migratedLater(vm, range, since, populated))
    : countMigration(vm, range, since, populated);
}

function* migratedLater(vm: SvmVm, range: SvmRange, since: number, populated: Promise<0 | Errno>): Steps<0 | Errno> {
  return countMigration(vm, range, since, yield* wait(populated));
}

function countMigration(vm: SvmVm, range: SvmRange, since: number, result: 0 | Errno): 0 | Errno {
  vm.stats.addSized(SIZED.migrate_us, range.size, vm.steps.microsecondsSince(since));
  if (result !== 0) return result;
  vm.stats.addSized(SIZED.migrate_count, range.size);
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
export function populate(vm: SvmVm, start: Va, end: Va, o: PopulateOptions): MaybePromise<0 | Errno> {
  const target = o.target ?? vm.device;
  if (target.isResident(vm.mm, start, end, o.tile ?? 0)) return 0;
  const result = populateOnce(vm, target, start, end, o);
  const isOver = !isPromise(result) && (result !== EBUSY || o.noWaitGpu === true);
  return isOver ? result : run(heal(vm, target, start, end, o, result));
}

function* heal(
  vm: SvmVm,
  target: SvmDevice,
  start: Va,
  end: Va,
  o: PopulateOptions,
  first: MaybePromise<0 | Errno>,
): Steps<0 | Errno> {
  const result = yield* wait(first);
  if (result !== EBUSY || o.noWaitGpu === true) return result;
  // Also what lies in the memory of a device without a link to this one, which no copy reaches.
  let isHealed = false;
  for (const device of vm.device.links.devices) {
    const mixed = device.buffersIn(vm.mm, start, end);
    if (mixed.length === 0) continue;
    yield* wait(device.evictBuffers(mixed));
    isHealed = true;
  }
  return isHealed ? yield* wait(populateOnce(vm, target, start, end, o)) : result;
}

function populateOnce(vm: SvmVm, target: SvmDevice, start: Va, end: Va, o: PopulateOptions): MaybePromise<0 | Errno> {
  if (!target.isAlive) return ENODEV;
  const room = o.noWaitGpu === true ? 0 : target.makeRoom(end - start, o.tile);
  if (isPromise(room)) return run(populateAfter(room, vm, target, start, end, o));
  return isErr(room) ? room : populateRoom(vm, target, start, end, o);
}

function* populateAfter(
  room: Promise<0 | Errno>,
  vm: SvmVm,
  target: SvmDevice,
  start: Va,
  end: Va,
  o: PopulateOptions,
): Steps<0 | Errno> {
  const made = yield* wait(room);
  return isErr(made) ? made : yield* wait(populateRoom(vm, target, start, end, o));
}

/** There is room, unless somebody takes it meanwhile. */
function populateRoom(vm: SvmVm, target: SvmDevice, start: Va, end: Va, o: PopulateOptions): MaybePromise<0 | Errno> {
  const { mm } = vm;
  if (!mm.mmget()) return EFAULT;
  // Of a peer's memory this may be the only user.
  const dpagemap = target.regions[o.tile ?? 0]!.usePagemap();
  if (!mm.mmapLock.enterRead()) return run(populateWhenLocked(vm, target, dpagemap, start, end, o));
  let result: MaybePromise<0 | Errno> = EFAULT;
  try {
    result = target.populateMm(vm, start, end, o.timesliceMs ?? 0, o, o.tile);
  } finally {
    if (!isPromise(result)) leave(vm, dpagemap);
  }
  return isPromise(result) ? leaveAfter(result, vm, dpagemap) : result;
}

function* populateWhenLocked(
  vm: SvmVm,
  target: SvmDevice,
  dpagemap: DrmPagemap,
  start: Va,
  end: Va,
  o: PopulateOptions,
): Steps<0 | Errno> {
  try {
    const guard = yield* wait(vm.mm.mmapLock.read());
    try {
      return yield* wait(target.populateMm(vm, start, end, o.timesliceMs ?? 0, o, o.tile));
    } finally {
      if (!mutated("mmap-lock-kept")) guard.release();
    }
  } finally {
    dpagemap.put();
    vm.mm.mmput();
  }
}

async function leaveAfter<T>(result: Promise<T>, vm: SvmVm, dpagemap: DrmPagemap): Promise<T> {
  try {
    return await result;
  } finally {
    leave(vm, dpagemap);
  }
}

function leave({ mm }: SvmVm, dpagemap: DrmPagemap): void {
  if (!mutated("mmap-lock-kept")) mm.mmapLock.leaveRead();
  dpagemap.put();
  mm.mmput();
}

import { PAGE_SIZE } from "../base/addr.ts";
import type { Va } from "../base/addr.ts";
import { type MaybePromise, isPromise } from "../base/maybe-promise.ts";
import { type Steps, run, wait } from "../base/steps.ts";
import { PL_TT } from "../vram/place.ts";
import type { SvmDevice } from "./device.ts";
import type { DeviceWindow } from "./device-window.ts";
import { flushZapped } from "./invalidate.ts";
import type { RoundPins } from "./round-pins.ts";
import type { Userptr } from "./userptr.ts";
import type { SvmVm } from "./vm.ts";

/**
 * Room in the system window (spec/device.md 4.7, exhaustion). The window itself drops copies that nothing has mapped; this
 * is what the driver does when live mappings hold all of it, in this order:
 *
 *     1  places whose last user has gone, and which only wait for a copy back, are waited for
 *     2  buffer objects leave the window for RAM, where the caller may evict them
 *     3  live mappings give way, least recently used first, those of every address space of the device: their entries are
 *        zapped, the TLB is flushed, the pages unmapped. They fault again when they are next wanted.
 *
 * What a launch in progress has been promised is pinned and stays (round-pins.ts).
 *
 * Locking. As the interval callback: the notifier lock of one address space at a time, for write, and no driver lock of
 * others. So a bind that is under way there finds its pages invalid, and looks them up again.
 */
export interface WindowTenant {
  /** Bytes that it has mapped at most. */
  readonly size: number;
  /** `SvmDevice.nextUse` of when it was last served. */
  usedAt: number;
  /** Launches that it must survive. */
  readonly pins: number;
  /** It has pages of the window mapped. A hint unless the notifier lock is held. */
  readonly holdsWindow: boolean;
  /** Its address, for the trace. */
  readonly start: Va;
  /** Its entries go; the caller flushes the TLB before `giveWay`. Notifier lock held for write. */
  zap(vm: SvmVm): void;
  /** Its pages are unmapped; when the result has come, what the GPU wrote is home. Notifier lock held for write. */
  giveWay(vm: SvmVm): MaybePromise<void>;
}

/** Part of the window that one call makes free at least: every call may have to wait for a copy back. */
const SHARE = 1 / 4;
const IN_WINDOW = { memType: PL_TT };

/** Who may have to give way: everybody, or live mappings alone, for a caller that holds reservations. */
export type GivesWay = "all" | "mappings";

/**
 * Makes `bytes` of the window free, as far as others can give way. False: nobody could, so asking again is of no use. The
 * caller holds the notifier lock of no address space; with "all" it holds no reservation either.
 */
export function makeWindowRoom(device: SvmDevice, bytes: number, who: GivesWay = "all"): MaybePromise<boolean> {
  const { window } = device;
  if (window === null || bytes > window.capacity || device.gpu.isLost) return false;
  return run(steps(device, window, bytes, who));
}

/** Bytes of the window that a launch which keeps `pins` could still have if all others gave way. */
export function windowFor({ window }: SvmDevice, pins?: RoundPins): number {
  return (window?.capacity ?? 0) - (pins?.bytesInWindow ?? 0);
}

function* steps(device: SvmDevice, window: DeviceWindow, bytes: number, who: GivesWay): Steps<boolean> {
  const coming = window.whenPlacesComeFree();
  if (coming !== undefined) {
    yield coming;
    if (window.available >= bytes) return true;
  }
  if (who === "all") {
    const victims = device.regions.flatMap((region) => region.pickVictims(bytes, IN_WINDOW));
    if (victims.length > 0 && (yield* wait(device.evictBuffers(victims))) > 0) return true;
  }
  return yield* reclaim(device, window, bytes);
}

/** Takes mappings away from who has used them the longest ago. */
function* reclaim(device: SvmDevice, window: DeviceWindow, bytes: number): Steps<boolean> {
  const chosen = choose(device, window, bytes);
  let gone = 0;
  const arriving: Promise<void>[] = [];
  for (const [vm, tenants] of chosen) gone += yield* takeFrom(vm, tenants, arriving);
  // What the GPU has written comes home in one transfer, and the places are free when it has arrived.
  if (arriving.length > 0) yield Promise.allSettled(arriving);
  return gone > 0;
}

/** Who has to go, by address space: nobody, when all together would not do. */
function choose(device: SvmDevice, window: DeviceWindow, bytes: number): Map<SvmVm, WindowTenant[]> {
  const found: { vm: SvmVm; tenant: WindowTenant }[] = [];
  let held = 0;
  for (const vm of device.vms) {
    for (const tenant of tenantsOf(vm)) {
      if (tenant.pins > 0 || !tenant.holdsWindow) continue;
      found.push({ vm, tenant });
      held += tenant.size;
    }
  }
  const chosen = new Map<SvmVm, WindowTenant[]>();
  const missing = bytes - window.available;
  if (held < missing) return chosen;
  found.sort((a, b) => a.tenant.usedAt - b.tenant.usedAt);
  let wanted = Math.max(missing, window.capacity * SHARE);
  for (const { vm, tenant } of found) {
    if (wanted <= 0) break;
    wanted -= tenant.size;
    const list = chosen.get(vm);
    if (list === undefined) chosen.set(vm, [tenant]);
    else list.push(tenant);
  }
  return chosen;
}

/** A look without locks: what has changed until somebody is to go is looked at again then. */
function* tenantsOf(vm: SvmVm): Generator<WindowTenant> {
  const [start, end] = vm.window;
  for (const notifier of vm.gpusvm.forEachNotifier(start, end)) yield* notifier.forEachRange(start, end);
  const userptrs = new Set<Userptr>();
  for (const { userptr } of vm.binds.vas(0, vm.binds.gpuvm.mmEnd)) if (userptr !== null) userptrs.add(userptr);
  yield* userptrs;
}

/** The number of tenants that have gone; what of theirs is on its way home is added to `arriving`. */
function* takeFrom(vm: SvmVm, tenants: readonly WindowTenant[], arriving: Promise<void>[]): Steps<number> {
  const guard = yield* wait(vm.gpusvm.notifierLock.write());
  try {
    const going = tenants.filter((tenant) => tenant.pins === 0 && tenant.holdsWindow);
    for (const tenant of going) tenant.zap(vm);
    flushZapped(vm);
    for (const tenant of going) {
      const { start, size } = tenant;
      vm.trace.record("window-reclaim", vm.asid, start, start + size, size / PAGE_SIZE);
      const done = tenant.giveWay(vm);
      if (isPromise(done)) arriving.push(done);
    }
    vm.stats.add("wgsvm_window_reclaim_count", going.length);
    return going.length;
  } finally {
    guard.release();
  }
}

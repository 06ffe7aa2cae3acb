import type { Va } from "../base/addr.ts";
import { causedBy } from "../base/cause.ts";
import { EACCES, EINVAL, ENODEV, ENOENT, ENOLINK, isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { type Steps, run, wait } from "../base/steps.ts";
import { ACCESS_ATOMIC } from "../abi/fault.ts";
import { PAT_ENTRIES } from "../abi/pte.ts";
import { ATOMIC_CPU, ATOMIC_DEVICE, ATOMIC_UNDEFINED } from "./attributes.ts";
import type { MemAttr } from "./attributes.ts";
import type { SvmRange } from "./svm-range.ts";
import type { SvmVm } from "./vm.ts";

/**
 * Advice about `[start, end)`, whole pages of the mirror window. Nothing moves: the GPU loses what it has mapped of the
 * memory whose attributes change, and its next access is served as they say.
 *
 * -ENOENT: closed or banned. -EINVAL: outside of the window, or no index of memory attributes. -ENODEV: the preferred device was lost. -ENOLINK: this
 * device reaches the preferred one's memory by no link. @kernel xe_vm_madvise_ioctl
 */
export async function advise(vm: SvmVm, start: Va, end: Va, change: Partial<MemAttr>): Promise<0 | Errno> {
  const cause = vm.trace.record("advise", vm.asid, start, end, change.atomic ?? -1);
  return causedBy(cause, () => run(adviseSteps(vm, start, end, change)));
}

function* adviseSteps(vm: SvmVm, start: Va, end: Va, change: Partial<MemAttr>): Steps<0 | Errno> {
  const guard = yield* wait(vm.lock.write());
  try {
    const collected = yield* wait(vm.collector.collectLocked());
    if (isErr(collected)) return collected;
    if (vm.isBanned) return ENOENT;
    if (start < vm.window[0] || end > vm.window[1]) return EINVAL;
    const { loc, pat = null } = change;
    if (pat !== null && !(Number.isSafeInteger(pat) && pat >= 0 && pat < PAT_ENTRIES)) return EINVAL;
    if (typeof loc === "object" && loc !== vm.device) {
      if (loc.gpu.isLost) return ENODEV;
      if (loc.region.pgmap.owner !== vm.device.region.pgmap.owner) return ENOLINK;
    }
    for (const piece of vm.attributes.set(start, end, change)) {
      for (const range of rangesIn(vm, piece.start, piece.end)) yield* renew(vm, range);
    }
    return 0;
  } finally {
    guard.release();
  }
}

/** A range has one set of attributes: one across a border gives way to smaller ones. @kernel xe_vm_invalidate_madvise_range */
function* renew(vm: SvmVm, range: SvmRange): Steps<void> {
  if (range.unmapped) return;
  const piece = vm.attributes.pieceAt(range.start, range.start, range.end);
  if (piece.end === range.end) {
    yield* wait(vm.dropMapping(range));
    return;
  }
  // A buffer that a launch needs where it is stays; its pages are good for smaller ranges too.
  yield* wait(vm.device.evictBuffers(vm.device.buffersIn(vm.mm, range.start, range.end)));
  yield* wait(vm.removeRange(range));
}

function rangesIn(vm: SvmVm, start: Va, end: Va): SvmRange[] {
  const found: SvmRange[] = [];
  for (const notifier of vm.gpusvm.forEachNotifier(start, end)) found.push(...notifier.forEachRange(start, end));
  return found;
}

/** Of `[start, end)`, what no mirror covers any more has no attributes: they were the mapping's. The VM's lock is held. */
export function forgetUnmirrored(vm: SvmVm, start: Va, end: Va): void {
  if (vm.attributes.isEmpty) return;
  for (const piece of vm.attributes.pieces(start, end)) {
    for (let at = piece.start; at < piece.end;) {
      const [va] = vm.binds.vas(at, piece.end);
      const mirrored = va?.isMirror === true ? va.addr : (va?.end ?? piece.end);
      if (mirrored > at) vm.attributes.reset(at, Math.min(mirrored, piece.end));
      at = va === undefined ? piece.end : va.end;
    }
  }
}

/**
 * Whether the access wants the memory of the device that asks: 1 if so, 0 if any memory will do. -EACCES: the device's
 * atomics are not allowed here. `canMove`: the memory may go there.
 *
 * Unlike Xe's, this device does coherent atomics on system memory in its window where its hardware says so, and UNDEFINED
 * makes use of it. GLOBAL brings the page to the device all the same, as Xe does, as long as it can move at all.
 * @kernel xe_vma_need_vram_for_atomic
 */
export function needVramForAtomic(vm: SvmVm, access: number, attr: MemAttr, canMove: boolean): 0 | 1 | Errno {
  if (access !== ACCESS_ATOMIC) return 0;
  if (attr.atomic === ATOMIC_CPU) return EACCES;
  if (!vm.device.hasSystemAtomics) return 1;
  if (attr.atomic === ATOMIC_DEVICE || attr.atomic === ATOMIC_UNDEFINED) return 0;
  return canMove ? 1 : 0;
}

/** Whether entries of a range may carry the right to do atomics. @kernel xe_atomic_for_vram, xe_atomic_for_system */
export function mayDoAtomics(vm: SvmVm, range: SvmRange, attr: MemAttr, inVram: boolean): boolean {
  if (attr.atomic === ATOMIC_CPU) return false;
  return inVram || needVramForAtomic(vm, ACCESS_ATOMIC, attr, vm.canMigrate(range)) === 0;
}

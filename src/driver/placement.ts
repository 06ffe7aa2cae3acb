import { PAGE_SIZE, isAligned, pagesIn } from "../base/addr.ts";
import { EAGAIN, EINVAL, ENOENT, ENOMEM, ENOSPC, EOPNOTSUPP, EPERM, isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { bindRange } from "./bind.ts";
import type { SvmBo } from "./svm-bo.ts";
import type { SvmVm } from "./vm.ts";

/**
 * Placement on request: moving an interval to VRAM or home without a fault (spec/gpusvm.md 5.7).
 *
 * An interval is worked off in the chunks that a fault would use, where they fit into it. What this call has moved stays
 * until it ends, so an interval larger than VRAM does not evict its own head.
 */
export interface PrefetchOptions {
  /** Map for the GPU what was moved. */
  readonly bind: boolean;
  /** Stop where VRAM is full instead of failing with -ENOMEM. */
  readonly partial: boolean;
}

/** Pages moved, or -ENOENT (a hole), -EPERM (no access), -EINVAL (memory that does not migrate), -ENOMEM. */
export async function prefetchToVram(vm: SvmVm, start: number, end: number, o: PrefetchOptions): Promise<number> {
  const guard = await vm.lock.write();
  const pinned = new Set<SvmBo>();
  try {
    const collected = await vm.collector.collectLocked();
    if (isErr(collected)) return collected;
    const valid = checkAreas(vm, start, end, true);
    if (valid !== 0) return valid;
    for (const bo of vm.device.buffersIn(vm.mm, start, end)) pin(vm, pinned, bo);
    await makeRoomFor(vm, start, end, pinned);
    let moved = 0;
    for (let at = start; at < end;) {
      const size = chunkAt(vm, at, end);
      const before = vm.counters.toDevBytes;
      const result = await vm.populate(at, at + size);
      if (result === ENOSPC) return o.partial ? moved : ENOMEM;
      if (result !== 0) return result;
      moved += (vm.counters.toDevBytes - before) / PAGE_SIZE;
      for (const bo of vm.device.buffersIn(vm.mm, at, at + size)) pin(vm, pinned, bo);
      if (o.bind) {
        const bound = await bindAt(vm, at);
        if (isErr(bound)) return bound;
      }
      at += size;
    }
    return moved;
  } finally {
    for (const bo of pinned) bo.unpin();
    guard.release();
  }
}

/** Pages moved home, or -ENOENT, -EPERM as above. Buffers that reach beyond the interval go as a whole. */
export async function toSystem(vm: SvmVm, start: number, end: number): Promise<number> {
  const guard = await vm.lock.write();
  try {
    const valid = checkAreas(vm, start, end, false);
    if (valid !== 0) return valid;
    const before = residentPages(vm, start, end);
    await vm.device.evictBuffers(vm.device.buffersIn(vm.mm, start, end));
    return before - residentPages(vm, start, end);
  } finally {
    guard.release();
  }
}

function checkAreas(vm: SvmVm, start: number, end: number, migrates: boolean): 0 | Errno {
  for (let at = start; at < end;) {
    const vma = vm.mm.vmaLookup(at);
    if (vma === null) return ENOENT;
    if (!vma.readable) return EPERM;
    if (migrates && !vma.anonymous) return EINVAL;
    at = vma.end;
  }
  return 0;
}

function residentPages(vm: SvmVm, start: number, end: number): number {
  let pages = 0;
  for (let at = start; at < end; at += PAGE_SIZE) if (vm.device.boAt(vm.mm, at) !== null) pages += 1;
  return pages;
}

/** One eviction for the whole interval instead of one per chunk. */
async function makeRoomFor(vm: SvmVm, start: number, end: number, pinned: ReadonlySet<SvmBo>): Promise<void> {
  const { region } = vm.device;
  const wanted = (pagesIn(start, end) - residentPages(vm, start, end)) * PAGE_SIZE;
  let held = 0;
  for (const bo of pinned) held += bo.size;
  const missing = Math.min(wanted, region.heapBytes - held) - region.free;
  if (missing > 0) await vm.device.evict(missing);
}

/** The largest chunk that begins at `at` and lies inside the interval and one area. */
function chunkAt(vm: SvmVm, at: number, end: number): number {
  const limit = Math.min(end, vm.mm.vmaLookup(at)?.end ?? end);
  return vm.chunkSizes.find((size) => isAligned(at, size) && at + size <= limit) ?? PAGE_SIZE;
}

/** Maps the range at `at` for the GPU. A range that another placement has meanwhile mixed is left to the next fault. */
async function bindAt(vm: SvmVm, at: number): Promise<0 | Errno> {
  const vma = vm.mm.vmaLookup(at);
  if (vma === null) return ENOENT;
  const ctx = vm.faultCtx(!vma.writable);
  const range = await vm.gpusvm.rangeFindOrInsert(at, vm.window[0], vm.window[1], ctx);
  if (isErr(range)) return range;
  if (range.isBound) return 0;
  const got = await vm.gpusvm.rangeGetPages(range, ctx);
  if (got === EOPNOTSUPP) return 0;
  if (got !== 0) return got;
  range.readOnly = ctx.readOnly;
  const bound = await bindRange(vm, range);
  return bound === EAGAIN ? 0 : bound;
}

function pin(vm: SvmVm, pinned: Set<SvmBo>, bo: SvmBo): void {
  vm.device.region.touch(bo);
  if (pinned.has(bo)) return;
  bo.pin();
  pinned.add(bo);
}

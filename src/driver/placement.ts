import { PAGE_SIZE, isAligned, pagesIn } from "../base/addr.ts";
import { causedBy } from "../base/cause.ts";
import { EAGAIN, EBUSY, EINVAL, ENOENT, ENOMEM, ENOSPC, EOPNOTSUPP, EPERM, isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { type Steps, run, wait } from "../base/steps.ts";
import { bindRange } from "./bind.ts";
import { LaunchTurns } from "./launch-turns.ts";
import { placeChunk, unshare } from "./place-chunk.ts";
import { RoundPins } from "./round-pins.ts";
import type { SvmBo } from "./svm-bo.ts";
import { SlicedLock } from "./time-slice.ts";
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
  /** Neither evict nor wait for memory that others are leaving: it counts as full. */
  readonly noWait?: boolean;
  /** To whose memory, and for whom it is mapped. Default 0. */
  readonly tile?: number;
  /** The VM's lock, if it may be given up between two chunks. */
  readonly lock?: SlicedLock;
}

/** Pages moved, or -ENOENT (a hole), -EPERM (no access), -EINVAL (memory that does not migrate), -ENOMEM. */
export async function prefetchToVram(vm: SvmVm, start: number, end: number, o: PrefetchOptions): Promise<number> {
  const cause = vm.trace.record("prefetch", vm.asid, start, end, 1);
  return causedBy(cause, () => run(toVramSteps(vm, start, end, o)));
}

function* toVramSteps(vm: SvmVm, start: number, end: number, o: PrefetchOptions): Steps<number> {
  const lock = yield* SlicedLock.take(vm);
  try {
    return yield* toVramLocked(vm, start, end, { ...o, lock });
  } finally {
    lock.release();
  }
}

function* toVramLocked(vm: SvmVm, start: number, end: number, o: PrefetchOptions): Steps<number> {
  const { tile = 0 } = o;
  const pinned = new Set<SvmBo>();
  // Launches that find no room wait for it. What a policy brings belongs to the service of one.
  const turn = o.noWait === true ? null : LaunchTurns.of(vm.device).join(new RoundPins(), true);
  try {
    const collected = yield* wait(vm.collector.collectLocked());
    if (isErr(collected)) return collected;
    const valid = checkAreas(vm, start, end, true);
    if (valid !== 0) return valid;
    for (const bo of vm.device.buffersIn(vm.mm, start, end, tile)) pin(pinned, bo);
    if (o.noWait !== true) yield* makeRoomFor(vm, start, end, pinned, tile);
    let moved = 0;
    for (let at = start; at < end;) {
      if (o.lock !== undefined && (yield* o.lock.pause())) {
        const changed = yield* wait(vm.collector.collectLocked());
        if (isErr(changed)) return changed;
        const stillValid = checkAreas(vm, at, end, true);
        if (stillValid !== 0) return stillValid;
      }
      const size = chunkAt(vm, at, end, o);
      const thrash = vm.policies.thrash.onPlacement(at);
      // What bounces and is kept in RAM for it moves on request, and not because somebody expects it to be wanted.
      if (thrash.pin && o.noWait === true) {
        at += size;
        continue;
      }
      if (o.bind && vm.mm.vmaLookup(at)?.writable === true) {
        const own = yield* unshare(vm, at, at + size);
        if (own !== 0) return own;
      }
      const before = vm.counters.toDevBytes;
      const result = yield* placeChunk(vm, at, at + size, {
        noWaitGpu: o.noWait === true,
        timesliceMs: thrash.timesliceMs,
        tile,
        // What a policy expects to be wanted comes piece by piece, behind what has been wanted.
        isAlone: o.noWait !== true && at === start && at + size === end,
      });
      if (result === ENOSPC) return o.partial ? moved : ENOMEM;
      // A prefetch is advice: what cannot move now stays where it is.
      if (result !== 0 && (result !== EBUSY || !o.bind)) return result;
      moved += (vm.counters.toDevBytes - before) / PAGE_SIZE;
      for (const bo of vm.device.buffersIn(vm.mm, at, at + size, tile)) pin(pinned, bo);
      if (o.bind && result === 0) {
        const bound = yield* bindAt(vm, at, tile);
        if (isErr(bound)) return bound;
      }
      at += size;
    }
    return moved;
  } finally {
    for (const bo of pinned) bo.unpin();
    turn?.end();
  }
}

/**
 * Prefetch of a stretch of a mirror as a bind asks for it: area by area, as far as there is something to move and room for
 * it; holes are passed over. The VM's lock is held for write. @kernel prefetch_ranges
 */
export function* prefetchMirror(vm: SvmVm, start: number, end: number, toDevice: boolean): Steps<void> {
  for (let at = start; at < end;) {
    const guard = yield* wait(vm.mm.mmapLock.read());
    const vma = vm.mm.findVmaIntersection(at, end);
    guard.release();
    if (vma === null) return;
    const from = Math.max(at, vma.start);
    const to = Math.min(end, vma.end);
    if (toDevice) yield* toVramLocked(vm, from, to, { bind: true, partial: true });
    else yield* wait(vm.device.evictBuffers(vm.device.buffersIn(vm.mm, from, to)));
    at = to;
  }
}

/** Brings and maps `[start, end)` as far as it can go to VRAM without putting anybody out. Pages moved. The VM's lock is held. */
export function* prefetchFree(vm: SvmVm, start: number, end: number, tile: number): Steps<number> {
  vm.trace.record("prefetch", vm.asid, start, end, 1);
  const before = vm.counters.toDevBytes;
  yield* toVramLocked(vm, start, end, { bind: true, partial: true, noWait: true, tile });
  return (vm.counters.toDevBytes - before) / PAGE_SIZE;
}

/**
 * Moves each piece of `[start, end)` to where it had best lie: home, or to VRAM as far as there is room, and maps it. What had
 * better be on another device stays where it is; where the advice names no tile, it goes to `tile`. Pages moved, or an error as of `prefetchToVram`.
 * @kernel DRM_XE_CONSULT_MEM_ADVISE_PREF_LOC
 */
export async function prefetchAdvised(vm: SvmVm, start: number, end: number, tile: number): Promise<number> {
  const cause = vm.trace.record("prefetch", vm.asid, start, end, 1);
  return causedBy(cause, () => run(advisedSteps(vm, start, end, tile)));
}

function* advisedSteps(vm: SvmVm, start: number, end: number, tile: number): Steps<number> {
  const lock = yield* SlicedLock.take(vm);
  try {
    let moved = 0;
    for (const piece of vm.attributes.pieces(start, end)) {
      if (piece.loc !== "system" && piece.loc !== "device" && piece.loc !== vm.device) continue;
      const count =
        piece.loc === "system"
          ? yield* homeLocked(vm, piece.start, piece.end)
          : yield* toVramLocked(vm, piece.start, piece.end, {
              bind: true,
              partial: true,
              tile: piece.tile ?? tile,
              lock,
            });
      if (isErr(count)) return count;
      moved += count;
    }
    return moved;
  } finally {
    lock.release();
  }
}

/** Pages moved home, or -ENOENT, -EPERM as above. Buffers that reach beyond the interval go as a whole. */
export async function toSystem(vm: SvmVm, start: number, end: number): Promise<number> {
  const cause = vm.trace.record("prefetch", vm.asid, start, end, 0);
  return causedBy(cause, () => run(toSystemSteps(vm, start, end)));
}

function* toSystemSteps(vm: SvmVm, start: number, end: number): Steps<number> {
  const guard = yield* wait(vm.lock.write());
  try {
    return yield* homeLocked(vm, start, end);
  } finally {
    guard.release();
  }
}

function* homeLocked(vm: SvmVm, start: number, end: number): Steps<number> {
  const valid = checkAreas(vm, start, end, false);
  if (valid !== 0) return valid;
  const before = vm.device.residentPages(vm.mm, start, end);
  yield* wait(vm.device.evictBuffers(vm.device.buffersIn(vm.mm, start, end)));
  return before - vm.device.residentPages(vm.mm, start, end);
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

/** One eviction for the whole interval instead of one per chunk. */
function* makeRoomFor(vm: SvmVm, start: number, end: number, pinned: ReadonlySet<SvmBo>, tile: number): Steps<void> {
  const region = vm.device.regions[tile]!;
  const wanted = (pagesIn(start, end) - vm.device.residentPages(vm.mm, start, end, tile)) * PAGE_SIZE;
  let held = 0;
  for (const bo of pinned) held += bo.size;
  const missing = Math.min(wanted, region.heapBytes - held) - region.free;
  if (missing > 0) yield* wait(vm.device.evict(missing, tile));
}

/**
 * The largest chunk that begins at `at` and lies inside the interval, one area, and one piece of advice. Of what only a policy
 * expects to be wanted none is there in part: no allocation gathers such a one, and to try would take from the GPU what it has
 * just been given.
 */
function chunkAt(vm: SvmVm, at: number, end: number, { noWait = false, tile }: PrefetchOptions): number {
  const limit = vm.attributes.pieceAt(at, at, Math.min(end, vm.mm.vmaLookup(at)?.end ?? end)).end;
  const fits = (size: number) => isAligned(at, size) && at + size <= limit;
  const suits = (size: number) => fits(size) && !(noWait && isPartlyIn(vm, at, at + size, tile));
  return vm.chunkSizes.find(suits) ?? PAGE_SIZE;
}

function isPartlyIn(vm: SvmVm, start: number, end: number, tile = 0): boolean {
  const pages = vm.device.residentPages(vm.mm, start, end, tile);
  return pages > 0 && pages < pagesIn(start, end);
}

/** Maps the range at `at` for the GPU. A range that another placement has meanwhile mixed is left to the next fault. */
function* bindAt(vm: SvmVm, at: number, tile: number): Steps<0 | Errno> {
  const vma = vm.mm.vmaLookup(at);
  if (vma === null) return ENOENT;
  const ctx = vm.faultCtx(!vma.writable);
  const mirror = vm.binds.at(at);
  // Moved, but not the GPU's to reach at this address.
  if (mirror === null || !mirror.isMirror) return 0;
  const piece = vm.attributes.pieceAt(at, mirror.addr, mirror.end);
  const range = yield* wait(vm.gpusvm.rangeFindOrInsert(at, piece.start, piece.end, ctx));
  if (isErr(range)) return range;
  if (range.isBoundOn(tile)) return 0;
  // Tiles have a range in one way: what another has mapped for reading only does not serve a store.
  if ((range.isBound || range.readOnly) && range.readOnly !== ctx.readOnly) yield* wait(vm.dropMapping(range));
  const got = yield* wait(vm.gpusvm.rangeGetPages(range, ctx));
  if (got === EOPNOTSUPP) return 0;
  if (got !== 0) return got;
  range.readOnly = ctx.readOnly;
  const bound = yield* wait(bindRange(vm, range, tile));
  return bound === EAGAIN ? 0 : bound;
}

function pin(pinned: Set<SvmBo>, bo: SvmBo): void {
  bo.region.touch(bo);
  if (pinned.has(bo)) return;
  bo.pin();
  pinned.add(bo);
}

import { alignDown } from "../base/addr.ts";
import { EFAULT, EINVAL, EIO, ENOENT, ENOMEM, EPERM, type Errno, isErr } from "../base/errno.ts";
import type { Guard } from "../base/locks.ts";
import { type MaybePromise, isPromise } from "../base/maybe-promise.ts";
import { type Steps, run, wait } from "../mm/steps.ts";
import type { SvmMm, VmaView } from "../mm/types.ts";
import { chunkRequest, rangeChunkSize } from "./chunk-size.ts";
import type { GpuSvmCtx } from "./ctx.ts";
import { MIGRATE_DEVMEM } from "./flags.ts";
import type { GpuSvm } from "./gpusvm.ts";
import type { GpuSvmNotifier } from "./notifier.ts";
import type { GpuSvmRange } from "./range.ts";

/** One call. @kernel drm_gpusvm_range_find_or_insert */
export interface FindOrInsert {
  readonly faultAddr: number;
  readonly gpuvaStart: number;
  readonly gpuvaEnd: number;
  readonly ctx: GpuSvmCtx;
}

/** See `GpuSvm.rangeFindOrInsert`. Runs through without waiting where the notifier exists and the locks are free. */
export function rangeFindOrInsert<R extends GpuSvmRange>(
  gpusvm: GpuSvm<R>,
  call: FindOrInsert,
): MaybePromise<R | Errno> {
  const { mirroredMm: mm, mmStart, mmRange, quirks } = gpusvm;
  const { faultAddr } = call;
  const end = mmStart + mmRange;
  if (faultAddr < mmStart || faultAddr > end || (faultAddr === end && !quirks.acceptEndAddress)) return EINVAL;
  if (!mm.mmget()) return EFAULT;
  const notifier = gpusvm.notifierAt(faultAddr);
  const guard = notifier === null ? null : mm.mmapLock.tryRead();
  if (notifier === null || guard === null) return run(findOrInsertWaiting(gpusvm, notifier, call));
  const found = findOrInsertLocked(gpusvm, notifier, call);
  if (isPromise(found)) return leaveAfter(found, mm, guard);
  guard.release();
  mm.mmput();
  return found;
}

async function leaveAfter<T>(result: Promise<T>, mm: SvmMm, guard: Guard): Promise<T> {
  try {
    return await result;
  } finally {
    guard.release();
    mm.mmput();
  }
}

/** The same with a notifier to make first, or a lock to wait for. */
function* findOrInsertWaiting<R extends GpuSvmRange>(
  gpusvm: GpuSvm<R>,
  existing: GpuSvmNotifier<R> | null,
  call: FindOrInsert,
): Steps<R | Errno> {
  const { mirroredMm: mm } = gpusvm;
  try {
    // Registration comes before the mmap lock, which the first one of an mm takes for write.
    const notifier = existing ?? (yield* notifierRegister(gpusvm, call.faultAddr));
    if (isErr(notifier)) return notifier;
    const guard = yield* wait(mm.mmapLock.read());
    let range: R | Errno;
    try {
      range = yield* wait(findOrInsertLocked(gpusvm, notifier, call));
    } finally {
      guard.release();
    }
    if (existing === null) {
      if (isErr(range)) yield* notifierUnregister(gpusvm, notifier);
      else gpusvm.notifierInsert(notifier);
    }
    return range;
  } finally {
    mm.mmput();
  }
}

/** A notifier for the window around the address, registered with the mm but not yet in the gpusvm's tree. */
function* notifierRegister<R extends GpuSvmRange>(
  gpusvm: GpuSvm<R>,
  faultAddr: number,
): Steps<GpuSvmNotifier<R> | Errno> {
  const notifier = gpusvm.notifierAlloc();
  if (notifier === null) return ENOMEM;
  const start = alignDown(faultAddr, gpusvm.notifierSize);
  notifier.setWindow(start, start + gpusvm.notifierSize - 1);
  const err = yield* wait(gpusvm.mirroredMm.intervalNotifierInsert(notifier.notifier));
  if (err === 0) return notifier;
  gpusvm.ops.notifierFree?.(notifier);
  return err;
}

function* notifierUnregister<R extends GpuSvmRange>(gpusvm: GpuSvm<R>, notifier: GpuSvmNotifier<R>): Steps<void> {
  yield* wait(gpusvm.mirroredMm.intervalNotifierRemove(notifier.notifier));
  gpusvm.ops.notifierFree?.(notifier);
}

/** The mmap lock is held for read. The checks of the VMA come before an existing range is even looked for. */
function findOrInsertLocked<R extends GpuSvmRange>(
  gpusvm: GpuSvm<R>,
  notifier: GpuSvmNotifier<R>,
  call: FindOrInsert,
): MaybePromise<R | Errno> {
  const { faultAddr, ctx } = call;
  const vma = gpusvm.mirroredMm.vmaLookup(faultAddr);
  if (vma === null) return ENOENT;
  if (!ctx.readOnly && !vma.writable) return EPERM;
  if (vma.special && !gpusvm.quirks.acceptSpecialVma) return EIO;
  const existing = notifier.rangeFind(faultAddr, faultAddr + 1);
  if (existing !== null) return existing;
  const request = chunkRequest(gpusvm, notifier, vma, faultAddr, call.gpuvaStart, call.gpuvaEnd, ctx);
  const size = rangeChunkSize(gpusvm, notifier, request);
  if (isPromise(size)) return size.then((chosen) => rangeCreate(gpusvm, notifier, vma, call, chosen));
  return rangeCreate(gpusvm, notifier, vma, call, size);
}

/** Makes the range and puts it in its notifier. @kernel drm_gpusvm_range_alloc, drm_gpusvm_range_insert */
function rangeCreate<R extends GpuSvmRange>(
  gpusvm: GpuSvm<R>,
  notifier: GpuSvmNotifier<R>,
  vma: VmaView,
  call: FindOrInsert,
  size: number | Errno,
): MaybePromise<R | Errno> {
  if (isErr(size)) return size;
  const range = gpusvm.rangeAlloc();
  if (range === null) return ENOMEM;
  const start = alignDown(call.faultAddr, size);
  range.notifier = notifier;
  range.refcount = 1;
  range.start = start;
  range.last = start + size - 1;
  range.flags = call.ctx.devmemPossible && vma.anonymous && !vma.hugetlb ? MIGRATE_DEVMEM : 0;
  // Read mode will do for a change of the tree: those who read it without the driver's lock are callbacks, in write mode.
  const guard = gpusvm.notifierLock.read();
  if (isPromise(guard)) return guard.then((held) => rangeInsert(notifier, range, held));
  return rangeInsert(notifier, range, guard);
}

function rangeInsert<R extends GpuSvmRange>(notifier: GpuSvmNotifier<R>, range: R, guard: Guard): R {
  notifier.rangeInsert(range);
  guard.release();
  return range;
}

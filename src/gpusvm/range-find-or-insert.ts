import { alignDown } from "../base/addr.ts";
import { EFAULT, EINVAL, EIO, ENOENT, ENOMEM, EPERM, type Errno, isErr } from "../base/errno.ts";
import { type MaybePromise, isPromise } from "../base/maybe-promise.ts";
import { type Steps, run, wait } from "../mm/steps.ts";
import type { SvmMm, VmaView } from "../mm/types.ts";
import { rangeChunkSize } from "./chunk-size.ts";
import type { GpuSvmCtx } from "./ctx.ts";
import { MIGRATE_DEVMEM } from "./flags.ts";
import type { GpuSvm } from "./gpusvm.ts";
import type { GpuSvmNotifier } from "./notifier.ts";
import type { GpuSvmRange } from "./range.ts";

/** See `GpuSvm.rangeFindOrInsert`. Runs through without waiting where the notifier exists and the locks are free. */
export function rangeFindOrInsert<R extends GpuSvmRange>(
  gpusvm: GpuSvm<R>,
  faultAddr: number,
  gpuvaStart: number,
  gpuvaEnd: number,
  ctx: GpuSvmCtx,
): MaybePromise<R | Errno> {
  const { mirroredMm: mm, mmStart, mmEnd } = gpusvm;
  if (!(faultAddr >= mmStart && faultAddr <= mmEnd)) return EINVAL;
  if (faultAddr === mmEnd && !gpusvm.quirks.acceptEndAddress) return EINVAL;
  if (!mm.mmget()) return EFAULT;
  const notifier = gpusvm.notifierAt(faultAddr);
  if (notifier === null || !mm.mmapLock.enterRead()) {
    return run(findOrInsertWaiting(gpusvm, notifier, { faultAddr, gpuvaStart, gpuvaEnd, ctx }));
  }
  const found = findOrInsertLocked(gpusvm, notifier, faultAddr, gpuvaStart, gpuvaEnd, ctx);
  if (isPromise(found)) return leaveAfter(found, mm);
  mm.mmapLock.leaveRead();
  mm.mmput();
  return found;
}

async function leaveAfter<T>(result: Promise<T>, mm: SvmMm): Promise<T> {
  try {
    return await result;
  } finally {
    mm.mmapLock.leaveRead();
    mm.mmput();
  }
}

/** The arguments of a call that has to wait. */
interface FindOrInsert {
  readonly faultAddr: number;
  readonly gpuvaStart: number;
  readonly gpuvaEnd: number;
  readonly ctx: GpuSvmCtx;
}

/** The same with a notifier to make first, or a lock to wait for. */
function* findOrInsertWaiting<R extends GpuSvmRange>(
  gpusvm: GpuSvm<R>,
  existing: GpuSvmNotifier<R> | null,
  call: FindOrInsert,
): Steps<R | Errno> {
  const { mirroredMm: mm } = gpusvm;
  const { faultAddr, gpuvaStart, gpuvaEnd, ctx } = call;
  try {
    // Registration comes before the mmap lock, which the first one of an mm takes for write.
    const notifier = existing ?? (yield* notifierRegister(gpusvm, faultAddr));
    if (isErr(notifier)) return notifier;
    const guard = yield* wait(mm.mmapLock.read());
    let range: R | Errno;
    try {
      range = yield* wait(findOrInsertLocked(gpusvm, notifier, faultAddr, gpuvaStart, gpuvaEnd, ctx));
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
  faultAddr: number,
  gpuvaStart: number,
  gpuvaEnd: number,
  ctx: GpuSvmCtx,
): MaybePromise<R | Errno> {
  const vma = gpusvm.mirroredMm.vmaLookup(faultAddr);
  if (vma === null) return ENOENT;
  if (!ctx.readOnly && !vma.writable) return EPERM;
  if (vma.special && !gpusvm.quirks.acceptSpecialVma) return EIO;
  const existing = notifier.rangeAt(faultAddr);
  if (existing !== null) return existing;
  const size = rangeChunkSize(gpusvm, notifier, vma, faultAddr, gpuvaStart, gpuvaEnd, ctx);
  if (isPromise(size)) return size.then((chosen) => rangeCreate(gpusvm, notifier, vma, faultAddr, ctx, chosen));
  return rangeCreate(gpusvm, notifier, vma, faultAddr, ctx, size);
}

/** Makes the range and puts it in its notifier. @kernel drm_gpusvm_range_alloc, drm_gpusvm_range_insert */
function rangeCreate<R extends GpuSvmRange>(
  gpusvm: GpuSvm<R>,
  notifier: GpuSvmNotifier<R>,
  vma: VmaView,
  faultAddr: number,
  ctx: GpuSvmCtx,
  size: number | Errno,
): MaybePromise<R | Errno> {
  if (isErr(size)) return size;
  const range = gpusvm.rangeAlloc();
  if (range === null) return ENOMEM;
  const start = alignDown(faultAddr, size);
  range.notifier = notifier;
  range.refcount = 1;
  range.start = start;
  range.size = size;
  range.flags = ctx.devmemPossible && vma.anonymous && !vma.hugetlb ? MIGRATE_DEVMEM : 0;
  // Read mode will do for a change of the tree: those who read it without the driver's lock are callbacks, in write mode.
  if (!gpusvm.notifierLock.enterRead()) return rangeInsertWaiting(gpusvm, notifier, range);
  notifier.rangeInsert(range);
  gpusvm.notifierLock.leaveRead();
  return range;
}

async function rangeInsertWaiting<R extends GpuSvmRange>(
  gpusvm: GpuSvm<R>,
  notifier: GpuSvmNotifier<R>,
  range: R,
): Promise<R> {
  const guard = await gpusvm.notifierLock.read();
  notifier.rangeInsert(range);
  guard.release();
  return range;
}

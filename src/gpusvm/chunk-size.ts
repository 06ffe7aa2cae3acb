import { SZ_4K, alignDown } from "../base/addr.ts";
import { EINVAL, type Errno } from "../base/errno.ts";
import { type MaybePromise, isPromise } from "../base/maybe-promise.ts";
import type { VmaView } from "../mm/types.ts";
import { checkPages } from "./check-pages.ts";
import type { GpuSvmCtx } from "./ctx.ts";
import type { GpuSvm } from "./gpusvm.ts";
import type { GpuSvmNotifier } from "./notifier.ts";
import type { GpuSvmRange } from "./range.ts";

/**
 * The largest chunk around the address that lies in the VMA, the notifier, `[gpuvaStart, gpuvaEnd)` and the mirror window,
 * touches no existing range (those are never split, grown or replaced) and, up to the threshold, has all its pages
 * present for the CPU. 4 KiB needs no test but to fit: the caller knows that nobody covers the page. -EINVAL when nothing
 * fits. The mmap lock is held. @kernel drm_gpusvm_range_chunk_size
 */
export function rangeChunkSize<R extends GpuSvmRange>(
  gpusvm: GpuSvm<R>,
  notifier: GpuSvmNotifier<R>,
  vma: VmaView,
  faultAddr: number,
  gpuvaStart: number,
  gpuvaEnd: number,
  ctx: GpuSvmCtx,
): MaybePromise<number | Errno> {
  let start = Math.max(vma.start, notifier.start, gpuvaStart);
  let end = Math.min(vma.end, notifier.end, gpuvaEnd);
  if (!gpusvm.quirks.unboundedChunk) {
    start = Math.max(start, gpusvm.mmStart);
    end = Math.min(end, gpusvm.mmEnd);
  }
  return chooseFrom(gpusvm, notifier, faultAddr, start, end, ctx, 0);
}

/** The choice among the chunk sizes from index `first` on, with all that bounds the chunk intersected. */
function chooseFrom<R extends GpuSvmRange>(
  gpusvm: GpuSvm<R>,
  notifier: GpuSvmNotifier<R>,
  faultAddr: number,
  start: number,
  end: number,
  ctx: GpuSvmCtx,
  first: number,
): MaybePromise<number | Errno> {
  const { chunkSizes } = gpusvm;
  for (let i = first; i < chunkSizes.length; i++) {
    const size = chunkSizes[i];
    const from = alignDown(faultAddr, size);
    const to = from + size;
    if (from < start || to > end) continue;
    if (size === SZ_4K) return size;
    if (notifier.rangeFind(from, to) !== null) continue;
    if (size > ctx.checkPagesThreshold) return size;
    const present = checkPages(gpusvm, notifier, from, to, ctx);
    if (isPromise(present)) return afterCheck(present, gpusvm, notifier, faultAddr, start, end, ctx, i);
    if (present) return size;
  }
  return EINVAL;
}

/** The rest of the choice when the presence test of chunk `index` has to wait. */
async function afterCheck<R extends GpuSvmRange>(
  present: Promise<boolean>,
  gpusvm: GpuSvm<R>,
  notifier: GpuSvmNotifier<R>,
  faultAddr: number,
  start: number,
  end: number,
  ctx: GpuSvmCtx,
  index: number,
): Promise<number | Errno> {
  if (await present) return gpusvm.chunkSizes[index];
  return chooseFrom(gpusvm, notifier, faultAddr, start, end, ctx, index + 1);
}

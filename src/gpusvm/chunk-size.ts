import { SZ_4K, alignDown } from "../base/addr.ts";
import { EINVAL, type Errno } from "../base/errno.ts";
import { type MaybePromise, isPromise } from "../base/maybe-promise.ts";
import type { VmaView } from "../mm/types.ts";
import { checkPages } from "./check-pages.ts";
import type { GpuSvmCtx } from "./ctx.ts";
import type { GpuSvm } from "./gpusvm.ts";
import type { GpuSvmNotifier } from "./notifier.ts";
import type { GpuSvmRange } from "./range.ts";

/** What bounds the chunk of one fault, besides the ranges that exist. */
export interface ChunkRequest {
  readonly faultAddr: number;
  /** The window in which everything must lie: VMA, notifier, GPU VA interval and mirror window, intersected. */
  readonly start: number;
  readonly end: number;
  readonly ctx: GpuSvmCtx;
}

/** Intersects all that bounds the chunk of a fault. */
export function chunkRequest<R extends GpuSvmRange>(
  gpusvm: GpuSvm<R>,
  notifier: GpuSvmNotifier<R>,
  vma: VmaView,
  faultAddr: number,
  gpuvaStart: number,
  gpuvaEnd: number,
  ctx: GpuSvmCtx,
): ChunkRequest {
  let start = Math.max(vma.start, notifier.start, gpuvaStart);
  let end = Math.min(vma.end, notifier.end, gpuvaEnd);
  if (!gpusvm.quirks.unboundedChunk) {
    start = Math.max(start, gpusvm.mmStart);
    end = Math.min(end, gpusvm.mmStart + gpusvm.mmRange);
  }
  return { faultAddr, start, end, ctx };
}

/**
 * The largest chunk around the address that fits, touches no existing range (those are never split, grown or replaced)
 * and, up to the threshold, has all its pages present for the CPU. 4 KiB needs no test but to fit: the caller knows that
 * nobody covers the page. -EINVAL when nothing fits. The mmap lock is held. @kernel drm_gpusvm_range_chunk_size
 */
export function rangeChunkSize<R extends GpuSvmRange>(
  gpusvm: GpuSvm<R>,
  notifier: GpuSvmNotifier<R>,
  request: ChunkRequest,
  firstIndex = 0,
): MaybePromise<number | Errno> {
  const { faultAddr, start, end, ctx } = request;
  const { chunkSizes } = gpusvm;
  for (let i = firstIndex; i < chunkSizes.length; i++) {
    const size = chunkSizes[i];
    const from = alignDown(faultAddr, size);
    const to = from + size;
    if (from < start || to > end) continue;
    if (size === SZ_4K) return size;
    if (notifier.rangeFind(from, to) !== null) continue;
    if (size > ctx.checkPagesThreshold) return size;
    const present = checkPages(gpusvm, notifier, from, to, ctx);
    if (isPromise(present)) return afterCheck(present, gpusvm, notifier, request, i);
    if (present) return size;
  }
  return EINVAL;
}

/** The rest of the choice when the presence test of chunk `index` had to wait. */
async function afterCheck<R extends GpuSvmRange>(
  present: Promise<boolean>,
  gpusvm: GpuSvm<R>,
  notifier: GpuSvmNotifier<R>,
  request: ChunkRequest,
  index: number,
): Promise<number | Errno> {
  if (await present) return gpusvm.chunkSizes[index];
  return rangeChunkSize(gpusvm, notifier, request, index + 1);
}

import { EBUSY, EINTR } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import type { Guard } from "../base/locks.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import { type Steps, wait } from "../base/steps.ts";

/** Something that will have happened. A wait never rejects: failed work signals too. @kernel dma_fence */
export interface Fence {
  readonly isDone: boolean;
  /** Fences of one queue signal in order; the later one then stands for both. @kernel dma_fence.context */
  readonly context?: number;
  wait(): MaybePromise<void>;
}

/** What a fence of a reservation stands for; a waiter for one usage waits for all below it too. @kernel dma_resv_usage */
export const USAGE_KERNEL = 0;
export const USAGE_BOOKKEEP = 3;
export type FenceUsage = typeof USAGE_KERNEL | typeof USAGE_BOOKKEEP;

/**
 * The lock under which a buffer moves, and the fences of what still uses its memory. The driver brings the
 * implementation; the `DmaResv` of the GPU VA manager is one. @kernel dma_resv
 */
export interface Resv {
  readonly isHeld: boolean;
  tryLock(): Guard | null;
  lock(): MaybePromise<Guard>;
  reserveFences(count: number): 0 | Errno;
  addFence(fence: Fence, usage: FenceUsage): void;
  /** Fences not done yet, of this usage and below. */
  fences(usage: FenceUsage): readonly Fence[];
}

/**
 * An activity that holds several reservations and may wait for one more. `lock` gives -EALREADY for one that it holds,
 * and -EDEADLK where waiting could never end. @kernel ww_acquire_ctx
 */
export interface AcquireContext {
  lock(resv: Resv): MaybePromise<Guard | Errno>;
}

/** @kernel ttm_operation_ctx */
export interface TtmOperationCtx {
  /** Signals when the caller has lost interest: waits then end with -EINTR. @kernel ttm_operation_ctx.interruptible */
  readonly interruption?: Fence;
  /** -EBUSY instead of waiting for the device. */
  readonly noWaitGpu?: boolean;
  /** The caller's reservation, shared with other buffers; with `allowResEvict` they may be evicted under it. */
  readonly resv?: Resv;
  readonly allowResEvict?: boolean;
  /** Host memory beyond its limit, where refusing would lose data. */
  readonly forceAlloc?: boolean;
  /** Lets a second walk wait for reservations that others hold. */
  readonly ticket?: AcquireContext;
}

/** Whether nothing uses the memory any more. */
export function isIdle(resv: Resv): boolean {
  return resv.fences(USAGE_BOOKKEEP).length === 0;
}

/** Waits until nothing uses the memory. -EBUSY: it may not wait; -EINTR. @kernel ttm_bo_wait_ctx */
export function* waitIdle(resv: Resv, ctx: TtmOperationCtx): Steps<0 | Errno> {
  for (const fence of resv.fences(USAGE_BOOKKEEP)) {
    const err = yield* waitFence(fence, ctx);
    if (err !== 0) return err;
  }
  return 0;
}

export function* waitFence(fence: Fence, ctx: TtmOperationCtx): Steps<0 | Errno> {
  const { interruption, noWaitGpu } = ctx;
  if (fence.isDone) return 0;
  if (noWaitGpu === true) return EBUSY;
  if (interruption === undefined) {
    yield* wait(fence.wait());
    return 0;
  }
  if (!interruption.isDone) yield* wait(Promise.race([fence.wait(), interruption.wait()]));
  return fence.isDone ? 0 : EINTR;
}

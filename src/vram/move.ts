import { isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { type MaybePromise, isPromise } from "../base/maybe-promise.ts";
import { type Steps, run, wait } from "../base/steps.ts";
import { cleanupMemtypeUse, turnIntoGhost, unpopulate } from "./delete.ts";
import { Multihop } from "./device-ops.ts";
import type { Work } from "./device-ops.ts";
import { USAGE_BOOKKEEP, USAGE_KERNEL, isIdle, waitFence } from "./fence.ts";
import type { Fence, TtmOperationCtx } from "./fence.ts";
import { PL_SYSTEM, PL_TT } from "./place.ts";
import type { TtmResource } from "./resource.ts";
import type { TtmBo } from "./ttm-bo.ts";
import type { TtmDevice } from "./ttm-device.ts";

/** Why a buffer moves. An eviction wants its old memory free, not merely out of its way. */
export type MoveReason = "validation" | "eviction";

/**
 * Moves the buffer to `to`: queues the copy, and makes `to` its memory at once. On an error or a hop it stays where it is,
 * and `to` is the caller's. @kernel ttm_bo_handle_move_mem
 */
export function handleMove<O>(
  ttm: TtmDevice<O>,
  bo: TtmBo<O>,
  to: TtmResource<O>,
  reason: MoveReason,
  ctx: TtmOperationCtx,
): MaybePromise<0 | Errno | Multihop> {
  const from = bo.resource;
  const hasContent = from !== null && (from.memType !== PL_SYSTEM || bo.hostPages !== null);
  if (to.manager.useTt && (hasContent || to.memType === PL_TT)) {
    const err = populate(ttm, bo);
    if (err !== 0) return err;
  }
  const work = startMove(ttm, bo, to, hasContent, reason);
  if (from !== null || isPromise(work)) return run(moveFrom(ttm, bo, from, to, work, reason, ctx));
  if (work instanceof Multihop || isErr(work)) return refused(ttm, bo, null, work);
  if (work !== null && !work.isDone) bo.resv.addFence(work, USAGE_KERNEL);
  return arrived(ttm, bo, to);
}

/** The rest of a move that has old memory to give up, or something to wait for. */
function* moveFrom<O>(
  ttm: TtmDevice<O>,
  bo: TtmBo<O>,
  from: TtmResource<O> | null,
  to: TtmResource<O>,
  starting: MaybePromise<Work | Multihop>,
  reason: MoveReason,
  ctx: TtmOperationCtx,
): Steps<0 | Errno | Multihop> {
  const work = yield* wait(starting);
  if (work instanceof Multihop || isErr(work)) return refused(ttm, bo, from, work);
  const fence = work === null || work.isDone ? null : work;
  if (fence !== null) bo.resv.addFence(fence, USAGE_KERNEL);
  if (from !== null) yield* leave(ttm, bo, from, to, fence, reason, ctx);
  return arrived(ttm, bo, to);
}

function refused<O, E extends Errno | Multihop>(
  ttm: TtmDevice<O>,
  bo: TtmBo<O>,
  from: TtmResource<O> | null,
  why: E,
): E {
  // Pages that were got for this move alone.
  if (from?.manager.useTt !== true) unpopulate(ttm, bo);
  return why;
}

function arrived<O>(ttm: TtmDevice<O>, bo: TtmBo<O>, to: TtmResource<O>): 0 {
  bo.resource = to;
  if (!to.manager.useTt) unpopulate(ttm, bo);
  return 0;
}

/** Announces the move and queues the work that fills the new memory. */
function startMove<O>(
  ttm: TtmDevice<O>,
  bo: TtmBo<O>,
  to: TtmResource<O>,
  hasContent: boolean,
  reason: MoveReason,
): MaybePromise<Work | Multihop> {
  const reserved = bo.resv.reserveFences(1);
  if (reserved !== 0) return reserved;
  const told = ttm.ops.moveNotify?.(bo, to) ?? 0;
  if (hasContent || isPromise(told)) return run(fillMoved(ttm, bo, to, told, hasContent, reason));
  return told === 0 ? clearFresh(ttm, bo, to) : told;
}

function* fillMoved<O>(
  ttm: TtmDevice<O>,
  bo: TtmBo<O>,
  to: TtmResource<O>,
  told: MaybePromise<0 | Errno>,
  hasContent: boolean,
  reason: MoveReason,
): Steps<Work | Multihop> {
  const err = yield* wait(told);
  if (err !== 0) return err;
  if (!hasContent) return yield* wait(clearFresh(ttm, bo, to));
  const work = yield* wait(ttm.ops.move(bo, to, reason === "eviction"));
  // Also a copy that failed may have left something behind.
  if (!(work instanceof Multihop)) to.content = "unknown";
  return work;
}

/** What the last tenant left must be gone before the buffer can be mapped anywhere. */
function clearFresh<O>(ttm: TtmDevice<O>, bo: TtmBo<O>, to: TtmResource<O>): MaybePromise<Work> {
  to.content = "unknown";
  // The usual case: one block, never cleared.
  const { blocks } = to;
  const dirty = blocks.length === 1 && !blocks[0]!.cleared ? blocks : blocks.filter((block) => !block.cleared);
  return dirty.length === 0 ? null : ttm.ops.clear(bo, dirty);
}

/** Gives up the old memory, which `fence` may still read. @kernel ttm_bo_move_accel_cleanup */
function* leave<O>(
  ttm: TtmDevice<O>,
  bo: TtmBo<O>,
  from: TtmResource<O>,
  to: TtmResource<O>,
  fence: Fence | null,
  reason: MoveReason,
  ctx: TtmOperationCtx,
): Steps<void> {
  if (fence === null || (reason === "eviction" && (yield* isFreedEarly(from, fence, ctx)))) {
    from.manager.free(from);
    return;
  }
  const ghost = turnIntoGhost(ttm, bo, [fence], USAGE_KERNEL);
  if (from.manager.useTt && !to.manager.useTt) giveHostPages(bo, ghost);
  ttm.destroyLater(ghost);
}

/**
 * Whether memory that an eviction leaves may be handed out at once. In VRAM the next owner gets the fence with it; host
 * memory has nobody to give it to, so the copy is waited for. @kernel ttm_bo_move_pipeline_evict, ttm_bo_wait_free_node
 */
function* isFreedEarly<O>(from: TtmResource<O>, fence: Fence, ctx: TtmOperationCtx): Steps<boolean> {
  if (from.manager.useTt) return (yield* waitFence(fence, ctx)) === 0;
  for (let older = from.manager.addMoveFence(fence); older !== null; older = from.manager.addMoveFence(fence)) {
    if ((yield* waitFence(older, ctx)) !== 0) return false;
  }
  return true;
}

/** Drops the memory with its content; what still uses it keeps it as a ghost. @kernel ttm_bo_pipeline_gutting */
export function* gutting<O>(ttm: TtmDevice<O>, bo: TtmBo<O>): Steps<0 | Errno> {
  if (bo.resource === null) return 0;
  const err = yield* wait(ttm.ops.moveNotify?.(bo, null) ?? 0);
  if (err !== 0) return err;
  if (isIdle(bo.resv)) {
    cleanupMemtypeUse(ttm, bo);
    return 0;
  }
  const ghost = turnIntoGhost(ttm, bo, bo.resv.fences(USAGE_BOOKKEEP), USAGE_BOOKKEEP);
  giveHostPages(bo, ghost);
  ttm.destroyLater(ghost);
  return 0;
}

function giveHostPages<O>(bo: TtmBo<O>, ghost: TtmBo<O>): void {
  ghost.hostPages = bo.hostPages;
  bo.hostPages = null;
}

/** Host pages, if it has none. @kernel ttm_bo_populate */
function populate<O>(ttm: TtmDevice<O>, bo: TtmBo<O>): 0 | Errno {
  if (bo.hostPages !== null || ttm.ops.populate === undefined) return 0;
  const pages = ttm.ops.populate(bo);
  if (isErr(pages)) return pages;
  bo.hostPages = pages;
  return 0;
}

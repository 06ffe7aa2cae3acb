import { assert } from "../base/assert.ts";
import { EBUSY, EINVAL, ENOMEM, ENOSPC, isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import { type Steps, run, wait } from "../base/steps.ts";
import { cleanupMemtypeUse } from "./delete.ts";
import { Multihop } from "./device-ops.ts";
import { walkForEvict } from "./evict-walk.ts";
import type { EvictWalk } from "./evict-walk.ts";
import { USAGE_KERNEL, waitIdle } from "./fence.ts";
import type { TtmOperationCtx } from "./fence.ts";
import type { TtmResourceManager } from "./manager.ts";
import { gutting, handleMove } from "./move.ts";
import type { MoveReason } from "./move.ts";
import { PASSES, PL_SYSTEM, PL_TEMPORARY, countsIn } from "./place.ts";
import type { Pass, TtmPlace, TtmPlacement } from "./place.ts";
import type { TtmResource } from "./resource.ts";
import type { TtmBo } from "./ttm-bo.ts";
import type { TtmDevice } from "./ttm-device.ts";

// Memory is found by evicting, evicting is moving, and moving finds memory: one story.

/** Memory in one of the places, by eviction in the last resort. -ENOMEM where there is none. @kernel ttm_bo_mem_space */
function* memSpace<O>(
  ttm: TtmDevice<O>,
  bo: TtmBo<O>,
  placement: TtmPlacement,
  ctx: TtmOperationCtx,
): Steps<TtmResource<O> | Errno> {
  for (const pass of PASSES) {
    const res = yield* allocResource(ttm, bo, placement, pass, ctx);
    if (res !== ENOSPC) return res;
  }
  return ENOMEM;
}

/** Memory in the first place of this pass that has some. -ENOSPC: none has. @kernel ttm_bo_alloc_resource */
export function* allocResource<O>(
  ttm: TtmDevice<O>,
  bo: TtmBo<O>,
  placement: TtmPlacement,
  pass: Pass,
  ctx: TtmOperationCtx,
): Steps<TtmResource<O> | Errno> {
  for (const place of placement) {
    const man = ttm.managerOf(place.memType);
    if (man === null || !countsIn(place, pass)) continue;
    const mayEvict = pass === "with eviction" && place.memType !== PL_SYSTEM && bo.size <= man.size;
    let res = man.alloc(bo, place, ctx);
    if (res === ENOSPC && mayEvict) res = yield* evictAlloc(ttm, man, place, bo, ctx);
    const taken = take(bo, res, ctx);
    if (taken !== ENOSPC) return taken;
  }
  return ENOSPC;
}

/** The first pass, which has nobody to wait for. */
export function allocFree<O>(
  ttm: TtmDevice<O>,
  bo: TtmBo<O>,
  placement: TtmPlacement,
  ctx: TtmOperationCtx,
): TtmResource<O> | Errno {
  for (const place of placement) {
    const man = ttm.managerOf(place.memType);
    if (man === null || !countsIn(place, "without eviction")) continue;
    const taken = take(bo, man.alloc(bo, place, ctx), ctx);
    if (taken !== ENOSPC) return taken;
  }
  return ENOSPC;
}

/** What was allocated, with the fences that come before its use. -ENOSPC: try the next place. */
function take<O>(bo: TtmBo<O>, res: TtmResource<O> | Errno, ctx: TtmOperationCtx): TtmResource<O> | Errno {
  // No room, and (-EBUSY) nobody could leave.
  if (res === ENOSPC || res === EBUSY) return ENOSPC;
  if (isErr(res)) return res;
  const err = addMoveFences(bo, res, ctx);
  if (err === 0) return res;
  res.manager.free(res);
  return err === EBUSY ? ENOSPC : err;
}

/**
 * What queued evictions still read from the manager's memory comes before any use of `res`. -EBUSY where that would be a
 * wait. @kernel ttm_bo_add_move_fence, ttm_bo_add_pipelined_eviction_fences
 */
function addMoveFences<O>(bo: TtmBo<O>, res: TtmResource<O>, ctx: TtmOperationCtx): 0 | Errno {
  const fences = res.manager.moveFences;
  if (fences.length === 0) return 0;
  if (ctx.noWaitGpu === true) return EBUSY;
  const err = bo.resv.reserveFences(fences.length);
  if (err !== 0) return err;
  for (const fence of fences) bo.resv.addFence(fence, USAGE_KERNEL);
  return 0;
}

/**
 * Makes room for `evictor` at `place`: evicts one buffer after the other until the allocation succeeds. First only those
 * whose reservation is free; then, in an acquire context, also by waiting for reservations, as long as that gets anybody
 * out. -EBUSY: nobody was left to evict. @kernel ttm_bo_evict_alloc
 */
function* evictAlloc<O>(
  ttm: TtmDevice<O>,
  man: TtmResourceManager<O>,
  place: TtmPlace,
  evictor: TtmBo<O>,
  ctx: TtmOperationCtx,
): Steps<TtmResource<O> | Errno> {
  /** @kernel ttm_bo_evict_cb */
  function* evict(w: EvictWalk<O>, bo: TtmBo<O>): Steps<TtmResource<O> | Errno> {
    const err = yield* evictLocked(ttm, bo, ctx);
    if (err !== 0) return err;
    w.evicted += 1;
    return man.alloc(evictor, place, ctx);
  }

  const walk: EvictWalk<O> = { man, place, evictor, ctx, ticket: null, evicted: 0 };
  let res = yield* walkForEvict(ttm, walk, evict);
  if (ctx.ticket !== undefined) {
    while (res === null) {
      walk.ticket = ctx.ticket;
      walk.evicted = 0;
      res = yield* walkForEvict(ttm, walk, evict);
      if (walk.evicted === 0) break;
    }
  }
  return res ?? EBUSY;
}

/** Evicts a buffer whose reservation others may hold. */
export function* evictOne<O>(ttm: TtmDevice<O>, bo: TtmBo<O>, ctx: TtmOperationCtx): Steps<0 | Errno> {
  const guard = yield* wait(bo.resv.lock());
  try {
    return yield* evictLocked(ttm, bo, ctx);
  } finally {
    guard.release();
  }
}

/** @kernel ttm_bo_evict */
export function* evictLocked<O>(ttm: TtmDevice<O>, bo: TtmBo<O>, ctx: TtmOperationCtx): Steps<0 | Errno> {
  if (bo.resource === null) return 0;
  if (bo.deleted) return yield* reclaim(ttm, bo, ctx);
  if (bo.pinCount > 0) return EINVAL;
  ttm.get(bo);
  try {
    const placement = ttm.ops.evictFlags(bo);
    if (placement.length === 0) {
      const err = yield* waitIdle(bo.resv, ctx);
      return err === 0 ? yield* gutting(ttm, bo) : err;
    }
    const res = yield* memSpace(ttm, bo, placement, ctx);
    return isErr(res) ? res : yield* wait(moveTo(ttm, bo, res, "eviction", ctx));
  } finally {
    ttm.put(bo);
  }
}

/** A deleted buffer or a ghost need not be moved: its memory is free when its fences have signalled. */
function* reclaim<O>(ttm: TtmDevice<O>, bo: TtmBo<O>, ctx: TtmOperationCtx): Steps<0 | Errno> {
  const err = yield* waitIdle(bo.resv, ctx);
  if (err === 0) cleanupMemtypeUse(ttm, bo);
  return err;
}

/** Moves the buffer to `to`, over other places if need be. An error frees `to`; the buffer lies where it has got to. */
export function moveTo<O>(
  ttm: TtmDevice<O>,
  bo: TtmBo<O>,
  to: TtmResource<O>,
  reason: MoveReason,
  ctx: TtmOperationCtx,
): MaybePromise<0 | Errno> {
  const first = handleMove(ttm, bo, to, reason, ctx);
  return first === 0 ? 0 : run(moveLater(ttm, bo, to, first, reason, ctx));
}

function* moveLater<O>(
  ttm: TtmDevice<O>,
  bo: TtmBo<O>,
  to: TtmResource<O>,
  first: MaybePromise<0 | Errno | Multihop>,
  reason: MoveReason,
  ctx: TtmOperationCtx,
): Steps<0 | Errno> {
  let err = yield* wait(first);
  while (err instanceof Multihop) {
    const bounced = yield* bounce(ttm, bo, err.place, ctx);
    err = bounced === 0 ? yield* wait(handleMove(ttm, bo, to, reason, ctx)) : bounced;
  }
  if (err !== 0) to.manager.free(to);
  return err;
}

/** One stop on the way. @kernel ttm_bo_bounce_temp_buffer */
function* bounce<O>(ttm: TtmDevice<O>, bo: TtmBo<O>, place: TtmPlace, ctx: TtmOperationCtx): Steps<0 | Errno> {
  const stop = yield* memSpace(ttm, bo, [{ ...place, flags: (place.flags ?? 0) | PL_TEMPORARY }], ctx);
  if (isErr(stop)) return stop;
  const err = yield* wait(handleMove(ttm, bo, stop, "validation", ctx));
  assert(!(err instanceof Multihop), "a stop on the way must have a direct way");
  if (err !== 0) stop.manager.free(stop);
  return err;
}

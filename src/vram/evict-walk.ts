import { EBUSY, EDEADLK, ENOSPC, isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import type { Guard } from "../base/locks.ts";
import { type Steps, wait } from "../base/steps.ts";
import type { AcquireContext, TtmOperationCtx } from "./fence.ts";
import type { TtmResourceManager } from "./manager.ts";
import type { TtmPlace } from "./place.ts";
import type { TtmResource } from "./resource.ts";
import type { TtmBo } from "./ttm-bo.ts";
import type { TtmDevice } from "./ttm-device.ts";

/** A walk for victims: whom it makes room for, and where. @kernel ttm_lru_walk */
export interface EvictWalk<O> {
  readonly man: TtmResourceManager<O>;
  readonly place: TtmPlace;
  readonly evictor: TtmBo<O>;
  readonly ctx: TtmOperationCtx;
  /** For one reservation of a walk it may wait; a second could end the caller's whole transaction with -EDEADLK. */
  ticket: AcquireContext | null;
  /** Buffers evicted so far. */
  evicted: number;
}

/** Evicts a buffer whose reservation is held and tries the allocation again. */
export type EvictCandidate<O> = (walk: EvictWalk<O>, bo: TtmBo<O>) => Steps<TtmResource<O> | Errno>;

/**
 * Evicts in the driver's order, or that of the LRU list, until the allocation succeeds. Null: it came to the end of the list. A victim that answers -EBUSY,
 * or whose room is not enough (-ENOSPC), is passed over; other errors end the walk. @kernel ttm_lru_walk_for_evict
 */
export function* walkForEvict<O>(
  ttm: TtmDevice<O>,
  walk: EvictWalk<O>,
  evict: EvictCandidate<O>,
): Steps<TtmResource<O> | null | Errno> {
  for (const res of inOrder(ttm, walk)) {
    if (!isCandidate(ttm, walk, res)) continue;
    const guard = yield* lockCandidate(walk, res.bo);
    if (isErr(guard)) return guard;
    if (guard === "busy") continue;
    let got: TtmResource<O> | Errno;
    try {
      // The lock may have been waited for: the buffer may lie elsewhere now.
      got = isCandidate(ttm, walk, res) ? yield* evict(walk, res.bo) : EBUSY;
    } finally {
      if (guard !== "shared") guard.release();
    }
    if (got !== EBUSY && got !== ENOSPC) return got;
  }
  return null;
}

/** As the driver says, or by the LRU list. */
function* inOrder<O>(ttm: TtmDevice<O>, { man, place }: EvictWalk<O>): Generator<TtmResource<O>> {
  const order = ttm.ops.evictionOrder?.(place, ownersOf(man.evictable())) ?? null;
  if (order === null) yield* man.evictable();
  // One may have moved on while others went.
  else for (const { resource } of order) if (resource !== null) yield resource;
}

function* ownersOf<O>(resources: Iterable<TtmResource<O>>): Generator<TtmBo<O>> {
  for (const { bo } of resources) yield bo;
}

function isCandidate<O>(ttm: TtmDevice<O>, { evictor, place }: EvictWalk<O>, res: TtmResource<O>): boolean {
  const { bo } = res;
  return bo !== evictor && bo.resource === res && bo.pinCount === 0 && ttm.isValuable(bo, place);
}

/** The guard; "shared": the caller holds the reservation and allows it; "busy": somebody else holds it. */
function* lockCandidate<O>(walk: EvictWalk<O>, bo: TtmBo<O>): Steps<Guard | "shared" | "busy" | Errno> {
  const { ctx, evictor, ticket } = walk;
  const { resv } = bo;
  const guard = resv.tryLock();
  if (guard !== null) return guard;
  if (resv === ctx.resv && ctx.allowResEvict === true) return "shared";
  if (ticket === null || resv === evictor.resv) return "busy";
  walk.ticket = null;
  const got = yield* wait(ticket.lock(resv));
  // The caller has to leave its transaction: there is nobody to evict within it.
  if (got === EDEADLK) return ENOSPC;
  return isErr(got) ? "busy" : got;
}

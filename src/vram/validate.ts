import { EINVAL, ENOMEM, ENOSPC, isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { type MaybePromise, isPromise } from "../base/maybe-promise.ts";
import { type Steps, run, wait } from "../base/steps.ts";
import type { TtmOperationCtx } from "./fence.ts";
import { allocFree, allocResource, moveTo } from "./mem-space.ts";
import { gutting } from "./move.ts";
import { PASSES, PL_CONTIGUOUS, countsIn, hasFlag } from "./place.ts";
import type { Pass, TtmPlacement } from "./place.ts";
import type { TtmBo } from "./ttm-bo.ts";
import type { TtmDevice } from "./ttm-device.ts";

/** Tries the places without eviction, then with. For `TtmDevice.validate`. */
export function* validateSteps<O>(
  ttm: TtmDevice<O>,
  bo: TtmBo<O>,
  placement: TtmPlacement,
  ctx: TtmOperationCtx,
): Steps<0 | Errno> {
  ttm.get(bo);
  try {
    if (placement.length === 0) return bo.pinCount > 0 ? EINVAL : yield* gutting(ttm, bo);
    for (const pass of PASSES) {
      // A buffer in a fallback place first tries to get a better one without eviction, and stays if there is none.
      if (isCompatible(bo, placement, pass)) return 0;
      if (bo.pinCount > 0) return EINVAL;
      const isFirst = pass === "without eviction";
      const res = isFirst ? allocFree(ttm, bo, placement, ctx) : yield* allocResource(ttm, bo, placement, pass, ctx);
      if (res === ENOSPC) continue;
      return isErr(res) ? res : yield* wait(moveTo(ttm, bo, res, "validation", ctx));
    }
    return ENOMEM;
  } finally {
    ttm.put(bo);
  }
}

/**
 * The same for a buffer that lies nowhere where there is room for it, which mostly is over at once. Null, with nothing done:
 * it takes more than that.
 */
export function validateFresh<O>(
  ttm: TtmDevice<O>,
  bo: TtmBo<O>,
  placement: TtmPlacement,
  ctx: TtmOperationCtx,
): MaybePromise<0 | Errno> | null {
  if (bo.resource !== null || bo.pinCount > 0 || placement.length === 0) return null;
  const res = allocFree(ttm, bo, placement, ctx);
  if (res === ENOSPC) return null;
  if (isErr(res)) return res;
  ttm.get(bo);
  const moved = moveTo(ttm, bo, res, "validation", ctx);
  if (isPromise(moved)) return run(putAfter(ttm, bo, moved));
  ttm.put(bo);
  return moved;
}

function* putAfter<O>(ttm: TtmDevice<O>, bo: TtmBo<O>, moving: Promise<0 | Errno>): Steps<0 | Errno> {
  try {
    return yield* wait(moving);
  } finally {
    ttm.put(bo);
  }
}

/** Whether the buffer lies in one of the places of this pass. @kernel ttm_resource_compatible */
export function isCompatible<O>(bo: TtmBo<O>, placement: TtmPlacement, pass: Pass): boolean {
  const { resource } = bo;
  if (resource === null || resource.isTemporary) return false;
  for (const place of placement) {
    if (place.memType !== resource.memType || !countsIn(place, pass)) continue;
    if (hasFlag(place, PL_CONTIGUOUS) && !resource.isContiguous) continue;
    if (resource.manager.compatible(resource, place)) return true;
  }
  return false;
}

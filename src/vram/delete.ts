import { assert } from "../base/assert.ts";
import type { Steps } from "../base/steps.ts";
import { USAGE_BOOKKEEP, waitIdle } from "./fence.ts";
import type { Fence, FenceUsage, Resv } from "./fence.ts";
import { TtmBo } from "./ttm-bo.ts";
import type { TtmDevice } from "./ttm-device.ts";

/**
 * The last reference has gone: frees the memory, now or when it is idle. Whoever moves or evicts a buffer holds a
 * reference, so nobody is at work on it. @kernel ttm_bo_release
 */
export function releaseBo<O>(ttm: TtmDevice<O>, bo: TtmBo<O>): void {
  assert(bo.pinCount === 0, "a pinned buffer was freed");
  ttm.ops.releaseNotify?.(bo);
  bo.resource?.manager.setBulk(bo.resource, null);
  bo.bulkMove = null;
  bo.deleted = true;
  const fences = bo.resv.fences(USAGE_BOOKKEEP);
  if (fences.length === 0) {
    cleanupMemtypeUse(ttm, bo);
    return;
  }
  // A dead buffer must not wait for what others add to a shared reservation from now on.
  // @kernel ttm_bo_individualize_resv, dma_resv_copy_fences
  bo.resv = resvWith(ttm.ops.newResv("deleted"), fences, USAGE_BOOKKEEP);
  ttm.destroyLater(bo);
}

/** Waits for what uses the memory and frees it, if no walk has done so. @kernel ttm_bo_delayed_delete */
export function* destroyWhenIdle<O>(ttm: TtmDevice<O>, bo: TtmBo<O>): Steps<void> {
  yield* waitIdle(bo.resv, {});
  cleanupMemtypeUse(ttm, bo);
}

/** @kernel ttm_bo_cleanup_memtype_use */
export function cleanupMemtypeUse<O>(ttm: TtmDevice<O>, bo: TtmBo<O>): void {
  if (bo.resource !== null) bo.resource.manager.free(bo.resource);
  bo.resource = null;
  unpopulate(ttm, bo);
}

export function unpopulate<O>(ttm: TtmDevice<O>, bo: TtmBo<O>): void {
  if (bo.hostPages !== null) ttm.ops.unpopulate?.(bo.hostPages);
  bo.hostPages = null;
}

/**
 * The buffer's memory becomes a deleted buffer of its own that lives until `fences` have signalled; the buffer itself lies
 * nowhere then. Host pages stay with the buffer. @kernel ttm_buffer_object_transfer, ttm_bo_move_to_ghost
 */
export function turnIntoGhost<O>(
  ttm: TtmDevice<O>,
  bo: TtmBo<O>,
  fences: readonly Fence[],
  usage: FenceUsage,
): TtmBo<O> {
  const { owner, resource, size, alignment, priority, type } = bo;
  assert(resource !== null && bo.pinCount === 0, "only memory that may move becomes a ghost");
  const resv = resvWith(ttm.ops.newResv("ghost"), fences, usage);
  const ghost = new TtmBo(owner, { size, alignment, priority, type, resv });
  ghost.refs = 0;
  ghost.deleted = true;
  resource.manager.setBulk(resource, null);
  resource.bo = ghost;
  ghost.resource = resource;
  bo.resource = null;
  return ghost;
}

function resvWith(resv: Resv, fences: readonly Fence[], usage: FenceUsage): Resv {
  const guard = resv.tryLock();
  assert(guard !== null && resv.reserveFences(fences.length) === 0, "a fresh reservation is free and has room");
  for (const fence of fences) resv.addFence(fence, usage);
  guard.release();
  return resv;
}

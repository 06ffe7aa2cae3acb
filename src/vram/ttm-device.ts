/**
 * The VRAM manager: buffers, where they lie, and who has to leave when memory runs out (spec/device.md section 6).
 *
 * Overview. Each memory type (host pages, the system window, the VRAM of each tile) has a manager that hands out resources
 * and keeps them in the order of eviction. `validate` brings a buffer to one of the places that its user allows: first
 * without hurting anybody, then by evicting others. A move is queued, not waited for: the buffer has its new memory at
 * once, with the fence of the copy in its reservation, and the old memory lives on as a ghost until the copy has been
 * made. Memory freed by a queued eviction is handed out at once too; its next owner gets the manager's move fence.
 *
 * No policy lives here beyond the order: lowest priority first, least recently used first. Device work is done by the
 * driver's `TtmDeviceOps`. Whatever need not wait does not: a promise only where a fence, a lock or an operation gives one.
 *
 * Locking. Moving, pinning, evicting and touching a buffer need its reservation. The lists have no lock, because no
 * function that changes one waits in between. A walk for victims skips a buffer whose reservation is held.
 *
 * Example (test/node/vram-manager.test.ts runs it):
 *
 *     const ttm = new TtmDevice<string>(ops, [new VramManager({ vramBytes, ptBytes }), new HostManager(PL_SYSTEM, ram)]);
 *     const bo = new TtmBo("mine", { size: SZ_2M, resv: new DmaResv("mine") });
 *     const guard = await bo.resv.lock();
 *     const err = await ttm.validate(bo, [{ memType: PL_VRAM }], {});    // 0: in VRAM; its fences say from when on
 *     guard.release();
 *     ttm.put(bo);
 */
import { assert } from "../base/assert.ts";
import { ENOMEM } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { isPromise } from "../base/maybe-promise.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import { run } from "../base/steps.ts";
import { destroyWhenIdle, releaseBo } from "./delete.ts";
import type { TtmDeviceOps } from "./device-ops.ts";
import type { TtmOperationCtx } from "./fence.ts";
import type { LruBulkMove } from "./lru.ts";
import type { TtmResourceManager } from "./manager.ts";
import { evictLocked, evictOne } from "./mem-space.ts";
import { PL_SYSTEM } from "./place.ts";
import type { TtmPlace, TtmPlacement } from "./place.ts";
import type { TtmResource } from "./resource.ts";
import type { TtmBo } from "./ttm-bo.ts";
import { isCompatible, validateFresh, validateSteps } from "./validate.ts";

const NO_CTX: TtmOperationCtx = {};

/** @kernel ttm_device */
export class TtmDevice<Owner = unknown> {
  readonly ops: TtmDeviceOps<Owner>;
  readonly #managers = new Map<number, TtmResourceManager<Owner>>();
  /** Deleted buffers and ghosts whose memory is still in use. @kernel ttm_device.wq */
  readonly #dying = new Set<Promise<void>>();

  constructor(ops: TtmDeviceOps<Owner>, managers: readonly TtmResourceManager<Owner>[]) {
    this.ops = ops;
    for (const man of managers) this.#managers.set(man.memType, man);
  }

  /** Null: there is no such memory, or it may not be used now. @kernel ttm_manager_type, ttm_resource_manager_used */
  managerOf(memType: number): TtmResourceManager<Owner> | null {
    const man = this.#managers.get(memType);
    return man?.useType === true ? man : null;
  }

  /**
   * Brings the buffer to the first place that has room, or leaves it where it is if that is one of them. Places marked
   * PL_FALLBACK count only when the others would need eviction, places marked PL_DESIRED only without. No places: the
   * memory goes. Its reservation is held.
   *
   * -ENOMEM: no room even by eviction. -E2BIG: more than a place could ever hold. -EINVAL: pinned elsewhere, or a size
   * that is not a multiple of the alignment. -EINTR: interrupted. Others: what the driver's operations say.
   * @kernel ttm_bo_validate
   */
  validate(bo: TtmBo<Owner>, placement: TtmPlacement, ctx: TtmOperationCtx = NO_CTX): MaybePromise<0 | Errno> {
    assertHeld(bo);
    if (isCompatible(bo, placement, "without eviction")) return 0;
    return validateFresh(this, bo, placement, ctx) ?? run(validateSteps(this, bo, placement, ctx));
  }

  /** Most recently used from now on. Its reservation is held. @kernel ttm_bo_move_to_lru_tail */
  touch(bo: TtmBo<Owner>): void {
    bo.resource?.manager.touch(bo.resource);
  }

  /** It moves with the others of `bulk` from now on; null: alone. Their common reservation is held. @kernel ttm_bo_set_bulk_move */
  setBulkMove(bo: TtmBo<Owner>, bulk: LruBulkMove | null): void {
    assertHeld(bo);
    if (bo.bulkMove === bulk) return;
    bo.bulkMove = bulk;
    bo.resource?.manager.setBulk(bo.resource, bulk);
  }

  /**
   * Keeps it where validate has put it until unpinned as often. Its reservation is held. -ENOMEM: user buffers may not
   * pin so much of this memory. @kernel ttm_bo_pin
   */
  pin(bo: TtmBo<Owner>): 0 | Errno {
    assertHeld(bo);
    assert(bo.resource !== null, "a buffer was pinned that lies nowhere");
    if (bo.pinCount > 0) bo.pinCount += 1;
    else if (bo.resource.manager.mayPin(bo.resource)) bo.resource.manager.changePinned(bo.resource, 1);
    else return ENOMEM;
    return 0;
  }

  /** The last one puts it at the tail of its LRU list and back into its bulk. Its reservation is held. @kernel ttm_bo_unpin */
  unpin(bo: TtmBo<Owner>): void {
    assertHeld(bo);
    assert(bo.pinCount > 0 && bo.resource !== null, "a buffer was unpinned that is not pinned");
    if (bo.pinCount > 1) bo.pinCount -= 1;
    else bo.resource.manager.changePinned(bo.resource, -1);
  }

  /** Whether evicting `bo` could make room at `place`: the default rule. @kernel ttm_bo_eviction_valuable */
  evictionValuable(bo: TtmBo<Owner>, place: TtmPlace): boolean {
    const { resource } = bo;
    if (resource === null || bo.roundPins > 0) return false;
    return (
      resource.memType === PL_SYSTEM ||
      (resource.memType === place.memType && resource.manager.intersects(resource, place))
    );
  }

  /** As the driver says, or by the default rule. */
  isValuable(bo: TtmBo<Owner>, place: TtmPlace): boolean {
    const { ops } = this;
    return ops.evictionValuable === undefined ? this.evictionValuable(bo, place) : ops.evictionValuable(bo, place);
  }

  /**
   * Buffers to evict together from `place` so that `bytes` come free, in the order of eviction; fewer bytes when the rest
   * is pinned, in use by a round, or locked. Nothing is changed.
   */
  pickVictims(place: TtmPlace, bytes: number): TtmBo<Owner>[] {
    const victims: TtmBo<Owner>[] = [];
    const man = this.managerOf(place.memType);
    if (man === null) return victims;
    let sum = 0;
    for (let res = man.nextEvictable(null); res !== null && sum < bytes; res = man.nextEvictable(res)) {
      if (!this.#isVictim(res, place)) continue;
      victims.push(res.bo);
      sum += res.size;
    }
    return victims;
  }

  /** Bytes at `place` that eviction could free now. */
  evictableBytes(place: TtmPlace): number {
    const man = this.managerOf(place.memType);
    let sum = 0;
    for (let res = man?.nextEvictable(null) ?? null; res !== null; res = res.manager.nextEvictable(res)) {
      if (this.#isVictim(res, place)) sum += res.size;
    }
    return sum;
  }

  #isVictim(res: TtmResource<Owner>, place: TtmPlace): boolean {
    const { bo } = res;
    return !bo.deleted && bo.resource === res && !bo.resv.isHeld && this.isValuable(bo, place);
  }

  /**
   * Evicts one buffer, as soon as its reservation is free, to where the driver wants victims to go. 0 also when it has
   * no memory any more. Evictions that are started together run together: their copies can share a submission.
   * -EINVAL: pinned. -ENOMEM: no room for it there. Others: what the driver's operations say.
   */
  evict(bo: TtmBo<Owner>, ctx: TtmOperationCtx = NO_CTX): MaybePromise<0 | Errno> {
    return run(evictOne(this, bo, ctx));
  }

  /** As `evict`, for who holds the reservation. @kernel ttm_bo_evict */
  evictLocked(bo: TtmBo<Owner>, ctx: TtmOperationCtx = NO_CTX): MaybePromise<0 | Errno> {
    assertHeld(bo);
    return run(evictLocked(this, bo, ctx));
  }

  /** @kernel ttm_bo_get */
  get(bo: TtmBo<Owner>): void {
    assert(bo.refs > 0, "a reference on a deleted buffer");
    bo.refs += 1;
  }

  /**
   * The last one deletes the buffer, which is mapped nowhere any more. Memory that is in use goes when its fences have
   * signalled, or earlier to a walk that waits for them. @kernel ttm_bo_put, ttm_bo_fini
   */
  put(bo: TtmBo<Owner>): void {
    assert(bo.refs > 0, "a buffer was freed twice");
    bo.refs -= 1;
    if (bo.refs === 0) releaseBo(this, bo);
  }

  /** A deleted buffer or a ghost has memory in use: frees it in its time. */
  destroyLater(bo: TtmBo<Owner>): void {
    const done = run(destroyWhenIdle(this, bo));
    if (!isPromise(done)) return;
    const dying = done.finally(() => this.#dying.delete(dying));
    this.#dying.add(dying);
  }

  /** Resolves when no deleted buffer holds memory any more. @kernel ttm_device_fini */
  async drain(): Promise<void> {
    while (this.#dying.size > 0) await Promise.all(this.#dying);
  }
}

export function assertHeld(bo: TtmBo): void {
  assert(bo.resv.isHeld, "the reservation of the buffer must be held");
}

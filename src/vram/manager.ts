import { assert } from "../base/assert.ts";
import { ENOSPC, isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import type { BuddyBlock } from "./buddy.ts";
import type { Fence, TtmOperationCtx } from "./fence.ts";
import { LRU_PRIORITIES, LruList, removeFromLru } from "./lru.ts";
import type { LruBulkMove } from "./lru.ts";
import { PL_CONTIGUOUS } from "./place.ts";
import type { TtmPlace } from "./place.ts";
import { TtmResource } from "./resource.ts";
import type { TtmBo } from "./ttm-bo.ts";

/** One per copy queue. @kernel TTM_NUM_MOVE_FENCES */
const MOVE_FENCES = 8;

export interface ManagerOptions {
  readonly memType: number;
  /** Host memory: its pages belong to the buffer. */
  readonly useTt: boolean;
  /** Bytes that resources may hold in all. */
  readonly size: number;
  /** Bytes that pinned user buffers may hold; default all. */
  readonly pinLimit?: number;
}

/**
 * The memory of one type: who holds it, in the order of eviction, and up to a budget that is never exceeded.
 *
 * A resource is on exactly one list: that of its priority, or, while its buffer is pinned, the unevictable one.
 * @kernel ttm_resource_manager
 */
export abstract class TtmResourceManager<Owner = unknown> {
  readonly memType: number;
  readonly useTt: boolean;
  readonly size: number;
  readonly pinLimit: number;
  /** Whether placements may use this type. @kernel ttm_resource_manager_set_used */
  useType = true;
  readonly #lru = Array.from({ length: LRU_PRIORITIES }, () => new LruList<TtmResource<Owner>>());
  readonly #unevictable = new LruList<TtmResource<Owner>>();
  #usage = 0;
  #pinned = 0;
  #userPinned = 0;
  #moveFences: Fence[] = [];

  constructor(options: ManagerOptions) {
    this.memType = options.memType;
    this.useTt = options.useTt;
    this.size = options.size;
    this.pinLimit = options.pinLimit ?? Infinity;
  }

  /** Bytes that resources hold. @kernel ttm_resource_manager_usage */
  get usage(): number {
    return this.#usage;
  }
  /** Bytes that may still be given out. */
  get available(): number {
    return this.size - this.#usage;
  }
  /** Bytes of pinned buffers. */
  get pinnedBytes(): number {
    return this.#pinned;
  }

  /** Evictable resources in the order of eviction: lowest priority, then least recently used first. */
  *evictable(): Generator<TtmResource<Owner>> {
    for (const list of this.#lru) yield* list.walk();
  }

  /** The first to go, or the one after `res`; for loops that change nothing. @kernel ttm_resource_manager_first, ttm_resource_manager_next */
  nextEvictable(res: TtmResource<Owner> | null): TtmResource<Owner> | null {
    let priority = 0;
    if (res !== null) {
      priority = res.bo.priority;
      const after = this.#lru[priority]!.after(res);
      if (after !== null) return after;
      priority += 1;
    }
    for (; priority < LRU_PRIORITIES; priority++) {
      const { first } = this.#lru[priority]!;
      if (first !== null) return first;
    }
    return null;
  }

  /** Every resource: the evictable ones, then the pinned ones. */
  *resources(): Generator<TtmResource<Owner>> {
    yield* this.evictable();
    yield* this.#unevictable.walk();
  }

  /**
   * Memory for `bo` at the tail of its list. -ENOSPC: no room now. -E2BIG: more than the place could ever hold. -EINVAL:
   * not a multiple of the buffer's alignment. @kernel ttm_resource_alloc
   */
  alloc(bo: TtmBo<Owner>, place: TtmPlace, ctx: TtmOperationCtx): TtmResource<Owner> | Errno {
    const blocks = this.allocBlocks(bo, place, ctx);
    if (isErr(blocks)) return blocks;
    let size = blocks.length === 0 ? bo.size : 0;
    let end = blocks.length === 0 ? 0 : blocks[0]!.offset;
    let flags = (place.flags ?? 0) | PL_CONTIGUOUS;
    for (const block of blocks) {
      if (block.offset !== end) flags = place.flags ?? 0;
      end = block.offset + block.size;
      size += block.size;
    }
    const res = new TtmResource(this, bo, size, flags, blocks);
    if (blocks.length > 0 && size > this.available) {
      // Contiguous memory may come in larger pieces than asked for; nothing has been written to it.
      this.freeBlocks(res);
      return ENOSPC;
    }
    this.#usage += size;
    this.addToLru(res);
    return res;
  }

  /** Gives its memory back at once. @kernel ttm_resource_free */
  free(res: TtmResource<Owner>): void {
    assert(res.bo.pinCount === 0, "memory of a pinned buffer was freed");
    this.#leaveBulk(res);
    removeFromLru(res);
    this.#usage -= res.size;
    this.freeBlocks(res);
  }

  /** Whether evicting the resource could help the place. @kernel ttm_resource_intersects */
  abstract intersects(res: TtmResource<Owner>, place: TtmPlace): boolean;
  /** Whether all of it lies inside the place. @kernel ttm_resource_compatible */
  abstract compatible(res: TtmResource<Owner>, place: TtmPlace): boolean;
  /** The blocks of a new resource; none where any page is as good as another. */
  protected abstract allocBlocks(
    bo: TtmBo<Owner>,
    place: TtmPlace,
    ctx: TtmOperationCtx,
  ): readonly BuddyBlock[] | Errno;
  protected abstract freeBlocks(res: TtmResource<Owner>): void;

  // Lists

  /** At the tail of the list that its buffer's pins, priority and bulk say. */
  addToLru(res: TtmResource<Owner>): void {
    const { bo } = res;
    if (bo.pinCount > 0) {
      this.#unevictable.add(res);
      return;
    }
    const list = this.#listOf(bo);
    list.add(res);
    bo.bulkMove?.add(list, res);
  }

  /** Most recently used of its list, or of its bulk. @kernel ttm_resource_move_to_lru_tail */
  touch(res: TtmResource<Owner>): void {
    const { bo, bulk } = res;
    if (bo.pinCount > 0) return;
    const list = this.#listOf(bo);
    if (bulk === null) list.moveToTail(res);
    else bulk.touch(list, res);
  }

  /** Its buffer enters another bulk, or none. @kernel ttm_bo_set_bulk_move */
  setBulk(res: TtmResource<Owner>, bulk: LruBulkMove | null): void {
    this.#leaveBulk(res);
    if (res.bo.pinCount === 0) bulk?.add(this.#listOf(res.bo), res);
  }

  /** The buffer's pin count goes from 0 to 1 (`by` 1) or back. */
  changePinned(res: TtmResource<Owner>, by: 1 | -1): void {
    const { bo } = res;
    this.#leaveBulk(res);
    removeFromLru(res);
    bo.pinCount += by;
    this.#pinned += by * res.size;
    if (bo.type === "user") this.#userPinned += by * res.size;
    this.addToLru(res);
  }

  mayPin(res: TtmResource<Owner>): boolean {
    return res.bo.type === "kernel" || this.#userPinned + res.size <= this.pinLimit;
  }

  // Move fences

  /** Unsignalled fences of evictions from here whose memory has been freed already. @kernel ttm_resource_manager.move */
  get moveFences(): readonly Fence[] {
    if (this.#moveFences.length > 0) this.#moveFences = this.#moveFences.filter((fence) => !fence.isDone);
    return this.#moveFences;
  }

  /** Who allocates from here will wait for it. Null, or, where there are too many, an older one to wait for first. */
  addMoveFence(fence: Fence): Fence | null {
    const others = this.moveFences.filter((f) => f.context !== fence.context);
    if (others.length >= MOVE_FENCES) return others[0]!;
    this.#moveFences = [...others, fence];
    return null;
  }

  #leaveBulk(res: TtmResource<Owner>): void {
    res.bulk?.remove(this.#listOf(res.bo), res);
  }

  #listOf(bo: TtmBo<Owner>): LruList<TtmResource<Owner>> {
    return this.#lru[bo.priority]!;
  }
}

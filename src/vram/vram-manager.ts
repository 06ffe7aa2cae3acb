/**
 * The VRAM manager: who holds device memory, and who would have to leave (spec/device.md section 6).
 *
 * Overview. A buffer holds blocks of the heap. Usage never exceeds the budget. When an allocation finds no room, the
 * caller evicts: either one victim after the other (`evictAlloc`), or a whole set at once (`pickVictims`), so that all
 * copies home share a submission. What evicting means is the caller's business; when it is done, the victim has been
 * freed. No policy lives here beyond the order: lowest priority first, least recently used first.
 *
 * The heap allocator covers the whole of VRAM, so that offset = physical address and no block straddles a segment; the
 * page-table aperture at its start is taken once and for all.
 *
 * Locking. Synchronous functions need none. Freeing, moving or evicting a buffer is done under its `lock`, which
 * `evictAlloc` takes for its victim; a buffer whose lock is held is no candidate.
 *
 * Example (test/node/vram-manager.test.ts runs it):
 *
 *     const vram = new VramManager<string>({ vramBytes: 8 * SZ_2M, ptBytes: SZ_2M });
 *     let bo = vram.createBo("mine", { size: SZ_2M, minBlock: SZ_64K });
 *     if (bo === ENOSPC) {
 *       await Promise.all(vram.pickVictims(SZ_2M).map(copyHomeAndFree));
 *       bo = vram.createBo("mine", { size: SZ_2M, minBlock: SZ_64K });
 *     }
 */
import { PAGE_SIZE, SZ_1G, SZ_2M, isAligned, isPowerOfTwo } from "../base/addr.ts";
import type { Pa } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { E2BIG, EBUSY, EINVAL, ENOSPC, isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { isPromise } from "../base/maybe-promise.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import { BUDDY_CLEAR, BUDDY_CLEARED, BUDDY_CONTIGUOUS, BUDDY_RANGE, BUDDY_TOPDOWN } from "./buddy.ts";
import type { BuddyBlock, DrmBuddy } from "./buddy.ts";
import { Lru } from "./lru.ts";
import { buddyBehind } from "./pt-aperture.ts";
import { VramBo } from "./vram-bo.ts";

/** One request to the heap allocator. */
const REQUEST_MAX = 2 * SZ_1G;

export interface VramOptions {
  /** Bytes of VRAM, and of the page-table aperture at its start. */
  readonly vramBytes: number;
  readonly ptBytes: number;
  /** Bytes that buffers may hold in all; default: the whole heap. */
  readonly budget?: number;
}

/** Where a buffer may lie. @kernel ttm_place */
export interface VramPlace {
  /** Bytes, multiple of `minBlock`. */
  readonly size: number;
  /** Smallest block, power of two of at least 4096; default 4096. */
  readonly minBlock?: number;
  /** Physical addresses `[start, end)`; default the heap. */
  readonly start?: Pa;
  readonly end?: Pa;
  readonly contiguous?: boolean;
  /** Highest addresses first, for kernel objects. */
  readonly topDown?: boolean;
  /** Prefer memory known to be zero. */
  readonly clear?: boolean;
  /** 0 (first to go) to 3; default 0. */
  readonly priority?: number;
}

/** Brings a victim's content home and frees it with `VramManager.free`. The victim's lock is held. */
export type EvictFunction<Owner> = (bo: VramBo<Owner>) => MaybePromise<0 | Errno>;

/** @kernel ttm_resource_manager */
export class VramManager<Owner = unknown> {
  /** Bytes for data: VRAM without the page-table aperture. */
  readonly size: number;
  readonly budget: number;
  readonly #heap: DrmBuddy;
  readonly #heapStart: Pa;
  readonly #lru = new Lru<VramBo<Owner>>();
  #usage = 0;
  #pinned = 0;

  constructor(options: VramOptions) {
    this.#heapStart = options.ptBytes;
    this.size = options.vramBytes - options.ptBytes;
    this.budget = Math.min(options.budget ?? this.size, this.size);
    this.#heap = buddyBehind(options.vramBytes, options.ptBytes);
  }

  /** Bytes that buffers hold. */
  get usage(): number {
    return this.#usage;
  }
  /** Bytes that may still be given out. */
  get available(): number {
    return this.budget - this.#usage;
  }
  /** Bytes of pinned buffers. */
  get pinnedBytes(): number {
    return this.#pinned;
  }
  /** Free bytes known to be zero. */
  get clearAvail(): number {
    return this.#heap.clearAvail;
  }
  /** Live buffers: evictable ones in the order of eviction, then pinned ones. */
  bos(): IterableIterator<VramBo<Owner>> {
    return this.#lru.all();
  }

  /**
   * A new buffer at the tail of its LRU list. Content is unknown where a block is not `cleared`. -E2BIG: larger than the
   * place or the budget ever allow; -EINVAL: not a multiple of `minBlock`, or a place that no block of it fits; -ENOSPC: no
   * room now.
   * @kernel ttm_resource_alloc, xe_ttm_vram_mgr_new
   */
  createBo(owner: Owner, place: VramPlace): VramBo<Owner> | Errno {
    const blocks = this.#allocBlocks(place);
    if (isErr(blocks)) return blocks;
    const bo = new VramBo(owner, blocks, place.priority ?? 0);
    if (bo.size > this.available) {
      // Contiguous memory may come in larger pieces than asked for; nothing has been written to it.
      this.#giveBack(blocks);
      return ENOSPC;
    }
    this.#usage += bo.size;
    this.#lru.add(bo);
    return bo;
  }

  /**
   * Like `createBo`, but makes room: evicts one buffer after the other until the allocation succeeds. -ENOSPC when nothing
   * is left to evict. A victim that answers -EBUSY is passed over; another error ends the walk and is returned. A promise
   * only when `evict` gives one. @kernel ttm_bo_evict_alloc
   */
  evictAlloc(owner: Owner, place: VramPlace, evict: EvictFunction<Owner>): MaybePromise<VramBo<Owner> | Errno> {
    return this.#evictAlloc(owner, place, evict, new Set());
  }

  #evictAlloc(
    owner: Owner,
    place: VramPlace,
    evict: EvictFunction<Owner>,
    passedOver: Set<VramBo<Owner>>,
  ): MaybePromise<VramBo<Owner> | Errno> {
    for (;;) {
      const bo = this.createBo(owner, place);
      if (bo !== ENOSPC) return bo;
      const victim = this.#nextVictim(place, passedOver);
      if (victim === null) return ENOSPC;
      passedOver.add(victim);
      const guard = victim.lock.tryLock();
      assert(guard !== null, "a candidate's lock is free");
      const result = evict(victim);
      if (isPromise(result)) {
        return result
          .finally(() => guard.release())
          .then((late) => (late === 0 || late === EBUSY ? this.#evictAlloc(owner, place, evict, passedOver) : late));
      }
      guard.release();
      if (result !== 0 && result !== EBUSY) return result;
    }
  }

  #nextVictim(place: VramPlace, passedOver: ReadonlySet<VramBo<Owner>>): VramBo<Owner> | null {
    for (const bo of this.#lru.walk()) {
      if (!passedOver.has(bo) && bo.isEvictable && intersects(bo, place)) return bo;
    }
    return null;
  }

  /**
   * Buffers to evict together so that `bytes` more come free, in the order of eviction; fewer bytes when the rest is pinned
   * or locked. Nothing is changed: the caller locks them before it waits for anything.
   */
  pickVictims(bytes: number): VramBo<Owner>[] {
    const victims: VramBo<Owner>[] = [];
    let sum = 0;
    for (const bo of this.#lru.walk()) {
      if (sum >= bytes) break;
      if (!bo.isEvictable) continue;
      victims.push(bo);
      sum += bo.size;
    }
    return victims;
  }

  /** Most recently used from now on. @kernel ttm_bo_move_to_lru_tail */
  touch(bo: VramBo<Owner>): void {
    this.#lru.touch(bo);
  }

  /** Keeps it where it is until unpinned as often. @kernel ttm_bo_pin */
  pin(bo: VramBo<Owner>): void {
    if (bo.changePins(1) !== 1) return;
    this.#lru.makeUnevictable(bo);
    this.#pinned += bo.size;
  }

  /** The last one puts it at the LRU tail. @kernel ttm_bo_unpin */
  unpin(bo: VramBo<Owner>): void {
    if (bo.changePins(-1) !== 0) return;
    this.#lru.makeEvictable(bo);
    this.#pinned -= bo.size;
  }

  /**
   * Gives its blocks back at once: queued work that still reads them is ahead of whatever is queued later. `cleared`: all
   * of it has been overwritten with zeros. @kernel ttm_resource_free
   */
  free(bo: VramBo<Owner>, cleared = false): void {
    assert(bo.pinCount === 0, "a pinned buffer was freed");
    bo.markFreed();
    this.#lru.remove(bo);
    this.#usage -= bo.size;
    this.#heap.freeList([...bo.blocks], cleared ? BUDDY_CLEARED : 0);
  }

  #allocBlocks(place: VramPlace): BuddyBlock[] | Errno {
    const { size } = place;
    const minBlock = place.minBlock ?? PAGE_SIZE;
    const start = place.start ?? 0;
    const end = Math.min(place.end ?? this.#heap.size, this.#heap.size);
    if (!isPowerOfTwo(minBlock) || minBlock < PAGE_SIZE || size <= 0 || !isAligned(size, minBlock)) return EINVAL;
    if (!isAligned(start, PAGE_SIZE) || !isAligned(end, PAGE_SIZE)) return EINVAL;
    if (size > end - Math.max(start, this.#heapStart) || size > this.budget) return E2BIG;
    if (size > this.available) return ENOSPC;
    const flags =
      (place.start !== undefined || place.end !== undefined ? BUDDY_RANGE : 0) |
      (place.contiguous === true ? BUDDY_CONTIGUOUS : 0) |
      (place.topDown === true ? BUDDY_TOPDOWN : 0) |
      (place.clear === true ? BUDDY_CLEAR : 0);
    const large = size >= SZ_2M && minBlock < SZ_2M && place.contiguous !== true;
    const blocks = large ? this.#request(start, end, size, SZ_2M, flags) : ENOSPC;
    return isErr(blocks) ? this.#request(start, end, size, minBlock, flags) : blocks;
  }

  /** One request of the allocator per 2 GiB, all or nothing. */
  #request(start: Pa, end: Pa, size: number, minBlock: number, flags: number): BuddyBlock[] | Errno {
    const blocks: BuddyBlock[] = [];
    const step = (flags & BUDDY_CONTIGUOUS) !== 0 ? size : REQUEST_MAX;
    for (let left = size; left > 0; left -= step) {
      const more = this.#heap.allocBlocks(start, end, Math.min(left, step), minBlock, flags);
      if (isErr(more)) {
        this.#giveBack(blocks);
        return more;
      }
      blocks.push(...more);
    }
    return blocks;
  }

  /** Frees blocks as they were. */
  #giveBack(blocks: readonly BuddyBlock[]): void {
    for (const block of blocks) this.#heap.freeBlock(block);
  }
}

/** Whether evicting the buffer could help the place. @kernel ttm_bo_eviction_valuable */
function intersects(bo: VramBo, place: VramPlace): boolean {
  const start = place.start ?? 0;
  const end = place.end ?? Infinity;
  return bo.blocks.some((b) => b.offset < end && b.offset + b.size > start);
}

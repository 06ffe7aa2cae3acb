import { PAGE_SIZE, SZ_1G, SZ_2M, isAligned } from "../base/addr.ts";
import type { Pa } from "../base/addr.ts";
import { E2BIG, EINVAL, ENOSPC, isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { BUDDY_CLEAR, BUDDY_CLEARED, BUDDY_CONTIGUOUS, BUDDY_RANGE, BUDDY_TOPDOWN } from "./buddy.ts";
import type { BuddyBlock, DrmBuddy } from "./buddy.ts";
import { TtmResourceManager } from "./manager.ts";
import { PL_CONTIGUOUS, PL_TOPDOWN, PL_VRAM, hasFlag } from "./place.ts";
import type { TtmPlace } from "./place.ts";
import { buddyBehind } from "./pt-aperture.ts";
import type { TtmResource } from "./resource.ts";
import type { TtmBo } from "./ttm-bo.ts";

/** One request to the heap allocator. */
const REQUEST_MAX = 2 * SZ_1G;

export interface VramOptions {
  /** Bytes of one tile's VRAM, and of the page-table aperture at its start. */
  readonly vramBytes: number;
  readonly ptBytes: number;
  /** Bytes that buffers may hold in all; default: the whole heap. */
  readonly budget?: number;
  /** Bytes that pinned user buffers may hold; default all. */
  readonly pinLimit?: number;
  /** Default PL_VRAM, the first tile. */
  readonly memType?: number;
  /** PA of the tile's first byte. Default 0, the first tile's. */
  readonly base?: Pa;
}

/**
 * The VRAM of one tile (spec/device.md 6.7). The heap allocator covers all of it, so that offset = tile-relative physical
 * address and no block straddles a segment; the page-table aperture at its start is taken once and for all.
 *
 * Freed memory is dirty unless its content is said to be zero; memory that was never written goes back as it came.
 * @kernel xe_ttm_vram_mgr
 */
export class VramManager<Owner = unknown> extends TtmResourceManager<Owner> {
  /** PA of offset 0: blocks count from there. @kernel xe_vram_region->dpa_base */
  readonly base: Pa;
  readonly #heap: DrmBuddy;
  readonly #heapStart: Pa;

  constructor(options: VramOptions) {
    const { vramBytes, ptBytes, memType = PL_VRAM, pinLimit = Infinity } = options;
    const heapBytes = vramBytes - ptBytes;
    super({ memType, useTt: false, size: Math.min(options.budget ?? heapBytes, heapBytes), pinLimit });
    this.base = options.base ?? 0;
    this.#heapStart = ptBytes;
    this.#heap = buddyBehind(vramBytes, ptBytes);
  }

  /** Free bytes known to be zero. */
  get clearAvail(): number {
    return this.#heap.clearAvail;
  }

  /** @kernel xe_ttm_vram_mgr_intersects */
  intersects(res: TtmResource<Owner>, place: TtmPlace): boolean {
    // The usual place: no limits, no bounds to work out per resource of a scan.
    if ((place.fpfn ?? 0) === 0 && (place.lpfn ?? 0) === 0) return true;
    const { start, end } = this.#boundsOf(place);
    return res.blocks.some((b) => b.offset < end && b.offset + b.size > start);
  }

  /** @kernel xe_ttm_vram_mgr_compatible */
  compatible(res: TtmResource<Owner>, place: TtmPlace): boolean {
    const { start, end } = this.#boundsOf(place);
    return res.blocks.every((b) => b.offset >= start && b.offset + b.size <= end);
  }

  /** @kernel xe_ttm_vram_mgr_new */
  protected allocBlocks(bo: TtmBo<Owner>, place: TtmPlace): BuddyBlock[] | Errno {
    const { size, alignment } = bo;
    const { start, end, isLimited } = this.#boundsOf(place);
    const isContiguous = hasFlag(place, PL_CONTIGUOUS);
    if (size > end - Math.max(start, this.#heapStart) || size > this.size) return E2BIG;
    if (!isAligned(size, alignment) || (isContiguous && size > REQUEST_MAX)) return EINVAL;
    if (size > this.available) return ENOSPC;
    const flags =
      (isLimited ? BUDDY_RANGE : 0) |
      (isContiguous ? BUDDY_CONTIGUOUS : 0) |
      (hasFlag(place, PL_TOPDOWN) ? BUDDY_TOPDOWN : 0) |
      (bo.clear ? BUDDY_CLEAR : 0);
    const large = size >= SZ_2M && alignment < SZ_2M && !isContiguous;
    const blocks = large ? this.#request(start, end, size, SZ_2M, flags) : ENOSPC;
    return isErr(blocks) ? this.#request(start, end, size, alignment, flags) : blocks;
  }

  /** @kernel xe_ttm_vram_mgr_del */
  protected freeBlocks({ blocks, content }: TtmResource<Owner>): void {
    if (content === "as allocated") this.#giveBack(blocks);
    else this.#heap.freeList(blocks, content === "zero" ? BUDDY_CLEARED : 0);
  }

  /** One request of the allocator per 2 GiB, all or nothing. */
  #request(start: Pa, end: Pa, size: number, minBlock: number, flags: number): BuddyBlock[] | Errno {
    const first = this.#heap.allocBlocks(start, end, Math.min(size, REQUEST_MAX), minBlock, flags);
    if (isErr(first)) return first;
    for (let left = size - REQUEST_MAX; left > 0; left -= REQUEST_MAX) {
      const more = this.#heap.allocBlocks(start, end, Math.min(left, REQUEST_MAX), minBlock, flags);
      if (isErr(more)) {
        this.#giveBack(first);
        return more;
      }
      first.push(...more);
    }
    return first;
  }

  #giveBack(blocks: readonly BuddyBlock[]): void {
    for (const block of blocks) this.#heap.freeBlock(block);
  }

  #boundsOf(place: TtmPlace): { start: Pa; end: Pa; isLimited: boolean } {
    const all = this.#heap.size;
    const start = (place.fpfn ?? 0) * PAGE_SIZE;
    const lpfn = place.lpfn ?? 0;
    const end = lpfn === 0 ? all : Math.min(lpfn * PAGE_SIZE, all);
    return { start, end, isLimited: start > 0 || end < all };
  }
}

import { PAGE_SIZE } from "../base/addr.ts";
import { ENOSPC, isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { BuddyBlock, blockShape } from "../vram/buddy.ts";
import { NONE, ilog2 } from "../vram/buddy-tree.ts";
import { TtmResourceManager } from "../vram/manager.ts";
import { PL_TT } from "../vram/place.ts";
import type { TtmResource } from "../vram/resource.ts";
import type { TtmBo } from "../vram/ttm-bo.ts";

/** Pages of the system window that no frame has a copy in. */
export interface OwnedSlots {
  /** Page numbers in ascending runs; -ENOMEM or -EBUSY when so many do not come free without waiting. */
  own(pages: number): number[] | Errno;
  disown(pages: readonly number[]): void;
}

/** Pages of the window in a row, a power of two of them. */
export class WindowBlock extends BuddyBlock {}

/**
 * The system window as a memory type (spec/device.md 4.7, 6.1): a buffer in it owns its slots, which are the home of its
 * bytes, and the GPU reaches them in place. Copies of process memory share the window and give way as long as nothing has
 * them mapped.
 * @kernel ttm_tt_mgr
 */
export class WindowManager<Owner = unknown> extends TtmResourceManager<Owner> {
  readonly #slots: OwnedSlots;

  /** `bytes` of window. */
  constructor(slots: OwnedSlots, bytes: number) {
    super({ memType: PL_TT, useTt: false, size: bytes });
    this.#slots = slots;
  }

  intersects(): boolean {
    return true;
  }

  compatible(): boolean {
    return true;
  }

  protected allocBlocks(bo: TtmBo<Owner>): WindowBlock[] | Errno {
    // Also what could never fit: an eviction then goes on to the next place.
    const pages = this.#slots.own(bo.size / PAGE_SIZE);
    if (isErr(pages)) return ENOSPC;
    const blocks: WindowBlock[] = [];
    for (let i = 0; i < pages.length;) {
      let end = i + 1;
      while (end < pages.length && pages[end] === pages[end - 1]! + 1) end += 1;
      while (i < end) {
        const order = ilog2(end - i);
        blocks.push(new WindowBlock(NONE, pages[i]!, blockShape(order, PAGE_SIZE, false)));
        i += 2 ** order;
      }
    }
    return blocks;
  }

  protected freeBlocks({ blocks }: TtmResource<Owner>): void {
    for (const { offset, size } of blocks) {
      this.#slots.disown(Array.from({ length: size / PAGE_SIZE }, (_, i) => offset / PAGE_SIZE + i));
    }
  }
}

import { PAGE_SIZE } from "../base/addr.ts";
import type { Pa } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { ENOMEM, isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { BUDDY_RANGE, DrmBuddy } from "./buddy.ts";
import type { BuddyBlock } from "./buddy.ts";

/** Page 0 ends broken walks, page 1 takes the stores to NULL pages; neither is ever handed out (spec/device.md 1.1). */
const RESERVED_PAGES = 2;

/** The page-table aperture at the start of a tile's VRAM: one page per table. */
export class PtAperture {
  readonly #base: Pa;
  readonly #buddy: DrmBuddy;
  readonly #blocks = new Map<Pa, BuddyBlock>();

  /** `bytes`: power of two. `base`: PA of the tile's first byte. */
  constructor(bytes: number, base: Pa = 0) {
    this.#base = base;
    this.#buddy = buddyBehind(bytes, RESERVED_PAGES * PAGE_SIZE);
  }

  /** Bytes that tables hold. */
  get usage(): number {
    return this.#blocks.size * PAGE_SIZE;
  }

  /** The pages in use. */
  get pages(): Iterable<Pa> {
    return this.#blocks.keys();
  }

  /** A page for a table; its content is unknown. -ENOMEM: the aperture is full. */
  alloc(): Pa | Errno {
    const blocks = this.#buddy.allocBlocks(0, this.#buddy.size, PAGE_SIZE, PAGE_SIZE, 0);
    if (isErr(blocks)) return ENOMEM;
    const block = blocks[0]!;
    const pa = this.#base + block.offset;
    this.#blocks.set(pa, block);
    return pa;
  }

  /** After the invalidation that follows its last use has been queued. */
  free(pa: Pa): void {
    const block = this.#blocks.get(pa);
    assert(block !== undefined, "a page table was freed that is not allocated");
    this.#blocks.delete(pa);
    this.#buddy.freeBlock(block);
  }
}

/** An allocator over `[0, size)` whose first `taken` bytes are never handed out. */
export function buddyBehind(size: number, taken: number): DrmBuddy {
  const buddy = DrmBuddy.create(size, PAGE_SIZE);
  assert(!isErr(buddy), "sizes of device memory are whole pages");
  if (taken > 0) assert(!isErr(buddy.allocBlocks(0, taken, taken, PAGE_SIZE, BUDDY_RANGE)), "fresh memory is free");
  return buddy;
}

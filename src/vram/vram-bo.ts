import { assert } from "../base/assert.ts";
import { Mutex } from "../base/locks.ts";
import type { BuddyBlock } from "./buddy.ts";

/**
 * A buffer with a resource in VRAM. `owner` is whatever its driver keeps about it.
 *
 * Its lock is the reservation: held by who moves, evicts or frees it. A walk for victims passes over a buffer whose lock
 * is held. @kernel ttm_buffer_object, ttm_resource
 */
export class VramBo<Owner = unknown> {
  readonly owner: Owner;
  /** Bytes of its blocks, which may be more than was asked for. */
  readonly size: number;
  /** In the order of the buffer's pages. */
  readonly blocks: readonly BuddyBlock[];
  readonly priority: number;
  readonly lock = new Mutex("VramBo", "reservation");
  #pinCount = 0;
  #roundPins = 0;
  #freed = false;

  constructor(owner: Owner, blocks: readonly BuddyBlock[], priority: number) {
    this.owner = owner;
    this.blocks = blocks;
    this.priority = priority;
    let size = 0;
    for (const block of blocks) size += block.size;
    this.size = size;
  }

  /** Changed by `VramManager.pin` and `unpin`. */
  get pinCount(): number {
    return this.#pinCount;
  }
  get isFreed(): boolean {
    return this.#freed;
  }
  /** A round of a kernel needs it where it is. */
  get isRoundPinned(): boolean {
    return this.#roundPins > 0;
  }
  get isContiguous(): boolean {
    return this.blocks.every((b, i) => i === 0 || this.blocks[i - 1]!.offset + this.blocks[i - 1]!.size === b.offset);
  }
  /** Whether everything in it is known to be zero, as it came from the allocator. */
  get isCleared(): boolean {
    return this.blocks.every((b) => b.cleared);
  }

  /** May be chosen for eviction now. */
  get isEvictable(): boolean {
    return this.#pinCount === 0 && this.#roundPins === 0 && !this.#freed && !this.lock.isHeld;
  }

  /** For VramManager. Returns the new count. */
  changePins(by: 1 | -1): number {
    this.#pinCount += by;
    assert(this.#pinCount >= 0, "a buffer was unpinned that is not pinned");
    return this.#pinCount;
  }
  /** For RoundPins. */
  changeRoundPins(by: 1 | -1): void {
    this.#roundPins += by;
  }
  /** For VramManager. */
  markFreed(): void {
    assert(!this.#freed, "a buffer was freed twice");
    this.#freed = true;
  }
}

/**
 * The buffers that a round of a launch touched: not evicted until the round's kernel has run, or two faults of one item
 * could chase each other for ever (spec/device.md 5.5, 5.7). One object per address space.
 */
export class RoundPins {
  readonly #pinned = new Set<VramBo>();

  /** Bytes of the buffers pinned. */
  get bytes(): number {
    let sum = 0;
    for (const bo of this.#pinned) sum += bo.size;
    return sum;
  }

  roundPin(bo: VramBo): void {
    if (this.#pinned.has(bo)) return;
    this.#pinned.add(bo);
    bo.changeRoundPins(1);
  }

  clearRoundPins(): void {
    for (const bo of this.#pinned) bo.changeRoundPins(-1);
    this.#pinned.clear();
  }
}

import { PAGE_SIZE, isAligned, isPowerOfTwo } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import type { Resv } from "./fence.ts";
import { LRU_PRIORITIES } from "./lru.ts";
import type { LruBulkMove } from "./lru.ts";
import type { TtmResource } from "./resource.ts";

export interface TtmBoInit {
  /** Bytes, whole pages. */
  readonly size: number;
  /** Its own, or one that it shares with others. */
  readonly resv: Resv;
  /** Bytes of the smallest block, a power of two of at least 4096; default 4096. */
  readonly alignment?: number;
  /** 0 (first to go) to 3; default 0. */
  readonly priority?: number;
  /** `user`: its pins are limited; `kernel` is the stack's own. Default `user`. @kernel ttm_bo_type */
  readonly type?: "user" | "kernel";
  /** Prefer memory known to be zero. */
  readonly clear?: boolean;
}

/**
 * A buffer: something with a size whose memory the device manages. `owner` is whatever its driver keeps about it.
 * Changed through `TtmDevice` only. @kernel ttm_buffer_object
 */
export class TtmBo<Owner = unknown> {
  readonly owner: Owner;
  readonly size: number;
  readonly alignment: number;
  readonly priority: number;
  readonly type: "user" | "kernel";
  readonly clear: boolean;
  /** A deleted buffer gets one of its own. */
  resv: Resv;
  /** The bulk that it moves with while it is not pinned. */
  bulkMove: LruBulkMove | null = null;
  resource: TtmResource<Owner> | null = null;
  /** What the driver's `populate` gave: the bytes while they are in host memory. @kernel ttm_tt */
  hostPages: object | null = null;
  refs = 1;
  pinCount = 0;
  /** Rounds of kernels, and migrations, that need it where it is. */
  roundPins = 0;
  /** The last reference has gone; what remains is memory in use. */
  deleted = false;

  constructor(owner: Owner, init: TtmBoInit) {
    this.owner = owner;
    this.size = init.size;
    this.resv = init.resv;
    this.alignment = init.alignment ?? PAGE_SIZE;
    this.priority = init.priority ?? 0;
    this.type = init.type ?? "user";
    this.clear = init.clear ?? false;
    assert(init.size > 0 && isAligned(init.size, PAGE_SIZE), () => `a buffer of ${init.size} bytes`);
    assert(
      isPowerOfTwo(this.alignment) && this.alignment >= PAGE_SIZE,
      () => `an alignment of ${this.alignment} bytes`,
    );
    assert(
      Number.isInteger(this.priority) && this.priority >= 0 && this.priority < LRU_PRIORITIES,
      () => `priority ${this.priority}`,
    );
  }

  /**
   * A round's kernel needs it where it is: not to be evicted until as many calls of `roundUnpin`, or two faults of one
   * item could chase each other for ever (spec/device.md 5.5, 5.7). Unlike a pin it leaves the LRU order alone.
   */
  roundPin(): void {
    this.roundPins += 1;
  }
  roundUnpin(): void {
    assert(this.roundPins > 0, "a buffer was round-unpinned too often");
    this.roundPins -= 1;
  }
}

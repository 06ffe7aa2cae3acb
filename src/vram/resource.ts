import type { BuddyBlock } from "./buddy.ts";
import { LruLink } from "./lru.ts";
import type { TtmResourceManager } from "./manager.ts";
import { PL_CONTIGUOUS, PL_TEMPORARY } from "./place.ts";
import type { TtmBo } from "./ttm-bo.ts";

/** What is known of the bytes of a resource when it is freed. */
export type ResourceContent = "as allocated" | "unknown" | "zero";

/** Memory of one type that a buffer holds; itself the link in that type's LRU list. @kernel ttm_resource */
export class TtmResource<Owner = unknown> extends LruLink {
  readonly manager: TtmResourceManager<Owner>;
  /** Bytes, which may be more than the buffer asked for. */
  readonly size: number;
  /** PL_* flags: those of the place, and PL_CONTIGUOUS where the blocks happen to touch. @kernel ttm_resource.placement */
  readonly flags: number;
  /** In the order of the buffer's pages; empty in host memory. */
  readonly blocks: readonly BuddyBlock[];
  /** Its buffer, or the ghost that keeps it until a copy has been made. */
  bo: TtmBo<Owner>;
  content: ResourceContent = "as allocated";

  constructor(
    manager: TtmResourceManager<Owner>,
    bo: TtmBo<Owner>,
    size: number,
    flags: number,
    blocks: readonly BuddyBlock[],
  ) {
    super(true);
    this.manager = manager;
    this.bo = bo;
    this.size = size;
    this.flags = flags;
    this.blocks = blocks;
  }

  /** @kernel ttm_resource.mem_type */
  get memType(): number {
    return this.manager.memType;
  }
  get isContiguous(): boolean {
    return (this.flags & PL_CONTIGUOUS) !== 0;
  }
  get isTemporary(): boolean {
    return (this.flags & PL_TEMPORARY) !== 0;
  }
  /** Whether all of it was known to be zero when it was allocated. */
  get isCleared(): boolean {
    return this.blocks.every((block) => block.cleared);
  }
}

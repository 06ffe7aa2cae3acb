import { ENOSPC } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import type { BuddyBlock } from "./buddy.ts";
import type { TtmOperationCtx } from "./fence.ts";
import { TtmResourceManager } from "./manager.ts";
import { PL_SYSTEM, type PL_TT } from "./place.ts";
import type { TtmBo } from "./ttm-bo.ts";

const NO_BLOCKS: readonly BuddyBlock[] = [];

/**
 * Host memory: only counted, since any page is as good as another. PL_SYSTEM pages the GPU cannot reach; PL_TT pages hold
 * slots of the system window. @kernel ttm_sys_manager, xe_ttm_sys_mgr
 */
export class HostManager<Owner = unknown> extends TtmResourceManager<Owner> {
  constructor(memType: typeof PL_SYSTEM | typeof PL_TT, size: number) {
    super({ memType, useTt: true, size });
  }

  intersects(): boolean {
    return true;
  }

  compatible(): boolean {
    return true;
  }

  protected allocBlocks(bo: TtmBo<Owner>, _place: unknown, ctx: TtmOperationCtx): readonly BuddyBlock[] | Errno {
    if (this.memType === PL_SYSTEM && ctx.forceAlloc === true) return NO_BLOCKS;
    return bo.size > this.available ? ENOSPC : NO_BLOCKS;
  }

  protected freeBlocks(): void {}
}

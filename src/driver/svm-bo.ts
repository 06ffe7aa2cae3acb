import { PAGE_SIZE } from "../base/addr.ts";
import type { BuddyBlock } from "../vram/buddy.ts";
import { DrmPagemapDevmem } from "../pagemap/devmem.ts";
import type { VramRegion } from "./vram-region.ts";
import type { SvmVm } from "./vm.ts";

/**
 * A device buffer behind one SVM range: the blocks of VRAM, and the allocation that pagemap knows. Its last page gone, it
 * is released. @kernel xe_bo with XE_BO_FLAG_CPU_ADDR_MIRROR
 */
export class SvmBo extends DrmPagemapDevmem {
  readonly region: VramRegion;
  /** The address space whose fault or prefetch made it. */
  readonly vm: SvmVm;
  readonly blocks: BuddyBlock[];
  /** Rounds and migrations under way that it must survive: not to be evicted. */
  pins = 0;
  /** Chosen for eviction. */
  isLeaving = false;

  constructor(region: VramRegion, vm: SvmVm, size: number, blocks: BuddyBlock[]) {
    super({ mm: vm.mm, ops: region.ops, dpagemap: region.dpagemap, size });
    this.region = region;
    this.vm = vm;
    this.blocks = blocks;
  }

  get npages(): number {
    return this.size / PAGE_SIZE;
  }
}

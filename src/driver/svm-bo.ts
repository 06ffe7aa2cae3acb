import { PAGE_SIZE } from "../base/addr.ts";
import type { Va } from "../base/addr.ts";
import { DmaResv } from "../gpuvm/dma-resv.ts";
import { DrmPagemapDevmem } from "../pagemap/devmem.ts";
import type { BuddyBlock } from "../vram/buddy.ts";
import { TtmBo } from "../vram/ttm-bo.ts";
import type { VramOwner } from "./bo.ts";
import type { Departure } from "./departure.ts";
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
  /** Where its pages were when they moved in; `mremap` may have moved them since. For reports only. */
  readonly start: Va;
  /** Its memory, as the VRAM manager knows it. Whoever evicts it holds its reservation. */
  readonly mem: TtmBo<VramOwner>;

  constructor(region: VramRegion, vm: SvmVm, start: Va, size: number) {
    super({ mm: vm.mm, ops: region.ops, dpagemap: region.dpagemap, size });
    this.region = region;
    this.vm = vm;
    this.start = start;
    this.mem = new TtmBo<VramOwner>(this, { size, resv: new DmaResv("svm") });
  }

  /** The same for every buffer behind the memory at this address. */
  get identity(): string {
    return `${this.vm.asid}:${this.start}`;
  }

  /** In the order of its pages. They are its own until its last page has gone, whoever has been promised them next. */
  blocks: readonly BuddyBlock[] = [];
  /** Others move in beside it, so its bytes are best staged with theirs. */
  isStreamed = true;
  /** Its way home, once somebody has begun to evict it. */
  departure: Departure | null = null;

  /** Rounds and migrations under way that it must survive: not to be evicted. */
  get pins(): number {
    return this.mem.roundPins;
  }
  pin(): void {
    this.mem.roundPin();
  }
  unpin(): void {
    this.mem.roundUnpin();
  }

  /** Being evicted. */
  get isLeaving(): boolean {
    return this.mem.resv.isHeld;
  }

  get npages(): number {
    return this.size / PAGE_SIZE;
  }
}

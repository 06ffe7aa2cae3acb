import type { DrmPagemap } from "../pagemap/pagemap.ts";
import type { PagemapAddrArray } from "../pagemap/pagemap-addr.ts";
import type { GpuSvmDevice } from "./ops.ts";

/** A notifier sequence number that no interval ever has. @kernel LONG_MAX in drm_gpusvm_init_pages */
const NO_SEQ = -1;

/**
 * The pages of one interval as one device reaches them. A range has one for its gpusvm's device; a driver may keep more
 * of them, for other devices or (userptr) without a range at all. At most one page map besides system memory.
 * @kernel drm_gpusvm_pages
 */
export class GpuSvmPages {
  /** @kernel drm_gpusvm_pages.drm */
  readonly drm: GpuSvmDevice;
  /** The mappings, packed. Kept when they are undone, and reused or dropped by the next `getPages`. @kernel drm_gpusvm_pages.dma_addr */
  dmaAddr: PagemapAddrArray | null = null;
  /**
   * The run of device addresses that the system pages are linked in, and how much of it; 0 where each has an address of
   * its own. @kernel drm_gpusvm_pages.state
   */
  state = 0;
  /** Bytes linked so far. @kernel drm_gpusvm_pages.state_offset */
  stateOffset = 0;
  /** Counted; not null exactly while HAS_DEVMEM_PAGES is set. @kernel drm_gpusvm_pages.dpagemap */
  dpagemap: DrmPagemap | null = null;
  /** Sequence of the look-up that the mappings come from, or of the last time they were found valid. @kernel drm_gpusvm_pages.notifier_seq */
  notifierSeq = NO_SEQ;
  /** UNMAPPED, HAS_DEVMEM_PAGES, HAS_DMA_MAPPING. Written under the notifier lock in one store. @kernel drm_gpusvm_pages.flags */
  flags = 0;
  /**
   * Unmapping that has begun and not ended: the device's writes are on their way to RAM. Neither may the CPU mapping
   * change nor the pages be mapped again before.
   */
  unmapping: Promise<void> | null = null;

  /** No mapping, and a sequence that no look-up has. @kernel drm_gpusvm_init_pages */
  constructor(drm: GpuSvmDevice) {
    this.drm = drm;
  }
}

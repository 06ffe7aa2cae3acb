import type { DrmPagemap } from "../pagemap/pagemap.ts";
import type { PagemapAddrArray } from "../pagemap/pagemap-addr.ts";
import type { GpuSvmDevice } from "./ops.ts";

/** A notifier sequence number that no interval ever has. @kernel LONG_MAX in drm_gpusvm_init_pages */
const NO_SEQ = -1;

/**
 * The pages of one interval as one device reaches them. A range has one for its gpusvm's device; a driver may keep more
 * of them, for other devices or (userptr) without a range at all. At most one page map besides system memory.
 * @kernel drm_gpusvm_pages; the constructor is drm_gpusvm_init_pages
 */
export class GpuSvmPages {
  readonly drm: GpuSvmDevice;
  /** The mappings, packed. Kept when they are undone, and reused or dropped by the next `getPages`. */
  dmaAddr: PagemapAddrArray | null = null;
  /** Counted; not null exactly while HAS_DEVMEM_PAGES is set. */
  dpagemap: DrmPagemap | null = null;
  /** Sequence of the look-up that the mappings come from, or of the last time they were found valid. */
  notifierSeq = NO_SEQ;
  /** UNMAPPED, HAS_DEVMEM_PAGES, HAS_DMA_MAPPING. Written under the notifier lock in one store. */
  flags = 0;
  /**
   * Unmapping that has begun and not ended: the device's writes are on their way to RAM. Neither may the CPU mapping
   * change nor the pages be mapped again before.
   */
  unmapping: Promise<void> | null = null;

  constructor(drm: GpuSvmDevice) {
    this.drm = drm;
  }
}

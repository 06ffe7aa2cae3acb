import { assert } from "../base/assert.ts";
import type { Interval } from "../base/interval-tree.ts";
import { HAS_DEVMEM_PAGES, HAS_DMA_MAPPING, MIGRATE_DEVMEM, PARTIAL_UNMAP, UNMAPPED } from "./flags.ts";
import type { GpuSvm } from "./gpusvm.ts";
import type { GpuSvmNotifier } from "./notifier.ts";
import { GpuSvmPages } from "./pages.ts";

/**
 * The unit of GPU mapping: one chunk of one notifier's window. Its interval never changes; ranges of a notifier are
 * disjoint. It may outlive the VMA it was made for: see `UNMAPPED`. A driver that needs more fields subclasses it.
 * @kernel drm_gpusvm_range
 */
export class GpuSvmRange implements Interval<number> {
  /** @kernel drm_gpusvm_range.gpusvm */
  readonly gpusvm: GpuSvm;
  // Start and size, not start and last: V8 boxes a large number in an object, and a small one not.
  /** Bytes, inclusive. @kernel drm_gpusvm_range_start, drm_gpusvm_range.itree */
  declare start: number;
  /** Bytes. @kernel drm_gpusvm_range_size */
  size = 0;
  /** Null once the range has been removed: who still holds a reference may read its interval and flags. @kernel drm_gpusvm_range.notifier */
  notifier: GpuSvmNotifier | null = null;
  /** @kernel drm_gpusvm_range.refcount */
  refcount = 0;
  /** MIGRATE_DEVMEM, UNMAPPED, PARTIAL_UNMAP. @kernel drm_gpusvm_range.flags */
  flags = 0;
  #pages: GpuSvmPages | null = null;

  constructor(gpusvm: GpuSvm) {
    this.gpusvm = gpusvm;
    this.start = 0;
  }

  /** Inclusive, for the tree. */
  get last(): number {
    return this.start + this.size - 1;
  }
  /** Exclusive. @kernel drm_gpusvm_range_end */
  get end(): number {
    return this.start + this.size;
  }

  /**
   * The pages for the gpusvm's own device; made at the first use, since many ranges never get any. They hold what was in
   * the range itself in the first version: `notifierSeq`, `dmaAddr`, `dpagemap`.
   * @kernel drm_gpusvm_range.pages, drm_gpusvm_range.notifier_seq, drm_gpusvm_range.dma_addr, drm_gpusvm_range.dpagemap
   */
  get pages(): GpuSvmPages {
    let pages = this.#pages;
    if (pages === null) {
      const drm = this.gpusvm.drm;
      assert(drm !== null, "the pages of a range of a gpusvm that was given no device");
      pages = new GpuSvmPages(drm);
      pages.flags = this.flags & UNMAPPED;
      this.#pages = pages;
    }
    return pages;
  }
  /** Null before the first use of `pages`. */
  get pagesIfAny(): GpuSvmPages | null {
    return this.#pages;
  }

  /** All five bits in one word, those of the pages included. @kernel drm_gpusvm_pages_flags.__flags */
  get allFlags(): number {
    return this.#pages === null ? this.flags : this.flags | this.#pages.flags;
  }
  get migrateDevmem(): boolean {
    return (this.flags & MIGRATE_DEVMEM) !== 0;
  }
  get unmapped(): boolean {
    return (this.flags & UNMAPPED) !== 0;
  }
  get partialUnmap(): boolean {
    return (this.flags & PARTIAL_UNMAP) !== 0;
  }
  /** A hint unless the notifier lock is held. */
  get hasDevmemPages(): boolean {
    return (this.allFlags & HAS_DEVMEM_PAGES) !== 0;
  }
  /** A hint unless the notifier lock is held. */
  get hasDmaMapping(): boolean {
    return (this.allFlags & HAS_DMA_MAPPING) !== 0;
  }
}

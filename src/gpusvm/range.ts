import { assert } from "../base/assert.ts";
import { IntervalTreeNode } from "../base/interval-tree.ts";
import { HAS_DEVMEM_PAGES, HAS_DMA_MAPPING, MIGRATE_DEVMEM, PARTIAL_UNMAP, UNMAPPED } from "./flags.ts";
import type { GpuSvm } from "./gpusvm.ts";
import type { GpuSvmNotifier } from "./notifier.ts";
import { GpuSvmPages } from "./pages.ts";

/**
 * The unit of GPU mapping: one chunk of one notifier's window. Its interval never changes; ranges of a notifier are
 * disjoint. It may outlive the VMA it was made for: see `UNMAPPED`. A driver that needs more fields subclasses it.
 * @kernel drm_gpusvm_range
 */
export class GpuSvmRange extends IntervalTreeNode {
  readonly gpusvm: GpuSvm;
  /** Null once the range has been removed: who still holds a reference may read its interval and flags. */
  notifier: GpuSvmNotifier | null = null;
  refcount = 0;
  /** MIGRATE_DEVMEM, UNMAPPED, PARTIAL_UNMAP. */
  flags = 0;
  #pages: GpuSvmPages | null = null;

  constructor(gpusvm: GpuSvm) {
    super(0, 0);
    this.gpusvm = gpusvm;
  }

  /** Exclusive. @kernel drm_gpusvm_range_end */
  get end(): number {
    return this.last + 1;
  }
  /** Bytes. @kernel drm_gpusvm_range_size */
  get size(): number {
    return this.last + 1 - this.start;
  }

  /** The pages for the gpusvm's own device; made at the first use, since many ranges never get any. */
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

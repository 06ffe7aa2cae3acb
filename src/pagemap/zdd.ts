import type { Pfn } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { mutated } from "../base/mutation.ts";
import type { PageInfo } from "../mm/types.ts";
import type { DrmPagemapDevmem } from "./devmem.ts";
import type { DrmPagemap } from "./pagemap.ts";

/**
 * Zone device data: what all device pages of one migration have in common. Stands in `zone_device_data` of each.
 * References: one per live device page (per folio of 2 MiB), and one of the migration while it runs.
 * @kernel drm_pagemap_zdd, drm_gpusvm_zdd
 */
export class Zdd {
  /** @kernel drm_pagemap_zdd.devmem_allocation */
  readonly devmemAllocation: DrmPagemapDevmem;
  /** Counted. Its pages' owner is that of its page map. @kernel drm_pagemap_zdd.dpagemap, drm_pagemap_zdd.device_private_page_owner */
  readonly dpagemap: DrmPagemap;
  #ownsAllocation = true;
  #refcount = 1;

  /** Takes over the caller's reference on the allocation. @kernel drm_pagemap_zdd_alloc, drm_gpusvm_zdd_alloc */
  constructor(devmem: DrmPagemapDevmem) {
    this.devmemAllocation = devmem;
    this.dpagemap = devmem.dpagemap.get();
  }

  /** @kernel drm_pagemap_zdd.refcount */
  get refcount(): number {
    return this.#refcount;
  }

  /** @kernel drm_pagemap_zdd_get, drm_gpusvm_zdd_get */
  get(): this {
    assert(this.#refcount > 0, "a device page was bound to a migration whose pages are all gone");
    this.#refcount += 1;
    return this;
  }

  /** Gives the reference on the allocation back to the caller: the migration failed and no page is bound to it. */
  disown(): void {
    assert(this.#refcount === 1, "an allocation was taken from pages that live in it");
    this.#ownsAllocation = false;
  }

  /**
   * The last one detaches the allocation, then releases it: an evictor that waits sees `detached` first.
   * @kernel drm_pagemap_zdd_put, drm_pagemap_zdd_destroy, drm_gpusvm_zdd_put, drm_gpusvm_zdd_destroy
   */
  put(): void {
    assert(this.#refcount > 0, "a migration lost more page references than it had");
    this.#refcount -= 1;
    if (this.#refcount > 0) return;
    const devmem = this.devmemAllocation;
    if (this.#ownsAllocation) {
      if (!mutated("detached-lost")) devmem.detached.complete();
      devmem.ops.devmemRelease?.(devmem);
    }
    this.dpagemap.put();
  }
}

/** What the migration that brought a device page left there; null for a page that no page map has populated. @kernel drm_pagemap_page_zone_device_data */
export function pageZoneDeviceData(pages: PageInfo, pfn: Pfn): Zdd | null {
  const zdd = pages.zoneDeviceData(pfn);
  return zdd instanceof Zdd ? zdd : null;
}

import { assert } from "../base/assert.ts";
import type { DrmPagemapDevmem } from "./devmem.ts";
import type { DrmPagemap } from "./pagemap.ts";

/**
 * Zone device data: what all device pages of one migration have in common. Stands in `zone_device_data` of each.
 * References: one per live device page, and one of the migration while it runs. @kernel drm_pagemap_zdd
 */
export class Zdd {
  readonly devmemAllocation: DrmPagemapDevmem;
  /** Counted. */
  readonly dpagemap: DrmPagemap;
  #refcount = 1;

  /** Takes over the caller's reference on the allocation. @kernel drm_pagemap_zdd_alloc */
  constructor(devmem: DrmPagemapDevmem) {
    this.devmemAllocation = devmem;
    this.dpagemap = devmem.dpagemap.get();
  }

  get refcount(): number {
    return this.#refcount;
  }

  /** @kernel drm_pagemap_zdd_get */
  get(): this {
    assert(this.#refcount > 0, "a device page was bound to a migration whose pages are all gone");
    this.#refcount += 1;
    return this;
  }

  /** The last one detaches the allocation, then releases it: an evictor that waits sees `detached` first. @kernel drm_pagemap_zdd_put */
  put(): void {
    assert(this.#refcount > 0, "a migration lost more page references than it had");
    this.#refcount -= 1;
    if (this.#refcount > 0) return;
    const devmem = this.devmemAllocation;
    devmem.detached.complete();
    devmem.ops.devmemRelease?.(devmem);
    this.dpagemap.put();
  }
}

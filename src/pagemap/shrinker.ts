import type { DrmPagemap } from "./pagemap.ts";

/**
 * Page maps without users that could be used again: kept, because making one costs (the struct pages of all its memory in
 * the kernel), until memory runs short. Oldest first. @kernel drm_pagemap_shrinker, drm_pagemap_shrinker_create_devm
 */
export class DrmPagemapShrinker {
  readonly #unused = new Set<DrmPagemap>();

  /** How many could be freed. @kernel drm_pagemap_shrinker_count */
  get count(): number {
    return this.#unused.size;
  }

  /** Takes over a page map whose last reference is gone. For `DrmPagemap.put`. @kernel drm_pagemap_shrinker_add */
  add(dpagemap: DrmPagemap): void {
    this.#unused.add(dpagemap);
  }

  /** Takes it off again, for a new user; false when it has been freed meanwhile. @kernel drm_pagemap_shrinker_cancel */
  cancel(dpagemap: DrmPagemap): boolean {
    return this.#unused.delete(dpagemap);
  }

  /** Frees up to `nrToScan` of them; how many it were. @kernel drm_pagemap_shrinker_scan */
  scan(nrToScan: number): number {
    let freed = 0;
    for (const dpagemap of this.#unused) {
      if (freed === nrToScan) break;
      this.#unused.delete(dpagemap);
      dpagemap.destroy(true);
      freed += 1;
    }
    return freed;
  }

  /** The device goes: nothing is kept. @kernel drm_pagemap_shrinker_fini */
  fini(): void {
    this.scan(Infinity);
  }
}

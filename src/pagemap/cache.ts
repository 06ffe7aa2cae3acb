import { assert } from "../base/assert.ts";
import { type Guard, Mutex } from "../base/locks.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import type { DrmPagemap } from "./pagemap.ts";
import type { DrmPagemapShrinker } from "./shrinker.ts";

/**
 * Keeps the page map of one memory region from one use to the next.
 *
 *     const lookup = await cache.lockLookup();
 *     let dpagemap = cache.get(lookup);
 *     if (dpagemap === null) { dpagemap = await make(); cache.set(lookup, dpagemap); }
 *     lookup.release();
 *     …
 *     dpagemap.put();          // unused: on the shrinker's list, and the next look-up finds it there
 *
 * Difference: the kernel's last put and the queueing for the shrinker are two steps, and a look-up in between waits for the
 * second (`queued`). Here they are one. @kernel drm_pagemap_cache, drm_pagemap_cache_create_devm
 */
export class DrmPagemapCache {
  readonly shrinker: DrmPagemapShrinker;
  readonly #lookup = new Mutex("page map look-up", "migrate");
  #dpagemap: DrmPagemap | null = null;

  constructor(shrinker: DrmPagemapShrinker) {
    this.shrinker = shrinker;
  }

  /**
   * Makes "look up, else create and set" one step against others. Ended by the guard.
   * @kernel drm_pagemap_cache_lock_lookup, drm_pagemap_cache_unlock_lookup
   */
  lockLookup(): MaybePromise<Guard> {
    return this.#lookup.lock();
  }

  /**
   * The page map with a new reference, brought back to life if it was unused; null where there is none, and the caller
   * makes one. @kernel drm_pagemap_get_from_cache
   */
  get(lookup: Guard): DrmPagemap | null {
    assert(lookup.held && this.#lookup.isHeld, "drm_pagemap_get_from_cache without the look-up lock");
    const active = this.getIfActive();
    const unused = this.#dpagemap;
    if (active !== null || unused === null) return active;
    this.#dpagemap = null;
    if (!this.shrinker.cancel(unused)) return null;
    unused.reinit();
    this.set(lookup, unused);
    return unused;
  }

  /** The page map with a new reference if it is in use; never one that would have to be brought back. @kernel drm_pagemap_get_from_cache_if_active */
  getIfActive(): DrmPagemap | null {
    return this.#dpagemap?.getUnlessZero() ?? null;
  }

  /** Makes it the one that look-ups find. @kernel drm_pagemap_cache_set_pagemap */
  set(lookup: Guard, dpagemap: DrmPagemap): void {
    assert(lookup.held && this.#lookup.isHeld, "drm_pagemap_cache_set_pagemap without the look-up lock");
    assert(this.#dpagemap === null, "a second page map for one cache");
    dpagemap.cache = this;
    this.#dpagemap = dpagemap;
  }

  /** For `DrmPagemap.destroy`: look-ups find it no more. */
  forget(dpagemap: DrmPagemap): void {
    if (this.#dpagemap === dpagemap) this.#dpagemap = null;
  }

  /** The device goes: an unused page map is freed, one in use lives until its last put. @kernel drm_pagemap_cache_fini */
  fini(): void {
    const dpagemap = this.#dpagemap;
    this.#dpagemap = null;
    if (dpagemap === null) return;
    dpagemap.cache = null;
    if (this.shrinker.cancel(dpagemap)) dpagemap.destroy(false);
  }
}

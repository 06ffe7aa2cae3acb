import type { PhysMem } from "../mm/types.ts";
import { migratePfnToPage } from "../mm/types.ts";

/**
 * Undoes destination pages that will not be used: a device page thereby drops its migration's reference, a RAM page is
 * free. Leaves `dst` empty. @kernel drm_pagemap_migration_unlock_put_pages
 */
export function unlockPutPages(phys: PhysMem, dst: Uint32Array): void {
  for (let i = 0; i < dst.length; i++) {
    const pfn = migratePfnToPage(dst[i]);
    dst[i] = 0;
    if (pfn < 0) continue;
    phys.unlockPage(pfn);
    phys.putPage(pfn);
  }
}

import type { PhysMem } from "../mm/types.ts";
import { migratePfnToPage } from "../mm/types.ts";
import { pagesOfWord } from "./compound.ts";

/**
 * Undoes destination pages that will not be used: a device page thereby drops its migration's reference, a RAM page is
 * free. Leaves `dst` empty.
 * @kernel drm_pagemap_migration_unlock_put_pages, drm_pagemap_migration_unlock_put_page
 */
export function unlockPutPages(phys: PhysMem, dst: Uint32Array): void {
  for (let i = 0; i < dst.length; i++) {
    const word = dst[i];
    if (word === 0) continue;
    dst[i] = 0;
    const first = migratePfnToPage(word);
    for (let pfn = first; pfn < first + pagesOfWord(word); pfn++) {
      phys.unlockPage(pfn);
      phys.putPage(pfn);
    }
  }
}

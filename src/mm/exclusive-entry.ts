import { PAGE_SIZE } from "../base/addr.ts";
import { announce } from "./announce.ts";
import type { Mm } from "./mm.ts";
import { PTE_KIND, PTE_PRESENT, ptePfn } from "./page-table.ts";
import { type Steps, wait } from "./steps.ts";

/** A CPU access to a device-exclusive entry. @kernel remove_device_exclusive_entry */
export function* removeDeviceExclusive(mm: Mm, vpn: number, word: number): Steps<number> {
  const { phys } = mm;
  const pfn = ptePfn(word);
  phys.getPage(pfn);
  yield* wait(phys.lockPage(pfn));
  yield* announce(mm, vpn * PAGE_SIZE, (vpn + 1) * PAGE_SIZE);
  if (mm.tables.read(vpn) === word) restoreExclusiveEntry(mm, vpn);
  mm.notifiers.end();
  phys.unlockPage(pfn);
  phys.putPage(pfn);
  return 0;
}

/** Makes the device-exclusive entry of page `vpn` present again. The change has been announced. @kernel restore_exclusive_pte */
export function restoreExclusiveEntry(mm: Mm, vpn: number): void {
  mm.tables.write(vpn, (mm.tables.read(vpn) & ~PTE_KIND) | PTE_PRESENT);
}

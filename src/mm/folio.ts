import type { Pfn } from "../base/addr.ts";
import { HPAGE_PAGES, PG_COMPOUND, PG_DEVICE_WRITTEN, PG_LOCKED } from "./frame-table.ts";
import { splitHuge } from "./huge.ts";
import type { PhysMemory } from "./phys-mem.ts";
import { type Steps, wait } from "./steps.ts";

/** The first frame of the 2 MiB that `pfn` lies in: the head, if it is part of a large folio. @kernel compound_head */
export function headOf(pfn: Pfn): Pfn {
  return pfn - (pfn % HPAGE_PAGES);
}

export function isCompound(phys: PhysMemory, pfn: Pfn): boolean {
  return (phys.frames.flags[pfn]! & PG_COMPOUND) !== 0;
}

/**
 * Makes single pages of the large folio that `pfn`, not free, is part of; huge entries that map it are split first, which raises
 * CLEAR in their mms. False, and nothing but entries split, while somebody holds one of its frames or has locked it: but
 * for `faultPage`, which the CPU fault being served has locked and holds. @kernel split_folio
 */
export function* splitFolio(phys: PhysMemory, pfn: Pfn, faultPage: Pfn): Steps<boolean> {
  const head = headOf(pfn);
  if (!isOnlyMapped(phys, head, faultPage)) return false;
  for (const { mm: id, vpn } of phys.rmap.list(head)) {
    const mm = phys.mmById(id);
    if (!(yield* splitHuge(mm, Math.floor(vpn / HPAGE_PAGES)))) return false;
  }
  // The announcements may have waited, and what was true before need not be.
  if (!isCompound(phys, pfn)) return true;
  if (isMappedHuge(phys, head) || !isOnlyMapped(phys, head, faultPage)) return false;
  phys.uncompound(head);
  return true;
}

function isMappedHuge(phys: PhysMemory, head: Pfn): boolean {
  return phys.rmap.list(head).some(({ mm, vpn }) => phys.mmById(mm).tables.isHuge(Math.floor(vpn / HPAGE_PAGES)));
}

/** No frame of the folio is locked or has a reference that is not a mapping. */
function isOnlyMapped(phys: PhysMemory, head: Pfn, faultPage: Pfn): boolean {
  const { flags, mapcount, refcount } = phys.frames;
  for (let pfn = head; pfn < head + HPAGE_PAGES; pfn++) {
    if ((flags[pfn]! & PG_COMPOUND) === 0 || pfn === faultPage) continue;
    if ((flags[pfn]! & PG_LOCKED) !== 0 || refcount[pfn] !== mapcount[pfn]) return false;
  }
  return true;
}

/** Waits until what devices wrote to the frame stands in RAM. No device can reach it any more. */
export function* settleBytes(phys: PhysMemory, pfn: Pfn): Steps<void> {
  while ((phys.frames.flags[pfn]! & PG_DEVICE_WRITTEN) !== 0) yield* wait(phys.syncForCpu(pfn));
}

import { PAGE_SIZE, SZ_2M, type Va } from "../base/addr.ts";
import type { Mm } from "./mm.ts";
import { PTES, PTE_DEVICE_PRIVATE, PTE_KIND, PTE_SHIFT, pteIndex } from "./page-table.ts";

/**
 * Which pages of an interval lie in the memory of devices, found in the words of the page tables: what has no table is
 * passed over by 2 MiB, and so is what one huge entry maps. Probes: they change nothing.
 */

/** The first page of `[start, end)` that lies in device memory; `end` if there is none. */
export function nextDevicePage(mm: Mm, start: Va, end: Va): Va {
  for (let at = start; at < end;) {
    const index = Math.floor(at / SZ_2M);
    const next = Math.min(end, (index + 1) * SZ_2M);
    const table = mm.tables.at(index);
    if (table !== null) {
      const first = pteIndex(at);
      const last = mm.tables.isHuge(index) ? first + 1 : first + (next - at) / PAGE_SIZE;
      for (let i = first; i < last; i++) {
        if ((table[i]! & PTE_KIND) === PTE_DEVICE_PRIVATE) return at + (i - first) * PAGE_SIZE;
      }
    }
    at = next;
  }
  return end;
}

/**
 * How many pages of `[addr, end)` from `addr` on, which lies in device memory, are in frames one behind the other that belong
 * to the same allocation. Looks no further than the next multiple of 2 MiB.
 */
export function deviceRunLength(mm: Mm, addr: Va, end: Va): number {
  const index = Math.floor(addr / SZ_2M);
  const from = pteIndex(addr);
  const most = Math.min(PTES - from, (end - addr) / PAGE_SIZE);
  // A huge entry maps one folio, which is one allocation's.
  if (mm.tables.isHuge(index)) return most;
  const table = mm.tables.at(index)!;
  const first = table[from]! >>> PTE_SHIFT;
  let count = 1;
  while (count < most) {
    const word = table[from + count]!;
    if ((word & PTE_KIND) !== PTE_DEVICE_PRIVATE || word >>> PTE_SHIFT !== first + count) break;
    count += 1;
  }
  return count === 1 ? 1 : mm.phys.zoneDeviceRun(first, count);
}

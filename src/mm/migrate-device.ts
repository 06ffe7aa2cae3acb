import type { Pfn } from "../base/addr.ts";
import { mutated } from "../base/mutation.ts";
import { headOf, isCompound, splitFolio } from "./folio.ts";
import { HPAGE_PAGES } from "./frame-table.ts";
import { finalizePages, migratePage } from "./migrate-entries.ts";
import { unmapCollected } from "./migrate-unmap.ts";
import type { PhysMemory } from "./phys-mem.ts";
import { type Steps, wait } from "./steps.ts";
import { MIGRATE_PFN_COMPOUND, MIGRATE_PFN_MIGRATE, MIGRATE_PFN_VALID } from "./types.ts";

/**
 * Migration by frame, for eviction: no address, no mmap lock; the reverse map finds who has the page mapped.
 *
 * `src` holds raw frame numbers on entry and migrate words after: a page that is free, or locked by somebody who
 * already migrates it, becomes 0. A large folio of which all 512 frames are named becomes one word with COMPOUND; of which
 * only some are, none. One of which a part is free already is split first. @kernel migrate_device_pfns, migrate_device_range
 */
export function* migrateDevicePfns(phys: PhysMemory, src: Uint32Array): Steps<void> {
  for (let i = 0; i < src.length;) {
    const pfn = src[i]!;
    // Part of it has been unmapped and is free: what is left moves page by page.
    if (isCompound(phys, pfn) && !isWhole(phys, headOf(pfn))) yield* splitFolio(phys, pfn, -1);
    const count = isCompound(phys, pfn) ? HPAGE_PAGES : 1;
    if (
      !isRun(src, i, count) ||
      !isLive(phys, pfn, count) ||
      !(phys.locks.tryLockRun(pfn, count) || mutated("evict-unlocked"))
    ) {
      src[i] = 0;
      i += 1;
      continue;
    }
    phys.getPages(pfn, count);
    if (count > 1) src.fill(0, i, i + count);
    src[i] = (pfn << 6) | MIGRATE_PFN_VALID | MIGRATE_PFN_MIGRATE | (count === 1 ? 0 : MIGRATE_PFN_COMPOUND);
    i += count;
  }
  const point = phys.sched.point("mm:evict:locked");
  if (point !== undefined) yield* wait(point);
  yield* wait(unmapCollected(phys, src, -1));
}

function isWhole(phys: PhysMemory, head: Pfn): boolean {
  for (let pfn = head; pfn < head + HPAGE_PAGES; pfn++) if (!isCompound(phys, pfn)) return false;
  return true;
}

function isLive(phys: PhysMemory, first: Pfn, count: number): boolean {
  const { refcount } = phys.frames;
  for (let pfn = first; pfn < first + count; pfn++) if (refcount[pfn] === 0) return false;
  return true;
}

/** `count` frames, one after the other and aligned if there are many. */
function isRun(src: Uint32Array, i: number, count: number): boolean {
  if (count === 1) return true;
  const first = src[i]!;
  return first % count === 0 && i + count <= src.length && src[i + count - 1] === first + count - 1;
}

/**
 * A large folio whose destination is single pages is split: otherwise no eviction could succeed once RAM has no 2 MiB in a
 * row. (The kernel gives up on it here, where there is no area.) @kernel migrate_device_pages
 */
export function migrateDevicePages(phys: PhysMemory, src: Uint32Array, dst: Uint32Array): void {
  for (let i = 0; i < src.length; i++) migratePage(phys, src, dst, i, -1);
}

/** @kernel migrate_device_finalize */
export function migrateDeviceFinalize(phys: PhysMemory, src: Uint32Array, dst: Uint32Array): void {
  finalizePages(phys, src, dst, -1);
}

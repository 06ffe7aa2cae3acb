import { finalizePages, migratePage } from "./migrate-entries.ts";
import { unmapCollected } from "./migrate-unmap.ts";
import type { PhysMemory } from "./phys-mem.ts";
import { type Steps, wait } from "./steps.ts";
import { MIGRATE_PFN_MIGRATE, MIGRATE_PFN_VALID } from "./types.ts";

/**
 * Migration by frame, for eviction: no address, no mmap lock; the reverse map finds who has the page mapped.
 *
 * `src` holds raw frame numbers on entry and migrate words after: a page that is free, or locked by somebody who
 * already migrates it, becomes 0. @kernel migrate_device_pfns, migrate_device_range
 */
export function* migrateDevicePfns(phys: PhysMemory, src: Uint32Array): Steps<void> {
  const { refcount } = phys.frames;
  for (let i = 0; i < src.length; i++) {
    const pfn = src[i]!;
    if (refcount[pfn] === 0 || !phys.locks.tryLock(pfn)) {
      src[i] = 0;
      continue;
    }
    refcount[pfn]! += 1;
    src[i] = (pfn << 6) | MIGRATE_PFN_VALID | MIGRATE_PFN_MIGRATE;
  }
  const point = phys.sched.point("mm:evict:locked");
  if (point !== undefined) yield* wait(point);
  yield* unmapCollected(phys, src, -1);
}

/** @kernel migrate_device_pages */
export function migrateDevicePages(phys: PhysMemory, src: Uint32Array, dst: Uint32Array): void {
  for (let i = 0; i < src.length; i++) migratePage(phys, src, dst, i, -1);
}

/** @kernel migrate_device_finalize */
export function migrateDeviceFinalize(phys: PhysMemory, src: Uint32Array, dst: Uint32Array): void {
  finalizePages(phys, src, dst, -1);
}

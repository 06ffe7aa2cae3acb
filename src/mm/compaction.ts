import type { Pfn } from "../base/addr.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import { settleBytes } from "./folio.ts";
import { PG_ANON, PG_COMPOUND, PG_KIND, PG_LOCKED, PG_LRU, PG_SYSTEM } from "./frame-table.ts";
import { finalizePages, migratePage } from "./migrate-entries.ts";
import { unmapCollected } from "./migrate-unmap.ts";
import type { PhysMemory } from "./phys-mem.ts";
import { type Steps, run, wait } from "./steps.ts";
import { MIGRATE_PFN_MIGRATE, MIGRATE_PFN_VALID, migratePfn } from "./types.ts";

/** Pages that are unmapped together; as many free frames are out of others' reach meanwhile. @kernel COMPACT_CLUSTER_MAX */
const CLUSTER = 32;

/**
 * Moves system pages from low frames to high free ones, so that the low ones become free in long runs; announces CLEAR in
 * every mm that maps them. Resolves to the pages that moved, at most `maxPages`. Pinned, locked and file pages and large
 * folios stay. Needs no lock. @kernel compact_zone, migrate_pages
 */
export function compact(phys: PhysMemory, options: { readonly maxPages?: number } = {}): MaybePromise<number> {
  return run(compactZone(phys, options.maxPages ?? phys.ramPages));
}

function* compactZone(phys: PhysMemory, maxPages: number): Steps<number> {
  let moved = 0;
  let floor = 0;
  while (moved < maxPages) {
    const src: number[] = [];
    const dst: number[] = [];
    floor = isolate(phys, floor, Math.min(CLUSTER, maxPages - moved), src, dst);
    if (src.length === 0) break;
    moved += yield* movePages(phys, Uint32Array.from(src), Uint32Array.from(dst));
  }
  return moved;
}

/** Locks and references up to `count` movable pages above `floor`, each with a frame for it; returns where it stopped. */
function isolate(phys: PhysMemory, floor: Pfn, count: number, src: number[], dst: number[]): Pfn {
  let pfn = floor + 1;
  for (; pfn < phys.ramPages && src.length < count; pfn++) {
    if (!isMovable(phys, pfn)) continue;
    const target = phys.allocPageAbove(pfn);
    if (target < 0) return phys.ramPages;
    lockForMove(phys, pfn, src);
    phys.locks.tryLock(target);
    dst.push(migratePfn(target));
  }
  return pfn - 1;
}

function isMovable(phys: PhysMemory, pfn: Pfn): boolean {
  const { flags, mapcount, refcount } = phys.frames;
  const bits = flags[pfn]!;
  if ((bits & PG_KIND) !== PG_SYSTEM || (bits & (PG_LOCKED | PG_COMPOUND)) !== 0) return false;
  return (bits & (PG_LRU | PG_ANON)) === (PG_LRU | PG_ANON) && mapcount[pfn] === refcount[pfn];
}

function lockForMove(phys: PhysMemory, pfn: Pfn, src: number[]): void {
  phys.locks.tryLock(pfn);
  phys.frames.refcount[pfn]! += 1;
  src.push((pfn << 6) | MIGRATE_PFN_VALID | MIGRATE_PFN_MIGRATE);
}

/** Moves collected pages, whose words are in `src`, to the locked frames in `dst`; the CPU copies. How many moved. */
function* movePages(phys: PhysMemory, src: Uint32Array, dst: Uint32Array): Steps<number> {
  yield* wait(unmapCollected(phys, src, -1));
  const point = phys.sched.point("mm:compact:unmapped");
  if (point !== undefined) yield* wait(point);
  for (let i = 0; i < src.length; i++) {
    if ((src[i]! & MIGRATE_PFN_VALID) === 0) continue;
    yield* settleBytes(phys, src[i]! >>> 6);
    phys.copyPage(dst[i]! >>> 6, src[i]! >>> 6);
    migratePage(phys, src, dst, i, -1);
  }
  let moved = 0;
  for (const word of src) if ((word & MIGRATE_PFN_MIGRATE) !== 0) moved += 1;
  finalizePages(phys, src, dst, -1);
  return moved;
}

/**
 * Moves a device-coherent page to RAM, where a long-term user may hold it. False when it cannot move or RAM is used up.
 * @kernel migrate_device_coherent_folio
 */
export function* moveCoherentPage(phys: PhysMemory, pfn: Pfn): Steps<boolean> {
  if (phys.locks.isLocked(pfn)) {
    yield* wait(phys.locks.waitUnlocked(pfn));
    return true;
  }
  const target = phys.allocPage();
  if (target < 0) return false;
  const src: number[] = [];
  lockForMove(phys, pfn, src);
  phys.locks.tryLock(target);
  return (yield* movePages(phys, Uint32Array.from(src), Uint32Array.of(migratePfn(target)))) === 1;
}

import { PAGE_SIZE, type Pfn } from "../base/addr.ts";
import { isPromise } from "../base/maybe-promise.ts";
import { PG_DEVICE_PRIVATE, PG_KIND } from "./frame-table.ts";
import { giveUp, isolateLru, putBack, toMigrationEntry } from "./migrate-entries.ts";
import type { Mm } from "./mm.ts";
import { PTE_DEVICE_PRIVATE, PTE_KIND, PTE_PRESENT, PTE_SHIFT } from "./page-table.ts";
import type { PhysMemory } from "./phys-mem.ts";
import type { Mapping } from "./rmap.ts";
import { type Steps, wait } from "./steps.ts";
import { MIGRATE_PFN_VALID, MMU_NOTIFY_CLEAR } from "./types.ts";

/**
 * Second phase of a collection: takes the pages off the LRU and out of every page table that still maps them, and
 * refuses those that somebody else holds. Returns how many were refused; their words are 0.
 * @kernel migrate_device_unmap
 */
export function* unmapCollected(phys: PhysMemory, src: Uint32Array, faultPage: Pfn): Steps<number> {
  const { mapcount } = phys.frames;
  let refused = 0;
  let mapped = false;
  for (let i = 0; i < src.length; i++) {
    if ((src[i]! & MIGRATE_PFN_VALID) === 0) continue;
    const pfn = src[i]! >>> 6;
    if (!isolateLru(phys, pfn)) {
      // Whoever isolated it before us puts it back.
      phys.putPage(giveUp(phys, src, i, faultPage));
      refused += 1;
    } else if (mapcount[pfn]! > 0) {
      mapped = true;
    }
  }
  if (mapped) yield* tryToMigrate(phys, src);
  return refused + refuseHeld(phys, src, faultPage);
}

/** Refuses the pages that are still mapped or that somebody else has a reference to. @kernel migrate_vma_check_page */
function refuseHeld(phys: PhysMemory, src: Uint32Array, faultPage: Pfn): number {
  const { flags, mapcount, refcount } = phys.frames;
  let refused = 0;
  for (let i = 0; i < src.length; i++) {
    if ((src[i]! & MIGRATE_PFN_VALID) === 0) continue;
    const pfn = src[i]! >>> 6;
    const isDevice = (flags[pfn]! & PG_KIND) >= PG_DEVICE_PRIVATE;
    // The kernel tolerates one more reference of a device page here; moving its identity does not.
    const expected = 1 + (isDevice ? 1 : 0) + (pfn === faultPage ? 1 : 0);
    if (mapcount[pfn]! > 0 || refcount[pfn]! > expected) {
      putBack(phys, giveUp(phys, src, i, faultPage));
      refused += 1;
    }
  }
  return refused;
}

/**
 * Replaces the mappings of collected pages by migration entries, in whatever mm they are, announcing CLEAR there.
 *
 * The kernel announces page by page. Here neighbouring pages that are mapped at neighbouring addresses of one mm share
 * one announcement, exactly as long as they: an eviction costs one callback per chunk instead of 512.
 * @kernel try_to_migrate
 */
function* tryToMigrate(phys: PhysMemory, src: Uint32Array): Steps<void> {
  for (let i = 0; i < src.length;) {
    const first = findMapping(phys, src[i]!);
    if (first === null) {
      i += 1;
      continue;
    }
    // A page that forked processes share comes around again, once for each.
    const mm = phys.mmById(first.mm);
    yield* unmapRun(phys, src, i, mm, first.vpn, runLength(src, i, mm, first.vpn));
  }
}

/** A mapping of the collected page of `word` that is not yet a migration entry. */
function findMapping(phys: PhysMemory, word: number): Mapping | null {
  const pfn = word >>> 6;
  if ((word & MIGRATE_PFN_VALID) === 0 || phys.frames.mapcount[pfn] === 0) return null;
  return phys.rmap.list(pfn).find(({ mm, vpn }) => isMappedAt(phys.mmById(mm), vpn, pfn)) ?? null;
}

/** Collected pages from word `i` on that the mm maps one after the other from `vpn`. */
function runLength(src: Uint32Array, i: number, mm: Mm, vpn: number): number {
  let count = 1;
  for (; i + count < src.length; count++) {
    const word = src[i + count]!;
    if ((word & MIGRATE_PFN_VALID) === 0 || !isMappedAt(mm, vpn + count, word >>> 6)) break;
  }
  return count;
}

function isMappedAt(mm: Mm, vpn: number, pfn: Pfn): boolean {
  const word = mm.tables.read(vpn);
  const kind = word & PTE_KIND;
  return (kind === PTE_PRESENT || kind === PTE_DEVICE_PRIVATE) && word >>> PTE_SHIFT === pfn;
}

function* unmapRun(phys: PhysMemory, src: Uint32Array, i: number, mm: Mm, vpn: number, count: number): Steps<void> {
  const start = vpn * PAGE_SIZE;
  const range = { start, end: start + count * PAGE_SIZE, event: MMU_NOTIFY_CLEAR, blockable: true, owner: null };
  const started = mm.notifiers.start(range);
  if (isPromise(started)) yield* wait(started);
  for (let k = 0; k < count; k++) {
    const pfn = src[i + k]! >>> 6;
    // An entry that changed while the announcement was awaited is not ours any more.
    if (isMappedAt(mm, vpn + k, pfn)) mm.tables.write(vpn + k, toMigrationEntry(phys, pfn, mm.tables.read(vpn + k)));
  }
  mm.notifiers.end();
}

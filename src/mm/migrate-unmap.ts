import { PAGE_SIZE, type Pfn } from "../base/addr.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import { mutated } from "../base/mutation.ts";
import { announce } from "./announce.ts";
import { PG_DEVICE_PRIVATE, PG_KIND } from "./frame-table.ts";
import { giveUp, isolateLru, pagesOf, putBack, toMigrationEntry } from "./migrate-entries.ts";
import type { Mm } from "./mm.ts";
import { PTES, PTE_SHIFT, isMapping, tableIndex } from "./page-table.ts";
import type { PhysMemory } from "./phys-mem.ts";
import type { Mapping } from "./rmap.ts";
import { type Steps, run } from "./steps.ts";
import { MIGRATE_PFN_VALID } from "./types.ts";

/**
 * Second phase of a collection: takes the pages off the LRU and out of every page table that still maps them, and
 * refuses those that somebody else holds. Returns how many words were refused; they are 0.
 * @kernel migrate_device_unmap
 */
export function unmapCollected(phys: PhysMemory, src: Uint32Array, faultPage: Pfn): MaybePromise<number> {
  let refused = 0;
  let mapped = false;
  for (let i = 0; i < src.length; i++) {
    if ((src[i]! & MIGRATE_PFN_VALID) === 0) continue;
    const pfn = src[i]! >>> 6;
    const count = pagesOf(src[i]!);
    if (!isolateLru(phys, pfn, count)) {
      // Whoever isolated it before us puts it back.
      giveUp(phys, src, i, faultPage);
      phys.putPages(pfn, count);
      refused += 1;
    } else {
      mapped ||= isMapped(phys, pfn, count);
    }
  }
  return mapped ? run(unmapMapped(phys, src, faultPage, refused)) : refused + refuseHeld(phys, src, faultPage);
}

function* unmapMapped(phys: PhysMemory, src: Uint32Array, faultPage: Pfn, refused: number): Steps<number> {
  yield* tryToMigrate(phys, framesOf(src));
  return refused + refuseHeld(phys, src, faultPage);
}

function isMapped(phys: PhysMemory, first: Pfn, count: number): boolean {
  const { mapcount } = phys.frames;
  for (let pfn = first; pfn < first + count; pfn++) if (mapcount[pfn]! > 0) return true;
  return false;
}

/** Refuses the pages that are still mapped or that somebody else has a reference to. @kernel migrate_vma_check_page */
function refuseHeld(phys: PhysMemory, src: Uint32Array, faultPage: Pfn): number {
  let refused = 0;
  for (let i = 0; i < src.length; i++) {
    if ((src[i]! & MIGRATE_PFN_VALID) === 0) continue;
    const pfn = src[i]! >>> 6;
    const count = pagesOf(src[i]!);
    if (!isHeld(phys, pfn, count, faultPage) || mutated("held-page-migrated")) continue;
    giveUp(phys, src, i, faultPage);
    putBack(phys, pfn, count);
    refused += 1;
  }
  return refused;
}

function isHeld(phys: PhysMemory, first: Pfn, count: number, faultPage: Pfn): boolean {
  const { flags, mapcount, refcount } = phys.frames;
  const isDevice = (flags[first]! & PG_KIND) >= PG_DEVICE_PRIVATE;
  for (let pfn = first; pfn < first + count; pfn++) {
    // The kernel tolerates one more reference of a device page here; moving its identity does not.
    const expected = 1 + (isDevice ? 1 : 0) + (pfn === faultPage ? 1 : 0);
    if (mapcount[pfn]! > 0 || refcount[pfn]! > expected) return true;
  }
  return false;
}

/** The frame of each slot, also behind a word that stands for 512; 0 where nothing was collected. */
function framesOf(src: Uint32Array): Uint32Array {
  const pfns = new Uint32Array(src.length);
  for (let i = 0; i < src.length; i++) {
    const word = src[i]!;
    if ((word & MIGRATE_PFN_VALID) === 0) continue;
    const [first, count] = [word >>> 6, pagesOf(word)];
    for (let k = 0; k < count; k++) pfns[i + k] = first + k;
  }
  return pfns;
}

/**
 * Replaces the mappings of collected pages by migration entries, in whatever mm they are, announcing CLEAR there. An entry
 * that maps all of a large folio stays huge, since all its words change alike.
 *
 * The kernel announces page by page. Here neighbouring pages that are mapped at neighbouring addresses of one mm share
 * one announcement, exactly as long as they: an eviction costs one callback per chunk instead of 512.
 * @kernel try_to_migrate
 */
function* tryToMigrate(phys: PhysMemory, pfns: Uint32Array): Steps<void> {
  for (let i = 0; i < pfns.length;) {
    const first = findMapping(phys, pfns[i]!);
    if (first === null) {
      i += 1;
      continue;
    }
    // A page that forked processes share comes around again, once for each.
    const mm = phys.mmById(first.mm);
    yield* unmapRun(phys, pfns, i, mm, first.vpn, runLength(pfns, i, mm, first.vpn));
  }
}

/** A mapping of the collected page that is not yet a migration entry. */
function findMapping(phys: PhysMemory, pfn: Pfn): Mapping | null {
  if (pfn === 0 || phys.frames.mapcount[pfn] === 0) return null;
  return phys.rmap.list(pfn).find(({ mm, vpn }) => isMappedAt(phys.mmById(mm), vpn, pfn)) ?? null;
}

/** Collected pages from slot `i` on that the mm maps one after the other from `vpn`. */
function runLength(pfns: Uint32Array, i: number, mm: Mm, vpn: number): number {
  let count = 1;
  while (i + count < pfns.length) {
    const index = tableIndex(vpn + count);
    const table = mm.tables.at(index);
    if (table === null) break;
    const from = vpn + count - index * PTES;
    const most = Math.min(PTES - from, pfns.length - i - count);
    let k = 0;
    for (; k < most; k++) {
      const pfn = pfns[i + count + k]!;
      const word = table[from + k]!;
      if (pfn === 0 || word >>> PTE_SHIFT !== pfn || !isMapping(word)) break;
    }
    count += k;
    if (k < most) break;
  }
  return count;
}

function isMappedAt(mm: Mm, vpn: number, pfn: Pfn): boolean {
  const word = mm.tables.read(vpn);
  return isMapping(word) && word >>> PTE_SHIFT === pfn;
}

function* unmapRun(phys: PhysMemory, pfns: Uint32Array, i: number, mm: Mm, vpn: number, count: number): Steps<void> {
  yield* announce(mm, vpn * PAGE_SIZE, mutated("evict-unannounced") ? 0 : (vpn + count) * PAGE_SIZE);
  const isChecked = !mutated("evict-recheck");
  for (let k = 0; k < count;) {
    const index = tableIndex(vpn + k);
    const next = Math.min(count, (index + 1) * PTES - vpn);
    const table = mm.tables.at(index);
    if (table !== null) replaceMappings(phys, table, vpn + k - index * PTES, pfns.subarray(i + k, i + next), isChecked);
    k = next;
  }
  mm.notifiers.end();
}

/** An entry that changed while the announcement was awaited is not ours any more. */
function replaceMappings(
  phys: PhysMemory,
  table: Uint32Array,
  from: number,
  pfns: Uint32Array,
  isChecked: boolean,
): void {
  for (let k = 0; k < pfns.length; k++) {
    const pfn = pfns[k]!;
    const word = table[from + k]!;
    if (isChecked && (word >>> PTE_SHIFT !== pfn || !isMapping(word))) continue;
    table[from + k] = toMigrationEntry(phys, pfn, word);
  }
}

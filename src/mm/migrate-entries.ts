import type { Pfn } from "../base/addr.ts";
import { mutated } from "../base/mutation.ts";
import {
  HPAGE_PAGES,
  PG_ANON,
  PG_ANON_EXCLUSIVE,
  PG_DEVICE_PRIVATE,
  PG_KIND,
  PG_LRU,
  PG_RMAP_MORE,
} from "./frame-table.ts";
import {
  PTES,
  PTE_DEVICE_PRIVATE,
  PTE_EXCLUSIVE,
  PTE_KIND,
  PTE_MIGRATION,
  PTE_NOACCESS,
  PTE_PRESENT,
  PTE_SHIFT,
  PTE_WRITE,
  tableIndex,
} from "./page-table.ts";
import type { PhysMemory } from "./phys-mem.ts";
import { MIGRATE_PFN_COMPOUND, MIGRATE_PFN_MIGRATE, MIGRATE_PFN_VALID } from "./types.ts";

/** Pages that a migrate word stands for; the 511 words behind one with COMPOUND are 0. */
export function pagesOf(word: number): number {
  return (word & MIGRATE_PFN_COMPOUND) === 0 ? 1 : HPAGE_PAGES;
}

/**
 * The migration entry that takes the place of `word`, a mapping of the locked page `pfn`. The mapping's count and
 * reference go; the reverse mapping stays, so that the end of the migration finds the entry.
 * @kernel set_migration_pte, make_writable_migration_entry
 */
export function toMigrationEntry(phys: PhysMemory, pfn: Pfn, word: number): number {
  const { flags, mapcount, refcount } = phys.frames;
  mapcount[pfn]! -= 1;
  refcount[pfn]! -= 1;
  const bits = flags[pfn]!;
  flags[pfn] = bits & ~PG_ANON_EXCLUSIVE;
  return migrationEntry(pfn, word, bits);
}

/**
 * The same in `table` for `count` entries from `at` on, which map frames one behind the other from `first` on. @kernel set_pmd_migration_entry
 */
export function toMigrationEntries(phys: PhysMemory, table: Uint32Array, at: number, first: Pfn, count: number): void {
  const { flags, mapcount, refcount } = phys.frames;
  for (let k = 0; k < count; k++) {
    const pfn = first + k;
    mapcount[pfn]! -= 1;
    refcount[pfn]! -= 1;
    const bits = flags[pfn]!;
    flags[pfn] = bits & ~PG_ANON_EXCLUSIVE;
    table[at + k] = migrationEntry(pfn, table[at + k]!, bits);
  }
}

/** `bits`: the flags of the frame while it was mapped. */
function migrationEntry(pfn: Pfn, word: number, bits: number): number {
  const kept = word & (PTE_WRITE | PTE_NOACCESS);
  const exclusive = (bits & PG_ANON_EXCLUSIVE) !== 0 && (word & PTE_WRITE) === 0 ? PTE_EXCLUSIVE : 0;
  return (pfn << PTE_SHIFT) | PTE_MIGRATION | kept | exclusive;
}

/** Replaces every migration entry of `source` by a mapping of `target`, which may be the same. @kernel remove_migration_ptes */
export function removeMigrationPtes(phys: PhysMemory, source: Pfn, target: Pfn): void {
  const { flags, rmapMm, rmapVpn } = phys.frames;
  if (rmapMm[source] === 0) return;
  if ((flags[source]! & PG_RMAP_MORE) === 0) {
    removeMigrationPte(phys, source, target, rmapMm[source]!, rmapVpn[source]!);
  } else {
    for (const { mm, vpn } of phys.rmap.list(source)) removeMigrationPte(phys, source, target, mm, vpn);
  }
}

function removeMigrationPte(phys: PhysMemory, source: Pfn, target: Pfn, mmId: number, vpn: number): void {
  const { tables } = phys.mmById(mmId);
  const word = tables.read(vpn);
  if ((word & PTE_KIND) !== PTE_MIGRATION || word >>> PTE_SHIFT !== source) return;
  const { flags, mapcount, refcount } = phys.frames;
  const kind = (flags[target]! & PG_KIND) === PG_DEVICE_PRIVATE ? PTE_DEVICE_PRIVATE : PTE_PRESENT;
  tables.write(vpn, (target << PTE_SHIFT) | kind | (word & (PTE_WRITE | PTE_NOACCESS)));
  mapcount[target]! += 1;
  refcount[target]! += 1;
  flags[target]! |= (word & (PTE_WRITE | PTE_EXCLUSIVE)) === 0 ? PG_ANON : PG_ANON | PG_ANON_EXCLUSIVE;
  if (target === source) return;
  phys.rmap.remove(source, mmId, vpn);
  phys.rmap.add(target, mmId, vpn);
}

/** `removeMigrationPtes` for each of `count` frames in a row. */
export function removeMigrationRun(phys: PhysMemory, source: Pfn, target: Pfn, count: number): void {
  for (let k = 0; k < count;) {
    const moved = moveMappings(phys, source + k, target + k, count - k);
    if (moved === 0) removeMigrationPtes(phys, source + k, target + k);
    k += Math.max(moved, 1);
  }
}

/**
 * The same for as many of the frames as one table of one mm maps one behind the other, and nobody else; their number. It is
 * what each page of `removeMigrationPte` comes to, without looking everything up anew.
 */
function moveMappings(phys: PhysMemory, source: Pfn, target: Pfn, count: number): number {
  const { flags, mapcount, refcount, rmapMm, rmapVpn } = phys.frames;
  const mmId = rmapMm[source]!;
  if (mmId === 0 || source === target) return 0;
  const vpn = rmapVpn[source]!;
  const index = tableIndex(vpn);
  const table = phys.mmById(mmId).tables.at(index);
  if (table === null) return 0;
  const from = vpn - index * PTES;
  const most = Math.min(count, PTES - from);
  let k = 0;
  for (; k < most; k++) {
    const s = source + k;
    const t = target + k;
    const word = table[from + k]!;
    if ((word & PTE_KIND) !== PTE_MIGRATION || word >>> PTE_SHIFT !== s) break;
    if (rmapMm[s] !== mmId || rmapVpn[s] !== vpn + k || (flags[s]! & PG_RMAP_MORE) !== 0 || rmapMm[t] !== 0) break;
    const bits = flags[t]!;
    const kind = (bits & PG_KIND) === PG_DEVICE_PRIVATE ? PTE_DEVICE_PRIVATE : PTE_PRESENT;
    table[from + k] = (t << PTE_SHIFT) | kind | (word & (PTE_WRITE | PTE_NOACCESS));
    mapcount[t]! += 1;
    refcount[t]! += 1;
    flags[t] = bits | ((word & (PTE_WRITE | PTE_EXCLUSIVE)) === 0 ? PG_ANON : PG_ANON | PG_ANON_EXCLUSIVE);
    rmapMm[s] = 0;
    rmapMm[t] = mmId;
    rmapVpn[t] = vpn + k;
  }
  return k;
}

/** Off the LRU, keeping the caller's references; all or none. Device pages are never on one. @kernel folio_isolate_lru */
export function isolateLru(phys: PhysMemory, first: Pfn, count: number): boolean {
  const { flags } = phys.frames;
  if ((flags[first]! & PG_KIND) >= PG_DEVICE_PRIVATE) return true;
  for (let pfn = first; pfn < first + count; pfn++) if ((flags[pfn]! & PG_LRU) === 0) return false;
  for (let pfn = first; pfn < first + count; pfn++) flags[pfn]! &= ~PG_LRU;
  return true;
}

/** Drops the migrator's references; system pages that live on are on the LRU again. @kernel folio_putback_lru */
export function putBack(phys: PhysMemory, first: Pfn, count: number): void {
  const { flags } = phys.frames;
  const lru = (flags[first]! & PG_KIND) < PG_DEVICE_PRIVATE ? PG_LRU : 0;
  if (lru !== 0) for (let pfn = first; pfn < first + count; pfn++) flags[pfn]! |= lru;
  phys.putPages(first, count);
}

/**
 * Gives up on collected word `i`: the mappings come back, the pages are unlocked, the word becomes 0. The caller puts
 * them. The page whose CPU fault is being served stays locked, by the fault path.
 */
export function giveUp(phys: PhysMemory, src: Uint32Array, i: number, faultPage: Pfn): void {
  const first = src[i]! >>> 6;
  const count = pagesOf(src[i]!);
  src[i] = 0;
  for (let pfn = first; pfn < first + count; pfn++) {
    removeMigrationPtes(phys, pfn, pfn);
    if (pfn !== faultPage) phys.locks.unlock(pfn);
  }
}

/** Nobody but the migrator, and the fault path for its page, has a reference. */
function isOurs(phys: PhysMemory, first: Pfn, count: number, faultPage: Pfn): boolean {
  const { refcount } = phys.frames;
  for (let pfn = first; pfn < first + count; pfn++) if (refcount[pfn] !== (pfn === faultPage ? 2 : 1)) return false;
  return true;
}

/**
 * Moves the identity of collected word `i` to its destination, or refuses by clearing MIGRATE: there is no destination,
 * one of another size, or somebody else got a reference meanwhile. A large folio may become 512 words, which the caller
 * comes to next. The entries follow in finalize. @kernel __migrate_device_pages
 */
export function migratePage(phys: PhysMemory, src: Uint32Array, dst: Uint32Array, i: number, faultPage: Pfn): void {
  if ((src[i]! & MIGRATE_PFN_MIGRATE) === 0) return;
  const hasTarget = (dst[i]! & MIGRATE_PFN_VALID) !== 0;
  if (hasTarget && pagesOf(dst[i]!) < pagesOf(src[i]!)) splitCollected(phys, src, i);
  const count = pagesOf(src[i]!);
  const isFree = isOurs(phys, src[i]! >>> 6, count, faultPage) || mutated("held-page-migrated");
  const canMove = hasTarget && count === pagesOf(dst[i]!) && isFree;
  if (!canMove) src[i]! &= ~MIGRATE_PFN_MIGRATE;
}

/**
 * Makes 512 words, and single pages, of a collected large folio. Its entries are migration entries, which no device maps:
 * nothing to announce. @kernel migrate_vma_split_unmapped_folio
 */
function splitCollected(phys: PhysMemory, src: Uint32Array, i: number): void {
  const word = src[i]! & ~MIGRATE_PFN_COMPOUND;
  const head = src[i]! >>> 6;
  for (const { mm, vpn } of phys.rmap.list(head)) phys.mmById(mm).tables.splitPmd(tableIndex(vpn));
  phys.uncompound(head);
  for (let k = 0; k < HPAGE_PAGES; k++) src[i + k] = word + k * (1 << PTE_SHIFT);
}

/**
 * Ends a migration: replaces the migration entries by mappings of the destination, or of the source where the page did
 * not move; unlocks and puts both. @kernel __migrate_device_finalize
 */
export function finalizePages(phys: PhysMemory, src: Uint32Array, dst: Uint32Array, faultPage: Pfn): void {
  for (let i = mutated("finalize-short") ? 1 : 0; i < src.length; i++) {
    const word = src[i]!;
    const target = (dst[i]! & MIGRATE_PFN_VALID) === 0 ? -1 : dst[i]! >>> 6;
    const moved = target >= 0 && (word & MIGRATE_PFN_MIGRATE) !== 0;
    if ((word & MIGRATE_PFN_VALID) !== 0) finalizeSource(phys, word, moved ? target : word >>> 6, faultPage);
    if (target < 0) continue;
    // A destination that was refused is freed by this; one that fills a hole lives by its mapping.
    phys.locks.unlockRun(target, pagesOf(dst[i]!));
    if (moved && (word & MIGRATE_PFN_VALID) !== 0) putBack(phys, target, pagesOf(dst[i]!));
    else phys.putPages(target, pagesOf(dst[i]!));
  }
}

function finalizeSource(phys: PhysMemory, word: number, target: Pfn, faultPage: Pfn): void {
  const source = word >>> 6;
  const count = pagesOf(word);
  removeMigrationRun(phys, source, target, count);
  if (faultPage < source || faultPage >= source + count) phys.locks.unlockRun(source, count);
  else for (let pfn = source; pfn < source + count; pfn++) if (pfn !== faultPage) phys.locks.unlock(pfn);
  putBack(phys, source, count);
}

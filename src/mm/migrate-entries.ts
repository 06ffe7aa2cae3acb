import type { Pfn } from "../base/addr.ts";
import { PG_ANON, PG_ANON_EXCLUSIVE, PG_DEVICE_PRIVATE, PG_KIND, PG_LRU, PG_RMAP_MORE } from "./frame-table.ts";
import {
  PTE_DEVICE_PRIVATE,
  PTE_EXCLUSIVE,
  PTE_KIND,
  PTE_MIGRATION,
  PTE_NOACCESS,
  PTE_PRESENT,
  PTE_SHIFT,
  PTE_WRITE,
} from "./page-table.ts";
import type { PhysMemory } from "./phys-mem.ts";
import { MIGRATE_PFN_MIGRATE, MIGRATE_PFN_VALID } from "./types.ts";

/**
 * The migration entry that takes the place of `word`, a mapping of the locked page `pfn`. The mapping's count and
 * reference go; the reverse mapping stays, so that the end of the migration finds the entry.
 * @kernel set_migration_pte, make_writable_migration_entry
 */
export function toMigrationEntry(phys: PhysMemory, pfn: Pfn, word: number): number {
  const { flags, mapcount, refcount } = phys.frames;
  const wasExclusive = (flags[pfn]! & PG_ANON_EXCLUSIVE) !== 0;
  mapcount[pfn]! -= 1;
  refcount[pfn]! -= 1;
  flags[pfn]! &= ~PG_ANON_EXCLUSIVE;
  const kept = word & (PTE_WRITE | PTE_NOACCESS);
  const exclusive = wasExclusive && (word & PTE_WRITE) === 0 ? PTE_EXCLUSIVE : 0;
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

/** Off the LRU, keeping the caller's reference; device pages are never on one. @kernel folio_isolate_lru */
export function isolateLru(phys: PhysMemory, pfn: Pfn): boolean {
  const { flags } = phys.frames;
  if ((flags[pfn]! & PG_KIND) >= PG_DEVICE_PRIVATE) return true;
  if ((flags[pfn]! & PG_LRU) === 0) return false;
  flags[pfn]! &= ~PG_LRU;
  return true;
}

/** Drops the migrator's reference; a system page that lives on is on the LRU again. @kernel folio_putback_lru */
export function putBack(phys: PhysMemory, pfn: Pfn): void {
  const { flags } = phys.frames;
  if ((flags[pfn]! & PG_KIND) < PG_DEVICE_PRIVATE) flags[pfn]! |= PG_LRU;
  phys.putPage(pfn);
}

/**
 * Gives up on a collected page: its mappings come back, it is unlocked, its word becomes 0. The caller puts it. The page
 * whose CPU fault is being served stays locked, by the fault path.
 */
export function giveUp(phys: PhysMemory, src: Uint32Array, i: number, faultPage: Pfn): Pfn {
  const pfn = src[i]! >>> 6;
  src[i] = 0;
  removeMigrationPtes(phys, pfn, pfn);
  if (pfn !== faultPage) phys.locks.unlock(pfn);
  return pfn;
}

/**
 * Moves the identity of collected page `i` to its destination, or refuses by clearing MIGRATE: there is no destination,
 * or somebody else got a reference meanwhile. The entries follow in finalize. @kernel __migrate_device_pages
 */
export function migratePage(phys: PhysMemory, src: Uint32Array, dst: Uint32Array, i: number, faultPage: Pfn): void {
  if ((src[i]! & MIGRATE_PFN_MIGRATE) === 0) return;
  const pfn = src[i]! >>> 6;
  const expected = pfn === faultPage ? 2 : 1;
  const hasTarget = (dst[i]! & MIGRATE_PFN_VALID) !== 0;
  if (!hasTarget || phys.frames.refcount[pfn] !== expected) src[i]! &= ~MIGRATE_PFN_MIGRATE;
}

/**
 * Ends a migration: replaces the migration entries by mappings of the destination, or of the source where the page did
 * not move; unlocks and puts both. @kernel __migrate_device_finalize
 */
export function finalizePages(phys: PhysMemory, src: Uint32Array, dst: Uint32Array, faultPage: Pfn): void {
  const { locks } = phys;
  for (let i = 0; i < src.length; i++) {
    const word = src[i]!;
    let target = (dst[i]! & MIGRATE_PFN_VALID) === 0 ? -1 : dst[i]! >>> 6;
    if ((word & MIGRATE_PFN_VALID) === 0) {
      // A hole. Inserted, the mapping keeps the page alive; refused, this frees it.
      if (target >= 0) {
        locks.unlock(target);
        phys.putPage(target);
      }
      continue;
    }
    const source = word >>> 6;
    if ((word & MIGRATE_PFN_MIGRATE) === 0 || target < 0) {
      if (target >= 0) {
        locks.unlock(target);
        phys.putPage(target);
      }
      target = source;
    }
    removeMigrationPtes(phys, source, target);
    if (source !== faultPage) locks.unlock(source);
    putBack(phys, source);
    if (target !== source) {
      locks.unlock(target);
      putBack(phys, target);
    }
  }
}

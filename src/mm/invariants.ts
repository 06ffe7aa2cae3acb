import { assert } from "../base/assert.ts";
import { PAGE_SIZE, hex } from "../base/addr.ts";
import { PG_ANON_EXCLUSIVE, PG_KIND, PG_LOCKED, PG_LRU, PG_SYSTEM, PG_WAITERS, PG_ZERO } from "./frame-table.ts";
import type { Mm } from "./mm.ts";
import {
  PTES,
  PTE_DEVICE_PRIVATE,
  PTE_KIND,
  PTE_MIGRATION,
  PTE_NOACCESS,
  PTE_NONE,
  PTE_PRESENT,
  PTE_WRITE,
  ptePfn,
} from "./page-table.ts";
import type { PhysMemory } from "./phys-mem.ts";
import type { Vma } from "./vma.ts";

/**
 * Debug: everything about frames and page tables that must hold between any two steps, at any time. Throws
 * `InvariantError`. Costs a walk over all frames and tables.
 */
export function checkInvariants(phys: PhysMemory): void {
  const found = new Map<number, Tally>();
  for (const mm of phys.mms) {
    checkVmas(mm);
    checkNotifiers(mm);
    for (const [index, table] of mm.tables.entries()) {
      for (let i = 0; i < PTES; i++) if (table[i] !== PTE_NONE) checkEntry(mm, index * PTES + i, table[i]!, found);
    }
  }
  checkFrames(phys, found);
}

/** As `checkInvariants`, when no activity is under way: no lock, no migration, no open invalidation, no reference but mappings (I23, I33). */
export function checkQuiescent(phys: PhysMemory): void {
  checkInvariants(phys);
  const { flags, refcount, mapcount, length } = phys.frames;
  for (let pfn = 2; pfn < length; pfn++) {
    assert((flags[pfn]! & (PG_LOCKED | PG_WAITERS)) === 0, () => `page ${pfn} is locked`);
    assert(
      refcount[pfn] === mapcount[pfn],
      () => `page ${pfn} has ${refcount[pfn]} references for ${mapcount[pfn]} mappings`,
    );
    const isMapped = mapcount[pfn]! > 0 && (flags[pfn]! & PG_KIND) === PG_SYSTEM;
    assert(!isMapped || (flags[pfn]! & PG_LRU) !== 0, () => `mapped page ${pfn} is not on the LRU`);
  }
  for (const mm of phys.mms) {
    assert(!mm.mmapLock.isHeld, "an mmap lock is held");
    assert(mm.notifiers.active === 0, "an invalidation is open");
  }
}

function checkVmas(mm: Mm): void {
  let before: Vma | null = null;
  for (const vma of mm.vmas.all()) {
    assert(
      vma.start % PAGE_SIZE === 0 && vma.end % PAGE_SIZE === 0 && vma.start < vma.end,
      "an area that is not whole pages",
    );
    if (before !== null) {
      assert(before.end <= vma.start, () => `areas overlap at ${hex(vma.start)}`);
      assert(before.end < vma.start || before.prot !== vma.prot, () => `areas were not merged at ${hex(vma.start)}`);
    }
    before = vma;
  }
}

/** I1. */
function checkNotifiers(mm: Mm): void {
  const { seq, active } = mm.notifiers;
  assert(seq % 2 === 0 || active > 0, "the sequence number is odd while no invalidation is open");
  for (const ni of mm.notifiers.intervals()) {
    assert(
      ni.invalidateSeq % 2 === 1 && ni.invalidateSeq <= seq,
      "the sequence number of an interval is not odd and past",
    );
  }
}

/** What the page tables say about one frame. */
interface Tally {
  /** Entries that count as mappings, and all. */
  mapped: number;
  entries: number;
  /** Some mapping is writable. */
  writable: boolean;
}

function checkEntry(mm: Mm, vpn: number, word: number, found: Map<number, Tally>): void {
  const at = () => `entry of ${hex(vpn * PAGE_SIZE)} in mm ${mm.id}`;
  const vma = mm.vmas.lookup(vpn * PAGE_SIZE);
  assert(vma !== null, () => `${at()} lies in no area`);
  assert((word & PTE_WRITE) === 0 || vma.writable, () => `${at()} is writable where the area is not`);
  assert(((word & PTE_NOACCESS) !== 0) === !vma.readable, () => `${at()} disagrees with its area about access`);
  const pfn = ptePfn(word);
  const kind = word & PTE_KIND;
  const { flags } = mm.phys.frames;
  if ((flags[pfn]! & PG_KIND) === PG_ZERO) {
    assert(kind === PTE_PRESENT && (word & PTE_WRITE) === 0, () => `${at()} maps the zero page other than read-only`);
    return;
  }
  const isDevice = mm.phys.isDevicePrivate(pfn);
  assert(
    kind === PTE_MIGRATION || (kind === PTE_DEVICE_PRIVATE) === isDevice,
    () => `${at()} does not fit its page's kind`,
  );
  assert(
    kind !== PTE_MIGRATION || (flags[pfn]! & PG_LOCKED) !== 0,
    () => `${at()} waits for a page that is not locked`,
  );
  assert(
    mm.phys.rmap.list(pfn).some((m) => m.mm === mm.id && m.vpn === vpn),
    () => `${at()} is not in the reverse map`,
  );
  const tally = found.get(pfn) ?? { mapped: 0, entries: 0, writable: false };
  tally.entries += 1;
  if (kind !== PTE_MIGRATION) {
    tally.mapped += 1;
    tally.writable ||= (word & PTE_WRITE) !== 0;
  }
  found.set(pfn, tally);
}

function checkFrames(phys: PhysMemory, found: ReadonlyMap<number, Tally>): void {
  const { refcount, mapcount, flags, length } = phys.frames;
  let free = 0;
  for (let pfn = 2; pfn < length; pfn++) {
    const tally = found.get(pfn);
    assert(
      mapcount[pfn] === (tally?.mapped ?? 0),
      () => `page ${pfn} counts ${mapcount[pfn]} mappings, there are ${tally?.mapped ?? 0}`,
    );
    assert(refcount[pfn]! >= mapcount[pfn]!, () => `page ${pfn} has fewer references than mappings`);
    assert(
      phys.rmap.list(pfn).length === (tally?.entries ?? 0),
      () => `the reverse map of page ${pfn} names what is not there`,
    );
    const isExclusive = (flags[pfn]! & PG_ANON_EXCLUSIVE) !== 0;
    assert(
      isExclusive ? (tally?.entries ?? 0) <= 1 : tally?.writable !== true,
      () => `page ${pfn} is shared but not protected`,
    );
    if (refcount[pfn] !== 0) continue;
    assert(tally === undefined && (flags[pfn]! & ~PG_KIND) === 0, () => `free page ${pfn} is in use`);
    if (pfn < phys.ramPages) free += 1;
  }
  assert(free === phys.freePages, () => `${free} RAM frames have no reference, ${phys.freePages} are free`);
}

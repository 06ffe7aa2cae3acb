import { InvariantError } from "../base/assert.ts";
import { PAGE_SIZE, type Pfn, SZ_2M, hex } from "../base/addr.ts";
import type { MemFile } from "./file.ts";
import {
  HPAGE_PAGES,
  PG_ANON,
  PG_ANON_EXCLUSIVE,
  PG_COMPOUND,
  PG_FILE,
  PG_KIND,
  PG_LOCKED,
  PG_LRU,
  PG_SYSTEM,
  PG_WAITERS,
  PG_ZERO,
} from "./frame-table.ts";
import type { Mm } from "./mm.ts";
import {
  PTES,
  PTE_DEVICE_EXCLUSIVE,
  PTE_DEVICE_PRIVATE,
  PTE_KIND,
  PTE_MIGRATION,
  PTE_NOACCESS,
  PTE_NONE,
  PTE_PRESENT,
  PTE_SHIFT,
  PTE_SWAP,
  PTE_WRITE,
  isMapping,
} from "./page-table.ts";
import type { PhysMemory } from "./phys-mem.ts";
import { type Vma, canMerge } from "./vma.ts";

/**
 * Debug: everything about areas, entries, frames, swap and files that must hold between any two steps, at any time.
 * Throws `InvariantError`. Costs a walk over all frames and tables; written without allocation per page, because tests
 * call it after every step.
 */
export function checkInvariants(phys: PhysMemory): void {
  found.clear(phys);
  const areas = new Map<MemFile, number>();
  for (const mm of phys.mms) {
    checkAreas(mm, areas);
    checkNotifiers(mm);
    for (const [index, table] of mm.tables.entries()) {
      if (mm.tables.isHuge(index)) checkHuge(mm, index, table);
      checkTable(mm, index, table);
    }
  }
  for (const [file, count] of areas) checkFile(file, count);
  checkFrames(phys);
  checkSwap(phys);
}

/**
 * As `checkInvariants`, when no activity is under way: no lock, no migration, no open invalidation (I23), and no reference
 * but those of mappings, page cache and pins (I33).
 */
export function checkQuiescent(phys: PhysMemory): void {
  checkInvariants(phys);
  const { flags, refcount, mapcount, pins, length } = phys.frames;
  for (let pfn = 2; pfn < length; pfn++) {
    if (refcount[pfn] === 0) continue;
    const bits = flags[pfn]!;
    if ((bits & (PG_LOCKED | PG_WAITERS)) !== 0) broken(`page ${pfn} is locked`);
    const known = mapcount[pfn]! + pins[pfn]! + ((bits & PG_FILE) === 0 ? 0 : 1);
    if (refcount[pfn] !== known) broken(`page ${pfn} has ${refcount[pfn]} references, of which ${known} are known`);
    const isSystemPage = mapcount[pfn]! > 0 && (bits & PG_KIND) === PG_SYSTEM;
    if (isSystemPage && (bits & PG_LRU) === 0) broken(`mapped page ${pfn} is not on the LRU`);
  }
  for (const mm of phys.mms) {
    if (mm.mmapLock.isHeld) broken("an mmap lock is held");
    if (mm.notifiers.active !== 0) broken("an invalidation is open");
  }
}

function broken(what: string): never {
  throw new InvariantError(what);
}

/** Areas are whole pages in order, two of which are one where they can be; each that maps a file is known to it. */
function checkAreas(mm: Mm, areas: Map<MemFile, number>): void {
  let before: Vma | null = null;
  for (const vma of mm.vmas.all()) {
    const page = vma.hugetlb ? SZ_2M : PAGE_SIZE;
    if (vma.start % page !== 0 || vma.end % page !== 0 || vma.start >= vma.end)
      broken("an area that is not whole pages");
    if (before !== null && before.end > vma.start) broken(`areas overlap at ${hex(vma.start)}`);
    if (before !== null && canMerge(before, vma)) broken(`areas were not merged at ${hex(vma.start)}`);
    if (vma.shared && vma.file === null) broken(`a shared area without a file at ${hex(vma.start)}`);
    if (vma.file !== null) {
      if (!vma.file.areas.has(vma)) broken(`an area at ${hex(vma.start)} that its file does not know`);
      areas.set(vma.file, (areas.get(vma.file) ?? 0) + 1);
    }
    before = vma;
  }
}

function checkFile(file: MemFile, areas: number): void {
  if (file.mapped !== areas) broken(`file ${file.name} knows ${file.mapped} areas, there are ${areas}`);
}

/** I1. */
function checkNotifiers(mm: Mm): void {
  const { seq, active } = mm.notifiers;
  if (seq % 2 !== 0 && active === 0) broken("the sequence number is odd while no invalidation is open");
  for (const ni of mm.notifiers.intervals()) {
    if (ni.invalidateSeq % 2 !== 1 || ni.invalidateSeq > seq)
      broken("an interval's sequence number is not odd and past");
  }
}

/** What the page tables say about each frame and each swap slot. */
class Tally {
  /** Entries that count as mappings, and all. */
  mapped = new Int32Array(0);
  entries = new Int32Array(0);
  /** Some mapping is writable. */
  writable = new Uint8Array(0);
  /** Entries by slot. */
  swapped = new Int32Array(0);

  /** All zero, for a machine of this size. */
  clear({ frames, swap }: PhysMemory): void {
    if (this.mapped.length < frames.length) {
      this.mapped = new Int32Array(frames.length);
      this.entries = new Int32Array(frames.length);
      this.writable = new Uint8Array(frames.length);
    }
    if (this.swapped.length < swap.slots) this.swapped = new Int32Array(swap.slots);
    this.mapped.fill(0);
    this.entries.fill(0);
    this.writable.fill(0);
    this.swapped.fill(0);
  }
}

/** One for all checks: none of them waits for anything. */
const found = new Tally();

/** A huge entry stands for one folio, of an area that covers it, and all of it alike. */
function checkHuge(mm: Mm, index: number, table: Uint32Array): void {
  const first = table[0]!;
  const head: Pfn = first >>> PTE_SHIFT;
  const at = `huge entry of ${hex(index * SZ_2M)} in mm ${mm.id}`;
  if (head % HPAGE_PAGES !== 0) broken(`${at} does not begin with the head of a folio`);
  const vma = mm.vmas.lookup(index * SZ_2M);
  if (vma === null || vma.end < (index + 1) * SZ_2M) broken(`${at} is not covered by one area`);
  const { flags } = mm.phys.frames;
  for (let i = 0; i < PTES; i++) {
    if (table[i] !== first + i * (1 << PTE_SHIFT)) broken(`${at} stands for words that differ`);
    if ((flags[head + i]! & PG_COMPOUND) === 0) broken(`${at} maps page ${head + i}, which is part of no folio`);
  }
}

function checkTable(mm: Mm, index: number, table: Uint32Array): void {
  let vma: Vma | null = null;
  for (let i = 0; i < PTES; i++) {
    const word = table[i]!;
    if (word === PTE_NONE) continue;
    const vpn = index * PTES + i;
    const addr = vpn * PAGE_SIZE;
    if (vma === null || addr < vma.start || addr >= vma.end) vma = mm.vmas.lookup(addr);
    const wrong = vma === null ? "lies in no area" : wrongEntry(mm, vma, vpn, word);
    if (wrong !== null) broken(`entry of ${hex(addr)} in mm ${mm.id} ${wrong}`);
  }
}

/** What is wrong with an entry of `vma`, or null; counts it. */
function wrongEntry(mm: Mm, vma: Vma, vpn: number, word: number): string | null {
  const { phys } = mm;
  const kind = word & PTE_KIND;
  const pfn = word >>> PTE_SHIFT;
  if ((word & PTE_WRITE) !== 0 && !vma.writable) return "is writable where the area is not";
  if (((word & PTE_NOACCESS) !== 0) === vma.readable) return "disagrees with its area about access";
  if (kind === PTE_SWAP) {
    found.swapped[pfn]! += 1;
    if (vma.hugetlb || vma.shared) return "is swapped where nothing goes to swap";
    return vma.locked ? "is swapped in a locked area" : null;
  }
  const bits = phys.frames.flags[pfn]!;
  if ((bits & PG_KIND) === PG_ZERO) {
    return kind === PTE_PRESENT && (word & PTE_WRITE) === 0 ? null : "maps the zero page other than read-only";
  }
  if (kind > PTE_DEVICE_EXCLUSIVE) return "is of no kind";
  if (kind !== PTE_MIGRATION && (kind === PTE_DEVICE_PRIVATE) !== phys.isDevicePrivate(pfn)) {
    return "does not fit its page's kind";
  }
  if (kind === PTE_MIGRATION && (bits & PG_LOCKED) === 0) return "waits for a page that is not locked";
  if (vma.hugetlb && !mm.tables.isHuge(Math.floor(vpn / PTES))) return "is small in an area of huge pages";
  const wrong = wrongContent(vma, vpn, pfn, bits);
  if (wrong !== null) return wrong;
  if (!isInRmap(phys, pfn, mm.id, vpn)) return "is not in the reverse map";
  found.entries[pfn]! += 1;
  if (isMapping(word)) {
    found.mapped[pfn]! += 1;
    if ((word & PTE_WRITE) !== 0) found.writable[pfn] = 1;
  }
  return null;
}

/** Only the file's own page for that offset stands for a file; only shared areas may write to it. */
function wrongContent(vma: Vma, vpn: number, pfn: Pfn, bits: number): string | null {
  if ((bits & PG_FILE) === 0) {
    if (vma.shared) return "maps a page in a shared area that is not its file's";
    return (bits & PG_ANON) === 0 ? "maps a page that belongs to nobody" : null;
  }
  if (vma.file === null) return "maps a page of a file in anonymous memory";
  const offset = vma.offsetOf(vpn * PAGE_SIZE);
  if (vma.file.cachedPage(offset / PAGE_SIZE) !== pfn) return "maps another page than the file's";
  return offset < vma.file.mappedSize ? null : "maps a page beyond the end of the file";
}

function isInRmap(phys: PhysMemory, pfn: Pfn, mm: number, vpn: number): boolean {
  const { rmapMm, rmapVpn } = phys.frames;
  if (rmapMm[pfn] === mm && rmapVpn[pfn] === vpn) return true;
  return phys.rmap.list(pfn).some((m) => m.mm === mm && m.vpn === vpn);
}

function checkFrames(phys: PhysMemory): void {
  const { refcount, mapcount, flags, pins, length } = phys.frames;
  let free = 0;
  for (let pfn = 2; pfn < length; pfn++) {
    if (refcount[pfn] === 0) {
      const isIdle = mapcount[pfn] === 0 && found.entries[pfn] === 0 && (flags[pfn]! & ~PG_KIND) === 0;
      if (!isIdle) broken(`free page ${pfn} is in use`);
      if (pfn < phys.ramPages && (flags[pfn]! & PG_KIND) === PG_SYSTEM) free += 1;
      continue;
    }
    if (mapcount[pfn] !== found.mapped[pfn]) {
      broken(`page ${pfn} counts ${mapcount[pfn]} mappings, there are ${found.mapped[pfn]}`);
    }
    if (refcount[pfn]! < mapcount[pfn]! + pins[pfn]!) broken(`page ${pfn} has fewer references than mappings and pins`);
    checkRmap(phys, pfn, found.entries[pfn]!);
    checkOwnership(phys, pfn);
  }
  if (free !== phys.freePages) broken(`${free} RAM frames have no reference, ${phys.freePages} are free`);
}

function checkRmap(phys: PhysMemory, pfn: Pfn, entries: number): void {
  if (entries === 0 && phys.frames.rmapMm[pfn] === 0) return;
  if (entries !== phys.rmap.list(pfn).length) broken(`the reverse map of page ${pfn} names what is not there`);
}

/** A page is one process's own, or no entry of it can be written; what is pinned stays its owner's. */
function checkOwnership(phys: PhysMemory, pfn: Pfn): void {
  const bits = phys.frames.flags[pfn]!;
  const isExclusive = (bits & PG_ANON_EXCLUSIVE) !== 0;
  if ((bits & PG_FILE) !== 0) {
    if ((bits & PG_ANON) !== 0 || isExclusive) broken(`page ${pfn} belongs to a file and to a process`);
    return;
  }
  if (isExclusive && found.entries[pfn]! > 1) broken(`page ${pfn} is one process's own and mapped twice`);
  if (!isExclusive && found.writable[pfn] !== 0) broken(`page ${pfn} is shared but not protected`);
  if (phys.isPinned(pfn) && found.mapped[pfn]! > 0 && !isExclusive) broken(`page ${pfn} is pinned but may be copied`);
  if (phys.isPinned(pfn) && phys.isZoneDevice(pfn)) broken(`device page ${pfn} is pinned`);
}

/** A slot is counted by the entries that name it. */
function checkSwap({ swap }: PhysMemory): void {
  let used = 0;
  for (let slot = 1; slot < swap.slots; slot++) {
    if (swap.count(slot) > 0) used += 1;
    if (swap.count(slot) === found.swapped[slot]) continue;
    broken(`swap slot ${slot} counts ${swap.count(slot)} entries, there are ${found.swapped[slot]}`);
  }
  if (used !== swap.used) broken(`${used} swap slots have entries, ${swap.used} are in use`);
}

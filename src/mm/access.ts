import { PAGE_SIZE, SZ_2M, type Pfn, type Va, alignDown } from "../base/addr.ts";
import type { Errno } from "../base/errno.ts";
import { type MaybePromise, isPromise } from "../base/maybe-promise.ts";
import type { DeviceMemory } from "./device-memory.ts";
import { populateToOverwrite } from "./fault.ts";
import { PG_DEVICE_WRITTEN, PG_SLOT } from "./frame-table.ts";
import type { Mm } from "./mm.ts";
import { PTES, PTE_KIND, PTE_NOACCESS, PTE_PRESENT, PTE_SHIFT, PTE_WRITE } from "./page-table.ts";
import { type Steps, run, wait } from "./steps.ts";
import { VM_FAULT_OOM, VM_FAULT_SIGBUS, VM_FAULT_SIGSEGV } from "./types.ts";

/** Why a CPU access failed, and at which byte. */
export class AccessFault {
  readonly code: "SEGV" | "BUS" | "ENOMEM";
  readonly addr: Va;

  constructor(vmFault: number, addr: Va) {
    this.code = (vmFault & VM_FAULT_SIGSEGV) !== 0 ? "SEGV" : (vmFault & VM_FAULT_OOM) !== 0 ? "ENOMEM" : "BUS";
    this.addr = addr;
  }
}

/** After so many faults in a row that made nothing resident, an access lets other work run between two more. */
const FAULTS_BEFORE_SLEEP = 4;

/**
 * Byte offset in RAM of a byte of this mm, or -1 when an access must fault first. Valid until the next `await`.
 * The path of every access to resident memory: no allocation.
 */
export function translate(mm: Mm, addr: Va, write: boolean): number {
  const index = Math.floor(addr / SZ_2M);
  const table = mm.tables.at(index);
  if (table === null) return -1;
  const inTable = addr - index * SZ_2M;
  const word = table[inTable >>> 12]!;
  const want = write ? PTE_PRESENT | PTE_WRITE : PTE_PRESENT;
  const mask = write ? PTE_KIND | PTE_NOACCESS | PTE_WRITE : PTE_KIND | PTE_NOACCESS;
  if ((word & mask) !== want) return -1;
  const pfn = word >>> PTE_SHIFT;
  const flags = mm.phys.frames.flags[pfn]!;
  if ((flags & (PG_SLOT | PG_DEVICE_WRITTEN)) !== 0) {
    if ((flags & PG_DEVICE_WRITTEN) !== 0) return -1;
    if (write) mm.phys.slotsBecomeStale(pfn, null);
  }
  // Frame numbers reach 2^26, so the offset may pass 2^32.
  return pfn * PAGE_SIZE + (inTable % PAGE_SIZE);
}

/** Length of the resident run at `addr` whose frames ascend without a gap, at most `length`; `at` is its RAM offset. */
function runLength(mm: Mm, addr: Va, at: number, length: number, write: boolean): number {
  let bytes = PAGE_SIZE - (addr % PAGE_SIZE);
  let pfn = Math.floor(at / PAGE_SIZE) + 1;
  while (bytes < length) {
    const pages = runInTable(mm, addr + bytes, pfn, Math.ceil((length - bytes) / PAGE_SIZE), write);
    if (pages === 0) break;
    bytes += pages * PAGE_SIZE;
    pfn += pages;
  }
  return Math.min(bytes, length);
}

/**
 * Of the at most `count` pages at `addr`, a page's address, how many are frames `first`, `first + 1`, … that can be
 * accessed at once; it ends with the table. What `translate` decides, for 512 pages without its divisions.
 */
function runInTable(mm: Mm, addr: Va, first: Pfn, count: number, write: boolean): number {
  const index = Math.floor(addr / SZ_2M);
  const table = mm.tables.at(index);
  if (table === null) return 0;
  const from = (addr - index * SZ_2M) >>> 12;
  const pages = Math.min(count, PTES - from);
  const want = write ? PTE_PRESENT | PTE_WRITE : PTE_PRESENT;
  const mask = write ? PTE_KIND | PTE_NOACCESS | PTE_WRITE : PTE_KIND | PTE_NOACCESS;
  const { flags } = mm.phys.frames;
  for (let i = 0; i < pages; i++) {
    const word = table[from + i]!;
    if ((word & mask) !== want || word >>> PTE_SHIFT !== first + i) return i;
    const bits = flags[first + i]!;
    if ((bits & (PG_SLOT | PG_DEVICE_WRITTEN)) === 0) continue;
    if ((bits & PG_DEVICE_WRITTEN) !== 0) return i;
    if (write) mm.phys.slotsBecomeStale(first + i, null);
  }
  return pages;
}

/** What a bulk access does with one run, `done` bytes behind its start. */
interface Transfer {
  /** Resident: `at` is the offset in RAM. */
  ram(at: number, done: number, length: number): void;
  /** Memory of a device, from `offset` on. */
  device(memory: DeviceMemory, offset: number, done: number, length: number): MaybePromise<0 | Errno>;
}

/** Goes run by run over `[addr, addr + length)`, faulting where it must. Undefined, or why and where it failed. */
function* transfer(mm: Mm, addr: Va, length: number, write: boolean, move: Transfer): Steps<AccessFault | undefined> {
  for (let done = 0; done < length;) {
    const here = addr + done;
    let at = translate(mm, here, write);
    if (at < 0) {
      const point = mm.sched.point("mm:access");
      if (point !== undefined) yield* wait(point);
      const vma = mm.vmaLookup(here);
      if (vma !== null && vma.device !== null && (write ? vma.writable : vma.readable)) {
        const bytes = Math.min(vma.end - here, length - done);
        const moved = yield* wait(move.device(vma.device, vma.offsetOf(here), done, bytes));
        if (moved !== 0) return new AccessFault(VM_FAULT_SIGBUS, here);
        done += bytes;
        continue;
      }
      if (write) populateUnder(mm, here, addr + length);
      const resident = yield* makeResident(mm, here, write, addr + length);
      if (resident instanceof AccessFault) return resident;
      at = resident;
    }
    const bytes = runLength(mm, here, at, length - done, write);
    move.ram(at, done, bytes);
    done += bytes;
  }
  return undefined;
}

/**
 * Faults until the byte at `addr` can be accessed; its offset in RAM, valid until the next `await`. What a device wrote
 * comes home in one transfer up to `end`, where the access ends.
 */
export function* makeResident(mm: Mm, addr: Va, write: boolean, end: Va): Steps<number | AccessFault> {
  for (let faults = 0; ; faults++) {
    const at = translate(mm, addr, write);
    if (at >= 0) return at;
    if (isDeviceWritten(mm, addr)) {
      yield* wait(syncForCpu(mm, addr, end));
      continue;
    }
    // A fault may be served without making the page resident, as while the GPU has its timeslice.
    if (faults >= FAULTS_BEFORE_SLEEP) yield* wait(mm.sched.sleep(0));
    const fault = mm.faultIn(addr, write);
    const code = isPromise(fault) ? yield* wait(fault) : fault;
    if (code !== 0) return new AccessFault(code, addr);
  }
}

/** The page is in RAM, but a device that maps it there may have newer bytes. */
function isDeviceWritten(mm: Mm, addr: Va): boolean {
  const word = mm.tables.read(Math.floor(addr / PAGE_SIZE));
  if ((word & (PTE_KIND | PTE_NOACCESS)) !== PTE_PRESENT) return false;
  return (mm.phys.frames.flags[word >>> PTE_SHIFT]! & PG_DEVICE_WRITTEN) !== 0;
}

/** Asks for all such pages of `[start, end)`; resolves when that of `start` can be accessed. */
function syncForCpu(mm: Mm, start: Va, end: Va): Promise<void> | undefined {
  const first = mm.phys.syncForCpu(mm.tables.read(Math.floor(start / PAGE_SIZE)) >>> PTE_SHIFT);
  for (let at = alignDown(start, PAGE_SIZE) + PAGE_SIZE; at < end; at += PAGE_SIZE) {
    if (isDeviceWritten(mm, at)) void mm.phys.syncForCpu(mm.tables.read(at / PAGE_SIZE) >>> PTE_SHIFT);
  }
  return first;
}

/** Allocates the untouched whole pages at `here` that the write is about to cover. */
function populateUnder(mm: Mm, here: Va, end: Va): void {
  if (here % PAGE_SIZE !== 0 || end - here < PAGE_SIZE) return;
  const guard = mm.isUnstable ? null : mm.mmapLock.tryRead();
  if (guard === null) return;
  const vma = mm.vmaLookup(here);
  if (vma !== null && vma.writable && vma.anonymous)
    populateToOverwrite(mm, vma, here, alignDown(Math.min(end, vma.end), PAGE_SIZE));
  guard.release();
}

/** Copies `[addr, addr + into.length)` into `into`. */
export function readInto(mm: Mm, addr: Va, into: Uint8Array): MaybePromise<AccessFault | undefined> {
  const { ram } = mm.phys;
  return run(
    transfer(mm, addr, into.length, false, {
      ram: (at, done, length) => into.set(ram.subarray(at, at + length), done),
      device: (memory, offset, done, length) => memory.read(offset, into.subarray(done, done + length)),
    }),
  );
}

export function writeFrom(mm: Mm, addr: Va, data: Uint8Array): MaybePromise<AccessFault | undefined> {
  const { ram } = mm.phys;
  return run(
    transfer(mm, addr, data.length, true, {
      ram: (at, done, length) => ram.set(data.subarray(done, done + length), at),
      device: (memory, offset, done, length) => memory.write(offset, data.subarray(done, done + length)),
    }),
  );
}

export function fill(mm: Mm, addr: Va, length: number, byte: number): MaybePromise<AccessFault | undefined> {
  const { ram } = mm.phys;
  return run(
    transfer(mm, addr, length, true, {
      ram: (at, _done, bytes) => void ram.fill(byte, at, at + bytes),
      device: (memory, offset, _done, bytes) => memory.write(offset, new Uint8Array(bytes).fill(byte)),
    }),
  );
}

/**
 * The emulated CPU memory manager: one process's address space.
 *
 * Overview. `PhysMemory` owns the page frames of the machine, RAM and device memory in one frame number space. Each
 * process has an `Mm`: areas (`VmaTree`), page tables (`PageTables`), interval notifiers, and the mmap lock. An area maps
 * memory of its own, or a `MemFile`, which others may map too. Each system call is a file of its own (mmap.ts,
 * mprotect.ts, mremap.ts, madvise.ts, mlock.ts, fork.ts); CPU accesses are in access.ts, faults in fault.ts and
 * file-fault.ts. What the GPU side builds on: notifiers (notifier.ts), look-ups of what is mapped (hmm.ts), and migration
 * to and from device memory by address (migrate-vma.ts) and by frame (migrate-device.ts).
 *
 * A page-table entry changes only between `notifiers.start`, whose callbacks have all resolved, and `notifiers.end`. The
 * one exception is filling a none entry: nobody can have mapped a hole.
 *
 * Locking. mmap lock for write: whatever changes areas (mmap, munmap, mprotect, mremap, mlock, fork, exit), and the first
 * notifier insertion. For read: faults, advice about pages, HMM, migrate_vma. Outside of it a file's lock, below it the
 * page locks: blocking only for one page, several only by trylock. A section of code without an `await` plays the
 * page-table lock, so words read before an `await` are read again after it. Migration by frame and the shrinking of a
 * file hold no mmap lock at all; they may overlap everything.
 *
 * Errors. A system call gives a negative errno, and then it has changed nothing, unless it says otherwise.
 *
 * Example (test/node/mm-access.test.ts runs it):
 *
 *     const phys = new PhysMemory({ ram: new Uint8Array(64 << 20), sched });
 *     const mm = new Mm({ phys });
 *     const a = await mm.mmap(2 << 20);
 *     await mm.write(a + 5, Uint8Array.of(1, 2, 3));
 *     await mm.read(a + 6, 2);             // Uint8Array [2, 3]
 *     await mm.exit();
 */
import { assert } from "../base/assert.ts";
import { PAGE_SIZE, SZ_2M, type Pfn, type Va, alignDown, alignUp } from "../base/addr.ts";
import { EINVAL, ENOMEM, type Errno, isErr } from "../base/errno.ts";
import { newActivity } from "../base/lock-order.ts";
import { Completion, type Guard, RwSemaphore } from "../base/locks.ts";
import { type MaybePromise, isPromise } from "../base/maybe-promise.ts";
import type { Scheduler } from "../base/scheduler.ts";
import type { TraceRing } from "../base/trace.ts";
import { AccessFault, fill, makeResident, readInto, translate, writeFrom } from "./access.ts";
import { deviceRunLength, nextDevicePage } from "./device-pages.ts";
import { handleMmFault } from "./fault.ts";
import { isBehindFile } from "./file-fault.ts";
import { traced } from "./traced.ts";
import { faultinPages } from "./populate.ts";
import { dupMm, mustUnshare } from "./fork.ts";
import { hmmRangeFault } from "./hmm.ts";
import { migrateVmaFinalize, migrateVmaPages, migrateVmaSetup } from "./migrate-vma.ts";
import { type Advice, madvise } from "./madvise.ts";
import { mlock, munlock } from "./mlock.ts";
import { type MmapOptions, mmap, munmap, unmapLocked } from "./mmap.ts";
import { mprotect } from "./mprotect.ts";
import { type MremapOptions, mremap } from "./mremap.ts";
import { NotifierSubscriptions } from "./notifier.ts";
import { oomReap } from "./oom-reap.ts";
import {
  PTE_DEVICE_EXCLUSIVE,
  PTE_DEVICE_PRIVATE,
  PTE_KIND,
  PTE_MIGRATION,
  PTE_PRESENT,
  PTE_SWAP,
  PTE_WRITE,
  PageTables,
  ptePfn,
} from "./page-table.ts";
import type { PhysMemory } from "./phys-mem.ts";
import { type Pin, pinPages } from "./pin.ts";
import { clearSoftDirty } from "./soft-dirty.ts";
import { type Steps, run, wait } from "./steps.ts";
import type { HmmRange, MigrateMm, MigrateVma, MmuIntervalNotifier, PageInfo } from "./types.ts";
import { MMU_NOTIFY_RELEASE, VM_FAULT_SIGBUS, VM_FAULT_SIGSEGV } from "./types.ts";
import { type Prot, TASK_SIZE, type Vma, VmaTree } from "./vma.ts";

export interface MmOptions {
  readonly phys: PhysMemory;
  /** Receives mmap, munmap and cpu-fault events. */
  readonly trace?: TraceRing;
}

/** What is mapped at one page, for displays and tests. */
export interface PageView {
  readonly kind: "none" | "present" | "migration" | "device-private" | "swap" | "device-exclusive";
  /** The swap slot where the kind is swap. */
  readonly pfn: Pfn;
  readonly writable: boolean;
  /** Part of a 2 MiB entry. */
  readonly huge: boolean;
}

/** @kernel mm_struct */
export class Mm implements MigrateMm {
  /** Number of this mm in reverse mappings and events. */
  readonly id: number;
  readonly phys: PhysMemory;
  readonly pages: PageInfo;
  readonly sched: Scheduler;
  readonly trace: TraceRing | null;
  readonly mmapLock: RwSemaphore;
  readonly vmas = new VmaTree(this);
  readonly tables = new PageTables();
  readonly notifiers = new NotifierSubscriptions();
  /** Complete when the last user is gone and everything is unmapped. */
  readonly exited = new Completion();
  /** Private memory has been taken from it, and holes stay holes; see `oomReap`. @kernel MMF_UNSTABLE */
  isUnstable = false;
  /** CPU faults on device-private entries so far. */
  deviceFaults = 0;
  #users = 1;
  // All users together hold one reference to the structure.
  #count = 1;
  #notifiersRegistered = false;

  constructor(options: MmOptions) {
    this.phys = options.phys;
    this.pages = options.phys;
    this.sched = options.phys.sched;
    this.trace = options.trace ?? null;
    this.id = options.phys.registerMm(this);
    this.mmapLock = new RwSemaphore(`mmap lock of mm ${this.id}`, "mmap");
  }

  // Lifetime

  get isExiting(): boolean {
    return this.#users === 0;
  }

  mmget(): boolean {
    if (this.#users === 0) return false;
    this.#users += 1;
    return true;
  }

  /** Dropping the last user may have to wait for notifier callbacks; `exited` tells when it is over. */
  mmput(): void {
    // Who drops the last reference goes on, and may want a lock that the end holds.
    const done = newActivity(() => this.#dropUser());
    if (isPromise(done)) this.sched.defer("mm:exit", () => done);
  }

  mmputAsync(): void {
    this.sched.defer("mm:mmput", () => this.#dropUser());
  }

  mmgrab(): void {
    assert(this.#count > 0, "mmgrab of an mm that is gone");
    this.#count += 1;
  }

  mmdrop(): void {
    assert(this.#count > 0, "mmdrop of an mm that is gone");
    this.#count -= 1;
    if (this.#count === 0) this.phys.unregisterMm(this.id);
  }

  /** The process ends: drops the reference that the constructor gave. Resolves when the address space is empty, unless others still use it. */
  exit(): MaybePromise<void> {
    return this.#dropUser();
  }

  /** A copy of the address space, for a child; see `dupMm`. -EINVAL after the end, -ENOMEM. */
  fork(): MaybePromise<Mm | Errno> {
    const { phys, trace } = this;
    return run(dupMm(this, () => new Mm(trace === null ? { phys } : { phys, trace })));
  }

  /** The process goes on with another program, for which it makes a new mm: this one ends as by `exit`. @kernel exec_mmap */
  exec(): MaybePromise<void> {
    return this.#dropUser();
  }

  #dropUser(): MaybePromise<void> {
    assert(this.#users > 0, "mmput without a user");
    this.#users -= 1;
    const call = { kind: "exit", start: 0, end: 0, detail: 0 } as const;
    return this.#users === 0 ? run(traced(this, call, () => this.#exitMmap())) : undefined;
  }

  /** @kernel __mmput, exit_mmap */
  *#exitMmap(): Steps<void> {
    const everything = {
      start: 0,
      end: Number.MAX_SAFE_INTEGER,
      event: MMU_NOTIFY_RELEASE,
      blockable: true,
      owner: null,
    };
    yield* wait(this.notifiers.start(everything));
    this.notifiers.end();
    yield* wait(this.sched.point("mm:exit:released"));
    const guard = yield* wait(this.mmapLock.write());
    yield* unmapLocked(this, 0, TASK_SIZE);
    guard.release();
    this.exited.complete();
    this.mmdrop();
  }

  // Areas

  vmaLookup(addr: Va): Vma | null {
    return this.vmas.lookup(addr);
  }

  findVmaIntersection(start: Va, end: Va): Vma | null {
    return this.vmas.findIntersection(start, end);
  }

  // Each is described at the function that it runs.

  mmap(length: number, options: MmapOptions = {}): MaybePromise<Va | Errno> {
    return run(mmap(this, length, options));
  }

  munmap(start: Va, length: number): MaybePromise<0 | Errno> {
    return run(munmap(this, start, length));
  }

  mprotect(start: Va, length: number, prot: Prot): MaybePromise<0 | Errno> {
    return run(mprotect(this, start, length, prot));
  }

  madvise(start: Va, length: number, advice: Advice): MaybePromise<0 | Errno> {
    return run(madvise(this, start, length, advice));
  }

  /** The advice that is given most. */
  dontneed(start: Va, length: number): MaybePromise<0 | Errno> {
    return this.madvise(start, length, "dontneed");
  }

  mremap(oldStart: Va, oldLength: number, newLength: number, options: MremapOptions = {}): MaybePromise<Va | Errno> {
    return run(mremap(this, oldStart, oldLength, newLength, options));
  }

  mlock(start: Va, length: number): MaybePromise<0 | Errno> {
    return run(mlock(this, start, length));
  }

  munlock(start: Va, length: number): MaybePromise<0 | Errno> {
    return run(munlock(this, start, length));
  }

  /** Holds the pages of `[addr, addr + length)` in RAM until `release`; see `pinPages`. */
  pin(addr: Va, length: number, access: { readonly write: boolean }): MaybePromise<Pin | Errno> {
    return run(pinPages(this, addr, length, access));
  }

  clearSoftDirty(): MaybePromise<void> {
    return run(clearSoftDirty(this));
  }

  oomReap(): MaybePromise<boolean> {
    return run(oomReap(this));
  }

  /** Frees the tables of `[start, end)`, just unmapped, that no other area shares. mmap lock held for write. */
  freeTables(start: Va, end: Va): void {
    const below = alignDown(start, SZ_2M);
    const above = alignUp(end, SZ_2M);
    const floor = this.vmas.findIntersection(below, start) === null ? below : start;
    const ceiling = this.vmas.findIntersection(end, above) === null ? above : end;
    this.tables.freeTables(floor, ceiling);
  }

  // CPU accesses

  /** Byte offset in `phys.ram` of the byte at `addr`, or -1 when the access must fault first. Valid until the next `await`. */
  translate(addr: Va, write: boolean): number {
    return translate(this, addr, write);
  }

  /** Serves a CPU fault: takes the mmap lock. 0 = try again; else VM_FAULT_*. */
  faultIn(addr: Va, write: boolean): MaybePromise<number> {
    const point = this.sched.point("mm:fault");
    const guard = point === undefined ? this.mmapLock.tryRead() : null;
    if (guard === null) return this.#faultInLater(point, addr, write);
    const result = this.#fault(addr, write);
    if (isPromise(result)) return releaseAfter(guard, result);
    guard.release();
    return result;
  }

  async #faultInLater(point: Promise<void> | undefined, addr: Va, write: boolean): Promise<number> {
    if (point !== undefined) await point;
    const guard = await this.mmapLock.read();
    return releaseAfter(guard, this.#fault(addr, write));
  }

  #fault(addr: Va, write: boolean): MaybePromise<number> {
    const vma = this.vmas.lookup(addr);
    return vma === null ? VM_FAULT_SIGSEGV : handleMmFault(this, vma, addr, write);
  }

  /** A copy of `[addr, addr + length)`, into `into` when given, or why it cannot be read. */
  read(addr: Va, length: number, into = new Uint8Array(length)): MaybePromise<Uint8Array | AccessFault> {
    const fault = readInto(this, addr, into);
    return isPromise(fault) ? fault.then((f) => f ?? into) : (fault ?? into);
  }

  /** Stores `data` at `addr`. What lies before a failure has been stored. */
  write(addr: Va, data: Uint8Array): MaybePromise<AccessFault | undefined> {
    return writeFrom(this, addr, data);
  }

  fill(addr: Va, length: number, byte: number): MaybePromise<AccessFault | undefined> {
    return fill(this, addr, length, byte);
  }

  /** The unsigned little-endian word at `addr`, which need not be aligned. */
  load32(addr: Va): MaybePromise<number | AccessFault> {
    const at = translate(this, addr, false);
    if (at >= 0 && at % 4 === 0) return this.phys.words[at / 4]! >>> 0;
    const bytes = this.read(addr, 4);
    return isPromise(bytes) ? bytes.then(wordOf) : wordOf(bytes);
  }

  store32(addr: Va, value: number): MaybePromise<AccessFault | undefined> {
    const at = translate(this, addr, true);
    if (at >= 0 && at % 4 === 0) {
      this.phys.words[at / 4] = value;
      return undefined;
    }
    return writeFrom(this, addr, Uint8Array.of(value, value >>> 8, value >>> 16, value >>> 24));
  }

  /** Atomic addition modulo 2^32 on the aligned word at `addr`; the old value, unsigned. An unaligned word is a bus error. */
  atomicAdd32(addr: Va, by: number): MaybePromise<number | AccessFault> {
    return run(this.#atomicAdd32(addr, by));
  }

  *#atomicAdd32(addr: Va, by: number): Steps<number | AccessFault> {
    if (addr % 4 !== 0) return new AccessFault(0, addr);
    const vma = this.vmaLookup(addr);
    if (vma !== null && vma.device !== null && vma.writable) {
      const old = yield* wait(vma.device.add(vma.offsetOf(addr), by));
      return isErr(old) ? new AccessFault(VM_FAULT_SIGBUS, addr) : old;
    }
    const at = yield* makeResident(this, addr, true, addr + 4);
    return at instanceof AccessFault ? at : Atomics.add(this.phys.words, at / 4, by) >>> 0;
  }

  /** What the page of `addr` is mapped to. A probe: changes nothing. */
  pageAt(addr: Va): PageView {
    const word = this.tables.read(Math.floor(addr / PAGE_SIZE));
    const kind = KIND_NAMES[word & PTE_KIND] ?? "none";
    const huge = this.tables.isHuge(Math.floor(addr / SZ_2M));
    return { kind, pfn: ptePfn(word), writable: (word & PTE_WRITE) !== 0, huge };
  }

  devicePfnAt(addr: Va): Pfn {
    const word = this.tables.read(Math.floor(addr / PAGE_SIZE));
    return (word & PTE_KIND) === PTE_DEVICE_PRIVATE ? ptePfn(word) : -1;
  }

  nextDevicePage(start: Va, end: Va): Va {
    return nextDevicePage(this, start, end);
  }

  deviceRunLength(addr: Va, end: Va): number {
    return deviceRunLength(this, addr, end);
  }

  faultinPages(start: Va, end: Va, access: "read" | "write"): MaybePromise<0 | Errno> {
    return run(faultinPages(this, start, end, access));
  }

  mustUnshare(start: Va, end: Va): boolean {
    return mustUnshare(this, start, end);
  }

  fileSizeBefore(addr: Va): number | null {
    const vma = this.vmas.lookup(addr);
    return vma !== null && isBehindFile(vma, addr) ? vma.file!.size : null;
  }

  // Interval notifiers

  intervalNotifierInsert(ni: MmuIntervalNotifier): MaybePromise<0 | Errno> {
    return run(this.#intervalNotifierInsert(ni));
  }

  *#intervalNotifierInsert(ni: MmuIntervalNotifier): Steps<0 | Errno> {
    if (!this.#notifiersRegistered) {
      // Nobody may be between start and end of an event that began when there was nobody to tell.
      const guard = yield* wait(this.mmapLock.write());
      this.#notifiersRegistered = true;
      guard.release();
    }
    if (this.#users === 0) return EINVAL;
    if (this.phys.fails("notifier-insert")) return ENOMEM;
    const inserted = this.notifiers.insert(ni);
    if (inserted === 0) this.mmgrab();
    return inserted;
  }

  intervalNotifierRemove(ni: MmuIntervalNotifier): MaybePromise<void> {
    const removed = this.notifiers.remove(ni);
    if (isPromise(removed)) return removed.then(() => this.mmdrop());
    return this.mmdrop();
  }

  readBegin(ni: MmuIntervalNotifier): MaybePromise<number> {
    return this.notifiers.readBegin(ni);
  }

  readRetry(ni: MmuIntervalNotifier, seq: number): boolean {
    return ni.invalidateSeq !== seq;
  }

  setSeq(ni: MmuIntervalNotifier, curSeq: number): void {
    ni.invalidateSeq = curSeq;
  }

  // Look-up and migration

  hmmRangeFault(range: HmmRange): MaybePromise<0 | Errno> {
    return hmmRangeFault(this, range);
  }

  migrateVmaSetup(m: MigrateVma): MaybePromise<0 | Errno> {
    return migrateVmaSetup(this, m);
  }

  migrateVmaPages(m: MigrateVma): MaybePromise<void> {
    return migrateVmaPages(this, m);
  }

  migrateVmaFinalize(m: MigrateVma): void {
    migrateVmaFinalize(this, m);
  }
}

const KIND_NAMES: Readonly<Record<number, PageView["kind"]>> = {
  [PTE_PRESENT]: "present",
  [PTE_MIGRATION]: "migration",
  [PTE_DEVICE_PRIVATE]: "device-private",
  [PTE_SWAP]: "swap",
  [PTE_DEVICE_EXCLUSIVE]: "device-exclusive",
};

async function releaseAfter(guard: Guard, result: MaybePromise<number>): Promise<number> {
  try {
    return await result;
  } finally {
    guard.release();
  }
}

function wordOf(bytes: Uint8Array | AccessFault): number | AccessFault {
  if (bytes instanceof AccessFault) return bytes;
  return (bytes[0]! | (bytes[1]! << 8) | (bytes[2]! << 16) | (bytes[3]! << 24)) >>> 0;
}

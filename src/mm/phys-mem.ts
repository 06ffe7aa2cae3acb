import { assert } from "../base/assert.ts";
import { PAGE_SIZE, type Pfn, alignUp } from "../base/addr.ts";
import { ENOMEM, type Errno } from "../base/errno.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import type { Scheduler } from "../base/scheduler.ts";
import type { SystemWindow } from "./dma.ts";
import { FrameAllocator } from "./frame-allocator.ts";
import {
  FrameTable,
  PG_DEVICE_COHERENT,
  PG_DEVICE_PRIVATE,
  PG_KIND,
  PG_LOCKED,
  PG_SLOT,
  PG_ZERO,
} from "./frame-table.ts";
import { migrateDeviceFinalize, migrateDevicePages, migrateDevicePfns } from "./migrate-device.ts";
import type { Mm } from "./mm.ts";
import { PageLocks } from "./page-lock.ts";
import { MAX_PFN } from "./page-table.ts";
import { Rmap } from "./rmap.ts";
import { run } from "./steps.ts";
import type { DevPagemap, PhysMem } from "./types.ts";

/** The shared frame of zeros. Frame 0 is never used, so that a frame number of 0 means none. */
export const ZERO_PFN = 1;
const FIRST_FREE_PFN = 2;
const DEVICE_ALIGN = 512;
const POISON = 0xfd;

/** Steps of the mm that error injection can make fail, as they fail by themselves. */
export const FAIL_SITES = [
  /** A RAM frame: -ENOMEM. */
  "frame-alloc",
  /** Insertion of an interval notifier: -ENOMEM. */
  "notifier-insert",
  /** The faulting of an HMM look-up: -EFAULT. */
  "hmm-fault",
  /** migrate_vma_setup: collects nothing. */
  "migrate-collect",
  /** A mapping in a system window: -ENOMEM. */
  "dma-map",
] as const;
export type FailSite = (typeof FAIL_SITES)[number];

export interface PhysMemoryOptions {
  /** RAM: whole pages, zero-filled. Its size is the budget; two frames of it are the machine's own. */
  readonly ram: Uint8Array;
  readonly sched: Scheduler;
  /** Debug: fill freed frames with a pattern, so that a stale reader shows (invariant I21). */
  readonly poisonFreed?: boolean;
}

interface RegisteredPagemap {
  readonly pgmap: DevPagemap;
  readonly zoneDeviceData: unknown[];
}

/**
 * Page frames of the machine: RAM from frame 0, device frames above it. The mm code of this folder works on `frames`,
 * `locks` and `rmap` directly; other layers use the methods.
 */
export class PhysMemory implements PhysMem {
  readonly ram: Uint8Array;
  /** RAM as little-endian words, for atomic access. */
  readonly words: Int32Array;
  readonly ramPages: number;
  readonly sched: Scheduler;
  readonly frames = new FrameTable();
  readonly locks = new PageLocks(this.frames);
  readonly rmap = new Rmap(this.frames);
  readonly #allocator: FrameAllocator;
  readonly #poisonFreed: boolean;
  /** By `FrameTable.pgmap`; a freed number is reused. */
  readonly #pagemaps: (RegisteredPagemap | null)[] = [null];
  /** By mm number; 0 is none. */
  readonly #mms: (Mm | null)[] = [null];
  readonly #windows: SystemWindow[] = [];
  /** Asked at fallible steps: true makes this one fail. For error injection; the sites are in FAIL_SITES. */
  failpoint: ((site: FailSite) => boolean) | null = null;

  constructor(options: PhysMemoryOptions) {
    this.ram = options.ram;
    this.ramPages = options.ram.length / PAGE_SIZE;
    assert(Number.isInteger(this.ramPages) && this.ramPages > FIRST_FREE_PFN, "RAM is whole pages, at least three");
    assert(options.ram.byteOffset % PAGE_SIZE === 0, "RAM begins at a multiple of a page of its buffer");
    this.words = new Int32Array(options.ram.buffer, options.ram.byteOffset, options.ram.length / 4);
    this.sched = options.sched;
    this.#poisonFreed = options.poisonFreed ?? false;
    this.#allocator = new FrameAllocator(FIRST_FREE_PFN, this.ramPages);
    this.frames.grow(this.ramPages);
    this.frames.flags[ZERO_PFN] = PG_ZERO;
    this.frames.refcount[ZERO_PFN] = 1;
  }

  /** Frames that can still be allocated. */
  get freePages(): number {
    return this.#allocator.freeFrames;
  }

  fails(site: FailSite): boolean {
    return this.failpoint !== null && this.failpoint(site);
  }

  // RAM frames

  allocPage(): Pfn | Errno {
    if (this.fails("frame-alloc")) return ENOMEM;
    const pfn = this.#allocator.alloc();
    if (pfn === 0) return ENOMEM;
    this.frames.refcount[pfn] = 1;
    return pfn;
  }

  /** `count` frames as by `allocPage` into `out[0..count)`, in as few runs as there can be; all or none. */
  allocPages(out: Uint32Array, count: number): 0 | Errno {
    if (this.freePages < count) return ENOMEM;
    this.#allocator.wantRun(count);
    for (let i = 0; i < count; i++) {
      const pfn = this.allocPage();
      if (pfn < 0) {
        for (let k = 0; k < i; k++) this.putPage(out[k]!);
        return ENOMEM;
      }
      out[i] = pfn;
    }
    return 0;
  }

  /** The next `count` frames should be one run if there is one. */
  wantRun(count: number): void {
    if (count > 1) this.#allocator.wantRun(count);
  }

  /** A frame of zeros, refcount 1. @kernel alloc_zeroed_user_highpage_movable */
  allocZeroedPage(): Pfn | Errno {
    const pfn = this.allocPage();
    if (pfn > 0) this.zeroPage(pfn);
    return pfn;
  }

  zeroPage(pfn: Pfn): void {
    this.ram.fill(0, pfn * PAGE_SIZE, (pfn + 1) * PAGE_SIZE);
  }

  copyPage(to: Pfn, from: Pfn): void {
    this.ram.copyWithin(to * PAGE_SIZE, from * PAGE_SIZE, (from + 1) * PAGE_SIZE);
  }

  // References

  refcount(pfn: Pfn): number {
    return this.frames.refcount[pfn]!;
  }

  mapcount(pfn: Pfn): number {
    return this.frames.mapcount[pfn]!;
  }

  getPage(pfn: Pfn): void {
    assert(this.frames.refcount[pfn]! > 0, () => `a reference to free page ${pfn}`);
    this.frames.refcount[pfn]! += 1;
  }

  putPage(pfn: Pfn): void {
    const left = --this.frames.refcount[pfn]!;
    if (left > 0) return;
    assert(left === 0, () => `page ${pfn} was put more often than got`);
    this.#freePage(pfn);
  }

  #freePage(pfn: Pfn): void {
    const { mapcount, flags, rmapMm } = this.frames;
    assert(mapcount[pfn] === 0 && rmapMm[pfn] === 0, () => `page ${pfn} was freed while mapped`);
    assert((flags[pfn]! & PG_LOCKED) === 0, () => `page ${pfn} was freed while locked`);
    if ((flags[pfn]! & PG_SLOT) !== 0) for (const window of this.#windows) window.forget(pfn);
    flags[pfn]! &= PG_KIND;
    if (pfn < this.ramPages) {
      if (this.#poisonFreed) this.ram.fill(POISON, pfn * PAGE_SIZE, (pfn + 1) * PAGE_SIZE);
      this.#allocator.free(pfn);
      return;
    }
    const owner = this.#pagemapOf(pfn);
    owner.pgmap.ops.folioFree(pfn);
    owner.zoneDeviceData[pfn - owner.pgmap.firstPfn] = null;
  }

  // Page lock

  tryLockPage(pfn: Pfn): boolean {
    return this.locks.tryLock(pfn);
  }

  lockPage(pfn: Pfn): MaybePromise<void> {
    return this.locks.lock(pfn);
  }

  unlockPage(pfn: Pfn): void {
    this.locks.unlock(pfn);
  }

  isLockedPage(pfn: Pfn): boolean {
    return this.locks.isLocked(pfn);
  }

  // Device frames

  addPagemap(pgmap: DevPagemap): void {
    const first = this.#findRun(pgmap.npages);
    assert(first + pgmap.npages <= MAX_PFN, "the frame numbers of all devices do not fit");
    let index = this.#pagemaps.indexOf(null, 1);
    if (index < 0) index = this.#pagemaps.length;
    assert(index < 256, "more than 255 runs of device frames");
    this.#pagemaps[index] = { pgmap, zoneDeviceData: new Array<unknown>(pgmap.npages).fill(null) };
    pgmap.firstPfn = first;
    const end = first + pgmap.npages;
    this.frames.grow(end);
    this.frames.pgmap.fill(index, first, end);
    this.frames.flags.fill(pgmap.type === "private" ? PG_DEVICE_PRIVATE : PG_DEVICE_COHERENT, first, end);
  }

  /** All frames of the run are free. */
  removePagemap(pgmap: DevPagemap): void {
    const index = this.#pagemaps.findIndex((p) => p?.pgmap === pgmap);
    assert(index > 0, "the run of device frames is not registered");
    const end = pgmap.firstPfn + pgmap.npages;
    for (let pfn = pgmap.firstPfn; pfn < end; pfn++) {
      assert(this.frames.refcount[pfn] === 0, () => `device page ${pfn} is in use while its run is removed`);
    }
    this.frames.pgmap.fill(0, pgmap.firstPfn, end);
    this.frames.flags.fill(0, pgmap.firstPfn, end);
    this.#pagemaps[index] = null;
  }

  /** The lowest gap above RAM for `npages`. */
  #findRun(npages: number): Pfn {
    const taken = this.#pagemaps.filter((p) => p !== null).map((p) => p.pgmap);
    taken.sort((a, b) => a.firstPfn - b.firstPfn);
    let first = alignUp(this.ramPages, DEVICE_ALIGN);
    for (const pgmap of taken) {
      if (first + npages <= pgmap.firstPfn) break;
      first = alignUp(pgmap.firstPfn + pgmap.npages, DEVICE_ALIGN);
    }
    return first;
  }

  zoneDevicePageInit(pfn: Pfn, data: unknown): void {
    const { refcount, flags } = this.frames;
    assert(refcount[pfn] === 0, () => `device page ${pfn} is in use`);
    const owner = this.#pagemapOf(pfn);
    owner.zoneDeviceData[pfn - owner.pgmap.firstPfn] = data;
    refcount[pfn] = 1;
    flags[pfn]! |= PG_LOCKED;
  }

  isZoneDevice(pfn: Pfn): boolean {
    return (this.frames.flags[pfn]! & PG_KIND) >= PG_DEVICE_PRIVATE;
  }

  isDevicePrivate(pfn: Pfn): boolean {
    return (this.frames.flags[pfn]! & PG_KIND) === PG_DEVICE_PRIVATE;
  }

  isDeviceCoherent(pfn: Pfn): boolean {
    return (this.frames.flags[pfn]! & PG_KIND) === PG_DEVICE_COHERENT;
  }

  pgmapOf(pfn: Pfn): DevPagemap {
    return this.#pagemapOf(pfn).pgmap;
  }

  zoneDeviceData(pfn: Pfn): unknown {
    const owner = this.#pagemapOf(pfn);
    return owner.zoneDeviceData[pfn - owner.pgmap.firstPfn];
  }

  #pagemapOf(pfn: Pfn): RegisteredPagemap {
    const owner = this.#pagemaps[this.frames.pgmap[pfn]!] ?? null;
    assert(owner !== null, () => `page ${pfn} is not a device page`);
    return owner;
  }

  // System windows

  addWindow(window: SystemWindow): void {
    this.#windows.push(window);
  }

  /** For `SystemWindow.destroy`. */
  removeWindow(window: SystemWindow): void {
    this.#windows.splice(this.#windows.indexOf(window), 1);
  }

  /** Resolves when what any device wrote to the frame stands in RAM; undefined if none did. At most one has written. */
  syncForCpu(pfn: Pfn): Promise<void> | undefined {
    for (const window of this.#windows) {
      const done = window.syncForCpu(pfn);
      if (done !== undefined) return done;
    }
    return undefined;
  }

  /** The frame's bytes change: its copies in all windows but `except` are out of date. */
  slotsBecomeStale(pfn: Pfn, except: SystemWindow | null): void {
    for (const window of this.#windows) if (window !== except) window.becomeStale(pfn);
  }

  /** A window gave up its copy of the frame. */
  slotGone(pfn: Pfn): void {
    if (!this.#windows.some((window) => window.hasSlot(pfn))) this.frames.flags[pfn]! &= ~PG_SLOT;
  }

  // Address spaces

  /** Gives `mm` its number, the lowest free one. */
  registerMm(mm: Mm): number {
    let id = this.#mms.indexOf(null, 1);
    if (id < 0) id = this.#mms.length;
    assert(id < 65536, "more than 65535 address spaces");
    this.#mms[id] = mm;
    return id;
  }

  unregisterMm(id: number): void {
    this.#mms[id] = null;
  }

  /** The mm of a reverse mapping. */
  mmById(id: number): Mm {
    const mm = this.#mms[id] ?? null;
    assert(mm !== null, () => `address space ${id} is gone but something is mapped there`);
    return mm;
  }

  get mms(): readonly Mm[] {
    return this.#mms.filter((mm) => mm !== null);
  }

  // Physical migration

  migrateDevicePfns(src: Uint32Array): MaybePromise<void> {
    return run(migrateDevicePfns(this, src));
  }

  migrateDevicePages(src: Uint32Array, dst: Uint32Array): void {
    migrateDevicePages(this, src, dst);
  }

  migrateDeviceFinalize(src: Uint32Array, dst: Uint32Array): void {
    migrateDeviceFinalize(this, src, dst);
  }
}

import { InvariantError, assert } from "../base/assert.ts";
import { PAGE_SIZE, type Pfn } from "../base/addr.ts";
import { ENOMEM, type Errno } from "../base/errno.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import type { Scheduler } from "../base/scheduler.ts";
import { DeviceFrames } from "./device-frames.ts";
import type { SystemWindow } from "./dma.ts";
import { FrameAllocator } from "./frame-allocator.ts";
import {
  FrameTable,
  type HPAGE_ORDER,
  HPAGE_PAGES,
  PG_COMPOUND,
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
import { Rmap } from "./rmap.ts";
import { run } from "./steps.ts";
import { SwapSpace } from "./swap-space.ts";
import type { DevPagemap, PhysMem } from "./types.ts";

/** The shared frame of zeros. Frame 0 is never used, so that a frame number of 0 means none. */
export const ZERO_PFN = 1;
const FIRST_FREE_PFN = 2;
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
  /** Device pages for a migration: -ENOMEM. The pages stay where they are. */
  "migrate-populate",
  /** A mapping in a system window: -ENOMEM. */
  "dma-map",
  /** Memory for a buffer object where it is not yet: -ENOMEM. */
  "vram-alloc",
  /** The copy of a buffer object, or of pages that migrate: -EIO, with nothing copied. */
  "copy-submit",
  /** The same when it is over: -EIO, and what was copied is not to be trusted. */
  "copy-complete",
  /** What comes back from the device. A round of a kernel is asked again; a buffer object that the CPU reads: -EIO. */
  "readback",
  /** The device, as a launch or a copy is submitted: it is lost from then on. -EIO. */
  "device-lost",
  /** A page for a page table: -ENOMEM. */
  "table-alloc",
  /** A node of the GPU VA manager: -ENOMEM. */
  "va-alloc",
  /** Once per operation of a bind, before it changes the view: -ENOMEM. */
  "bind-commit",
  /** A 2 MiB folio: -ENOMEM. Faults fall back to single pages. */
  "huge-alloc",
  /** A swap slot: the page stays in RAM. */
  "swap-out",
] as const;
export type FailSite = (typeof FAIL_SITES)[number];

/** Somebody whose frames are worth less than an allocation that fails. @kernel shrinker */
export interface Shrinker {
  /** Frames that are to stay free as long as it has any. */
  readonly reserve: number;
  /** Gives back `frames` frames, or what it has. Must not wait. @kernel shrinker.scan_objects */
  shrink(frames: number): void;
}

export interface PhysMemoryOptions {
  /** RAM: whole pages, zero-filled. Its size is the budget; two frames of it are the machine's own. */
  readonly ram: Uint8Array;
  readonly sched: Scheduler;
  /** Debug: fill freed frames with a pattern, so that a stale reader shows (invariant I21). */
  readonly poisonFreed?: boolean;
  /** Pages of swap; as many as RAM has unless given. */
  readonly swapPages?: number;
  /** Which areas get 2 MiB folios of themselves. "madvise" unless given. @kernel transparent_hugepage/enabled */
  readonly hugePages?: HugePagePolicy;
}

/** "madvise": the areas that asked for them by `madvise(MADV_HUGEPAGE)`. */
export type HugePagePolicy = "always" | "madvise" | "never";

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
  readonly swap: SwapSpace;
  hugePages: HugePagePolicy;
  readonly #allocator: FrameAllocator;
  readonly #devices: DeviceFrames;
  readonly #poisonFreed: boolean;
  /** By mm number; 0 is none. */
  readonly #mms: (Mm | null)[] = [null];
  readonly #windows: SystemWindow[] = [];
  readonly #shrinkers: Shrinker[] = [];
  /** The largest of the shrinkers; -1 without any. */
  #reserve = -1;
  /** Asked at fallible steps: true makes this one fail. For error injection; the sites are in FAIL_SITES. */
  failpoint: ((site: FailSite, bytes: number) => boolean) | null = null;

  constructor(options: PhysMemoryOptions) {
    this.ram = options.ram;
    this.ramPages = options.ram.length / PAGE_SIZE;
    assert(Number.isInteger(this.ramPages) && this.ramPages > FIRST_FREE_PFN, "RAM is whole pages, at least three");
    assert(options.ram.byteOffset % PAGE_SIZE === 0, "RAM begins at a multiple of a page of its buffer");
    this.words = new Int32Array(options.ram.buffer, options.ram.byteOffset, options.ram.length / 4);
    this.sched = options.sched;
    this.#poisonFreed = options.poisonFreed ?? false;
    this.#allocator = new FrameAllocator(FIRST_FREE_PFN, this.ramPages);
    this.#devices = new DeviceFrames(this.frames, this.ramPages, this.#allocator);
    this.swap = new SwapSpace(options.swapPages ?? this.ramPages);
    this.hugePages = options.hugePages ?? "madvise";
    this.frames.grow(this.ramPages);
    this.frames.flags[ZERO_PFN] = PG_ZERO;
    this.frames.refcount[ZERO_PFN] = 1;
  }

  /** Frames that can still be allocated. */
  get freePages(): number {
    return this.#allocator.freeFrames;
  }

  /** `bytes`: how many the step is about, 0 where that makes no sense. */
  fails(site: FailSite, bytes = 0): boolean {
    return this.failpoint !== null && this.failpoint(site, bytes);
  }

  // RAM frames

  allocPage(): Pfn | Errno {
    if (this.fails("frame-alloc", PAGE_SIZE)) return ENOMEM;
    if (this.#allocator.freeFrames <= this.#reserve) this.#shrink(1);
    const pfn = this.#allocator.alloc();
    if (pfn === 0) return ENOMEM;
    this.frames.refcount[pfn] = 1;
    return pfn;
  }

  /** `count` frames as by `allocPage` into `out[0..count)`, in as few runs as there can be; all or none. */
  allocPages(out: Uint32Array, count: number): 0 | Errno {
    if (this.freePages < count + this.#reserve) this.#shrink(count);
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

  /** @kernel register_shrinker */
  addShrinker(shrinker: Shrinker): void {
    this.#shrinkers.push(shrinker);
    this.#reserve = Math.max(...this.#shrinkers.map((s) => s.reserve));
  }

  /** @kernel unregister_shrinker */
  removeShrinker(shrinker: Shrinker): void {
    this.#shrinkers.splice(this.#shrinkers.indexOf(shrinker), 1);
    this.#reserve = Math.max(-1, ...this.#shrinkers.map((s) => s.reserve));
  }

  /** `frames` are about to be allocated. */
  #shrink(frames: number): void {
    for (const shrinker of this.#shrinkers) {
      const missing = frames + shrinker.reserve - this.freePages;
      if (missing > 0) shrinker.shrink(missing);
    }
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

  /** A 2 MiB folio that is about to be overwritten as a whole: its head, each frame with one reference. @kernel folio_alloc */
  allocHuge(): Pfn | Errno {
    if (this.fails("huge-alloc", HPAGE_PAGES * PAGE_SIZE)) return ENOMEM;
    const head = this.#allocator.allocBlock();
    if (head === 0) return ENOMEM;
    this.frames.refcount.fill(1, head, head + HPAGE_PAGES);
    this.frames.flags.fill(PG_COMPOUND, head, head + HPAGE_PAGES);
    return head;
  }

  /** The highest free frame above `floor`, as by `allocPage`: where compaction moves a page to. */
  allocPageAbove(floor: Pfn): Pfn | Errno {
    const pfn = this.#allocator.allocHighest(floor);
    if (pfn === 0) return ENOMEM;
    this.frames.refcount[pfn] = 1;
    return pfn;
  }

  zeroPage(pfn: Pfn, pages = 1): void {
    this.ram.fill(0, pfn * PAGE_SIZE, (pfn + pages) * PAGE_SIZE);
  }

  copyPage(to: Pfn, from: Pfn, pages = 1): void {
    this.ram.copyWithin(to * PAGE_SIZE, from * PAGE_SIZE, (from + pages) * PAGE_SIZE);
  }

  /** The bytes of a frame that the CPU can reach; a view, valid while the caller holds a reference. */
  bytesOf(pfn: Pfn): Uint8Array {
    return this.ram.subarray(pfn * PAGE_SIZE, (pfn + 1) * PAGE_SIZE);
  }

  // References

  refcount(pfn: Pfn): number {
    return this.frames.refcount[pfn]!;
  }

  /** How many of `count` frames in a row are in use. */
  liveFrames(first: Pfn, count: number): number {
    const { refcount } = this.frames;
    let live = 0;
    for (let pfn = first; pfn < first + count; pfn++) if (refcount[pfn]! > 0) live += 1;
    return live;
  }

  mapcount(pfn: Pfn): number {
    return this.frames.mapcount[pfn]!;
  }

  getPage(pfn: Pfn): void {
    if (this.frames.refcount[pfn]! <= 0) refuseFree(pfn);
    this.frames.refcount[pfn]! += 1;
  }

  putPage(pfn: Pfn): void {
    const left = --this.frames.refcount[pfn]!;
    if (left > 0) return;
    assert(left === 0, () => `page ${pfn} was put more often than got`);
    this.#freePage(pfn);
  }

  /** `getPage` for each of `count` frames in a row. */
  getPages(first: Pfn, count: number): void {
    const { refcount } = this.frames;
    for (let pfn = first; pfn < first + count; pfn++) {
      if (refcount[pfn]! <= 0) refuseFree(pfn);
      refcount[pfn]! += 1;
    }
  }

  /** `putPage` for each of `count` frames in a row. */
  putPages(first: Pfn, count: number): void {
    const { refcount } = this.frames;
    const end = first + count;
    // A folio mostly lives on as a whole, or goes as a whole.
    let pfn = first;
    while (pfn < end && refcount[pfn]! > 1) refcount[pfn++]! -= 1;
    const last = pfn;
    while (pfn < end && refcount[pfn] === 1) refcount[pfn++] = 0;
    if (pfn > last) this.#freePages(last, pfn - last);
    for (; pfn < end; pfn++) this.putPage(pfn);
  }

  /** A long-term user holds the frame: it must stay where it is. @kernel folio_maybe_dma_pinned */
  isPinned(pfn: Pfn): boolean {
    return this.frames.pins[pfn] !== 0;
  }

  #freePage(pfn: Pfn): void {
    const { mapcount, flags, pins, rmapMm } = this.frames;
    assert(pins[pfn] === 0, () => `page ${pfn} was freed while pinned`);
    assert(mapcount[pfn] === 0 && rmapMm[pfn] === 0, () => `page ${pfn} was freed while mapped`);
    assert((flags[pfn]! & PG_LOCKED) === 0, () => `page ${pfn} was freed while locked`);
    if ((flags[pfn]! & PG_SLOT) !== 0) for (const window of this.#windows) window.forget(pfn);
    const wasCompound = (flags[pfn]! & PG_COMPOUND) !== 0;
    flags[pfn]! &= PG_KIND;
    if (this.#poisonFreed && pfn < this.ramPages) this.bytesOf(pfn).fill(POISON);
    if (this.isZoneDevice(pfn)) this.#devices.free(pfn, wasCompound);
    else this.#allocator.free(pfn);
  }

  /** `#freePage` for each of `count` frames in a row. */
  #freePages(first: Pfn, count: number): void {
    if (!this.#areAlike(first, count)) {
      for (let pfn = first; pfn < first + count; pfn++) this.#freePage(pfn);
      return;
    }
    const { flags } = this.frames;
    const isFolio = (flags[first]! & PG_COMPOUND) !== 0;
    for (let pfn = first; pfn < first + count; pfn++) flags[pfn]! &= PG_KIND;
    if (this.#poisonFreed && first < this.ramPages)
      this.ram.fill(POISON, first * PAGE_SIZE, (first + count) * PAGE_SIZE);
    if (this.isZoneDevice(first)) this.#devices.freeRun(first, count, isFolio);
    else this.#allocator.freeRun(first, count);
  }

  /** Frames of one kind, parts of a folio all or none, of which nobody but the allocator has to hear that they are free. */
  #areAlike(first: Pfn, count: number): boolean {
    const { mapcount, flags, pins, rmapMm } = this.frames;
    const wanted = flags[first]! & (PG_KIND | PG_COMPOUND);
    for (let pfn = first; pfn < first + count; pfn++) {
      if ((flags[pfn]! & (PG_KIND | PG_COMPOUND | PG_LOCKED | PG_SLOT)) !== wanted) return false;
      if (pins[pfn] !== 0 || mapcount[pfn] !== 0 || rmapMm[pfn] !== 0) return false;
    }
    return true;
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
    this.#devices.add(pgmap);
  }

  /** All frames of the run are free. */
  removePagemap(pgmap: DevPagemap): void {
    this.#devices.remove(pgmap);
  }

  /** Order 9 makes one folio of the 512 frames from `pfn`. */
  zoneDevicePageInit(pfn: Pfn, data: unknown, order: 0 | typeof HPAGE_ORDER = 0): void {
    this.#devices.init(pfn, 2 ** order, data);
    this.locks.noteLocked(pfn, 2 ** order);
  }

  /** The frames of a large folio become single pages. What this needs of them is for `splitFolio` to know. */
  uncompound(head: Pfn): void {
    const { flags } = this.frames;
    for (let pfn = head; pfn < head + HPAGE_PAGES; pfn++) flags[pfn]! &= ~PG_COMPOUND;
    if (this.isZoneDevice(head)) this.#devices.split(head);
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
    return this.#devices.pgmapOf(pfn);
  }

  zoneDeviceData(pfn: Pfn): unknown {
    return this.#devices.zoneDeviceData(pfn);
  }

  /** How many of the `count` device frames from `first` on have the data of the first, one behind the other; at least 1. */
  zoneDeviceRun(first: Pfn, count: number): number {
    return this.#devices.zoneDeviceRun(first, count);
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
    for (const window of this.#windows) if (window.hasSlot(pfn)) return;
    this.frames.flags[pfn]! &= ~PG_SLOT;
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

function refuseFree(pfn: Pfn): never {
  throw new InvariantError(`a reference to free page ${pfn}`);
}

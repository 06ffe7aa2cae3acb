/**
 * GPU shared virtual memory: the mirror of a CPU address space in a GPU's.
 *
 * Overview
 * ========
 *
 * A CPU address is a GPU address. The mirror holds three kinds of objects:
 *
 * - Notifiers. A notifier is a window of fixed size (512 MiB recommended) that is registered with the mm as an interval
 *   whose changes are announced. It is made by the first GPU fault in its window and goes with its last range.
 * - Ranges. A range is the unit of mapping on the GPU: a power-of-two chunk around a fault that lies in one VMA, one
 *   notifier and one interval of the GPU's address space. Its size never changes. It survives every change of the CPU
 *   mapping but an unmap; the driver then removes it.
 * - Pages. A pages object holds, for one device, the addresses by which the device reaches the pages behind a range, and
 *   whether they are valid.
 *
 *       mm       |---- VMA ----|          |--------------- VMA ---------------|
 *       notifier |=========== window 0 ===========|=========== window 1 ===========|
 *       range       [64K][64K]   [4K]      [  2M ][  2M ]   [  2M ]
 *
 * All races with the CPU side are solved by trying again, never by holding locks from one step to the next: a look-up
 * carries the sequence number of its notifier, every announcement changes that number before it returns, and what was
 * looked up is used only after a check under the notifier lock that the number is still the same.
 *
 * Partial unmaps do not split a range: they are rare and ranges are small. The range dies as a whole, and the part that
 * survives gets fresh ranges at the next GPU faults.
 *
 * Locking
 * =======
 *
 * - The driver's lock ("D" in the spec) serialises `rangeFindOrInsert` and `rangeRemove`, and thereby the notifier tree.
 *   `driverSetLock` makes that an assertion.
 * - `notifierLock` protects the range trees, the state of the pages, the GPU's page-table entries and the sequence.
 *   The interval callback takes it for write; everything else for read, in sections without an `await`. Under it
 *   nothing waits for the mmap lock, a page lock or a reservation.
 * - The mmap lock is taken for read inside the functions here, and never held by their callers, but for the look-ups.
 *
 * Example
 * =======
 *
 * The parts of a driver (test/node/gpusvm-example.test.ts runs them). The page fault handler:
 *
 *     async function gpuFault(svm, addr, gpuva, ctx) {
 *       const guard = await driverLock.write();
 *       for (let mayMigrate = true; ;) {
 *         await garbageCollector(svm);
 *         const range = await svm.rangeFindOrInsert(addr, gpuva.start, gpuva.end, ctx);
 *         if (isErr(range)) { guard.release(); return range; }
 *         if (mayMigrate && range.migrateDevmem && !range.hasDevmemPages) {
 *           await drmPagemapPopulateMm(dpagemap, range.start, range.end, mm, ctx.timesliceMs);   // best effort
 *         }
 *         let err = await svm.rangeGetPages(range, ctx);
 *         if (err === EOPNOTSUPP) {         // a mix of placements, or a page shared since a fork: start from RAM again
 *           await svm.rangeEvict(range);
 *           mayMigrate = false;             // migrating a shared page leaves it shared: in RAM the fault makes a copy
 *         }
 *         if (err === EPERM) await remove(svm, range);                 // mprotect split the area under the range
 *         if (err === 0) err = await bind(svm, range);
 *         if (err === EAGAIN || err === EOPNOTSUPP || err === EFAULT || err === EPERM) continue;
 *         guard.release();
 *         return err;
 *       }
 *     }
 *
 * The bind writes entries only while it is certain that the pages are still the ones to map:
 *
 *     async function bind(svm, range) {
 *       const held = await svm.notifierLock.read();
 *       const valid = svm.rangePagesValid(range);
 *       if (valid) writePageTableEntries(range, range.pages.dmaAddr);
 *       held.release();
 *       return valid ? 0 : EAGAIN;
 *     }
 *
 * The callback takes the GPU's access away before the CPU mapping changes, whole ranges at a time:
 *
 *     async function invalidate(svm, notifier, mmuRange) {
 *       for (const range of notifier.forEachRange(mmuRange.start, mmuRange.end)) zapPageTableEntries(range);
 *       flushTlb();
 *       for (const range of notifier.forEachRange(mmuRange.start, mmuRange.end)) {
 *         await svm.rangeUnmapPages(range, inNotifier);
 *         if (mmuRange.event !== MMU_NOTIFY_UNMAP) continue;
 *         svm.rangeSetUnmapped(range, mmuRange);
 *         garbage.add(range);
 *       }
 *     }
 *
 * The collector removes dead ranges, under the driver's lock and outside any callback:
 *
 *     async function garbageCollector(svm) {
 *       for (const range of garbage) {
 *         garbage.delete(range);
 *         await remove(svm, range);
 *       }
 *     }
 *
 *     async function remove(svm, range) {
 *       zapPageTableEntries(range);
 *       await svm.rangeRemove(range);
 *     }
 */
import type { Va } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import type { Errno } from "../base/errno.ts";
import { IntervalTree } from "../base/interval-tree.ts";
import { RwSemaphore } from "../base/locks.ts";
import { type MaybePromise, isPromise } from "../base/maybe-promise.ts";
import { mutated } from "../base/mutation.ts";
import type { Scheduler } from "../base/scheduler.ts";
import { type Steps, run, wait } from "../mm/steps.ts";
import type { DevPagemap, MmuIntervalNotifier, MmuNotifierRange, SvmMm } from "../mm/types.ts";
import { type Quirks, quirksOf } from "./compat.ts";
import type { GpuSvmCtx } from "./ctx.ts";
import { HAS_DEVMEM_PAGES, HAS_DMA_MAPPING, PARTIAL_UNMAP, UNMAPPED } from "./flags.ts";
import { getPages } from "./get-pages.ts";
import { type GpuSvmInit, checkInit } from "./init.ts";
import { GpuSvmNotifier } from "./notifier.ts";
import type { DriverLock, GpuSvmDevice, GpuSvmOps } from "./ops.ts";
import type { GpuSvmPages } from "./pages.ts";
import { rangeEvict } from "./range-evict.ts";
import { rangeFindOrInsert } from "./range-find-or-insert.ts";
import { GpuSvmRange } from "./range.ts";
import { type ScanResult, scanMm } from "./scan-mm.ts";
import { unmapPages } from "./unmap-pages.ts";

/** Anything above every address; the trees take inclusive ends. */
const EVERYTHING = Number.MAX_SAFE_INTEGER;

/** One mirrored address space. @kernel drm_gpusvm */
export class GpuSvm<R extends GpuSvmRange = GpuSvmRange> {
  /** For messages. @kernel drm_gpusvm.name */
  readonly name: string;
  /** The device of the ranges' own pages. @kernel drm_gpusvm.drm */
  readonly drm: GpuSvmDevice | null;
  /** The structure is held, the address space is not. @kernel drm_gpusvm.mm */
  readonly mm: SvmMm | null;
  /** For calls whose ctx names no owner. @kernel drm_gpusvm.device_private_page_owner */
  readonly devicePrivatePageOwner: unknown;
  /** @kernel drm_gpusvm.mm_start */
  readonly mmStart: number;
  /** Bytes. @kernel drm_gpusvm.mm_range */
  readonly mmRange: number;
  /** Exclusive end of the mirror window. */
  readonly mmEnd: number;
  /** Bytes. @kernel drm_gpusvm.notifier_size */
  readonly notifierSize: number;
  /** Bytes, descending. @kernel drm_gpusvm.chunk_sizes, drm_gpusvm.num_chunks */
  readonly chunkSizes: readonly number[];
  /** @kernel drm_gpusvm.ops */
  readonly ops: Partial<GpuSvmOps<R>>;
  readonly scheduler: Scheduler;
  readonly quirks: Quirks;
  /**
   * Drivers take it for read, around the check of the pages and the writing of page-table entries; only the interval
   * callback takes it for write. @kernel drm_gpusvm.notifier_lock, drm_gpusvm_notifier_lock, drm_gpusvm_notifier_unlock
   */
  readonly notifierLock: RwSemaphore;
  /** Tree and list in one. @kernel drm_gpusvm.root, drm_gpusvm.notifier_list */
  readonly #notifiers = new IntervalTree<GpuSvmNotifier<R>>();
  #driverLock: DriverLock | null = null;

  /** Takes a reference on the mm's structure, not on the address space. Throws ConfigError naming what is wrong. @kernel drm_gpusvm_init */
  constructor(init: GpuSvmInit<R>) {
    this.quirks = quirksOf(init.compat);
    checkInit(init, this.quirks.trustSizes);
    this.name = init.name;
    this.drm = init.drm;
    this.mm = init.mm;
    this.devicePrivatePageOwner = init.devicePrivatePageOwner ?? null;
    this.mmStart = init.mmStart ?? 0;
    this.mmRange = init.mmRange ?? 0;
    this.mmEnd = this.mmStart + this.mmRange;
    this.notifierSize = init.notifierSize ?? 0;
    this.chunkSizes = [...(init.chunkSizes ?? [])];
    this.ops = init.ops ?? {};
    this.scheduler = init.scheduler;
    this.notifierLock = new RwSemaphore(`${init.name}: notifier lock`, "notifier");
    this.mm?.mmgrab();
  }

  /**
   * Tears everything down: no callback runs afterwards. There are no faults, no collector and no other users any more;
   * the driver's lock is held. @kernel drm_gpusvm_fini
   */
  fini(): MaybePromise<void> {
    this.driverLockHeld();
    return run(this.#fini());
  }

  *#fini(): Steps<void> {
    for (const notifier of this.forEachNotifierSafe(0, EVERYTHING)) {
      // Unmapped while invalidations are still told: later nobody would say that a page goes which the device has mapped.
      for (const { pagesIfAny } of notifier.forEachRange(0, EVERYTHING)) {
        if (pagesIfAny !== null && !mutated("fini-mapped")) yield* wait(this.freePages(pagesIfAny));
      }
      // Unregistered before they are removed, so that no invalidation can meet a range on its way out.
      yield* wait(this.mirroredMm.intervalNotifierRemove(notifier.notifier));
      notifier.removed = true;
      for (const range of notifier.forEachRangeSafe(0, EVERYTHING)) yield* wait(this.rangeRemove(range));
    }
    assert(this.#notifiers.size === 0, "notifiers are left after fini");
    this.mm?.mmdrop();
  }

  /** The mm, where there must be one. */
  get mirroredMm(): SvmMm {
    assert(this.mm !== null, "an operation on ranges in pages-only mode");
    return this.mm;
  }

  /** Names the lock that `rangeFindOrInsert` and `rangeRemove` want held for write; once. @kernel drm_gpusvm_driver_set_lock */
  driverSetLock(lock: DriverLock): void {
    assert(this.#driverLock === null, "the driver's lock was set twice");
    this.#driverLock = lock;
  }

  /** The owner of the device pages that a call may use where they are. */
  ownerFor(ctx: GpuSvmCtx): unknown {
    return ctx.devicePrivatePageOwner ?? this.devicePrivatePageOwner;
  }

  /** Without a lock set it checks nothing. @kernel drm_gpusvm_driver_lock_held */
  driverLockHeld(): void {
    assert(this.#driverLock === null || this.#driverLock.isWriteHeld, "the driver's lock is not held for write");
  }

  // Notifiers. All of these under the driver's lock.

  get notifierCount(): number {
    return this.#notifiers.size;
  }

  /** The lowest notifier whose window intersects `[start, end)`. @kernel drm_gpusvm_notifier_find */
  notifierFind(start: Va, end: Va): GpuSvmNotifier<R> | null {
    return this.#notifiers.iterFirst(start, end - 1);
  }

  /** The notifier for a fault at `addr`. */
  notifierAt(addr: Va): GpuSvmNotifier<R> | null {
    return this.#notifiers.iterFirst(addr, this.quirks.notifierFindByteFar ? addr + 1 : addr);
  }

  /** @kernel __drm_gpusvm_notifier_next */
  notifierNext(notifier: GpuSvmNotifier<R>): GpuSvmNotifier<R> | null {
    return this.#notifiers.next(notifier);
  }

  /** Notifiers that intersect `[start, end)`, by address; the one given must stay. @kernel drm_gpusvm_for_each_notifier */
  *forEachNotifier(start: Va, end: Va): Generator<GpuSvmNotifier<R>> {
    let notifier = this.notifierFind(start, end);
    while (notifier !== null && notifier.start < end) {
      yield notifier;
      notifier = this.notifierNext(notifier);
    }
  }

  /** The same; the one given may be removed. @kernel drm_gpusvm_for_each_notifier_safe */
  *forEachNotifierSafe(start: Va, end: Va): Generator<GpuSvmNotifier<R>> {
    let notifier = this.notifierFind(start, end);
    while (notifier !== null && notifier.start < end) {
      const next = this.notifierNext(notifier);
      yield notifier;
      notifier = next;
    }
  }

  /** For `rangeFindOrInsert`. @kernel drm_gpusvm_notifier_alloc */
  notifierAlloc(): GpuSvmNotifier<R> | null {
    return this.ops.notifierAlloc === undefined ? new GpuSvmNotifier<R>(this) : this.ops.notifierAlloc(this);
  }
  /** For `rangeFindOrInsert`. @kernel drm_gpusvm_notifier_insert */
  notifierInsert(notifier: GpuSvmNotifier<R>): void {
    this.#notifiers.insert(notifier);
  }

  /** For the interval callback. The notifier lock is held for write. */
  invalidate(notifier: GpuSvmNotifier<R>, mmuRange: MmuNotifierRange): MaybePromise<void> {
    return this.ops.invalidate!(this, notifier, mmuRange);
  }

  // Ranges.

  /** For `rangeFindOrInsert`. @kernel drm_gpusvm_range_alloc */
  rangeAlloc(): R | null {
    // Without an allocator of the driver's the ranges are plain ones, and then R is GpuSvmRange.
    if (this.ops.rangeAlloc === undefined) return new GpuSvmRange(this as unknown as GpuSvm) as R;
    return this.ops.rangeAlloc(this);
  }

  /**
   * The range that contains `faultAddr`, or a new one: the largest chunk that fits the VMA, the notifier,
   * `[gpuvaStart, gpuvaEnd)` and the mirror window, and touches no other range. An existing range is returned as it is,
   * unmapped or not: the collector runs before. No reference is taken; the range is good while the driver's lock, which
   * is held for write, is not given up. Takes the mmap lock for read. At once, when no lock is contended.
   *
   * In this order: -EINVAL outside the mirror window; -EFAULT address space gone; -ENOMEM; -ENOENT no VMA; -EPERM the VMA
   * is read-only and the GPU would write; -EIO device memory mapping (VM_IO, VM_PFNMAP); -EINVAL no chunk fits. A failed
   * call leaves nothing behind. @kernel drm_gpusvm_range_find_or_insert
   */
  rangeFindOrInsert(faultAddr: Va, gpuvaStart: Va, gpuvaEnd: Va, ctx: GpuSvmCtx): MaybePromise<R | Errno> {
    this.driverLockHeld();
    return rangeFindOrInsert(this, faultAddr, gpuvaStart, gpuvaEnd, ctx);
  }

  /**
   * Undoes the pages of a range and takes it out; its notifier goes with it if it was the last one. The driver's lock is
   * held for write, the notifier lock is not. Waits for a callback that is running. @kernel drm_gpusvm_range_remove
   */
  rangeRemove(range: R): MaybePromise<void> {
    this.driverLockHeld();
    const notifier = range.notifier as GpuSvmNotifier<R> | null;
    assert(notifier !== null, "a range was removed twice");
    // Unmapped before it leaves the tree: a callback must find everything that the device can still reach.
    const pages = range.pagesIfAny;
    const unmapped = pages === null ? undefined : this.freePages(pages);
    if (isPromise(unmapped) || !this.notifierLock.enterRead()) {
      return run(this.#rangeRemoveWaiting(notifier, range, unmapped));
    }
    notifier.rangeErase(range);
    this.notifierLock.leaveRead();
    this.rangePut(range);
    return notifier.rangeCount === 0 ? run(this.#notifierRemove(notifier)) : undefined;
  }

  *#rangeRemoveWaiting(notifier: GpuSvmNotifier<R>, range: R, unmapped: MaybePromise<void>): Steps<void> {
    yield* wait(unmapped);
    const guard = yield* wait(this.notifierLock.read());
    notifier.rangeErase(range);
    guard.release();
    this.rangePut(range);
    if (notifier.rangeCount === 0) yield* this.#notifierRemove(notifier);
  }

  /** @kernel drm_gpusvm_notifier_remove, drm_gpusvm_notifier_free */
  *#notifierRemove(notifier: GpuSvmNotifier<R>): Steps<void> {
    if (!notifier.removed) yield* wait(this.mirroredMm.intervalNotifierRemove(notifier.notifier));
    this.#notifiers.remove(notifier);
    this.ops.notifierFree?.(notifier);
  }

  /** Keeps the object alive, not the range in the tree. @kernel drm_gpusvm_range_get */
  rangeGet(range: R): R {
    assert(range.refcount > 0, "a reference was taken on a range that is gone");
    range.refcount += 1;
    return range;
  }

  /** @kernel drm_gpusvm_range_put, drm_gpusvm_range_destroy */
  rangePut(range: R): void {
    assert(range.refcount > 0, "a range lost more references than it had");
    range.refcount -= 1;
    if (range.refcount === 0) this.ops.rangeFree?.(range);
  }

  /** Whether a range intersects `[start, end)`; says nothing about its pages. Driver lock. @kernel drm_gpusvm_has_mapping */
  hasMapping(start: Va, end: Va): boolean {
    for (const notifier of this.forEachNotifier(start, end)) {
      if (notifier.rangeFind(start, end) !== null) return true;
    }
    return false;
  }

  /**
   * Marks the range dead after an UNMAP event, and partly so if the event did not cover it. `more` are pages objects
   * that the driver keeps for the range beside its own. The notifier lock is held for write.
   * @kernel drm_gpusvm_range_set_unmapped
   */
  rangeSetUnmapped(range: R, mmuRange: MmuNotifierRange, more: readonly GpuSvmPages[] = []): void {
    assert(this.notifierLock.isWriteHeld, "set_unmapped outside the notifier lock");
    const partial = range.start < mmuRange.start || range.end > mmuRange.end;
    range.flags |= partial ? UNMAPPED | PARTIAL_UNMAP : UNMAPPED;
    if (range.pagesIfAny !== null && !mutated("dead-range-revived")) range.pagesIfAny.flags |= UNMAPPED;
    for (const pages of more) pages.flags |= UNMAPPED;
  }

  /**
   * Brings every device page of the range home, as CPU reads would; it also populates holes. Does not unmap the range
   * itself: the migration's own announcement does. Best effort, respects time slices. -EFAULT: address space gone, or an
   * address without VMA, where it stops. -ETIME: invalidations for a whole second. Takes the mmap lock for read.
   * @kernel drm_gpusvm_range_evict
   */
  rangeEvict(range: R): MaybePromise<0 | Errno> {
    return run(rangeEvict(this, range));
  }

  /**
   * Where the CPU has the pages of the range, as a hint: nothing is faulted in. Device pages of `owner` count, others
   * are UNPOPULATED; with a null `pagemap` system pages are EQUAL. Takes the mmap lock for read. @kernel drm_gpusvm_scan_mm
   */
  scanMm(range: R, owner: unknown, pagemap: DevPagemap | null): MaybePromise<ScanResult> {
    return run(scanMm(this, range, owner, pagemap));
  }

  /**
   * Start of the first VMA that intersects `[start, end)`, which may be below `start`; null where there is none (the
   * kernel's ULONG_MAX). Takes the mmap lock for read. @kernel drm_gpusvm_find_vma_start
   */
  findVmaStart(start: Va, end: Va): MaybePromise<Va | null> {
    return run(this.#findVmaStart(start, end));
  }

  *#findVmaStart(start: Va, end: Va): Steps<Va | null> {
    const mm = this.mirroredMm;
    if (!mm.mmget()) return null;
    const guard = yield* wait(mm.mmapLock.read());
    const vma = mm.findVmaIntersection(start, end);
    guard.release();
    mm.mmput();
    return vma === null ? null : vma.start;
  }

  // Pages.

  /**
   * Looks up the CPU pages of `[start, end)`, faulting in what is missing, and maps them for the device. Mappings that
   * are still valid are kept and nothing is looked up. No page reference is held afterwards: the mappings are good until
   * a callback undoes them, which is why the last check before a GPU page-table entry is `pagesValid`.
   *
   * One call at a time per pages object: the driver's lock, or a lock of its own. No lock of the mm, no notifier lock.
   * 0; -EOPNOTSUPP a mix of placements, to be healed by `rangeEvict`; -EFAULT mapping gone, range unmapped, or a system
   * page with `devmemOnly`; -EPERM write wanted on a read-only VMA; -EBUSY invalidations for a whole second.
   * @kernel drm_gpusvm_get_pages
   */
  getPages(
    pages: GpuSvmPages,
    mm: SvmMm,
    notifier: MmuIntervalNotifier,
    start: Va,
    end: Va,
    ctx: GpuSvmCtx,
  ): MaybePromise<0 | Errno> {
    return run(getPages(this, { pages, mm, notifier, start, end, ctx }));
  }

  /** `getPages` for the range's own pages. @kernel drm_gpusvm_range_get_pages */
  rangeGetPages(range: R, ctx: GpuSvmCtx): MaybePromise<0 | Errno> {
    const { start, end, pages } = range;
    return run(getPages(this, { pages, mm: this.mirroredMm, notifier: range.notifier!.notifier, start, end, ctx }));
  }

  /**
   * Undoes the mappings; a second time does nothing. With `ctx.inNotifier` the notifier lock is held for write, else it is
   * taken for read. When it ends, what the device wrote stands in RAM. Mandatory for every range that a callback hits.
   * @kernel drm_gpusvm_unmap_pages
   */
  unmapPages(pages: GpuSvmPages, ctx: GpuSvmCtx): MaybePromise<void> {
    return unmapPages(this.notifierLock, pages, ctx.inNotifier);
  }

  /** `unmapPages` for the range's own pages. @kernel drm_gpusvm_range_unmap_pages */
  rangeUnmapPages(range: R, ctx: GpuSvmCtx): MaybePromise<void> {
    const pages = range.pagesIfAny;
    return pages === null ? undefined : this.unmapPages(pages, ctx);
  }

  /** Undoes the mappings and drops their array. Outside callbacks. @kernel drm_gpusvm_free_pages, drm_gpusvm_range_free_pages */
  freePages(pages: GpuSvmPages): MaybePromise<void> {
    const unmapped = unmapPages(this.notifierLock, pages, false);
    if (isPromise(unmapped)) return unmapped.then(() => void (pages.dmaAddr = null));
    pages.dmaAddr = null;
    return undefined;
  }

  /**
   * Whether the mappings stand. The notifier lock is held, and stays so from here until the GPU's entries are written.
   * Not the sequence number: that also changes for events elsewhere in the notifier's window.
   * @kernel drm_gpusvm_pages_valid
   */
  pagesValid(pages: GpuSvmPages): boolean {
    assert(this.notifierLock.isHeld, "pages_valid outside the notifier lock");
    return (pages.flags & (HAS_DEVMEM_PAGES | HAS_DMA_MAPPING)) !== 0;
  }

  /** @kernel drm_gpusvm_range_pages_valid */
  rangePagesValid(range: R): boolean {
    return range.pagesIfAny !== null && this.pagesValid(range.pagesIfAny);
  }
}

import { PAGE_SIZE, SZ_64K } from "../base/addr.ts";
import { EBUSY, EFAULT, ENOMEM, isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { RwSemaphore } from "../base/locks.ts";
import { isPromise } from "../base/maybe-promise.ts";
import type { Scheduler } from "../base/scheduler.ts";
import type { TraceRing } from "../base/trace.ts";
import { ASID_BANNED, ASID_FAULT_MODE, ASID_VALID } from "../hal/gpu.ts";
import type { Kernel } from "../hal/gpu.ts";
import { gpuSvmCtx } from "../gpusvm/ctx.ts";
import type { GpuSvmCtx } from "../gpusvm/ctx.ts";
import { GpuSvm } from "../gpusvm/gpusvm.ts";
import type { MigrateMm } from "../mm/types.ts";
import { zeroCounters } from "./counters.ts";
import type { SvmDevice } from "./device.ts";
import { FaultHandler } from "./fault-handler.ts";
import { parseFaults } from "./fault-record.ts";
import { GarbageCollector } from "./garbage-collector.ts";
import { invalidate } from "./invalidate.ts";
import { runLaunch } from "./launch.ts";
import type { LaunchOutcome, LaunchRequest, RoundReport } from "./launch.ts";
import { GpuPageTables } from "./page-tables.ts";
import { RoundPins } from "./round-pins.ts";
import { prefetchToVram, toSystem } from "./placement.ts";
import type { SvmBo } from "./svm-bo.ts";
import { SvmRange } from "./svm-range.ts";

export interface SvmVmOptions {
  readonly chunkSizes: readonly number[];
  readonly notifierSize: number;
  readonly checkPagesThreshold: number;
  readonly leafSizes: readonly number[];
  /** Move data to VRAM on a fault. */
  readonly migrate: boolean;
  readonly window: readonly [start: number, end: number];
  /** What a fault that cannot be served does beyond ending its launch. Default "kill": nothing. */
  readonly onFatal?: "kill" | "ban";
}

const PLAIN = gpuSvmCtx();

/**
 * A GPU address space that mirrors a process: an ASID, page tables, and a gpusvm.
 *
 * Locking. `lock` is the driver lock (D of the specification), outermost: faults, prefetch, the collector and close hold it
 * for write. Bits of ranges and page-table entries change under the gpusvm's notifier lock.
 * @kernel xe_vm
 */
export class SvmVm {
  readonly device: SvmDevice;
  readonly mm: MigrateMm;
  readonly asid: number;
  readonly tables: GpuPageTables;
  readonly gpusvm: GpuSvm<SvmRange>;
  readonly lock: RwSemaphore;
  readonly collector: GarbageCollector;
  readonly faults: FaultHandler;
  readonly counters = zeroCounters();
  readonly options: SvmVmOptions;
  /** Ranges made so far. */
  rangesCreated = 0;
  /** Ranges that came back to VRAM after having left it. */
  refaults = 0;
  /** Pages of the system window that the tables let the GPU write, by the range that maps them. */
  readonly #windowWrites = new Map<SvmRange, readonly number[]>();
  readonly #ctx: readonly [readWrite: GpuSvmCtx, readOnly: GpuSvmCtx];
  #closed = false;
  #banned = false;

  private constructor(device: SvmDevice, mm: MigrateMm, asid: number, tables: GpuPageTables, options: SvmVmOptions) {
    this.device = device;
    this.mm = mm;
    this.asid = asid;
    this.tables = tables;
    this.options = options;
    this.lock = new RwSemaphore(`vm ${asid}`, "driverVm");
    this.collector = new GarbageCollector(this);
    this.faults = new FaultHandler(this);
    this.#ctx = [this.#makeCtx(false), this.#makeCtx(true)];
    this.gpusvm = new GpuSvm<SvmRange>({
      name: `vm ${asid}`,
      drm: device.dma,
      mm,
      mmStart: options.window[0],
      mmRange: options.window[1] - options.window[0],
      notifierSize: options.notifierSize,
      chunkSizes: options.chunkSizes,
      scheduler: device.sched,
      ops: {
        rangeAlloc: (gpusvm) => {
          this.rangesCreated += 1;
          return new SvmRange(gpusvm);
        },
        invalidate: (_gpusvm, notifier, event) => invalidate(this, notifier, event),
      },
    });
    this.gpusvm.driverSetLock(this.lock);
  }

  /** -ENOMEM: no room for a root table. */
  static create(device: SvmDevice, mm: MigrateMm, asid: number, options: SvmVmOptions): SvmVm | Errno {
    const { region, gpu } = device;
    const allocator = { alloc: () => region.allocTable(), free: (pa: number) => region.freeTable(pa) };
    const tables = GpuPageTables.create(gpu, allocator, options.leafSizes);
    if (isErr(tables)) return ENOMEM;
    const vm = new SvmVm(device, mm, asid, tables, options);
    gpu.asidSet(asid, tables.root, ASID_VALID | ASID_FAULT_MODE);
    return vm;
  }

  get sched(): Scheduler {
    return this.device.sched;
  }
  get trace(): TraceRing {
    return this.device.trace;
  }
  get window(): readonly [number, number] {
    return this.options.window;
  }
  get chunkSizes(): readonly number[] {
    return this.options.chunkSizes;
  }
  get migrates(): boolean {
    return this.options.migrate;
  }
  get isClosed(): boolean {
    return this.#closed;
  }
  /** A launch has faulted fatally: later use gives -ENOENT. @kernel xe_vm_is_banned */
  get isBanned(): boolean {
    return this.#banned;
  }
  get tableBytes(): number {
    return this.tables.bytes;
  }

  /** Runs a kernel to its end, serving the faults of each round. */
  launch(
    kernel: Kernel,
    request: LaunchRequest,
    onRound?: (report: RoundReport) => void | Promise<void>,
  ): Promise<LaunchOutcome> {
    return runLaunch(this, kernel, request, onRound);
  }

  /** A launch has met a fault that nobody can serve. With `onFatal: "ban"` the hardware refuses the ASID from now on. */
  onFatalFault(): void {
    if (this.options.onFatal !== "ban" || this.#closed) return;
    this.#banned = true;
    this.device.gpu.asidSet(this.asid, this.tables.root, ASID_VALID | ASID_FAULT_MODE | ASID_BANNED);
    this.device.gpu.tlbInvalidateAsid(this.asid);
  }

  /** Tells the fault handler that `addr` will be wanted, by a prefetch access of the hardware. */
  async hint(addr: number): Promise<void> {
    const records = await this.device.probeHint(this.asid, addr);
    const pins = new RoundPins();
    await this.faults.serve(parseFaults(records.records, records.count), pins);
    pins.clear();
  }

  /** Pages moved to VRAM; -ENOENT, -EPERM, -EINVAL, -ENOMEM as for an access to `[start, end)`. */
  toVram(start: number, end: number): Promise<number> {
    return prefetchToVram(this, start, end, { bind: false, partial: false });
  }
  /** The same as far as VRAM reaches, and mapped for the GPU. */
  prefetch(start: number, end: number): Promise<number> {
    return prefetchToVram(this, start, end, { bind: true, partial: true });
  }
  toSys(start: number, end: number): Promise<number> {
    return toSystem(this, start, end);
  }

  /** Data in VRAM goes home (of a lost device nothing can); then the address space is gone. */
  async close(): Promise<void> {
    if (this.#closed) return;
    const guard = await this.lock.write();
    try {
      if (!this.device.gpu.isLost) await this.device.evictVm(this);
      this.#closed = true;
      this.collector.drop();
      this.device.gpu.asidSet(this.asid, 0, 0);
      this.device.gpu.tlbInvalidateAsid(this.asid);
      const done = this.gpusvm.fini();
      if (isPromise(done)) await done;
      this.tables.destroy();
      this.device.forgetVm(this);
    } finally {
      guard.release();
    }
  }

  // For the fault handler and the placement verbs; the driver lock is held for write.

  faultCtx(readOnly: boolean): GpuSvmCtx {
    return this.#ctx[readOnly ? 1 : 0];
  }

  #makeCtx(readOnly: boolean): GpuSvmCtx {
    const { migrate, checkPagesThreshold } = this.options;
    return gpuSvmCtx({
      readOnly,
      devmemPossible: migrate,
      checkPagesThreshold: migrate ? checkPagesThreshold : Math.min(checkPagesThreshold, SZ_64K),
      devicePrivatePageOwner: this.device.region.pgmap.owner,
    });
  }

  /** The range that contains `addr`, or null. */
  rangeAt(addr: number): SvmRange | null {
    return this.gpusvm.notifierFind(addr, addr + 1)?.rangeFind(addr, addr + 1) ?? null;
  }

  /** Whether the range belongs into VRAM and is not known to be there. @kernel xe_svm_range_needs_migrate_to_vram */
  wantsMigration(range: SvmRange): boolean {
    return this.migrates && range.migrateDevmem && !range.hasDevmemPages && !this.isResident(range);
  }

  /** True when every page of the range is in this device's memory now: what the CPU page tables say, not a cached hint. */
  isResident(range: { start: number; end: number }): boolean {
    return this.device.isResident(this.mm, range.start, range.end);
  }

  /** Moves a range to VRAM. 0, or why not; -ENOSPC: VRAM is full of what may not leave. */
  async migrateRange(range: SvmRange): Promise<0 | Errno> {
    const migrated = await this.populate(range.start, range.end);
    if (migrated !== 0) return migrated;
    if (range.wasInVram) this.refaults += 1;
    range.wasInVram = true;
    return 0;
  }

  /**
   * Moves `[start, end)`, one chunk inside one VMA, to VRAM; 0 also when it is there already. -ENOSPC: VRAM is full of what
   * may not leave. A mix of device and system pages, which no allocation may hold, is brought home first.
   * @kernel xe_svm_alloc_vram, xe_drm_pagemap_populate_mm
   */
  async populate(start: number, end: number): Promise<0 | Errno> {
    if (this.isResident({ start, end })) return 0;
    let result = await this.#populateOnce(start, end);
    if (result === EBUSY && this.device.buffersIn(this.mm, start, end).length > 0) {
      await this.device.evictBuffers(this.device.buffersIn(this.mm, start, end));
      result = await this.#populateOnce(start, end);
    }
    return result;
  }

  async #populateOnce(start: number, end: number): Promise<0 | Errno> {
    const { device, mm } = this;
    const room = await device.makeRoom(end - start);
    if (isErr(room)) return room;
    if (!mm.mmget()) return EFAULT;
    try {
      const guard = await mm.mmapLock.read();
      try {
        return await device.populateMm(this, start, end, 0);
      } finally {
        guard.release();
      }
    } finally {
      mm.mmput();
    }
  }

  /** Undoes a mapping that no longer fits, so that the pages can be looked up anew. */
  async dropMapping(range: SvmRange): Promise<void> {
    const guard = await this.gpusvm.notifierLock.read();
    try {
      if (range.isBound) this.tables.zap(range.start, range.end, 0);
      this.flushTables();
      range.tileInvalidated = true;
      this.setWindowWrites(range, []);
    } finally {
      guard.release();
    }
    const unmapped = this.gpusvm.rangeUnmapPages(range, PLAIN);
    if (isPromise(unmapped)) await unmapped;
    range.readOnly = false;
  }

  /** Takes a live range out of the address space. */
  async removeRange(range: SvmRange): Promise<void> {
    await this.dropMapping(range);
    // An UNMAP event may have come meanwhile; then the range is the collector's.
    if (range.queued) return;
    this.unbindRange(range);
    const removed = this.gpusvm.rangeRemove(range);
    if (isPromise(removed)) await removed;
  }

  /** Takes a dead range's entries out of the tables. @kernel xe_vm_range_unbind */
  unbindRange(range: SvmRange): void {
    if (!range.tilePresent) return;
    this.tables.unmap(range.start, range.end);
    this.flushTables();
    range.tilePresent = false;
    this.setWindowWrites(range, []);
  }

  /** `range` maps these pages of the system window for writing; none when it is zapped. Notifier lock held. */
  setWindowWrites(range: SvmRange, pages: readonly number[]): void {
    if (pages.length > 0) this.#windowWrites.set(range, pages);
    else this.#windowWrites.delete(range);
  }

  /** Pages of the window that a kernel of this address space could write now. */
  windowWrites(): number[] {
    return [...this.#windowWrites.values()].flat();
  }

  /** Queues the one TLB invalidation that the updates of the tables since the last call want, if they want one. */
  flushTables(): void {
    this.tables.flush((start, end) => this.tlbInvalidate(start, end));
  }

  tlbInvalidate(start: number, end: number): void {
    this.counters.tlbInval += 1;
    const seqno = this.device.gpu.tlbInvalidate(this.asid, start, end - 1);
    this.trace.record("tlb-invalidate", this.asid, start, end, seqno);
  }

  /** Marks the buffers behind a range as used, and pins them for `item` of a launch. */
  useRange(range: SvmRange, pins: RoundPins, item: number): readonly SvmBo[] {
    const buffers = this.device.buffersIn(this.mm, range.start, range.end);
    for (const bo of buffers) {
      this.device.region.touch(bo);
      pins.pin(bo, item);
    }
    return buffers;
  }

  countToRam(bo: SvmBo, pages: number): void {
    this.counters.toSysBytes += pages * PAGE_SIZE;
    this.counters.migrationsOut += 1;
    this.trace.record("migrate-to-ram", this.asid, bo.start, bo.start + bo.size, pages);
  }

  // Probes

  ranges(
    lo: number,
    hi: number,
  ): { start: number; end: number; inVram: boolean; mapped: boolean; unmapped: boolean }[] {
    const out = [];
    for (const notifier of this.gpusvm.forEachNotifier(lo, hi)) {
      for (const range of notifier.forEachRange(lo, hi)) {
        out.push({
          start: range.start,
          end: range.end,
          inVram: range.hasDevmemPages || this.isResident(range),
          mapped: range.isBound,
          unmapped: range.unmapped,
        });
      }
    }
    return out;
  }

  notifiers(): { start: number; end: number; ranges: number }[] {
    const out = [];
    for (const n of this.gpusvm.forEachNotifier(0, 2 ** 52))
      out.push({ start: n.start, end: n.end, ranges: n.rangeCount });
    return out;
  }
}

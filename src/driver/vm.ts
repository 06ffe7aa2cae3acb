import { PAGE_SIZE, SZ_64K } from "../base/addr.ts";
import { causedBy } from "../base/cause.ts";
import { EINVAL, ENOMEM, isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { inActivity } from "../base/lock-order.ts";
import { RwSemaphore } from "../base/locks.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import { mutated } from "../base/mutation.ts";
import type { Scheduler } from "../base/scheduler.ts";
import { type Steps, run, wait } from "../base/steps.ts";
import type { TraceRing } from "../base/trace.ts";
import { ASID_BANNED, ASID_FAULT_MODE, ASID_SCRATCH, ASID_VALID } from "../hal/gpu.ts";
import type { Kernel } from "../hal/gpu.ts";
import { ASID_LEVELS_POS } from "../abi/tables.ts";
import { gpuSvmCtx } from "../gpusvm/ctx.ts";
import type { GpuSvmCtx } from "../gpusvm/ctx.ts";
import { GpuSvm } from "../gpusvm/gpusvm.ts";
import type { MigrateMm } from "../mm/types.ts";
import { DRM_INTERCONNECT_DRIVER, DRM_INTERCONNECT_SYSTEM } from "../pagemap/pagemap-addr.ts";
import type { PagemapAddrArray } from "../pagemap/pagemap-addr.ts";
import type { DrmPagemap } from "../pagemap/pagemap.ts";
import { MemAttributes } from "./attributes.ts";
import type { MemAttr } from "./attributes.ts";
import { advise } from "./attributes-advise.ts";
import { zeroCounters } from "./counters.ts";
import type { SvmDevice } from "./device.ts";
import { launchResident } from "./bind-exec.ts";
import type { ResidentLaunch } from "./bind-exec.ts";
import type { BindVa } from "./bind-va.ts";
import { FaultHandler } from "./fault-handler.ts";
import { FilledHoles } from "./filled-holes.ts";
import { parseFaults } from "./fault-record.ts";
import { GarbageCollector } from "./garbage-collector.ts";
import { invalidate } from "./invalidate.ts";
import { runLaunch } from "./launch.ts";
import type { LaunchOutcome, LaunchRequest, RoundReport } from "./launch.ts";
import { TilePageTables } from "./page-table-tiles.ts";
import { RoundPins } from "./round-pins.ts";
import type { PinnedBuffer } from "./round-pins.ts";
import { prefetchAdvised, prefetchToVram, toSystem } from "./placement.ts";
import { VmPolicies } from "./policy/vm-policies.ts";
import type { PolicyNames } from "./policy/policy.ts";
import { SvmStats } from "./stats.ts";
import { StepClock } from "./step-clock.ts";
import type { SvmBo } from "./svm-bo.ts";
import { SvmRange } from "./svm-range.ts";
import { TileReserves } from "./table-reserve.ts";
import { VmBinds } from "./vm-binds.ts";

export interface SvmVmOptions {
  readonly chunkSizes: readonly number[];
  readonly notifierSize: number;
  readonly checkPagesThreshold: number;
  readonly leafSizes: readonly number[];
  /** Move data to VRAM on a fault. */
  readonly migrate: boolean;
  readonly window: readonly [start: number, end: number];
  /** What moves, and when; eviction is the device's. Default: as "xe" does. */
  readonly policies?: PolicyNames;
  /** Memory that the process unmaps loses what has been advised about it. Default false. @kernel DRM_XE_VM_BIND_FLAG_MADVISE_AUTORESET */
  readonly attrAutoReset?: boolean;
  /** In fault mode: an access where nothing is mapped reads 0, or is dropped, instead of failing. Default false. */
  readonly fillHoles?: boolean;
  /** What a fault that cannot be served does beyond ending its launch. Default "kill": nothing. */
  readonly onFatal?: "kill" | "ban";
  /** Bits of an address: 57 takes tables of 5 levels, of which numbers here reach 53 bits. Default 48. */
  readonly vaBits?: 48 | 57;
  /** The whole window mirrors the process from the start. Default true in fault mode, without which there is no mirror. */
  readonly mirror?: boolean;
  /** False: a launch finds all that is mapped resident, or does not begin; its faults are errors. Default true. */
  readonly faultMode?: boolean;
  /** What is not mapped reads as zero and drops stores; only without `faultMode`. @kernel DRM_XE_VM_CREATE_FLAG_SCRATCH_PAGE */
  readonly scratch?: boolean;
}

const PLAIN = gpuSvmCtx();

/**
 * A GPU address space that mirrors a process: an ASID, page tables, and a gpusvm.
 *
 * On a card of several tiles it has a root per tile, under the same ASID. A fault binds its range on the tile that faulted
 * (`tilePresent`), an invalidation takes it away from all tiles that have it, VM_BIND binds on all.
 *
 * Locking. `lock` is the driver lock (D of the specification), outermost: faults, prefetch, the collector and close hold it
 * for write. Bits of ranges and page-table entries change under the gpusvm's notifier lock.
 * @kernel xe_vm
 */
export class SvmVm {
  readonly device: SvmDevice;
  readonly mm: MigrateMm;
  readonly asid: number;
  readonly tables: TilePageTables;
  readonly gpusvm: GpuSvm<SvmRange>;
  readonly lock: RwSemaphore;
  readonly collector: GarbageCollector;
  /** Which memory backs which addresses, and VM_BIND. */
  readonly binds: VmBinds;
  /** Pages for tables that a bind has set aside. */
  readonly reserve: TileReserves;
  readonly holes: FilledHoles;
  readonly faults: FaultHandler;
  readonly counters = zeroCounters();
  readonly stats: SvmStats;
  readonly steps: StepClock;
  /** What has been advised about memory. */
  readonly attributes = new MemAttributes();
  readonly policies: VmPolicies;
  readonly options: SvmVmOptions;
  /** Of its device's memory, by tile; in use while the address space is open. @kernel xe_vm->svm.pagemaps */
  readonly #dpagemaps: readonly DrmPagemap[];
  /** Ranges made so far. */
  rangesCreated = 0;
  /** Ranges that came back to VRAM after having left it. */
  refaults = 0;
  /** Pages of the system window that the tables let the GPU write, by the range or mapping that they belong to. */
  readonly #windowWrites = new Map<SvmRange | BindVa, readonly number[]>();
  readonly #ctx: readonly [readWrite: GpuSvmCtx, readOnly: GpuSvmCtx];
  #closed = false;
  #banned = false;

  private constructor(
    device: SvmDevice,
    mm: MigrateMm,
    asid: number,
    tables: TilePageTables,
    reserve: TileReserves,
    options: SvmVmOptions,
  ) {
    this.device = device;
    this.mm = mm;
    this.asid = asid;
    this.tables = tables;
    this.reserve = reserve;
    this.options = options;
    this.#dpagemaps = device.regions.map((region) => region.usePagemap());
    this.policies = new VmPolicies(options.policies);
    this.stats = new SvmStats(device.stats);
    this.steps = new StepClock(device.sched);
    this.lock = new RwSemaphore(`vm ${asid}`, "driverVm");
    this.collector = new GarbageCollector(this);
    this.holes = new FilledHoles(this);
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
    this.binds = new VmBinds(this);
    if (this.faultMode && options.mirror !== false) this.binds.mirrorFromTheStart(...options.window);
  }

  /** -ENOMEM: no room for a root table. -EINVAL: scratch and faults exclude each other. */
  static create(device: SvmDevice, mm: MigrateMm, asid: number, options: SvmVmOptions): SvmVm | Errno {
    const { regions, gpu } = device;
    const { scratch = false } = options;
    if (scratch && options.faultMode !== false) return EINVAL;
    const reserve = new TileReserves(
      regions.map((region) => ({ alloc: () => region.allocTable(), free: (pa) => region.freeTable(pa) })),
    );
    const levels = options.vaBits === 57 ? 5 : 4;
    const tables = TilePageTables.create(gpu, reserve.tiles, options.leafSizes, { levels, scratch });
    if (isErr(tables)) return ENOMEM;
    reserve.serve(tables.tiles);
    const vm = new SvmVm(device, mm, asid, tables, reserve, options);
    vm.#setAsid(vm.#asidFlags);
    return vm;
  }

  /** Flags of the hardware's ASID entry. */
  get #asidFlags(): number {
    const mode = this.faultMode ? ASID_FAULT_MODE : this.options.scratch === true ? ASID_SCRATCH : 0;
    return ASID_VALID | mode | (this.tables.levels << ASID_LEVELS_POS);
  }

  /** On every tile. */
  #setAsid(flags: number): void {
    for (const [tile, { root }] of this.tables.tiles.entries()) this.device.gpu.asidSet(this.asid, root, flags, tile);
  }

  /** Nothing of the address space is cached any more, on any tile. */
  #forgetAsid(): void {
    for (const tile of this.tables.tiles.keys()) this.device.gpu.tlbInvalidateAsid(this.asid, tile);
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
  /** A fault is served and the access replayed. @kernel xe_vm_in_fault_mode */
  get faultMode(): boolean {
    return this.options.faultMode !== false;
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
    const launch = (resident?: ResidentLaunch): Promise<LaunchOutcome> =>
      runLaunch(this, kernel, request, onRound, resident);
    return inActivity(() => (this.faultMode ? launch() : launchResident(this, launch)));
  }

  /** A launch has met a fault that nobody can serve. With `onFatal: "ban"` the hardware refuses the ASID from now on. */
  onFatalFault(): void {
    if (this.options.onFatal !== "ban" || this.#closed) return;
    this.#banned = true;
    this.binds.bindVm.banned = true;
    this.#setAsid(this.#asidFlags | ASID_BANNED);
    this.#forgetAsid();
  }

  /** Tells the fault handler that `addr` will be wanted, by a prefetch access of the hardware, on a tile. */
  hint(addr: number, tile = 0): Promise<void> {
    return inActivity(() => this.#hint(addr, tile));
  }

  async #hint(addr: number, tile: number): Promise<void> {
    const records = await this.device.probeHint(this.asid, addr, tile);
    const pins = new RoundPins();
    await this.faults.serve(parseFaults(records.records, records.count, tile), pins);
    pins.clear();
  }

  /** Pages moved to VRAM; -ENOENT, -EPERM, -EINVAL, -ENOMEM as for an access to `[start, end)`. */
  toVram(start: number, end: number, tile = 0): Promise<number> {
    return inActivity(() => prefetchToVram(this, start, end, { bind: false, partial: false, tile }));
  }
  /** The same as far as VRAM reaches, and mapped for the GPU. */
  prefetch(start: number, end: number, noWait = false, tile = 0): Promise<number> {
    return inActivity(() => prefetchToVram(this, start, end, { bind: true, partial: true, noWait, tile }));
  }
  toSys(start: number, end: number): Promise<number> {
    return inActivity(() => toSystem(this, start, end));
  }
  /** To where the advice says: see `prefetchAdvised`. */
  prefetchAdvised(start: number, end: number, tile = 0): Promise<number> {
    return inActivity(() => prefetchAdvised(this, start, end, tile));
  }
  /** Advice about memory: see `advise`. */
  advise(start: number, end: number, change: Partial<MemAttr>): Promise<0 | Errno> {
    return inActivity(() => advise(this, start, end, change));
  }

  /** Data in VRAM goes home (of a lost device nothing can); then the address space is gone. */
  close(): Promise<void> {
    const cause = this.trace.record("vm-close", this.asid, this.window[0], this.window[1], 0);
    return inActivity(async () => causedBy(cause, () => run(this.#close())));
  }

  *#close(): Steps<void> {
    const guard = yield* wait(this.lock.write());
    try {
      // Two may close it: its owner, and whoever unbinds the device.
      if (this.#closed) return;
      if (!this.device.gpu.isLost) yield* wait(this.device.evictVm(this));
      this.#closed = true;
      this.collector.drop();
      if (!mutated("close-reachable")) {
        for (const tile of this.tables.tiles.keys()) this.device.gpu.asidSet(this.asid, 0, 0, tile);
      }
      this.#forgetAsid();
      // A launch that is still under way submits once more, and must not mark what it cannot reach any more.
      this.#windowWrites.clear();
      yield* this.binds.close();
      yield* wait(this.gpusvm.fini());
      this.tables.destroy();
      for (const dpagemap of this.#dpagemaps) dpagemap.put();
      this.device.forgetVm(this);
    } finally {
      guard.release();
    }
  }

  // For the fault handler and the placement verbs; the driver lock is held for write.

  faultCtx(readOnly: boolean): GpuSvmCtx {
    return this.#ctx[readOnly ? 1 : 0];
  }

  /** The same for pages of which `only` those in device memory will do, or that come home from there. */
  placedCtx(readOnly: boolean, { only, bringsHome }: { only: boolean; bringsHome: boolean }): GpuSvmCtx {
    const ctx = this.faultCtx(readOnly);
    if (only) return { ...ctx, devmemOnly: true };
    return bringsHome ? { ...ctx, devicePrivatePageOwner: null } : ctx;
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

  /** Whether the pages of the range may go to device memory at all. */
  canMigrate(range: SvmRange): boolean {
    return this.migrates && range.migrateDevmem;
  }

  /** Whether the range may go to VRAM, or to a tile's, and is not known to be there. */
  wantsMigration(range: SvmRange, tile?: number): boolean {
    return this.canMigrate(range) && !this.hasLocalPages(range, tile) && !this.isResident(range, tile);
  }

  /** The range is mapped, and its pages are in this device's memory, or a tile's. A hint unless the notifier lock is held. */
  hasLocalPages({ hasDevmemPages, pages }: SvmRange, tile?: number): boolean {
    return hasDevmemPages && this.device.regionsOf(tile).some((region) => pages.dpagemap === region.dpagemap);
  }

  /** True when every page of the range is there now: what the CPU page tables say, not a cached hint. */
  isResident(range: { start: number; end: number }, tile?: number): boolean {
    return this.device.isResident(this.mm, range.start, range.end, tile);
  }

  /** Undoes a mapping that no longer fits, so that the pages can be looked up anew. */
  dropMapping(range: SvmRange): MaybePromise<void> {
    return run(this.#dropMapping(range));
  }

  *#dropMapping(range: SvmRange): Steps<void> {
    const guard = yield* wait(this.gpusvm.notifierLock.read());
    try {
      this.tables.zap(range, range.start, range.end, 0);
      this.flushTables();
      range.tileInvalidated = range.tilePresent;
      this.setWrites(range, null);
    } finally {
      guard.release();
    }
    yield* wait(this.gpusvm.rangeUnmapPages(range, PLAIN));
    range.readOnly = false;
  }

  /** Takes a live range out of the address space. */
  removeRange(range: SvmRange): MaybePromise<void> {
    return run(this.#removeRange(range));
  }

  *#removeRange(range: SvmRange): Steps<void> {
    yield* this.#dropMapping(range);
    // An UNMAP event may have come meanwhile; then the range is the collector's.
    if (range.queued) return;
    this.unbindRange(range);
    yield* wait(this.gpusvm.rangeRemove(range));
  }

  /** Takes a dead range's entries out of the tables. @kernel xe_vm_range_unbind */
  unbindRange(range: SvmRange): void {
    if (range.tilePresent === 0) return;
    this.tables.unbind(range, range.start, range.end);
    this.flushTables();
    this.setWrites(range, null);
  }

  /** `range` maps these pages for writing; null when it is zapped, or maps them for reading. Notifier lock held. */
  setWrites(range: SvmRange, pages: PagemapAddrArray | null): void {
    const inWindow = pages === null ? [] : pagesOf(pages, DRM_INTERCONNECT_SYSTEM);
    if (inWindow.length > 0) this.#windowWrites.set(range, inWindow);
    else this.#windowWrites.delete(range);
    const { writeBack } = this.device.region;
    writeBack?.setWritable(this, range, pages === null ? [] : pagesOf(pages, DRM_INTERCONNECT_DRIVER));
  }

  /** The same for a mapping of process memory, `pages` of the window. Notifier lock held. */
  setWindowWrites(va: BindVa, pages: readonly number[]): void {
    if (pages.length > 0) this.#windowWrites.set(va, pages);
    else this.#windowWrites.delete(va);
  }

  /** Pages of the window that a kernel of this address space could write now. */
  windowWrites(): number[] {
    return [...this.#windowWrites.values()].flat();
  }

  /** Queues the one TLB invalidation that the updates of a tile's tables since the last call want, if they want one. */
  flushTables(): void {
    this.tables.flush((start, end, tile) => this.tlbInvalidate(start, end, tile));
  }

  tlbInvalidate(start: number, end: number, tile = 0): void {
    if (mutated("tlb-skipped")) return;
    this.counters.tlbInval += 1;
    this.stats.add("tlb_inval_count");
    this.device.tileCounters[tile]!.tlbInvalidations += 1;
    const seqno = this.device.gpu.tlbInvalidate(this.asid, start, end - 1, tile);
    this.trace.record("tlb-invalidate", this.asid, start, end, seqno);
  }

  /** Marks what is behind a range as used, buffers or pages of the window. Pins it and the tables for `item` of a launch. */
  useRange(range: SvmRange, pins: RoundPins, item: number): readonly PinnedBuffer[] {
    range.usedAt = this.device.nextUse();
    if (range.holdsWindow) {
      pins.pin(range, item);
      return [range];
    }
    const buffers = this.device.reachableIn(this.mm, range.start, range.end);
    for (const bo of buffers) {
      bo.region.touch(bo);
      pins.pin(bo, item, range);
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
  ): { start: number; end: number; inVram: boolean; isRemote: boolean; mapped: boolean; unmapped: boolean }[] {
    const out = [];
    for (const notifier of this.gpusvm.forEachNotifier(lo, hi)) {
      for (const range of notifier.forEachRange(lo, hi)) {
        out.push({
          start: range.start,
          end: range.end,
          inVram: range.hasDevmemPages || this.isResident(range),
          isRemote: range.hasDevmemPages && !this.hasLocalPages(range),
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

/** Addresses of the pages that are reached by this protocol. */
function pagesOf(dma: PagemapAddrArray, proto: number): number[] {
  const pages: number[] = [];
  for (let j = 0; j < dma.count; j++) {
    if (dma.proto(j) !== proto) continue;
    for (let k = 0; k < 2 ** dma.order(j); k++) pages.push(dma.addr[j]! + k * PAGE_SIZE);
  }
  return pages;
}

import { PAGE_SIZE } from "../base/addr.ts";
import type { Pa, Pfn, Va } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { causedBy } from "../base/cause.ts";
import { EIO, ENOMEM, ENOSPC, isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import type { Scheduler } from "../base/scheduler.ts";
import { type Steps, run, wait } from "../base/steps.ts";
import type { TraceRing } from "../base/trace.ts";
import { AP_HOST, AP_VRAM, PageList } from "../hal/gpu.ts";
import type { Gpu } from "../hal/gpu.ts";
import { DmaResv } from "../gpuvm/dma-resv.ts";
import type { PhysMemory } from "../mm/phys-mem.ts";
import type { DevPagemap, VmFault } from "../mm/types.ts";
import type { DrmPagemapDevmemOps } from "../pagemap/devmem.ts";
import { drmPagemapPagemapOpsGet } from "../pagemap/migrate-to-ram.ts";
import { DrmPagemap } from "../pagemap/pagemap.ts";
import type { DrmPagemapOps } from "../pagemap/pagemap.ts";
import type { TtmDeviceOps, Work } from "../vram/device-ops.ts";
import { USAGE_KERNEL } from "../vram/fence.ts";
import type { TtmOperationCtx } from "../vram/fence.ts";
import { HostManager } from "../vram/host-manager.ts";
import type { TtmResourceManager } from "../vram/manager.ts";
import { PL_DESIRED, PL_SYSTEM, PL_VRAM } from "../vram/place.ts";
import type { TtmPlace } from "../vram/place.ts";
import { PtAperture } from "../vram/pt-aperture.ts";
import { TtmDevice } from "../vram/ttm-device.ts";
import { VramManager } from "../vram/vram-manager.ts";
import { BoFrames } from "./bo.ts";
import type { Bo, VramOwner } from "./bo.ts";
import { Departures } from "./departure.ts";
import type { StaleFrames } from "./stale-frames.ts";
import { SvmBo } from "./svm-bo.ts";
import type { SvmVm } from "./vm.ts";
import { WindowManager } from "./window-manager.ts";
import type { OwnedSlots } from "./window-manager.ts";
import { WriteBack } from "./write-back.ts";
import type { WriteBackOptions } from "./write-back.ts";

const IN_VRAM = { memType: PL_VRAM };
/** Room is made beforehand, by evicting many at once. */
const IF_FREE = [{ memType: PL_VRAM, flags: PL_DESIRED }];
const HOME = [{ memType: PL_SYSTEM }];

export interface VramRegionOptions {
  readonly gpu: Gpu;
  /** Bytes for data, behind the aperture. */
  readonly heapBytes: number;
  readonly phys: PhysMemory;
  readonly sched: Scheduler;
  readonly trace: TraceRing;
  /** Null: what VRAM alone has is lost with the device. */
  readonly writeBack: WriteBackOptions | null;
  readonly stale: StaleFrames;
  /** The system window, for buffer objects; null: there is none. */
  readonly window: OwnedSlots | null;
  readonly pagemapOps: DrmPagemapOps;
  readonly onCpuFault: (vmf: VmFault) => void;
}

/**
 * The memory of one device: its heap, the page-table aperture at its start, and the page map by which pages of processes
 * live in it.
 *
 * Frames. The region has one device frame per VRAM page, aperture included, so that the frame number is
 * `pgmap.firstPfn + PA / 4096`.
 *
 * Reuse. The device executes in queue order, so freed blocks go back to the allocator at once, even while queued work
 * still reads them: whatever is written there later is queued behind it. The next tenant of evicted memory gets the fence
 * of its eviction (departure.ts).
 */
export class VramRegion {
  readonly gpu: Gpu;
  readonly pgmap: DevPagemap;
  readonly dpagemap: DrmPagemap;
  readonly ops: DrmPagemapDevmemOps;
  readonly heapBytes: number;
  readonly writeBack: WriteBack | null;
  readonly #sched: Scheduler;
  /** The memory of SVM buffers and of buffer objects. */
  readonly ttm: TtmDevice<VramOwner>;
  /** Open buffer objects by handle. */
  readonly objects = new Map<number, Bo>();
  #lastHandle = 0;
  readonly #phys: PhysMemory;
  readonly #vram: VramManager<VramOwner>;
  readonly #tables: PtAperture;
  /** Evictions of SVM buffers. */
  readonly departures: Departures;

  constructor(options: VramRegionOptions) {
    const { gpu, phys, sched, pagemapOps, onCpuFault } = options;
    this.gpu = gpu;
    this.#sched = sched;
    this.#phys = phys;
    this.departures = new Departures(gpu, sched);
    const { vramBytes, ptBytes } = gpu.info;
    this.heapBytes = options.heapBytes;
    this.#vram = new VramManager({ vramBytes: ptBytes + options.heapBytes, ptBytes });
    const managers: TtmResourceManager<VramOwner>[] = [this.#vram, new HostManager(PL_SYSTEM, Infinity)];
    if (options.window !== null) managers.push(new WindowManager(options.window, gpu.info.syswBytes));
    this.ttm = new TtmDevice(TTM_OPS, managers);
    this.#tables = new PtAperture(ptBytes);
    const migrate = drmPagemapPagemapOpsGet(phys);
    this.pgmap = {
      type: "private",
      firstPfn: 0,
      npages: vramBytes / PAGE_SIZE,
      owner: this,
      ops: {
        folioFree: (pfn) => migrate.folioFree(pfn),
        folioSplit: (head, tail) => migrate.folioSplit?.(head, tail),
        migrateToRam: (vmf) => {
          onCpuFault(vmf);
          return migrate.migrateToRam(vmf);
        },
      },
    };
    phys.addPagemap(this.pgmap);
    this.writeBack =
      options.writeBack === null
        ? null
        : new WriteBack({
            gpu,
            phys,
            sched,
            trace: options.trace,
            options: options.writeBack,
            firstPfn: this.pgmap.firstPfn,
            npages: this.pgmap.npages,
            stale: options.stale,
            buffers: () => this.#buffers(),
          });
    this.dpagemap = new DrmPagemap({ pagemap: this.pgmap, drm: this, ops: pagemapOps, scheduler: sched });
    this.ops = {
      devmemRelease: (devmem) => this.#release(devmem as SvmBo),
      populateDevmemPfn: (devmem, npages, pfns) => this.#populate(devmem as SvmBo, npages, pfns),
      copyToDevmem: (devmem, pages, addrs, npages) => this.#copyToDevmem(devmem as SvmBo, pages, addrs, npages),
      copyToRam: (devmem, pages, addrs, npages) => run(this.#copyToRam(devmem as SvmBo, pages, addrs, npages)),
    };
  }

  /** Bytes of the heap that are allocated. */
  get used(): number {
    return this.#vram.usage;
  }
  get free(): number {
    return this.#vram.available;
  }
  /** Live buffers, least recently used first. */
  get buffers(): Iterable<SvmBo> {
    return this.#buffers();
  }

  paOf(pfn: Pfn): Pa {
    return (pfn - this.pgmap.firstPfn) * PAGE_SIZE;
  }

  /** A page of the aperture for a page table; content unknown. -ENOMEM when it is full. */
  allocTable(): Pa | Errno {
    return this.#phys.fails("table-alloc") ? ENOMEM : this.#tables.alloc();
  }

  /** Where page tables stand now. */
  get tablePages(): Iterable<Pa> {
    return this.#tables.pages;
  }

  freeTable(pa: Pa): void {
    this.#tables.free(pa);
  }

  /**
   * A buffer for the pages of `[start, start + size)` of `vm`'s process, or -ENOSPC. Its content is unknown, and pages of
   * the last tenants may still be on their way out: see `whenVacant`. With `noWaitGpu` such memory is none.
   */
  allocBo(vm: SvmVm, start: Va, size: number, ctx: TtmOperationCtx = {}): SvmBo | Errno {
    const bo = new SvmBo(this, vm, start, size);
    const guard = bo.mem.resv.tryLock();
    assert(guard !== null, "nobody else knows the buffer");
    const err = this.ttm.validate(bo.mem, IF_FREE, ctx);
    guard.release();
    if (err !== 0) return ENOSPC;
    bo.blocks = bo.mem.resource!.blocks;
    return bo;
  }

  /** Resolves when the last tenants' pages have left the memory of a new buffer. -EIO: the device was lost. */
  whenVacant(bo: SvmBo): MaybePromise<0 | Errno> {
    return run(this.#whenVacant(bo));
  }

  *#whenVacant(bo: SvmBo): Steps<0 | Errno> {
    for (const fence of bo.mem.resv.fences(USAGE_KERNEL)) yield* wait(fence.wait());
    return this.gpu.isLost ? EIO : 0;
  }

  /** Gives back a buffer that no page was put into. */
  discard(bo: SvmBo): void {
    this.#release(bo);
  }

  /** Most recently used from now on. */
  touch(bo: VramOwner): void {
    this.ttm.touch(bo.mem);
  }

  /** Buffers to evict so that `bytes` come free, least recently used first; fewer when the rest is pinned or leaving. */
  pickVictims(bytes: number, place: TtmPlace = IN_VRAM): VramOwner[] {
    return this.ttm.pickVictims(place, bytes).map((mem) => mem.owner);
  }

  /** Bytes that eviction could free now. */
  get evictable(): number {
    return this.ttm.evictableBytes(IN_VRAM);
  }

  /**
   * Has the pages brought home, once nobody else is doing so: their memory is free, and `departure` of an SVM buffer signals
   * when they have arrived. Errors: as `drmPagemapEvictToRam`, or as the copy of an object.
   */
  evict(bo: VramOwner): MaybePromise<0 | Errno> {
    return this.ttm.evict(bo.mem);
  }

  /** Resolves when a buffer that is leaving has gone or could not; false at once when none is leaving. */
  async waitForLeaving(): Promise<boolean> {
    for (const { bo } of this.#vram.resources()) {
      if (!bo.resv.isHeld) continue;
      (await bo.resv.lock()).release();
      return true;
    }
    return false;
  }

  *#buffers(): Generator<SvmBo> {
    for (const { bo } of this.#vram.resources()) if (bo.owner instanceof SvmBo) yield bo.owner;
  }

  /** A handle that no object ever had. */
  takeHandle(): number {
    this.#lastHandle += 1;
    return this.#lastHandle;
  }

  #populate(bo: SvmBo, npages: number, pfns: Uint32Array): 0 {
    let i = 0;
    for (const block of bo.blocks) {
      const first = this.pgmap.firstPfn + block.offset / PAGE_SIZE;
      const count = Math.min(block.size / PAGE_SIZE, npages - i);
      for (let k = 0; k < count; k++) pfns[i + k] = first + k;
      i += count;
    }
    return 0;
  }

  #copyToDevmem(bo: SvmBo, pages: Uint32Array, addrs: Float64Array, npages: number): 0 | Errno {
    if (this.gpu.isLost) return EIO;
    const list = new PageList();
    const base = this.pgmap.firstPfn;
    for (let i = 0; i < npages; i++) {
      const page = pages[i]!;
      if (page === 0) continue;
      const addr = addrs[i]!;
      if (addr === 0) list.pushClear(AP_VRAM, page - base, 1);
      else list.push(AP_HOST, addr / PAGE_SIZE, AP_VRAM, page - base, 1);
    }
    void this.gpu.copy(list);
    this.writeBack?.take(bo, pages, addrs, npages);
    bo.vm.counters.toDevBytes += list.pages * PAGE_SIZE;
    return 0;
  }

  *#copyToRam(bo: SvmBo, pages: Uint32Array, addrs: Float64Array, npages: number): Steps<0 | Errno> {
    if (this.gpu.isLost) return this.#restore(bo, pages, addrs, npages);
    const list = new PageList();
    const base = this.pgmap.firstPfn;
    for (let i = 0; i < npages; i++) {
      if (pages[i] === 0 || addrs[i] === 0) continue;
      list.push(AP_VRAM, pages[i]! - base, AP_HOST, addrs[i]! / PAGE_SIZE, 1);
    }
    const arrived = this.gpu.copy(list);
    if (arrived === null) return 0;
    if (bo.departure !== null && list.pages === this.#livePages(bo)) bo.departure.allCopiesQueued();
    try {
      yield* wait(this.#sched.external(arrived));
    } catch (error) {
      if (this.gpu.isLost) return this.#restore(bo, pages, addrs, npages);
      throw error;
    }
    bo.vm.countToRam(bo, list.pages);
    return 0;
  }

  #livePages(bo: SvmBo): number {
    const base = this.pgmap.firstPfn;
    let live = 0;
    for (const { offset, size } of bo.blocks) {
      for (let at = offset; at < offset + size; at += PAGE_SIZE) {
        if (this.#phys.refcount(base + at / PAGE_SIZE) > 0) live += 1;
      }
    }
    return live;
  }

  /** The device is lost: the pages come home as their shadow copies, if they have any. */
  #restore(bo: SvmBo, pages: Uint32Array, addrs: Float64Array, npages: number): 0 | Errno {
    const restored = this.writeBack?.restore(pages, addrs, npages) ?? EIO;
    if (isErr(restored)) return restored;
    if (restored > 0) bo.vm.countToRam(bo, restored);
    return 0;
  }

  #release(bo: SvmBo): void {
    this.writeBack?.forget(bo);
    this.ttm.put(bo.mem);
  }
}

/**
 * Buffers of SVM move in one direction only: their pages go home, where they belong to the process again. New ones need no
 * clearing, for the migration that fills them overwrites or zeroes each page. Buffer objects know for themselves.
 */
const TTM_OPS: TtmDeviceOps<VramOwner> = {
  evictFlags: ({ owner }) => (owner instanceof SvmBo ? HOME : owner.evictFlags()),
  move: ({ owner }, to, isEviction) => (owner instanceof SvmBo ? evictSvm(owner) : owner.move(to, isEviction)),
  moveNotify: ({ owner }) => {
    if (!(owner instanceof SvmBo)) owner.moveNotify();
    return 0;
  },
  clear: ({ owner }, blocks) => (owner instanceof SvmBo ? null : owner.clear(blocks)),
  populate: ({ owner }) => (owner instanceof SvmBo ? NO_PAGES : owner.populate()),
  unpopulate: (pages) => {
    if (pages instanceof BoFrames) pages.free();
  },
  newResv: (name) => new DmaResv(name),
};

/** Of an SVM buffer that is home: its pages are the process's. */
const NO_PAGES = {};

function evictSvm(bo: SvmBo): MaybePromise<Work> {
  const cause = bo.vm.trace.record("evict", bo.vm.asid, bo.start, bo.start + bo.size, bo.npages);
  return causedBy(cause, () => bo.region.departures.start(bo));
}

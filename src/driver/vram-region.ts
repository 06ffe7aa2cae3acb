import { PAGE_SIZE } from "../base/addr.ts";
import type { Pa, Pfn, Va } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { causedBy } from "../base/cause.ts";
import { EIO, ENOMEM, ENOSPC, isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { isPromise } from "../base/maybe-promise.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import { mutated } from "../base/mutation.ts";
import type { Scheduler } from "../base/scheduler.ts";
import { type Steps, run, wait } from "../base/steps.ts";
import type { TraceRing } from "../base/trace.ts";
import { tileBase } from "../abi/tiles.ts";
import { AP_VRAM, PageList } from "../hal/gpu.ts";
import type { Gpu } from "../hal/gpu.ts";
import { DmaResv } from "../gpuvm/dma-resv.ts";
import type { PhysMemory } from "../mm/phys-mem.ts";
import type { DevPagemap, VmFault } from "../mm/types.ts";
import type { DrmPagemapDevmemOps } from "../pagemap/devmem.ts";
import { drmPagemapPagemapOpsGet } from "../pagemap/migrate-to-ram.ts";
import { DrmPagemapCache } from "../pagemap/cache.ts";
import { DrmPagemap } from "../pagemap/pagemap.ts";
import type { DrmPagemapDevice, DrmPagemapOps } from "../pagemap/pagemap.ts";
import { DrmPagemapShrinker } from "../pagemap/shrinker.ts";
import type { TtmDeviceOps, Work } from "../vram/device-ops.ts";
import { USAGE_KERNEL } from "../vram/fence.ts";
import type { TtmOperationCtx } from "../vram/fence.ts";
import { HostManager } from "../vram/host-manager.ts";
import type { TtmResourceManager } from "../vram/manager.ts";
import { PL_DESIRED, PL_SYSTEM, PL_VRAM } from "../vram/place.ts";
import type { TtmPlace } from "../vram/place.ts";
import { PtAperture } from "../vram/pt-aperture.ts";
import type { TtmBo } from "../vram/ttm-bo.ts";
import { TtmDevice } from "../vram/ttm-device.ts";
import { VramManager } from "../vram/vram-manager.ts";
import { BoFrames } from "./bo.ts";
import type { Bo, VramOwner } from "./bo.ts";
import { Departure, Departures } from "./departure.ts";
import { listHomeward, listInward } from "./migration-list.ts";
import { VictimOrder } from "./policy/victim-order.ts";
import type { VictimOrderOptions } from "./policy/victim-order.ts";
import type { StaleFrames } from "./stale-frames.ts";
import { SIZED, microsecondsSince } from "./stats.ts";
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
  readonly victims: VictimOrderOptions;
  /** Of the card: which of its tiles, if it has several, whoever's devices they are. Default 0. */
  readonly tile?: number;
  /** The same as the GPU of the device counts. Default 0. */
  readonly ownTile?: number;
  /** Who uses its pages where they lie: the devices of its group. */
  readonly owner: unknown;
  /** What the page map holds on to. */
  readonly device: DrmPagemapDevice;
  readonly pagemapOps: DrmPagemapOps;
  readonly onCpuFault: (vmf: VmFault) => void;
  /** So many pages have been sent to a peer's memory; `pa` is where the first of them lies now. */
  readonly onSent: (pa: Pa, pages: number) => void;
}

/**
 * The memory of one tile of a device, of which most have one: its heap, the page-table aperture at its start, and the page
 * map by which pages of processes live in it.
 *
 * Frames. The region has one device frame per VRAM page, aperture included, so that the frame number is
 * `pgmap.firstPfn + (PA - base) / 4096`. Blocks of its managers count from `base` too.
 *
 * Reuse. The device executes in queue order, so freed blocks go back to the allocator at once, even while queued work
 * still reads them: whatever is written there later is queued behind it. The next tenant of evicted memory gets the fence
 * of its eviction (departure.ts).
 */
export class VramRegion {
  readonly gpu: Gpu;
  readonly pgmap: DevPagemap;
  /** Finds the page map again after its last user. */
  readonly cache = new DrmPagemapCache(new DrmPagemapShrinker());
  readonly #makePagemap: () => DrmPagemap;
  #dpagemap: DrmPagemap | null = null;
  readonly ops: DrmPagemapDevmemOps;
  readonly heapBytes: number;
  /** PA of its first byte. @kernel xe_vram_region.dpa_base */
  readonly base: Pa;
  readonly writeBack: WriteBack | null;
  readonly #sched: Scheduler;
  /** The memory of SVM buffers and of buffer objects. */
  readonly ttm: TtmDevice<VramOwner>;
  /** Open buffer objects by handle. */
  readonly objects = new Map<number, Bo>();
  #lastHandle = 0;
  readonly #phys: PhysMemory;
  readonly #onSent: VramRegionOptions["onSent"];
  readonly #vram: VramManager<VramOwner>;
  readonly #tables: PtAperture;
  /** Evictions of SVM buffers. */
  readonly departures: Departures;
  /** Who leaves VRAM first. */
  readonly victims: VictimOrder;
  /** Of the copy that is being queued, which takes what it says at once: typed arrays are dear to make. */
  readonly #inward = new PageList();

  constructor(options: VramRegionOptions) {
    const { gpu, phys, sched, pagemapOps, onCpuFault } = options;
    this.gpu = gpu;
    this.#sched = sched;
    this.#phys = phys;
    this.#onSent = options.onSent;
    this.departures = new Departures(gpu, sched);
    this.victims = new VictimOrder(options.victims);
    const { ptBytes } = gpu.info;
    const vramBytes = gpu.info.tileBytes[options.ownTile ?? 0]!;
    this.base = tileBase(options.tile ?? 0);
    this.heapBytes = options.heapBytes;
    this.#vram = new VramManager({ vramBytes: ptBytes + options.heapBytes, ptBytes });
    const managers: TtmResourceManager<VramOwner>[] = [this.#vram, new HostManager(PL_SYSTEM, Infinity)];
    if (options.window !== null) managers.push(new WindowManager(options.window, gpu.info.syswBytes));
    this.ttm = new TtmDevice({ ...TTM_OPS, evictionOrder: (place, byUse) => this.#orderOf(place, byUse) }, managers);
    this.#tables = new PtAperture(ptBytes);
    const migrate = drmPagemapPagemapOpsGet(phys);
    this.pgmap = {
      type: "private",
      firstPfn: 0,
      npages: vramBytes / PAGE_SIZE,
      owner: options.owner,
      ops: {
        folioFree: (pfn) => migrate.folioFree(pfn),
        folioSplit: (head, tail) => migrate.folioSplit?.(head, tail),
        migrateToRam: (vmf) => {
          onCpuFault(vmf);
          return migrate.migrateToRam(vmf);
        },
      },
    };
    this.writeBack =
      options.writeBack === null
        ? null
        : new WriteBack({
            gpu,
            phys,
            sched,
            trace: options.trace,
            options: options.writeBack,
            pgmap: this.pgmap,
            npages: this.pgmap.npages,
            stale: options.stale,
            buffers: () => this.#buffers(),
          });
    const { device } = options;
    this.#makePagemap = () => {
      phys.addPagemap(this.pgmap);
      return new DrmPagemap({ pagemap: this.pgmap, drm: this, device, ops: pagemapOps, scheduler: sched });
    };
    this.usePagemap().put();
    this.ops = {
      devmemRelease: (devmem) => this.#release(devmem as SvmBo),
      populateDevmemPfn: (devmem, npages, pfns) => this.#populate(devmem as SvmBo, npages, pfns),
      copyToDevmem: (devmem, pages, addrs, npages, _fence, protos) =>
        this.#copyToDevmem(devmem as SvmBo, pages, addrs, npages, protos),
      copyToRam: (devmem, pages, addrs, npages, _fence, protos) =>
        protos === null
          ? run(this.#copyToRam(devmem as SvmBo, pages, addrs, npages))
          : this.#copyToPeer(pages, addrs, npages),
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
    return this.base + (pfn - this.pgmap.firstPfn) * PAGE_SIZE;
  }

  /** The page map that is in use, or was last. */
  get dpagemap(): DrmPagemap {
    assert(this.#dpagemap !== null, "memory without a page map");
    return this.#dpagemap;
  }

  /** The page map with a new reference, for whoever is going to put pages into the memory; made anew if it was freed. */
  usePagemap(): DrmPagemap {
    const active = this.cache.getIfActive();
    if (active !== null) return active;
    const lookup = this.cache.lockLookup();
    assert(!isPromise(lookup), "a look-up of a page map never waits");
    let dpagemap = this.cache.get(lookup);
    if (dpagemap === null) {
      dpagemap = this.#makePagemap();
      this.cache.set(lookup, dpagemap);
      this.#dpagemap = dpagemap;
    }
    lookup.release();
    return dpagemap;
  }

  /** The device frame at a physical address of this memory; null for any other address. */
  pfnAt(pa: Pa): Pfn | null {
    const page = (pa - this.base) / PAGE_SIZE;
    return page >= 0 && page < this.pgmap.npages ? this.pgmap.firstPfn + page : null;
  }

  /** The page of VRAM at `offset` bytes from `base`, as the copy engine counts them. */
  pageAt(offset: number): number {
    return (this.base + offset) / PAGE_SIZE;
  }

  /** A page of the aperture for a page table; content unknown. -ENOMEM when it is full. */
  allocTable(): Pa | Errno {
    const offset = this.#phys.fails("table-alloc") ? ENOMEM : this.#tables.alloc();
    return isErr(offset) ? offset : this.base + offset;
  }

  /** Bytes that page tables hold. */
  get tableBytes(): number {
    return this.#tables.usage;
  }
  /** Where page tables stand now, from `base` on. */
  get tablePages(): Iterable<Pa> {
    return this.#tables.pages;
  }

  freeTable(pa: Pa): void {
    this.#tables.free(pa - this.base);
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
    this.victims.arrived(bo);
    return bo;
  }

  /** Resolves when the last tenants' pages have left the memory of a new buffer. -EIO: the device was lost. */
  whenVacant(bo: SvmBo): MaybePromise<0 | Errno> {
    const isFree = !this.departures.areUnderWay && bo.mem.resv.fences(USAGE_KERNEL).length === 0;
    return isFree && !this.gpu.isLost ? 0 : run(this.#whenVacant(bo));
  }

  *#whenVacant(bo: SvmBo): Steps<0 | Errno> {
    if (mutated("vacancy-unawaited")) return 0;
    // The fence of an eviction stands for all before it, also those from other places.
    for (const fence of bo.mem.resv.fences(USAGE_KERNEL)) if (!(fence instanceof Departure)) yield* wait(fence.wait());
    yield* this.departures.vacated(bo.blocks);
    return this.gpu.isLost ? EIO : 0;
  }

  /** Gives back a buffer that no page was put into. */
  discard(bo: SvmBo): void {
    this.#release(bo);
  }

  /** Most recently used from now on. */
  touch(bo: VramOwner): void {
    this.ttm.touch(bo.mem);
    this.victims.used(bo);
  }

  /**
   * Buffers to evict so that `bytes` come free, in the order that policy and advice say; fewer when the rest is pinned or
   * leaving.
   */
  pickVictims(bytes: number, place: TtmPlace = IN_VRAM): VramOwner[] {
    if (place.memType !== PL_VRAM) return this.ttm.pickVictims(place, bytes).map((mem) => mem.owner);
    return this.victims.pick(bytes, (limit) => this.ttm.pickVictims(place, limit).map((mem) => mem.owner));
  }

  /** For buffer objects, for which the memory manager makes room itself. */
  #orderOf(place: TtmPlace, byUse: Iterable<TtmBo<VramOwner>>): readonly TtmBo<VramOwner>[] | null {
    if (place.memType !== PL_VRAM || this.victims.isOrderOfUse) return null;
    return this.victims.order(Array.from(byUse, ({ owner }) => owner)).map(({ mem }) => mem);
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

  #populate(bo: SvmBo, npages: number, pfns: Uint32Array): 0 | Errno {
    if (this.#phys.fails("migrate-populate", npages * PAGE_SIZE)) return ENOMEM;
    let i = 0;
    for (const block of bo.blocks) {
      const first = this.pgmap.firstPfn + block.offset / PAGE_SIZE;
      const count = Math.min(block.size / PAGE_SIZE, npages - i);
      for (let k = 0; k < count; k++) pfns[i + k] = first + k;
      i += count;
    }
    return 0;
  }

  #copyToDevmem(
    bo: SvmBo,
    pages: Uint32Array,
    addrs: Float64Array,
    npages: number,
    protos: Uint32Array | null,
  ): MaybePromise<0 | Errno> {
    // What is staged already is on its way meanwhile, and this list takes the short way too.
    const ready = bo.isStreamed ? this.gpu.uploadReady(npages * PAGE_SIZE) : undefined;
    return ready === undefined
      ? this.#copyInNow(bo, pages, addrs, npages, protos)
      : run(this.#copyInWhen(ready, bo, pages, addrs, npages, protos));
  }

  *#copyInWhen(
    ready: Promise<void>,
    bo: SvmBo,
    pages: Uint32Array,
    addrs: Float64Array,
    npages: number,
    protos: Uint32Array | null,
  ): Steps<0 | Errno> {
    yield* wait(this.#sched.external(ready));
    return this.#copyInNow(bo, pages, addrs, npages, protos);
  }

  #copyInNow(
    bo: SvmBo,
    pages: Uint32Array,
    addrs: Float64Array,
    npages: number,
    protos: Uint32Array | null,
  ): 0 | Errno {
    if (this.gpu.isLost || this.#phys.fails("copy-submit", npages * PAGE_SIZE)) return EIO;
    const list = listInward({ pages, addrs, npages, origin: this.#origin }, protos, this.#inward);
    const since = bo.vm.steps.start();
    void this.gpu.copy(list);
    if (this.#phys.fails("copy-complete", npages * PAGE_SIZE)) return EIO;
    bo.vm.stats.addSized(SIZED.device_copy_us, bo.size, bo.vm.steps.microsecondsSince(since));
    bo.vm.stats.addSized(SIZED.device_copy_kb, bo.size, (list.pages * PAGE_SIZE) / 1024);
    this.writeBack?.take(bo, pages, addrs, npages);
    bo.vm.counters.toDevBytes += list.pages * PAGE_SIZE;
    return 0;
  }

  /**
   * Sends pages to the memory of a peer. Both are on one card, so whatever is asked of either later is queued behind it.
   */
  #copyToPeer(pages: Uint32Array, addrs: Float64Array, npages: number): 0 | Errno {
    if (this.gpu.isLost) return EIO;
    const list = new PageList();
    for (let i = 0; i < npages; i++) {
      if (pages[i] === 0 || addrs[i] === 0) continue;
      list.push(AP_VRAM, this.#origin + pages[i]!, AP_VRAM, addrs[i]! / PAGE_SIZE, 1);
    }
    void this.gpu.copy(list);
    const first = addrs.findIndex((addr) => addr !== 0);
    if (list.pages > 0) this.#onSent(addrs[first]!, list.pages);
    return 0;
  }

  *#copyToRam(bo: SvmBo, pages: Uint32Array, addrs: Float64Array, npages: number): Steps<0 | Errno> {
    if (this.gpu.isLost) return this.#restore(bo, pages, addrs, npages);
    if (this.#phys.fails("copy-submit", npages * PAGE_SIZE)) return EIO;
    const isBad = this.#phys.fails("copy-complete", npages * PAGE_SIZE);
    const list = listHomeward({ pages, addrs, npages, origin: this.#origin });
    const since = this.#sched.now();
    const arrived = this.gpu.copy(list);
    if (arrived === null) return 0;
    // The memory is nobody else's before the copy is known to be good.
    if (!isBad && bo.departure !== null && list.pages === this.#livePages(bo)) bo.departure.allCopiesQueued();
    try {
      if (!mutated("copy-home-unawaited")) yield* wait(this.#sched.external(arrived));
    } catch (error) {
      if (this.gpu.isLost) return this.#restore(bo, pages, addrs, npages);
      throw error;
    }
    if (isBad) return EIO;
    bo.vm.stats.addSized(SIZED.cpu_copy_us, bo.size, this.#microsecondsSince(since));
    bo.vm.stats.addSized(SIZED.cpu_copy_kb, bo.size, (list.pages * PAGE_SIZE) / 1024);
    bo.vm.countToRam(bo, list.pages);
    return 0;
  }

  /** Where device frame 0 would lie, as the copy engine counts pages. */
  get #origin(): number {
    return this.base / PAGE_SIZE - this.pgmap.firstPfn;
  }

  #microsecondsSince(start: number): number {
    return microsecondsSince(start, this.#sched.now());
  }

  #livePages(bo: SvmBo): number {
    const base = this.pgmap.firstPfn;
    let live = 0;
    for (const { offset, size } of bo.blocks) {
      live += this.#phys.liveFrames(base + offset / PAGE_SIZE, size / PAGE_SIZE);
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

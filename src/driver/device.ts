import { PAGE_SIZE, hi32, lo32 } from "../base/addr.ts";
import type { Pa, Pfn, Va } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { EBUSY, EINVAL, ENODEV, ENOMEM, ENOSPC, isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { branch } from "../base/lock-order.ts";
import { Mutex } from "../base/locks.ts";
import { type MaybePromise, isPromise } from "../base/maybe-promise.ts";
import type { Scheduler } from "../base/scheduler.ts";
import { type Steps, run, wait } from "../base/steps.ts";
import type { TraceRing } from "../base/trace.ts";
import type { Gpu, RoundResult } from "../hal/gpu.ts";
import { REQUEST_WORDS } from "../hal/gpu.ts";
import type { GpuSvmDevice } from "../gpusvm/ops.ts";
import type { Mm } from "../mm/mm.ts";
import type { FailSite, PhysMemory } from "../mm/phys-mem.ts";
import type { MigrateMm } from "../mm/types.ts";
import { drmPagemapEvictAll } from "../pagemap/evict-all.ts";
import type { DrmPagemapDevice } from "../pagemap/pagemap.ts";
import { Zdd } from "../pagemap/zdd.ts";
import type { VramOwner } from "./bo.ts";
import { SvmBo } from "./svm-bo.ts";
import { countCpuFault, countSent, pagemapOpsOf, populateBuffer } from "./device-pagemap.ts";
import type { ChunkCtx } from "./device-pagemap.ts";
import { DeviceWindow, NO_WINDOW } from "./device-window.ts";
import { StaleFrames } from "./stale-frames.ts";
import { KernelVm } from "./kernel-vm.ts";
import { firstLostPage, lostPages } from "./lost-pages.ts";
import type { LostPages } from "./lost-pages.ts";
import { PeerGpu } from "./peer-gpu.ts";
import { PeerLinks } from "./peer-links.ts";
import { VramRegion } from "./vram-region.ts";
import { SvmVm } from "./vm.ts";
import type { SvmVmOptions } from "./vm.ts";
import type { EvictName } from "./policy/policy.ts";
import { SvmStats } from "./stats.ts";
import { TileCounters } from "./tile-counters.ts";
import type { WriteBackOptions } from "./write-back.ts";

/** Address space ids that the hardware has; 0 is invalid, 1 the kernel's. */
const NASID = 256;
const FIRST_ASID = 2;

export interface SvmDeviceOptions {
  readonly gpu: Gpu;
  /** Bytes of VRAM for data of each tile, behind its page-table aperture. */
  readonly heapBytes: number;
  readonly phys: PhysMemory;
  readonly sched: Scheduler;
  readonly trace: TraceRing;
  /** Keep shadow copies in RAM of what lies in VRAM. Not on a card with others, whose writes nobody here would see. */
  readonly writeBack?: WriteBackOptions;
  /** The devices of the machine. Default: there is no other. */
  readonly links?: PeerLinks;
  /** Who leaves VRAM first. Default "lru". */
  readonly evict?: EvictName;
  /** Seed of what is drawn at random. Default 1. */
  readonly seed?: number;
}

/**
 * The driver of one GPU: its memory, its address spaces, and eviction.
 *
 * Tiles. A GPU of several has a memory region per tile; its address spaces have page tables on each, and a kernel runs on
 * one. What a fault brings goes to the tile that faulted; what lies in another tile's memory is reached where it lies, as that
 * of a peer is. Methods that work on one tile's memory take the tile as their last parameter, 0 where none is given.
 * @kernel xe_device, xe_vram_region
 */
export class SvmDevice {
  readonly gpu: Gpu;
  readonly sched: Scheduler;
  readonly trace: TraceRing;
  /** By tile. @kernel xe_device.tiles */
  readonly regions: readonly VramRegion[];
  readonly tileCounters: readonly TileCounters[];
  readonly window: DeviceWindow | null;
  /** How ranges reach system memory. */
  readonly dma: GpuSvmDevice;
  /** A round and the reading of its records belong to one launch at a time. */
  readonly engineLock = new Mutex("engine", "device");
  readonly phys: PhysMemory;
  readonly links: PeerLinks;
  /** Of all its address spaces, those that are gone included. */
  readonly stats = new SvmStats(null);
  readonly #stale: StaleFrames;
  readonly #vms = new Map<number, SvmVm>();
  /** By tile. */
  readonly #kernelVms: KernelVm[] = [];
  #isAlive = true;
  /** Chunks under way into its memory. */
  readonly #arriving = new Set<Promise<void>>();
  /** Nobody can come to use it any more. */
  #isReleased = false;
  /** Of page maps on the device. @kernel drm_dev_get */
  #holds = 0;
  #uses = 0;
  /** Binds refused because tables that may not leave hold all of the page-table aperture. */
  tableRefusals = 0;

  private constructor(options: SvmDeviceOptions) {
    this.gpu = options.gpu;
    this.sched = options.sched;
    this.trace = options.trace;
    this.phys = options.phys;
    this.links = options.links ?? new PeerLinks();
    this.#stale = new StaleFrames(options.phys);
    const { gpu, phys } = options;
    const place = gpu instanceof PeerGpu ? gpu.place : { tile: 0, windowBase: 0 };
    this.window = gpu.info.syswBytes > 0 ? new DeviceWindow(gpu, phys, this.#stale, place.windowBase) : null;
    this.dma = this.window ?? { ...NO_WINDOW };
    this.tileCounters = gpu.info.tileBytes.map(() => new TileCounters());
    const owner = this.links.join(this);
    const device = this.#lifetime();
    const regions: VramRegion[] = [];
    this.regions = regions;
    for (const ownTile of gpu.info.tileBytes.keys()) {
      const region: VramRegion = new VramRegion({
        ...options,
        writeBack: options.writeBack ?? null,
        stale: this.#stale,
        window: this.window,
        tile: place.tile + ownTile,
        ownTile,
        owner,
        device,
        victims: {
          policy: options.evict ?? "lru",
          seed: options.seed ?? 1,
          hasAdvice: () => [...this.#vms.values()].some((vm) => !vm.attributes.isEmpty),
        },
        pagemapOps: pagemapOpsOf(this, () => region),
        onCpuFault: (vmf) => countCpuFault(phys, vmf),
        onSent: (pa, pages) => countSent(this, pa, pages),
      });
      regions.push(region);
    }
  }

  static create(options: SvmDeviceOptions): SvmDevice | Errno {
    const { tileBytes, ptBytes } = options.gpu.info;
    if (ptBytes + options.heapBytes > Math.min(...tileBytes)) return EINVAL;
    const isShared = options.gpu instanceof PeerGpu || tileBytes.length > 1;
    if (isShared && options.writeBack !== undefined) return EINVAL;
    return new SvmDevice(options);
  }

  /** The memory of tile 0, which is all there is on most devices. */
  get region(): VramRegion {
    return this.regions[0]!;
  }
  /** The memory of a tile, or of all where none is named. */
  regionsOf(tile?: number): readonly VramRegion[] {
    return tile === undefined ? this.regions : [this.regions[tile]!];
  }
  /** Bytes of VRAM for data, on all tiles. */
  get heapBytes(): number {
    return this.regions.reduce((sum, { heapBytes }) => sum + heapBytes, 0);
  }
  /** Bytes of VRAM that data holds, on all tiles. */
  get vramUsed(): number {
    return this.regions.reduce((sum, { used }) => sum + used, 0);
  }
  /** Whether the hardware does atomics on system memory in its window. @kernel xe_device.info.has_device_atomics_on_smem */
  get hasSystemAtomics(): boolean {
    return this.gpu.info.systemAtomics;
  }
  /** Whether ranges can be mapped where they lie in system memory. */
  get canMapSystemMemory(): boolean {
    return this.window !== null;
  }
  /** Error injection: whether this step is to fail. */
  fails(site: FailSite): boolean {
    return this.phys.fails(site);
  }
  /** Error injection: the device goes as something is submitted. */
  failLost(): void {
    if (this.fails("device-lost")) this.gpu.destroy();
  }
  /** How often a mapping was refused because live ones hold the whole window. */
  get windowRefusals(): number {
    return this.window?.refusals ?? 0;
  }
  /** A number that grows with every use of a mapping that is taken note of. */
  nextUse(): number {
    this.#uses += 1;
    return this.#uses;
  }

  /**
   * Submits work of `vm` by calling `submit`, once the system memory that it has mapped is in the window. What it may
   * write is marked so, and the CPU waits for it.
   */
  async submitFor<T>(vm: SvmVm, submit: () => Promise<T>): Promise<T> {
    return this.window === null ? submit() : await this.window.submitWith(() => vm.windowWrites(), submit);
  }

  /** False once it is being unbound: nothing goes to its memory any more. @kernel drm_dev_is_unplugged */
  get isAlive(): boolean {
    return this.#isAlive;
  }

  /** All address spaces are closed; objects that are still open go with the device, and no page of a process is left in it. */
  destroy(): void {
    this.#isAlive = false;
    const isEmpty = this.regions.every(({ dpagemap }) => dpagemap.refcount === 0);
    assert(isEmpty, "a device is destroyed while pages of processes lie in its memory");
    this.#release();
  }

  /**
   * Takes the device out of use, whatever is going on: launches end with an error, its address spaces close, and every page
   * in its memory goes home, whoever maps it. Then the GPU is given back. -EIO: the device is lost, and with it pages of
   * which there is no copy. -ENOMEM, -EBUSY, or what the last copy said: pages are left that cannot move now. They stay
   * valid; the CPU that touches one brings it home, a second call tries all of them again, and the GPU goes with the last
   * one. @kernel xe_pci_remove, xe_pagemap_destroy_work
   */
  unbind(): MaybePromise<0 | Errno> {
    return run(this.#unbind());
  }

  *#unbind(): Steps<0 | Errno> {
    this.#isAlive = false;
    for (const vm of [...this.#vms.values()]) yield* wait(vm.close());
    // Others' pages that were on their way here: none sets out any more.
    for (const arriving of this.#arriving) yield* wait(arriving);
    // They must outlive the look for what is left in them.
    const dpagemaps = this.regions.map((region) => region.dpagemap.getUnlessZero());
    let left: 0 | Errno = 0;
    for (const dpagemap of dpagemaps) {
      const err = dpagemap === null ? 0 : yield* wait(drmPagemapEvictAll(dpagemap, this.phys));
      if (left === 0) left = err;
    }
    for (const { departures } of this.regions) yield* wait(departures.settled);
    this.#release();
    for (const dpagemap of dpagemaps) dpagemap?.put();
    return left;
  }

  /** Nobody uses the device any more, but for pages that lie in its memory. */
  #release(): void {
    if (this.#isReleased) return;
    this.#isReleased = true;
    for (const bo of [...this.region.objects.values()]) bo.close();
    this.window?.destroy();
    this.region.writeBack?.destroy();
    this.links.leave(this);
    for (const region of this.regions) region.cache.fini();
    if (this.#holds === 0) this.#giveBack();
  }

  #giveBack(): void {
    if (!this.gpu.isLost) this.gpu.destroy();
  }

  /** The device as its page map holds on to it. */
  #lifetime(): DrmPagemapDevice {
    const isAlive = () => this.#isAlive;
    return {
      get isAlive() {
        return isAlive();
      },
      get: () => {
        this.#holds += 1;
      },
      put: () => {
        this.#holds -= 1;
        if (this.#holds === 0 && this.#isReleased) this.#giveBack();
      },
    };
  }

  /** -ENODEV: it is being unbound. -ENOMEM: no address space, or no table, is left. */
  createVm(mm: MigrateMm, options: SvmVmOptions): SvmVm | Errno {
    if (!this.#isAlive) return ENODEV;
    for (let asid = FIRST_ASID; asid < NASID; asid++) {
      if (this.#vms.has(asid)) continue;
      const vm = SvmVm.create(this, mm, asid, options);
      if (!isErr(vm)) this.#vms.set(asid, vm);
      return vm;
    }
    return ENOMEM;
  }

  forgetVm(vm: SvmVm): void {
    this.region.writeBack?.forgetVm(vm);
    this.#vms.delete(vm.asid);
  }

  /** The device frame at a physical address of its memory; null for any other address. */
  pfnAt(pa: Pa): Pfn | null {
    for (const region of this.regions) {
      const pfn = region.pfnAt(pa);
      if (pfn !== null) return pfn;
    }
    return null;
  }

  get vms(): Iterable<SvmVm> {
    return this.#vms.values();
  }

  /** After the device was lost: see `lostPages`. */
  lostPages(mm: Mm): LostPages {
    return lostPages(this, this.#stale, mm);
  }
  /** See `firstLostPage`. */
  firstLostPage(mm: MigrateMm, start: Va, end: Va): Va | null {
    return firstLostPage(this.phys, mm, start, end);
  }

  /** The SVM buffer behind the page of `mm` at `addr`, or null when it is not in this device's memory. A probe. */
  boAt(mm: MigrateMm, addr: number): SvmBo | null {
    const pfn = mm.devicePfnAt(addr);
    return pfn < 0 ? null : this.boBehind(pfn);
  }

  /** The same for a device page. */
  boBehind(pfn: Pfn): SvmBo | null {
    return this.#boOf(pfn, this.phys.zoneDeviceData(pfn));
  }

  #boOf(pfn: number, zdd: unknown): SvmBo | null {
    if (!(zdd instanceof Zdd) || this.#regionOf(pfn) === null) return null;
    return zdd.devmemAllocation instanceof SvmBo ? zdd.devmemAllocation : null;
  }

  /** Which of its regions a device page lies in; null: in another device's. */
  #regionOf(pfn: Pfn): VramRegion | null {
    const pgmap = this.phys.pgmapOf(pfn);
    for (const region of this.regions) if (region.pgmap === pgmap) return region;
    return null;
  }

  /** The tile in whose memory the page of `mm` at `addr` lies; null when it is not in this device's. A probe. */
  tileAt(mm: MigrateMm, addr: Va): number | null {
    const pfn = mm.devicePfnAt(addr);
    const region = pfn < 0 ? null : this.#regionOf(pfn);
    return region === null ? null : this.regions.indexOf(region);
  }

  /** Whether all pages of `[start, end)` lie in this device's memory; `tile`: in that tile's. */
  isResident(mm: MigrateMm, start: number, end: number, tile?: number): boolean {
    for (let at = start; at < end;) {
      const pfn = mm.devicePfnAt(at);
      const region = pfn < 0 ? null : this.#regionOf(pfn);
      if (region === null || (tile !== undefined && region !== this.regions[tile])) return false;
      at += mm.deviceRunLength(at, end) * PAGE_SIZE;
    }
    return true;
  }

  /** How many pages of `[start, end)` lie in this device's memory; `tile`: in that tile's. A probe. */
  residentPages(mm: MigrateMm, start: Va, end: Va, tile?: number): number {
    let pages = 0;
    for (let at = mm.nextDevicePage(start, end); at < end;) {
      const region = this.#regionOf(mm.devicePfnAt(at));
      const run = mm.deviceRunLength(at, end);
      if (region !== null && (tile === undefined || region === this.regions[tile])) pages += run;
      at = mm.nextDevicePage(at + run * PAGE_SIZE, end);
    }
    return pages;
  }

  /** Makes `bytes` of a tile's VRAM free. -ENOSPC: what is left is pinned. */
  makeRoom(bytes: number, tile = 0): MaybePromise<0 | Errno> {
    const region = this.regions[tile]!;
    return region.free >= bytes ? 0 : run(this.#makeRoom(bytes, region));
  }

  *#makeRoom(bytes: number, region: VramRegion): Steps<0 | Errno> {
    while (region.free < bytes) {
      const evicted = yield* this.#evict(bytes - region.free, region);
      if (isErr(evicted)) return evicted;
    }
    return 0;
  }

  /**
   * Evicts least recently used buffers worth at least `bytes`, all at once: their copies share submissions. The number of
   * bytes evicted; -ENOSPC when nothing may leave. @kernel xe_evict_flags, xe_bo_move for SVM buffers
   */
  evict(bytes: number, tile = 0): MaybePromise<number | Errno> {
    return run(this.#evict(bytes, this.regions[tile]!));
  }

  *#evict(bytes: number, region: VramRegion): Steps<number | Errno> {
    const victims = region.pickVictims(bytes);
    if (victims.length > 0) {
      const gone = yield* this.#depart(victims);
      for (const bo of gone) {
        if (!(bo instanceof SvmBo)) continue;
        bo.vm.counters.evict += 1;
        bo.vm.stats.add("wgsvm_evict_count");
      }
      return gone.length > 0 ? bytesOf(gone) : EBUSY;
    }
    // What somebody else is evicting comes free without our doing.
    const before = region.free;
    if (!(yield* wait(region.waitForLeaving()))) return ENOSPC;
    return Math.max(1, region.free - before);
  }

  /** Brings the pages of these buffers home, all at once. The number of bytes that came free. */
  evictBuffers(buffers: readonly VramOwner[]): MaybePromise<number> {
    return run(this.#evictBuffers(buffers));
  }

  *#evictBuffers(buffers: readonly VramOwner[]): Steps<number> {
    const gone = yield* this.#depart(buffers);
    for (const bo of gone) if (bo instanceof SvmBo && bo.departure !== null) yield* wait(bo.departure.wait());
    return bytesOf(gone);
  }

  /** Evicts all at once; those whose memory has come free. The pages of SVM buffers may still be on their way. */
  *#depart(buffers: readonly VramOwner[]): Steps<VramOwner[]> {
    const results = yield* wait(Promise.all(buffers.map((bo) => branch(async () => bo.region.evict(bo)))));
    return buffers.filter((_, i) => results[i] === 0);
  }

  /** The driver's own address space on a tile, made when it is first asked for. -ENOMEM: no room for its tables. */
  kernelVm(tile = 0): KernelVm | Errno {
    const known = this.#kernelVms[tile];
    if (known !== undefined) return known;
    const made = KernelVm.create(this.regions[tile]!, tile);
    if (!isErr(made)) this.#kernelVms[tile] = made;
    return made;
  }

  /** The buffers of this device and of its peers that hold pages of `[start, end)` of `mm`: what it reaches there. A probe. */
  reachableIn(mm: MigrateMm, start: number, end: number): SvmBo[] {
    const found = this.buffersIn(mm, start, end);
    for (const peer of this.links.peersOf(this)) found.push(...peer.buffersIn(mm, start, end));
    return found;
  }

  /** The buffers that hold pages of `[start, end)` of `mm`; `tile`: those in its memory. A probe. */
  buffersIn(mm: MigrateMm, start: number, end: number, tile?: number): SvmBo[] {
    const found: SvmBo[] = [];
    for (let at = mm.nextDevicePage(start, end); at < end;) {
      const bo = this.boBehind(mm.devicePfnAt(at));
      const isWanted = bo !== null && (tile === undefined || bo.region === this.regions[tile]);
      if (isWanted && !found.includes(bo)) found.push(bo);
      at = mm.nextDevicePage(at + mm.deviceRunLength(at, end) * PAGE_SIZE, end);
    }
    return found;
  }

  /** Brings home all that `vm` has put into VRAM. */
  evictVm(vm: SvmVm): MaybePromise<void> {
    return run(this.#evictVm(vm));
  }

  *#evictVm(vm: SvmVm): Steps<void> {
    // What was advised to lie with a peer is there.
    for (const device of [this, ...this.links.peersOf(this)]) {
      if (device.gpu.isLost) continue;
      for (const { buffers, departures } of device.regions) {
        yield* device.#evictBuffers([...buffers].filter((bo) => bo.vm === vm));
        yield* wait(departures.settled);
      }
    }
  }

  /** One prefetch access through a tile's walker; its fault record, if it has one. */
  async probeHint(asid: number, addr: number, tile = 0): Promise<RoundResult> {
    const request = new Uint32Array(REQUEST_WORDS);
    request.set([asid, lo32(addr), hi32(addr), PREFETCH_READ]);
    const engine = await this.engineLock.lock();
    try {
      await this.sched.external(this.gpu.translate(request, tile));
      return await this.sched.external(this.gpu.drainFaults(tile));
    } finally {
      engine.release();
    }
  }

  /**
   * Moves one chunk of `vm`'s process into a fresh buffer. The mmap lock is held for read, the page map is in use, room has
   * been made: -ENOSPC if somebody took it meanwhile. Others: as `drmPagemapMigrateToDevmem`.
   */
  populateMm(
    vm: SvmVm,
    start: number,
    end: number,
    timesliceMs: number,
    ctx: ChunkCtx = {},
    tile = 0,
  ): MaybePromise<0 | Errno> {
    if (!this.#isAlive) return ENODEV;
    const populated = populateBuffer(this.regions[tile]!, vm, start, end, timesliceMs, ctx);
    if (isPromise(populated)) this.#noteArriving(populated);
    return populated;
  }

  #noteArriving(populated: Promise<unknown>): void {
    const over = () => void this.#arriving.delete(arriving);
    const arriving: Promise<void> = populated.then(over, over);
    this.#arriving.add(arriving);
  }
}

function bytesOf(buffers: readonly VramOwner[]): number {
  return buffers.reduce((sum, bo) => sum + bo.size, 0);
}

/** Access word of a translation request: read, PREFETCH. */
const PREFETCH_READ = 1 << 4;

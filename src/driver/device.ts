import { PAGE_SIZE, hi32, lo32 } from "../base/addr.ts";
import type { Pa, Va } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { EBUSY, EINVAL, ENODEV, ENOLINK, ENOMEM, ENOSPC, isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { branch } from "../base/lock-order.ts";
import { Mutex } from "../base/locks.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import type { Scheduler } from "../base/scheduler.ts";
import { type Steps, run, wait } from "../base/steps.ts";
import type { TraceRing } from "../base/trace.ts";
import type { Gpu, RoundResult } from "../hal/gpu.ts";
import { REQUEST_WORDS } from "../hal/gpu.ts";
import type { GpuSvmDevice } from "../gpusvm/ops.ts";
import type { Mm } from "../mm/mm.ts";
import type { FailSite, PhysMemory } from "../mm/phys-mem.ts";
import type { MigrateMm, VmFault } from "../mm/types.ts";
import { drmPagemapMigrateToDevmem } from "../pagemap/migrate-to-devmem.ts";
import { drmPagemapEvictAll } from "../pagemap/evict-all.ts";
import { drmPagemapPageToDpagemap } from "../pagemap/pagemap.ts";
import type { DrmPagemapDevice, DrmPagemapOps } from "../pagemap/pagemap.ts";
import { Zdd } from "../pagemap/zdd.ts";
import { PL_TT } from "../vram/place.ts";
import type { VramOwner } from "./bo.ts";
import type { TtmOperationCtx } from "../vram/fence.ts";
import { SvmBo } from "./svm-bo.ts";
import { DeviceWindow, NO_WINDOW } from "./device-window.ts";
import { StaleFrames } from "./stale-frames.ts";
import { KernelVm } from "./kernel-vm.ts";
import { PeerGpu } from "./peer-gpu.ts";
import { INTERCONNECT_P2P, PeerLinks } from "./peer-links.ts";
import { VramRegion } from "./vram-region.ts";
import { SvmVm } from "./vm.ts";
import type { SvmVmOptions } from "./vm.ts";
import type { EvictName } from "./policy/policy.ts";
import { SvmStats } from "./stats.ts";
import type { WriteBackOptions } from "./write-back.ts";

const IN_WINDOW = { memType: PL_TT };
/** Address space ids that the hardware has; 0 is invalid, 1 the kernel's. */
const NASID = 256;
const FIRST_ASID = 2;

export interface SvmDeviceOptions {
  readonly gpu: Gpu;
  /** Bytes of VRAM for data, behind the page-table aperture. */
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

/** What of an address space went with a device. Page addresses, ascending. */
export interface LostPages {
  /** Pages that lay in VRAM alone: every CPU access fails (SIGBUS) until they are unmapped or discarded. */
  readonly vram: Va[];
  /** Pages that are there as they were earlier. */
  readonly stale: StalePage[];
}

export interface StalePage {
  readonly addr: Va;
  /**
   * The round of the device whose result the bytes are, 0 for those from before the first (write-back mode); null: as the CPU
   * saw the page last, before the GPU wrote it in place in the system window.
   */
  readonly round: number | null;
}

/**
 * The driver of one GPU: its memory region, its address spaces, and eviction.
 * @kernel xe_device, xe_vram_region
 */
export class SvmDevice {
  readonly gpu: Gpu;
  readonly sched: Scheduler;
  readonly trace: TraceRing;
  readonly region: VramRegion;
  /** How ranges reach system memory. */
  readonly dma: GpuSvmDevice;
  /** A round and the reading of its records belong to one launch at a time. */
  readonly engineLock = new Mutex("engine", "device");
  readonly phys: PhysMemory;
  readonly links: PeerLinks;
  /** Of all its address spaces, those that are gone included. */
  readonly stats = new SvmStats(null);
  readonly #window: DeviceWindow | null;
  readonly #stale: StaleFrames;
  readonly #vms = new Map<number, SvmVm>();
  #kernelVm: KernelVm | null = null;
  #isAlive = true;
  /** Nobody can come to use it any more. */
  #isReleased = false;
  /** Of page maps on the device. @kernel drm_dev_get */
  #holds = 0;

  private constructor(options: SvmDeviceOptions) {
    this.gpu = options.gpu;
    this.sched = options.sched;
    this.trace = options.trace;
    this.phys = options.phys;
    this.links = options.links ?? new PeerLinks();
    this.#stale = new StaleFrames(options.phys);
    const { gpu, phys } = options;
    const place = gpu instanceof PeerGpu ? gpu.place : { tile: 0, windowBase: 0 };
    this.#window = gpu.info.syswBytes > 0 ? new DeviceWindow(gpu, phys, this.#stale, place.windowBase) : null;
    this.dma = this.#window ?? { ...NO_WINDOW };
    this.region = new VramRegion({
      ...options,
      writeBack: options.writeBack ?? null,
      stale: this.#stale,
      window: this.#window,
      tile: place.tile,
      owner: this.links.join(this),
      device: this.#lifetime(),
      victims: {
        policy: options.evict ?? "lru",
        seed: options.seed ?? 1,
        hasAdvice: () => [...this.#vms.values()].some((vm) => !vm.attributes.isEmpty),
      },
      pagemapOps: this.#pagemapOps(),
      onCpuFault: (vmf) => this.#onCpuFault(vmf),
      onSent: (pa, pages) => this.#onSent(pa, pages),
    });
  }

  static create(options: SvmDeviceOptions): SvmDevice | Errno {
    const { vramBytes, ptBytes } = options.gpu.info;
    if (ptBytes + options.heapBytes > vramBytes) return EINVAL;
    if (options.gpu instanceof PeerGpu && options.writeBack !== undefined) return EINVAL;
    return new SvmDevice(options);
  }

  /** Bytes of VRAM for data. */
  get heapBytes(): number {
    return this.region.heapBytes;
  }
  /** Bytes of VRAM that data holds. */
  get vramUsed(): number {
    return this.region.used;
  }
  /** Whether the hardware does atomics on system memory in its window. @kernel xe_device.info.has_device_atomics_on_smem */
  get hasSystemAtomics(): boolean {
    return this.gpu.info.systemAtomics;
  }
  /** Whether ranges can be mapped where they lie in system memory. */
  get canMapSystemMemory(): boolean {
    return this.#window !== null;
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
    return this.#window?.refusals ?? 0;
  }

  /**
   * Submits work of `vm` by calling `submit`, once the system memory that it has mapped is in the window. What it may
   * write is marked so, and the CPU waits for it.
   */
  async submitFor<T>(vm: SvmVm, submit: () => Promise<T>): Promise<T> {
    return this.#window === null ? submit() : await this.#window.submitWith(() => vm.windowWrites(), submit);
  }

  /** False once it is being unbound: nothing goes to its memory any more. @kernel drm_dev_is_unplugged */
  get isAlive(): boolean {
    return this.#isAlive;
  }

  /** All address spaces are closed; objects that are still open go with the device, and no page of a process is left in it. */
  destroy(): void {
    this.#isAlive = false;
    assert(this.region.dpagemap.refcount === 0, "a device is destroyed while pages of processes lie in its memory");
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
    // It must outlive the look for what is left in it.
    const dpagemap = this.region.dpagemap.getUnlessZero();
    const left = dpagemap === null ? 0 : yield* wait(drmPagemapEvictAll(dpagemap, this.phys));
    yield* wait(this.region.departures.settled);
    this.#release();
    dpagemap?.put();
    return left;
  }

  /** Nobody uses the device any more, but for pages that lie in its memory. */
  #release(): void {
    if (this.#isReleased) return;
    this.#isReleased = true;
    for (const bo of [...this.region.objects.values()]) bo.close();
    this.#window?.destroy();
    this.region.writeBack?.destroy();
    this.links.leave(this);
    this.region.cache.fini();
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

  get vms(): Iterable<SvmVm> {
    return this.#vms.values();
  }

  /**
   * After the device was lost: where the data of `mm` is gone, or older than it was. A page whose shadow was exact is in
   * neither list, and so is one that has been discarded, or has moved on, since.
   */
  lostPages(mm: Mm): LostPages {
    const vram: Va[] = [];
    const stale: StalePage[] = [];
    if (!this.gpu.isLost) return { vram, stale };
    const { pgmap, writeBack } = this.region;
    writeBack?.countWrites();
    for (const vma of mm.vmas.all()) {
      for (let at = vma.start; at < vma.end; at += PAGE_SIZE) {
        const page = mm.pageAt(at);
        if (page.kind === "none") continue;
        if (!this.phys.isZoneDevice(page.pfn)) {
          if (this.#stale.has(page.pfn)) stale.push({ addr: at, round: this.#stale.roundOf(page.pfn) });
        } else if (this.phys.pgmapOf(page.pfn) === pgmap) {
          const copy = writeBack?.copyOf(page.pfn) ?? null;
          if (copy === null) vram.push(at);
          else if (copy !== "exact") stale.push({ addr: at, round: copy });
        }
      }
    }
    return { vram, stale };
  }

  /**
   * The first page of `[start, end)` of `mm` whose only copy went with a device, this or another; null if there is none.
   * Nothing but unmapping or discarding it helps.
   */
  firstLostPage(mm: MigrateMm, start: Va, end: Va): Va | null {
    for (let at = start; at < end; at += PAGE_SIZE) {
      const pfn = mm.devicePfnAt(at);
      if (pfn < 0) continue;
      const region = drmPagemapPageToDpagemap(this.phys, pfn)?.drm;
      if (region instanceof VramRegion && region.gpu.isLost && (region.writeBack?.copyOf(pfn) ?? null) === null)
        return at;
    }
    return null;
  }

  /** The SVM buffer behind the page of `mm` at `addr`, or null when it is not in this device's memory. A probe. */
  boAt(mm: MigrateMm, addr: number): SvmBo | null {
    const pfn = mm.devicePfnAt(addr);
    return pfn < 0 ? null : this.#boOf(pfn, this.phys.zoneDeviceData(pfn));
  }

  #boOf(pfn: number, zdd: unknown): SvmBo | null {
    if (!(zdd instanceof Zdd) || this.phys.pgmapOf(pfn) !== this.region.pgmap) return null;
    return zdd.devmemAllocation instanceof SvmBo ? zdd.devmemAllocation : null;
  }

  isResident(mm: MigrateMm, start: number, end: number): boolean {
    for (let at = start; at < end; at += PAGE_SIZE) {
      const pfn = mm.devicePfnAt(at);
      if (pfn < 0 || this.phys.pgmapOf(pfn) !== this.region.pgmap) return false;
    }
    return true;
  }

  /** Makes `bytes` of VRAM free. -ENOSPC: what is left is pinned. */
  makeRoom(bytes: number): MaybePromise<0 | Errno> {
    return this.region.free >= bytes ? 0 : run(this.#makeRoom(bytes));
  }

  *#makeRoom(bytes: number): Steps<0 | Errno> {
    while (this.region.free < bytes) {
      const evicted = yield* this.#evict(bytes - this.region.free);
      if (isErr(evicted)) return evicted;
    }
    return 0;
  }

  /**
   * Evicts least recently used buffers worth at least `bytes`, all at once: their copies share submissions. The number of
   * bytes evicted; -ENOSPC when nothing may leave. @kernel xe_evict_flags, xe_bo_move for SVM buffers
   */
  evict(bytes: number): MaybePromise<number | Errno> {
    return run(this.#evict(bytes));
  }

  *#evict(bytes: number): Steps<number | Errno> {
    const victims = this.region.pickVictims(bytes);
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
    const before = this.region.free;
    if (!(yield* wait(this.region.waitForLeaving()))) return ENOSPC;
    return Math.max(1, this.region.free - before);
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
    const results = yield* wait(Promise.all(buffers.map((bo) => branch(async () => this.region.evict(bo)))));
    return buffers.filter((_, i) => results[i] === 0);
  }

  /** The driver's own address space, made when it is first asked for. -ENOMEM: no room for its tables. */
  kernelVm(): KernelVm | Errno {
    if (this.#kernelVm !== null) return this.#kernelVm;
    const made = KernelVm.create(this.region);
    if (!isErr(made)) this.#kernelVm = made;
    return made;
  }

  /** Puts buffer objects worth at least `bytes` out of the system window. False: none may leave. */
  *makeWindowRoom(bytes: number): Steps<boolean> {
    const victims = this.region.pickVictims(bytes, IN_WINDOW);
    return victims.length > 0 && (yield* this.#evictBuffers(victims)) > 0;
  }

  /** The buffers of this device and of its peers that hold pages of `[start, end)` of `mm`: what it reaches there. A probe. */
  reachableIn(mm: MigrateMm, start: number, end: number): SvmBo[] {
    const found = this.buffersIn(mm, start, end);
    for (const peer of this.links.peersOf(this)) found.push(...peer.buffersIn(mm, start, end));
    return found;
  }

  /** The buffers that hold pages of `[start, end)` of `mm`. A probe. */
  buffersIn(mm: MigrateMm, start: number, end: number): SvmBo[] {
    const found: SvmBo[] = [];
    let last: unknown = null;
    for (let at = start; at < end; at += PAGE_SIZE) {
      const pfn = mm.devicePfnAt(at);
      if (pfn < 0) continue;
      // Pages of one migration share their data, and mostly lie side by side.
      const zdd = this.phys.zoneDeviceData(pfn);
      if (zdd === last) continue;
      last = zdd;
      const bo = this.#boOf(pfn, zdd);
      if (bo !== null && !found.includes(bo)) found.push(bo);
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
      yield* device.#evictBuffers([...device.region.buffers].filter((bo) => bo.vm === vm));
      yield* wait(device.region.departures.settled);
    }
  }

  /** One prefetch access through the walker; its fault record, if it has one. */
  async probeHint(asid: number, addr: number): Promise<RoundResult> {
    const request = new Uint32Array(REQUEST_WORDS);
    request.set([asid, lo32(addr), hi32(addr), PREFETCH_READ]);
    const engine = await this.engineLock.lock();
    try {
      await this.sched.external(this.gpu.translate(request));
      return await this.sched.external(this.gpu.drainFaults());
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
    ctx: TtmOperationCtx = {},
  ): MaybePromise<0 | Errno> {
    return run(this.#populateMm(vm, start, end, timesliceMs, ctx));
  }

  *#populateMm(vm: SvmVm, start: number, end: number, timesliceMs: number, ctx: TtmOperationCtx): Steps<0 | Errno> {
    if (!this.#isAlive) return ENODEV;
    const bo = this.region.allocBo(vm, start, end - start, ctx);
    if (isErr(bo)) return bo;
    bo.pin();
    let result = yield* wait(this.region.whenVacant(bo));
    if (result === 0) result = yield* wait(drmPagemapMigrateToDevmem(bo, vm.mm, start, end, { timesliceMs }));
    else this.region.discard(bo);
    bo.unpin();
    if (result === 0) {
      vm.counters.migrationsIn += 1;
      this.trace.record("migrate-to-devmem", vm.asid, start, end, bo.npages);
    }
    return result;
  }

  #pagemapOps(): DrmPagemapOps {
    return {
      deviceMap: (_dpagemap, dev, pfn, order, dir, out) => {
        const proto = this.links.protocol(this, dev);
        // To its own it makes no difference.
        if (proto === null || (proto === INTERCONNECT_P2P && this.gpu.isLost)) return ENOLINK;
        out.push(this.region.paOf(pfn), proto, order, dir);
        return 0;
      },
      destroy: (_dpagemap, isAtomic) => {
        // The page that goes last is not free yet when it says so.
        if (isAtomic) this.sched.defer("driver:remove-pagemap", () => this.phys.removePagemap(this.region.pgmap));
        else this.phys.removePagemap(this.region.pgmap);
      },
      populateMm: (_dpagemap, start, end, mm, timesliceMs) => {
        for (const vm of this.#vms.values()) if (vm.mm === mm) return this.populateMm(vm, start, end, timesliceMs);
        return ENODEV;
      },
    };
  }

  /** An allocation counts what it receives, from wherever. */
  #onSent(pa: Pa, pages: number): void {
    for (const peer of this.links.peersOf(this)) {
      const pfn = peer.region.pfnAt(pa);
      const bo = pfn === null ? null : peer.#boOf(pfn, this.phys.zoneDeviceData(pfn));
      if (bo !== null) bo.vm.counters.toDevBytes += pages * PAGE_SIZE;
    }
  }

  #onCpuFault(vmf: VmFault): void {
    const zdd = this.phys.zoneDeviceData(vmf.pfn);
    if (!(zdd instanceof Zdd) || !(zdd.devmemAllocation instanceof SvmBo)) return;
    const { vm, start } = zdd.devmemAllocation;
    vm.counters.cpuFault += 1;
    vm.stats.add("wgsvm_cpu_fault_count");
    vm.policies.thrash.onCpuFault(start);
  }
}

function bytesOf(buffers: readonly VramOwner[]): number {
  return buffers.reduce((sum, bo) => sum + bo.size, 0);
}

/** Access word of a translation request: read, PREFETCH. */
const PREFETCH_READ = 1 << 4;

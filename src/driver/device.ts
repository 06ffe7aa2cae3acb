import { PAGE_SIZE, hi32, lo32 } from "../base/addr.ts";
import type { Va } from "../base/addr.ts";
import { EBUSY, EINVAL, ENODEV, ENOMEM, ENOSPC, isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { Mutex } from "../base/locks.ts";
import type { Scheduler } from "../base/scheduler.ts";
import type { TraceRing } from "../base/trace.ts";
import type { Gpu, RoundResult } from "../hal/gpu.ts";
import { REQUEST_WORDS } from "../hal/gpu.ts";
import type { GpuSvmDevice } from "../gpusvm/ops.ts";
import type { Mm } from "../mm/mm.ts";
import type { PhysMemory } from "../mm/phys-mem.ts";
import type { MigrateMm, VmFault } from "../mm/types.ts";
import { drmPagemapMigrateToDevmem } from "../pagemap/migrate-to-devmem.ts";
import { DRM_INTERCONNECT_DRIVER } from "../pagemap/pagemap-addr.ts";
import type { DrmPagemapOps } from "../pagemap/pagemap.ts";
import { Zdd } from "../pagemap/zdd.ts";
import { SvmBo } from "./svm-bo.ts";
import { DeviceWindow, NO_WINDOW } from "./device-window.ts";
import { VramRegion } from "./vram-region.ts";
import { SvmVm } from "./vm.ts";
import type { SvmVmOptions } from "./vm.ts";

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
  readonly #phys: PhysMemory;
  readonly #window: DeviceWindow | null;
  readonly #vms = new Map<number, SvmVm>();

  private constructor(options: SvmDeviceOptions) {
    this.gpu = options.gpu;
    this.sched = options.sched;
    this.trace = options.trace;
    this.#phys = options.phys;
    this.#window = options.gpu.info.syswBytes > 0 ? new DeviceWindow(options.gpu, options.phys) : null;
    this.dma = this.#window ?? NO_WINDOW;
    this.region = new VramRegion({
      ...options,
      pagemapOps: this.#pagemapOps(),
      onCpuFault: (vmf) => this.#onCpuFault(vmf),
    });
  }

  static create(options: SvmDeviceOptions): SvmDevice | Errno {
    const { vramBytes, ptBytes } = options.gpu.info;
    if (ptBytes + options.heapBytes > vramBytes) return EINVAL;
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
  /** Whether ranges can be mapped where they lie in system memory. */
  get canMapSystemMemory(): boolean {
    return this.#window !== null;
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
    return this.#window === null ? submit() : await this.#window.submitWith(vm.windowWrites(), submit);
  }

  /** All address spaces are closed. */
  destroy(): void {
    this.#window?.destroy();
    this.#phys.removePagemap(this.region.pgmap);
  }

  createVm(mm: MigrateMm, options: SvmVmOptions): SvmVm | Errno {
    for (let asid = FIRST_ASID; asid < NASID; asid++) {
      if (this.#vms.has(asid)) continue;
      const vm = SvmVm.create(this, mm, asid, options);
      if (!isErr(vm)) this.#vms.set(asid, vm);
      return vm;
    }
    return ENOMEM;
  }

  forgetVm(vm: SvmVm): void {
    this.#vms.delete(vm.asid);
  }

  get vms(): Iterable<SvmVm> {
    return this.#vms.values();
  }

  /**
   * After the device was lost: where the data of `mm` is gone. `vram`: pages that lay in VRAM, on which every CPU access fails
   * (SIGBUS) until they are unmapped or discarded. `stale`: pages in RAM that the GPU had written in place; they keep what
   * was there before. Page addresses, ascending.
   */
  lostPages(mm: Mm): { vram: Va[]; stale: Va[] } {
    const vram: Va[] = [];
    const stale: Va[] = [];
    if (!this.gpu.isLost) return { vram, stale };
    for (const vma of mm.vmas.all()) {
      for (let at = vma.start; at < vma.end; at += PAGE_SIZE) {
        const page = mm.pageAt(at);
        if (page.kind === "none") continue;
        if (this.#phys.isZoneDevice(page.pfn)) {
          if (this.#phys.pgmapOf(page.pfn) === this.region.pgmap) vram.push(at);
        } else if (this.#window?.lostWrites.has(page.pfn) === true) stale.push(at);
      }
    }
    return { vram, stale };
  }

  /** The SVM buffer behind the page of `mm` at `addr`, or null when it is not in this device's memory. A probe. */
  boAt(mm: MigrateMm, addr: number): SvmBo | null {
    const pfn = mm.devicePfnAt(addr);
    return pfn < 0 ? null : this.#boOf(pfn, this.#phys.zoneDeviceData(pfn));
  }

  #boOf(pfn: number, zdd: unknown): SvmBo | null {
    if (!(zdd instanceof Zdd) || this.#phys.pgmapOf(pfn) !== this.region.pgmap) return null;
    return zdd.devmemAllocation instanceof SvmBo ? zdd.devmemAllocation : null;
  }

  isResident(mm: MigrateMm, start: number, end: number): boolean {
    for (let at = start; at < end; at += PAGE_SIZE) {
      const pfn = mm.devicePfnAt(at);
      if (pfn < 0 || this.#phys.pgmapOf(pfn) !== this.region.pgmap) return false;
    }
    return true;
  }

  /** Makes `bytes` of VRAM free. -ENOSPC: what is left is pinned. */
  async makeRoom(bytes: number): Promise<0 | Errno> {
    while (this.region.free < bytes) {
      const evicted = await this.evict(bytes - this.region.free);
      if (isErr(evicted)) return evicted;
    }
    return 0;
  }

  /**
   * Evicts least recently used buffers worth at least `bytes`, all at once: their copies share submissions. The number of
   * bytes evicted; -ENOSPC when nothing may leave. @kernel xe_evict_flags, xe_bo_move for SVM buffers
   */
  async evict(bytes: number): Promise<number | Errno> {
    const victims = this.region.pickVictims(bytes);
    if (victims.length > 0) {
      const evicted = await this.evictBuffers(victims);
      for (const bo of victims) if (bo.detached.isDone) bo.vm.counters.evict += 1;
      return evicted > 0 ? evicted : EBUSY;
    }
    // What somebody else is evicting comes free without our doing.
    const before = this.region.free;
    if (!(await this.region.waitForLeaving())) return ENOSPC;
    return Math.max(1, this.region.free - before);
  }

  /** Brings the pages of these buffers home, all at once. The number of bytes that came free. */
  async evictBuffers(buffers: readonly SvmBo[]): Promise<number> {
    const results = await Promise.all(buffers.map(async (bo) => this.region.evict(bo)));
    let bytes = 0;
    for (const [i, result] of results.entries()) {
      const bo = buffers[i]!;
      if (result !== 0) continue;
      bytes += bo.size;
      this.trace.record("evict", bo.vm.asid, bo.start, bo.start + bo.size, bo.npages);
    }
    return bytes;
  }

  /** The buffers that hold pages of `[start, end)` of `mm`. A probe. */
  buffersIn(mm: MigrateMm, start: number, end: number): SvmBo[] {
    const found: SvmBo[] = [];
    let last: unknown = null;
    for (let at = start; at < end; at += PAGE_SIZE) {
      const pfn = mm.devicePfnAt(at);
      if (pfn < 0) continue;
      // Pages of one migration share their data, and mostly lie side by side.
      const zdd = this.#phys.zoneDeviceData(pfn);
      if (zdd === last) continue;
      last = zdd;
      const bo = this.#boOf(pfn, zdd);
      if (bo !== null && !found.includes(bo)) found.push(bo);
    }
    return found;
  }

  /** Brings home all that `vm` has put into VRAM. */
  async evictVm(vm: SvmVm): Promise<void> {
    await this.evictBuffers([...this.region.buffers].filter((bo) => bo.vm === vm));
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
   * Moves one chunk of `vm`'s process into a fresh buffer. The mmap lock is held for read, room has been made: -ENOSPC if
   * somebody took it meanwhile. Others: as `drmPagemapMigrateToDevmem`.
   */
  async populateMm(vm: SvmVm, start: number, end: number, timesliceMs: number): Promise<0 | Errno> {
    const bo = this.region.allocBo(vm, start, end - start);
    if (isErr(bo)) return bo;
    bo.pin();
    const result = await drmPagemapMigrateToDevmem(bo, vm.mm, start, end, { timesliceMs });
    bo.unpin();
    if (result === 0) {
      vm.counters.migrationsIn += 1;
      this.trace.record("migrate-to-devmem", vm.asid, start, end, bo.npages);
    }
    return result;
  }

  #pagemapOps(): DrmPagemapOps {
    return {
      deviceMap: (_dpagemap, _dev, pfn, order, dir, out) => {
        out.push(this.region.paOf(pfn), DRM_INTERCONNECT_DRIVER, order, dir);
        return 0;
      },
      populateMm: (_dpagemap, start, end, mm, timesliceMs) => {
        for (const vm of this.#vms.values()) if (vm.mm === mm) return this.populateMm(vm, start, end, timesliceMs);
        return ENODEV;
      },
    };
  }

  #onCpuFault(vmf: VmFault): void {
    const zdd = this.#phys.zoneDeviceData(vmf.pfn);
    if (zdd instanceof Zdd && zdd.devmemAllocation instanceof SvmBo) zdd.devmemAllocation.vm.counters.cpuFault += 1;
  }
}

/** Access word of a translation request: read, PREFETCH. */
const PREFETCH_READ = 1 << 4;

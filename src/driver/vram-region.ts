import { PAGE_SIZE } from "../base/addr.ts";
import type { Pa, Pfn, Va } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { EIO, ENOSPC } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { isPromise } from "../base/maybe-promise.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import type { Scheduler } from "../base/scheduler.ts";
import { AP_HOST, AP_VRAM, PageList } from "../hal/gpu.ts";
import type { Gpu } from "../hal/gpu.ts";
import { DmaResv } from "../gpuvm/dma-resv.ts";
import type { DevPagemap, PhysMem, VmFault } from "../mm/types.ts";
import type { DrmPagemapDevmemOps } from "../pagemap/devmem.ts";
import { drmPagemapEvictToRam } from "../pagemap/evict-to-ram.ts";
import { drmPagemapPagemapOpsGet } from "../pagemap/migrate-to-ram.ts";
import { DrmPagemap } from "../pagemap/pagemap.ts";
import type { DrmPagemapOps } from "../pagemap/pagemap.ts";
import type { TtmDeviceOps } from "../vram/device-ops.ts";
import { HostManager } from "../vram/host-manager.ts";
import { PL_DESIRED, PL_SYSTEM, PL_VRAM } from "../vram/place.ts";
import { PtAperture } from "../vram/pt-aperture.ts";
import { TtmDevice } from "../vram/ttm-device.ts";
import { VramManager } from "../vram/vram-manager.ts";
import { SvmBo } from "./svm-bo.ts";
import type { SvmVm } from "./vm.ts";

const IN_VRAM = { memType: PL_VRAM };
/** Room is made beforehand, by evicting many at once. */
const IF_FREE = [{ memType: PL_VRAM, flags: PL_DESIRED }];
const HOME = [{ memType: PL_SYSTEM }];

export interface VramRegionOptions {
  readonly gpu: Gpu;
  /** Bytes for data, behind the aperture. */
  readonly heapBytes: number;
  readonly phys: PhysMem;
  readonly sched: Scheduler;
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
 * still reads them: whatever is written there later is queued behind it.
 */
export class VramRegion {
  readonly gpu: Gpu;
  readonly pgmap: DevPagemap;
  readonly dpagemap: DrmPagemap;
  readonly ops: DrmPagemapDevmemOps;
  readonly heapBytes: number;
  readonly #sched: Scheduler;
  readonly #vram: VramManager<SvmBo>;
  readonly #ttm: TtmDevice<SvmBo>;
  readonly #tables: PtAperture;

  constructor(options: VramRegionOptions) {
    const { gpu, phys, sched, pagemapOps, onCpuFault } = options;
    this.gpu = gpu;
    this.#sched = sched;
    const { vramBytes, ptBytes } = gpu.info;
    this.heapBytes = options.heapBytes;
    this.#vram = new VramManager({ vramBytes: ptBytes + options.heapBytes, ptBytes });
    this.#ttm = new TtmDevice(TTM_OPS, [this.#vram, new HostManager(PL_SYSTEM, Infinity)]);
    this.#tables = new PtAperture(ptBytes);
    const migrate = drmPagemapPagemapOpsGet(phys);
    this.pgmap = {
      type: "private",
      firstPfn: 0,
      npages: vramBytes / PAGE_SIZE,
      owner: this,
      ops: {
        folioFree: (pfn) => migrate.folioFree(pfn),
        migrateToRam: (vmf) => {
          onCpuFault(vmf);
          return migrate.migrateToRam(vmf);
        },
      },
    };
    phys.addPagemap(this.pgmap);
    this.dpagemap = new DrmPagemap({ pagemap: this.pgmap, drm: this, ops: pagemapOps, scheduler: sched });
    this.ops = {
      devmemRelease: (devmem) => this.#release(devmem as SvmBo),
      populateDevmemPfn: (devmem, npages, pfns) => this.#populate(devmem as SvmBo, npages, pfns),
      copyToDevmem: (devmem, pages, addrs, npages) => this.#copyToDevmem(devmem as SvmBo, pages, addrs, npages),
      copyToRam: (devmem, pages, addrs, npages) => this.#copyToRam(devmem as SvmBo, pages, addrs, npages),
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
    return this.#tables.alloc();
  }

  /** Where page tables stand now. */
  get tablePages(): Iterable<Pa> {
    return this.#tables.pages;
  }

  freeTable(pa: Pa): void {
    this.#tables.free(pa);
  }

  /** A buffer for the pages of `[start, start + size)` of `vm`'s process, or -ENOSPC. Its content is unknown. */
  allocBo(vm: SvmVm, start: Va, size: number): SvmBo | Errno {
    const bo = new SvmBo(this, vm, start, size);
    const guard = bo.mem.resv.tryLock();
    assert(guard !== null, "nobody else knows the buffer");
    const err = this.#ttm.validate(bo.mem, IF_FREE);
    guard.release();
    return err === 0 ? bo : ENOSPC;
  }

  /** Most recently used from now on. */
  touch(bo: SvmBo): void {
    this.#ttm.touch(bo.mem);
  }

  /** Buffers to evict so that `bytes` come free, least recently used first; fewer when the rest is pinned or leaving. */
  pickVictims(bytes: number): SvmBo[] {
    return this.#ttm.pickVictims(IN_VRAM, bytes).map((mem) => mem.owner);
  }

  /** Bytes that eviction could free now. */
  get evictable(): number {
    return this.#ttm.evictableBytes(IN_VRAM);
  }

  /** Brings the pages home, once nobody else is doing so. Errors: as `drmPagemapEvictToRam`. */
  evict(bo: SvmBo): MaybePromise<0 | Errno> {
    return this.#ttm.evict(bo.mem);
  }

  /** Resolves when a buffer that is leaving has gone or could not; false at once when none is leaving. */
  async waitForLeaving(): Promise<boolean> {
    for (const bo of this.#buffers()) {
      if (!bo.isLeaving) continue;
      (await bo.mem.resv.lock()).release();
      return true;
    }
    return false;
  }

  *#buffers(): Generator<SvmBo> {
    for (const res of this.#vram.resources()) yield res.bo.owner;
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
    bo.vm.counters.toDevBytes += list.pages * PAGE_SIZE;
    return 0;
  }

  #copyToRam(bo: SvmBo, pages: Uint32Array, addrs: Float64Array, npages: number): MaybePromise<0 | Errno> {
    if (this.gpu.isLost) return EIO;
    const list = new PageList();
    const base = this.pgmap.firstPfn;
    for (let i = 0; i < npages; i++) {
      if (pages[i] === 0 || addrs[i] === 0) continue;
      list.push(AP_VRAM, pages[i]! - base, AP_HOST, addrs[i]! / PAGE_SIZE, 1);
    }
    const arrived = this.gpu.copy(list);
    if (arrived === null) return 0;
    bo.vm.countToRam(bo, list.pages);
    return this.#sched.external(arrived).then(
      () => 0 as const,
      (error: unknown) => {
        if (this.gpu.isLost) return EIO;
        throw error;
      },
    );
  }

  #release(bo: SvmBo): void {
    this.#ttm.put(bo.mem);
  }
}

/**
 * Buffers move in one direction only: their pages go home, where they belong to the process again. New ones need no
 * clearing, for the migration that fills them overwrites or zeroes each page.
 */
const TTM_OPS: TtmDeviceOps<SvmBo> = {
  evictFlags: () => HOME,
  move: (mem) => {
    const evicted = drmPagemapEvictToRam(mem.owner);
    return isPromise(evicted) ? evicted.then(workOf) : workOf(evicted);
  },
  clear: () => null,
  newResv: (name) => new DmaResv(name),
};

function workOf(errno: 0 | Errno): null | Errno {
  return errno === 0 ? null : errno;
}

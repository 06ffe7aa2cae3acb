import { PAGE_SIZE, SZ_2M, SZ_64K } from "../base/addr.ts";
import type { Pa, Pfn } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { EIO, ENOMEM, ENOSPC, isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { DeviceLostError } from "../base/errors.ts";
import { WaitQueue } from "../base/locks.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import type { Scheduler } from "../base/scheduler.ts";
import { AP_HOST, AP_VRAM, PageList } from "../hal/gpu.ts";
import type { Gpu } from "../hal/gpu.ts";
import type { DevPagemap, PhysMem, VmFault } from "../mm/types.ts";
import type { DrmPagemapDevmemOps } from "../pagemap/devmem.ts";
import { drmPagemapPagemapOpsGet } from "../pagemap/migrate-to-ram.ts";
import { DrmPagemap } from "../pagemap/pagemap.ts";
import type { DrmPagemapOps } from "../pagemap/pagemap.ts";
import type { BuddyBlock } from "../vram/buddy.ts";
import { BUDDY_RANGE, DrmBuddy } from "../vram/buddy.ts";
import { SvmBo } from "./svm-bo.ts";
import type { SvmVm } from "./vm.ts";

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
  readonly #heap: DrmBuddy;
  readonly #tables: DrmBuddy;
  readonly #tableBlocks = new Map<Pa, BuddyBlock>();
  /** Least recently used first: a Set keeps the order of insertion. */
  readonly #lru = new Set<SvmBo>();
  readonly #released = new WaitQueue();
  #used = 0;

  constructor(options: VramRegionOptions) {
    const { gpu, phys, sched, pagemapOps, onCpuFault } = options;
    this.gpu = gpu;
    this.#sched = sched;
    const { vramBytes, ptBytes } = gpu.info;
    this.heapBytes = options.heapBytes;
    // The heap's manager covers all of VRAM, so that its offsets are addresses and its alignment is theirs.
    this.#heap = managerOf(ptBytes + options.heapBytes, ptBytes);
    this.#tables = managerOf(ptBytes, 2 * PAGE_SIZE);
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
    return this.#used;
  }
  get free(): number {
    return this.heapBytes - this.#used;
  }
  /** Live buffers, least recently used first. */
  get buffers(): Iterable<SvmBo> {
    return this.#lru;
  }

  paOf(pfn: Pfn): Pa {
    return (pfn - this.pgmap.firstPfn) * PAGE_SIZE;
  }

  /** A page of the aperture for a page table; content unknown. -ENOMEM when it is full. */
  allocTable(): Pa | Errno {
    const blocks = this.#tables.allocBlocks(0, this.#tables.size, PAGE_SIZE, PAGE_SIZE, 0);
    if (isErr(blocks)) return ENOMEM;
    this.#tableBlocks.set(blocks[0]!.offset, blocks[0]!);
    return blocks[0]!.offset;
  }

  freeTable(pa: Pa): void {
    const block = this.#tableBlocks.get(pa);
    assert(block !== undefined, "a page table was freed twice");
    this.#tableBlocks.delete(pa);
    this.#tables.freeList([block], 0);
  }

  /** A buffer of `size` bytes for pages of `vm`'s process, or -ENOSPC. Its content is unknown. */
  allocBo(vm: SvmVm, size: number): SvmBo | Errno {
    // The largest leaf first; a fragmented heap still serves smaller pieces.
    for (const min of [SZ_2M, SZ_64K, PAGE_SIZE]) {
      if (min > size) continue;
      const blocks = this.#heap.allocBlocks(0, this.#heap.size, size, min, 0);
      if (isErr(blocks)) continue;
      const bo = new SvmBo(this, vm, size, blocks);
      this.#used += size;
      this.#lru.add(bo);
      return bo;
    }
    return ENOSPC;
  }

  /** Most recently used from now on. */
  touch(bo: SvmBo): void {
    if (this.#lru.delete(bo)) this.#lru.add(bo);
  }

  /** Buffers to evict so that `bytes` come free, least recently used first; fewer when the rest is pinned or leaving. */
  pickVictims(bytes: number): SvmBo[] {
    const victims: SvmBo[] = [];
    let sum = 0;
    for (const bo of this.#lru) {
      if (sum >= bytes) break;
      if (bo.pins > 0 || bo.isLeaving) continue;
      victims.push(bo);
      sum += bo.size;
    }
    return victims;
  }

  /** Bytes that eviction could free now. */
  get evictable(): number {
    let sum = 0;
    for (const bo of this.#lru) if (bo.pins === 0 && !bo.isLeaving) sum += bo.size;
    return sum;
  }

  /** Resolves when a buffer that is leaving has gone; false at once when none is. */
  async waitForRelease(): Promise<boolean> {
    for (const bo of this.#lru) {
      if (!bo.isLeaving) continue;
      await this.#released.sleep();
      return true;
    }
    return false;
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
        if (error instanceof DeviceLostError) return EIO;
        throw error;
      },
    );
  }

  #release(bo: SvmBo): void {
    assert(this.#lru.delete(bo), "a device buffer was released twice");
    this.#used -= bo.size;
    this.#heap.freeList(bo.blocks, 0);
    this.#released.wakeAll();
  }
}

/** An allocator over `[0, size)` whose first `taken` bytes are never handed out. */
function managerOf(size: number, taken: number): DrmBuddy {
  const buddy = DrmBuddy.create(size, PAGE_SIZE);
  assert(!isErr(buddy), "VRAM sizes are whole pages");
  const blocks = buddy.allocBlocks(0, taken, taken, PAGE_SIZE, BUDDY_RANGE);
  assert(!isErr(blocks), "the start of fresh memory is free");
  return buddy;
}

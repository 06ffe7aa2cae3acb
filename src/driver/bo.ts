import { PAGE_SIZE, SZ_2M, SZ_64K, alignUp, isAligned } from "../base/addr.ts";
import { EBUSY, EINVAL, EIO, ENODEV, ENOMEM, isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { Completion } from "../base/locks.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import { type Steps, run, wait } from "../base/steps.ts";
import { DmaResv } from "../gpuvm/dma-resv.ts";
import { GemObject } from "../gpuvm/gem-object.ts";
import { AP_HOST, AP_VRAM, AP_WINDOW, PageList } from "../hal/gpu.ts";
import type { PhysMemory } from "../mm/phys-mem.ts";
import type { BuddyBlock } from "../vram/buddy.ts";
import type { Work } from "../vram/device-ops.ts";
import { PL_CONTIGUOUS, PL_FALLBACK, PL_SYSTEM, PL_TT, PL_VRAM } from "../vram/place.ts";
import type { TtmPlacement } from "../vram/place.ts";
import type { TtmResource } from "../vram/resource.ts";
import { TtmBo } from "../vram/ttm-bo.ts";
import type { BindVa } from "./bind-va.ts";
import type { SvmDevice } from "./device.ts";
import type { SvmBo } from "./svm-bo.ts";
import { SvmGpuVm } from "./svm-gpuvm.ts";
import type { SvmVm } from "./vm.ts";
import type { VramRegion } from "./vram-region.ts";
import { WindowBlock } from "./window-manager.ts";
import { makeWindowRoom } from "./window-room.ts";

/** Whose memory the VRAM manager manages. */
export type VramOwner = SvmBo | Bo;

/** Where a buffer object may be used: in VRAM, in the system window, or in VRAM with the window as a second choice. */
export type BoPlacement = "vram" | "system" | "both";

export interface BoOptions {
  /** Bytes, whole pages. */
  readonly size: number;
  /** Default "vram". */
  readonly placement?: BoPlacement;
  /** It can be mapped in this address space only, and shares its reservation and its place in the order of eviction. */
  readonly vm?: SvmVm;
  /** Of which tile's VRAM. Default 0. */
  readonly tile?: number;
  /** One piece of VRAM, where the largest leaf that fits into it can map it. */
  readonly contiguous?: boolean;
  /** Memory in pages of 64 KiB: mappings must be aligned to them. */
  readonly needs64K?: boolean;
  readonly name?: string;
}

/** A run of pages in one of the copy engine's apertures. */
interface PageRun {
  readonly aperture: number;
  readonly page: number;
  readonly pages: number;
}

const NO_EVICTION_TARGET_BUT_HOME: TtmPlacement = [{ memType: PL_SYSTEM }];
const TO_WINDOW_OR_HOME: TtmPlacement = [{ memType: PL_TT }, { memType: PL_SYSTEM }];

/**
 * A buffer object: memory of the device that address spaces map by VM_BIND.
 *
 * Its bytes are in VRAM, in slots of the system window, or, evicted, in RAM frames that the GPU cannot reach. Whoever uses
 * it validates it first, under its reservation, which may evict others; whoever moves it takes it away from the GPU before
 * the copy is queued.
 * @kernel xe_bo
 */
export class Bo extends GemObject {
  readonly device: SvmDevice;
  /** Of its VRAM. */
  readonly region: VramRegion;
  /** By which VM_BIND calls it. @kernel drm_gem_handle_create */
  readonly handle: number;
  readonly mem: TtmBo<VramOwner>;
  readonly placement: TtmPlacement;
  readonly needs64K: boolean;
  /** The address space that it is private to. */
  readonly vm: SvmVm | null;
  /** Mappings, in all address spaces, whose entries lead to its memory. Under its reservation. */
  readonly bound = new Set<BindVa>();
  /** Of the last copy to RAM: signals when the bytes stand there. */
  #arrival: Completion | null = null;
  #isOpen = true;

  private constructor(device: SvmDevice, options: BoOptions, handle: number) {
    const name = options.name ?? `bo ${handle}`;
    super(name, options.size, options.vm?.binds.gpuvm.rObj.resv ?? new DmaResv(name));
    this.device = device;
    this.region = device.regions[options.tile ?? 0]!;
    this.handle = handle;
    this.vm = options.vm ?? null;
    this.needs64K = options.needs64K ?? false;
    this.placement = placesOf(options);
    const alignment = alignmentOf(options);
    // What an aligned piece has at its end beyond the object stays unused.
    const size = alignUp(options.size, alignment);
    this.mem = new TtmBo<VramOwner>(this, { size, resv: this.resv, alignment });
  }

  /**
   * A buffer full of zeros. -EINVAL: a size that is not whole pages. -ENODEV: the device is being unbound. -ENOMEM: no room even by eviction. -E2BIG: more than
   * there could ever be. Takes its reservation. @kernel xe_gem_create_ioctl, xe_bo_create_user
   */
  static create(device: SvmDevice, options: BoOptions): MaybePromise<Bo | Errno> {
    const unit = options.needs64K === true ? SZ_64K : PAGE_SIZE;
    if (!device.isAlive) return ENODEV;
    if (!Number.isSafeInteger(options.size) || options.size <= 0 || !isAligned(options.size, unit)) return EINVAL;
    return run(createSteps(new Bo(device, options, device.region.takeHandle())));
  }

  get identity(): string {
    return `bo ${this.handle}`;
  }

  /** Bytes lie where the GPU can reach them and where it may be used. */
  get isResident(): boolean {
    const type = this.mem.resource?.memType;
    return this.placement.some((place) => place.memType === type);
  }

  /** As a launch pins it. */
  get inWindow(): boolean {
    return this.memType === PL_TT;
  }
  get mayBeInWindow(): boolean {
    return this.placement.some((place) => place.memType === PL_TT);
  }

  /** PL_VRAM, PL_TT or PL_SYSTEM. */
  get memType(): number {
    return this.mem.resource?.memType ?? PL_SYSTEM;
  }

  /**
   * Brings it to one of `places`; 0 also when it is there. Its reservation is held. Errors: as `TtmDevice.validate`. Other
   * buffers that share the reservation may be evicted for it. @kernel xe_bo_validate
   */
  validate(places = this.placement): MaybePromise<0 | Errno> {
    return run(this.#validate(places));
  }

  *#validate(places: TtmPlacement): Steps<0 | Errno> {
    const { region } = this;
    const isThere = places.some((place) => place.memType === this.memType);
    if (!isThere && this.device.fails("vram-alloc")) return ENOMEM;
    const before = this.mem.resource;
    const ctx = { resv: this.resv, allowResEvict: true };
    let done = yield* wait(region.ttm.validate(this.mem, places, ctx));
    // In the window, what others have mapped gives way as buffers do.
    const isShort = done === ENOMEM && places.some((place) => place.memType === PL_TT);
    if (isShort && (yield* wait(makeWindowRoom(this.device, this.mem.size, "mappings"))))
      done = yield* wait(region.ttm.validate(this.mem, places, ctx));
    region.touch(this);
    if (this.memType === PL_VRAM && this.mem.resource !== before) region.victims.arrived(this);
    return done;
  }

  /** For launches: it stays where it is until unpinned as often. */
  pin(): void {
    this.mem.roundPin();
  }
  unpin(): void {
    this.mem.roundUnpin();
  }

  /** Gives up the handle; the memory goes with the last mapping. @kernel drm_gem_handle_delete */
  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.device.region.objects.delete(this.handle);
    this.put();
  }

  /** Pages `[first, first + pages)` as runs of memory; flags and addresses are the copy engine's. Its reservation is held. */
  *runs(first = 0, pages = this.size / PAGE_SIZE - first): Generator<PageRun> {
    const { resource } = this.mem;
    if (resource !== null) yield* this.#runsOf(resource, first, pages);
  }

  #runsOf(resource: TtmResource<VramOwner>, first: number, pages: number): Generator<PageRun> {
    return runsOf(resource, this.region.base / PAGE_SIZE, this.#frames, first, pages);
  }

  protected override release(): void {
    this.region.ttm.put(this.mem);
  }

  // For the VRAM manager; the reservation is held.

  /** Out of VRAM to the window while it has room, out of the window to RAM. @kernel xe_evict_flags */
  evictFlags(): TtmPlacement {
    return this.memType === PL_VRAM ? TO_WINDOW_OR_HOME : NO_EVICTION_TARGET_BUT_HOME;
  }

  /**
   * The memory is about to change: every mapping loses its entries, and the invalidation stands in the queue before the
   * copy. @kernel xe_bo_move_notify, xe_bo_trigger_rebind
   */
  moveNotify(): void {
    for (const va of this.bound) va.binds.takeAway(va);
    for (const vmBo of this.vmBos) if (vmBo.vm instanceof SvmGpuVm) vmBo.vm.binds.noteEvicted(vmBo);
  }

  /** Queues the copy to `to`. What is still on its way to RAM is waited for, for the upload reads it now. @kernel xe_bo_move */
  move(to: TtmResource<VramOwner>, isEviction: boolean): MaybePromise<Work> {
    if (isEviction) this.#countEviction();
    return run(this.#moveSteps(to));
  }

  /** On whoever maps it first: one object, one eviction. */
  #countEviction(): void {
    for (const { vm } of this.vmBos) {
      if (!(vm instanceof SvmGpuVm)) continue;
      vm.binds.vm.counters.evict += 1;
      break;
    }
    this.device.trace.record("evict", 0, 0, this.size, this.size / PAGE_SIZE);
  }

  *#moveSteps(to: TtmResource<VramOwner>): Steps<Work> {
    if (this.memType === PL_SYSTEM) yield* wait(this.#arrival?.wait());
    const work = this.#copyTo(to);
    if (isErr(work) || !this.device.fails("copy-complete")) return work;
    // What the copy goes to is somebody else's after the refusal.
    if (work instanceof Completion) yield* wait(work.wait());
    return EIO;
  }

  #copyTo(to: TtmResource<VramOwner>): Work {
    const { gpu, sched } = this.device;
    if (gpu.isLost || this.device.fails("copy-submit")) return EIO;
    const list = new PageList();
    const pages = this.size / PAGE_SIZE;
    const into = this.#runsOf(to, 0, pages);
    let target = into.next().value as PageRun;
    let used = 0;
    for (const source of this.runs()) {
      for (let done = 0; done < source.pages;) {
        if (used === target.pages) {
          target = into.next().value as PageRun;
          used = 0;
        }
        const n = Math.min(source.pages - done, target.pages - used);
        list.push(source.aperture, source.page + done, target.aperture, target.page + used, n);
        done += n;
        used += n;
      }
    }
    const arrived = gpu.copy(list);
    if (arrived === null) return null;
    const fence = new Completion();
    const signal = (): void => fence.complete();
    // Also a copy that a lost device never makes is over.
    void sched.external(arrived).then(signal, signal);
    this.#arrival = fence;
    return fence;
  }

  /** Queues zeros over what the last tenant left. */
  clear(blocks: readonly BuddyBlock[]): Work {
    const { gpu } = this.device;
    if (gpu.isLost) return EIO;
    const list = new PageList();
    const firstPage = this.region.base / PAGE_SIZE;
    for (const block of blocks) list.pushClear(apertureOf(block), pageOf(block, firstPage), block.size / PAGE_SIZE);
    void gpu.copy(list);
    return null;
  }

  /** RAM frames for its bytes. -ENOMEM. @kernel xe_ttm_tt_populate */
  populate(): BoFrames | Errno {
    const { phys } = this.device;
    const pfns = new Uint32Array(this.size / PAGE_SIZE);
    const got = phys.allocPages(pfns, pfns.length);
    return got === 0 ? new BoFrames(phys, pfns) : got;
  }

  get #frames(): Uint32Array {
    const { hostPages } = this.mem;
    return hostPages instanceof BoFrames ? hostPages.pfns : NO_FRAMES;
  }
}

const NO_FRAMES = new Uint32Array(0);

/** The RAM frames of an evicted object, in the order of its pages. @kernel ttm_tt */
export class BoFrames {
  readonly pfns: Uint32Array;
  readonly #phys: PhysMemory;

  constructor(phys: PhysMemory, pfns: Uint32Array) {
    this.#phys = phys;
    this.pfns = pfns;
  }

  /** @kernel xe_ttm_tt_unpopulate */
  free(): void {
    for (const pfn of this.pfns) this.#phys.putPage(pfn);
  }
}

function* createSteps(bo: Bo): Steps<Bo | Errno> {
  const { region } = bo;
  const guard = yield* wait(bo.resv.lock());
  let err: 0 | Errno;
  try {
    if (bo.vm !== null) region.ttm.setBulkMove(bo.mem, bo.vm.binds.bulkOf(region));
    err = yield* wait(bo.validate());
  } finally {
    guard.release();
  }
  bo.device.region.objects.set(bo.handle, bo);
  if (err === 0) return bo;
  bo.close();
  return isErr(err) ? err : EBUSY;
}

function alignmentOf({ size, contiguous = false, needs64K = false }: BoOptions): number {
  if (contiguous && size >= SZ_2M) return SZ_2M;
  return needs64K || (contiguous && size >= SZ_64K) ? SZ_64K : PAGE_SIZE;
}

function placesOf({ placement = "vram", contiguous = false }: BoOptions): TtmPlacement {
  const vram = { memType: PL_VRAM, flags: contiguous ? PL_CONTIGUOUS : 0 };
  if (placement === "vram") return [vram];
  return placement === "system" ? [{ memType: PL_TT }] : [vram, { memType: PL_TT, flags: PL_FALLBACK }];
}

/** In its aperture. `firstPage`: of the device's VRAM. */
function pageOf(block: BuddyBlock, firstPage: number): number {
  return block.offset / PAGE_SIZE + (block instanceof WindowBlock ? 0 : firstPage);
}

function apertureOf(block: BuddyBlock): number {
  return block instanceof WindowBlock ? AP_WINDOW : AP_VRAM;
}

/** Pages `[first, first + pages)` of what lies in `resource`: in RAM, whose frames are `frames`, or in VRAM from `firstPage` on. */
function* runsOf(
  resource: TtmResource<VramOwner>,
  firstPage: number,
  frames: Uint32Array,
  first: number,
  pages: number,
): Generator<PageRun> {
  if (resource.memType === PL_SYSTEM) {
    for (let i = first; i < first + pages; i++) yield { aperture: AP_HOST, page: frames[i]!, pages: 1 };
    return;
  }
  let skip = first;
  let left = pages;
  for (const block of resource.blocks) {
    const size = block.size / PAGE_SIZE;
    const n = Math.min(size - skip, left);
    if (n > 0) yield { aperture: apertureOf(block), page: pageOf(block, firstPage) + skip, pages: n };
    if (n > 0) left -= n;
    skip = Math.max(0, skip - size);
    if (left === 0) return;
  }
}

import { PAGE_SIZE, SZ_2M } from "../base/addr.ts";
import type { Pfn } from "../base/addr.ts";
import { causedBy } from "../base/cause.ts";
import { EIO } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { Completion } from "../base/locks.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import type { Scheduler } from "../base/scheduler.ts";
import type { TraceRing } from "../base/trace.ts";
import { AP_HOST, AP_VRAM, PageList } from "../hal/gpu.ts";
import type { Gpu } from "../hal/gpu.ts";
import type { PhysMemory, Shrinker } from "../mm/phys-mem.ts";
import type { DevPagemap } from "../mm/types.ts";
import { USAGE_BOOKKEEP } from "../vram/fence.ts";
import { ShadowTable } from "./shadow-table.ts";
import type { StaleFrames } from "./stale-frames.ts";
import type { SvmBo } from "./svm-bo.ts";
import type { SvmRange } from "./svm-range.ts";
import type { SvmVm } from "./vm.ts";

/** What a lost device may cost at most. */
export interface WriteBackOptions {
  /** A refresh follows every so many rounds of the device. Default 1. */
  readonly rounds?: number;
  /** Bytes that one refresh copies at most, oldest copies first. Default: no limit. */
  readonly bytes?: number;
}

export interface WriteBackStats {
  /** RAM that shadows hold now, bytes. */
  heldBytes: number;
  /** Refreshes that copied something, and what they copied. */
  refreshes: number;
  copiedBytes: number;
  /** Buffers whose shadow was not taken or was given up because RAM was short. */
  dropped: number;
  /** Pages whose copy stayed an older one because RAM was short. */
  postponed: number;
}

/** RAM that shadows leave alone: a chunk of the largest size must always find room to come home to. */
const RESERVE = SZ_2M / PAGE_SIZE;

export interface WriteBackInit {
  readonly gpu: Gpu;
  readonly phys: PhysMemory;
  readonly sched: Scheduler;
  readonly trace: TraceRing;
  readonly options: WriteBackOptions;
  /** Its frames; they are numbered when the memory comes into use. */
  readonly pgmap: DevPagemap;
  readonly npages: number;
  readonly stale: StaleFrames;
  /** Buffers of the device, least recently used first. */
  readonly buffers: () => Iterable<SvmBo>;
}

/**
 * Write-back mode: shadow copies in RAM of the process pages that lie in VRAM, so that a lost device costs no more than
 * what its kernels wrote since the last refresh.
 *
 * Overview. A shadow is taken when a buffer migrates in, from the very frames that are uploaded. After every `rounds`
 * rounds the pages that a kernel may have written since their copy are copied again: those that some range maps writable,
 * or did, while its address space ran a round. The copy is queued behind the round and nobody waits for it; it goes to
 * fresh frames, which take the place of the old ones when all have arrived. So a copy is always that of one moment, and
 * a loss in the middle leaves the one before. Once the device is lost, the copies are what `copyToRam` copies.
 *
 * Memory. Shadows are RAM like any other, and the first to go when RAM runs short (`Shrinker`), whole buffers at a time,
 * least recently used first. Of a lost device none goes: they are all there is.
 *
 * Locking. None: every change is made between two awaits. The engine lock is held where rounds are counted, so a round's
 * number says what had been submitted.
 */
export class WriteBack implements Shrinker {
  readonly reserve = RESERVE;
  readonly stats: WriteBackStats = { heldBytes: 0, refreshes: 0, copiedBytes: 0, dropped: 0, postponed: 0 };
  readonly #init: WriteBackInit;
  readonly #table: ShadowTable;
  readonly #every: number;
  readonly #budget: number;
  readonly #shadowed = new Set<SvmBo>();
  /** VRAM pages that a range maps writable now. */
  readonly #writable = new Map<SvmRange, { readonly vm: SvmVm; readonly pages: readonly number[] }>();
  /** Number of the last round that an address space has submitted. */
  readonly #lastRound = new WeakMap<SvmVm, number>();
  #round = 0;
  #sinceRefresh = 0;
  #refreshing: Promise<void> | null = null;

  constructor(init: WriteBackInit) {
    this.#init = init;
    this.#table = new ShadowTable(init.phys, init.npages);
    this.#every = init.options.rounds ?? 1;
    this.#budget = init.options.bytes ?? Infinity;
    init.phys.addShrinker(this);
  }

  /** Rounds submitted so far. */
  get round(): number {
    return this.#round;
  }

  destroy(): void {
    this.#init.phys.removeShrinker(this);
  }

  // Copies

  /** A buffer is being filled: `pages` are its device frames, `addrs` the RAM pages they are filled from, 0 for zeros. */
  take(bo: SvmBo, pages: Uint32Array, addrs: Float64Array, npages: number): void {
    const { phys } = this.#init;
    let wanted = 0;
    for (let i = 0; i < npages; i++) if (pages[i] !== 0 && addrs[i] !== 0) wanted += 1;
    const frames = new Uint32Array(wanted);
    if (phys.freePages < wanted + RESERVE || phys.allocPages(frames, wanted) !== 0) {
      this.stats.dropped += 1;
      return;
    }
    let next = 0;
    for (let i = 0; i < npages; i++) {
      if (pages[i] === 0) continue;
      const frame = addrs[i] === 0 ? 0 : frames[next++]!;
      if (frame !== 0) phys.copyPage(frame, addrs[i]! / PAGE_SIZE);
      this.#table.put(this.#pageOf(pages[i]!), frame, this.#round);
    }
    this.#shadowed.add(bo);
    this.#count();
  }

  /** The buffer is leaving VRAM, or its content is not wanted any more. */
  forget(bo: SvmBo): void {
    if (!this.#shadowed.delete(bo)) return;
    for (const { offset, size } of bo.blocks) {
      for (let page = offset / PAGE_SIZE; page < (offset + size) / PAGE_SIZE; page++) this.#table.drop(page);
    }
    this.#count();
  }

  /** The device is lost: the slots of a `copyToRam` get their copies. The number of pages; -EIO: not all of them have one. */
  restore(pages: Uint32Array, addrs: Float64Array, npages: number): number | Errno {
    this.countWrites();
    for (let i = 0; i < npages; i++) {
      if (pages[i] !== 0 && addrs[i] !== 0 && !this.#table.has(this.#pageOf(pages[i]!))) return EIO;
    }
    let restored = 0;
    for (let i = 0; i < npages; i++) {
      if (pages[i] === 0 || addrs[i] === 0) continue;
      const page = this.#pageOf(pages[i]!);
      const to = addrs[i]! / PAGE_SIZE;
      this.#table.copyTo(page, to);
      if (this.#table.isStale(page)) this.#init.stale.add(to, this.#table.copiedAt(page));
      restored += 1;
    }
    return restored;
  }

  /** The round whose result the shadow of a device page is, "exact" when it is the page's last, null for none. After `countWrites`. */
  copyOf(pfn: Pfn): number | "exact" | null {
    const page = this.#pageOf(pfn);
    if (!this.#table.has(page)) return null;
    return this.#table.isStale(page) ? this.#table.copiedAt(page) : "exact";
  }

  /** @kernel shrinker.scan_objects */
  shrink(frames: number): void {
    if (this.#init.gpu.isLost) return;
    const enough = this.#table.frames - frames;
    for (const bo of this.#init.buffers()) {
      if (this.#table.frames <= enough) return;
      // The copy of a buffer on its way home is wanted until it has arrived.
      if (bo.isLeaving || !this.#shadowed.has(bo)) continue;
      this.forget(bo);
      this.stats.dropped += 1;
    }
  }

  // Writes

  /** `range` maps these device pages for writing from now on; none when it is zapped. */
  setWritable(vm: SvmVm, range: SvmRange, pages: readonly number[]): void {
    const before = this.#writable.get(range);
    if (before !== undefined) this.#countWritesOf(before.vm, before.pages);
    if (pages.length > 0) this.#writable.set(range, { vm, pages });
    else this.#writable.delete(range);
  }

  forgetVm(vm: SvmVm): void {
    for (const [range, mapping] of this.#writable) if (mapping.vm === vm) this.setWritable(vm, range, []);
  }

  /** A round of `vm` is being submitted. Engine lock held. */
  submitting(vm: SvmVm): void {
    if (this.#init.gpu.isLost) return;
    this.#round += 1;
    this.#lastRound.set(vm, this.#round);
  }

  /** The round is over: queues a refresh where one is due. Engine lock held. */
  roundDone(cause: number): MaybePromise<void> {
    this.#sinceRefresh += 1;
    if (this.#sinceRefresh < this.#every) return undefined;
    this.#sinceRefresh = 0;
    // One at a time. It was queued before this round, so there is next to nothing to wait for.
    if (this.#refreshing !== null) return this.#refreshing.then(() => this.#refresh(cause));
    this.#refresh(cause);
  }

  /** Takes down what rounds so far may have written through the mappings that there are. */
  countWrites(): void {
    for (const { vm, pages } of this.#writable.values()) this.#countWritesOf(vm, pages);
  }

  #countWritesOf(vm: SvmVm, pages: readonly number[]): void {
    const round = this.#lastRound.get(vm) ?? 0;
    for (const pa of pages) this.#table.touch(pa / PAGE_SIZE, round);
  }

  // Refresh

  #refresh(cause: number): void {
    const { gpu, phys, sched, trace } = this.#init;
    if (gpu.isLost) return;
    this.countWrites();
    const staying = [...this.#shadowed].filter((bo) => !bo.isLeaving && bo.departure === null);
    const pages = this.#choose(staying);
    const frames = new Uint32Array(pages.length);
    if (pages.length === 0 || phys.allocPages(frames, pages.length) !== 0) return;
    const copied = new Completion();
    for (const bo of staying) keepUntil(bo, copied);
    const tenancies = pages.map((page) => this.#table.tenancyOf(page));
    const list = new PageList(pages.length);
    for (const [i, page] of pages.entries()) list.push(AP_VRAM, page, AP_HOST, frames[i]!, 1);
    const round = this.#round;
    const arrived = sched.external(gpu.copy(list)!).then(
      () => true,
      (error: unknown) => {
        if (gpu.isLost) return false;
        throw error;
      },
    );
    this.stats.refreshes += 1;
    this.stats.copiedBytes += pages.length * PAGE_SIZE;
    causedBy(cause, () => trace.record("write-back", 0, 0, 0, pages.length));
    const done = arrived.then((good) => this.#finish(pages, frames, tenancies, good ? round : -1));
    void arrived.then(
      () => copied.complete(),
      () => copied.complete(),
    );
    const over = () => {
      this.#refreshing = null;
    };
    this.#refreshing = done.then(over, over);
    sched.defer("driver:write-back", () => done);
  }

  /** What to copy now: within the budget and the room there is, the oldest copies first. */
  #choose(buffers: readonly SvmBo[]): number[] {
    const stale: number[] = [];
    for (const bo of buffers) {
      for (const { offset, size } of bo.blocks)
        this.#table.pushStale(offset / PAGE_SIZE, (offset + size) / PAGE_SIZE, stale);
    }
    const room = Math.max(0, this.#init.phys.freePages - RESERVE);
    const most = Math.min(Math.floor(this.#budget / PAGE_SIZE), room);
    this.stats.postponed += Math.max(0, Math.min(stale.length, Math.floor(this.#budget / PAGE_SIZE)) - room);
    if (stale.length <= most) return stale;
    stale.sort((a, b) => this.#table.copiedAt(a) - this.#table.copiedAt(b) || a - b);
    return stale.slice(0, most).sort((a, b) => a - b);
  }

  /** `round` -1: the device was lost, and what has arrived may not be all. */
  #finish(pages: readonly number[], frames: Uint32Array, tenancies: readonly number[], round: number): void {
    for (const [i, page] of pages.entries()) {
      if (round >= 0 && this.#table.tenancyOf(page) === tenancies[i]) this.#table.replace(page, frames[i]!, round);
      else this.#init.phys.putPage(frames[i]!);
    }
    this.#count();
  }

  #count(): void {
    this.stats.heldBytes = this.#table.frames * PAGE_SIZE;
  }

  #pageOf(pfn: Pfn): number {
    return pfn - this.#init.pgmap.firstPfn;
  }
}

/** The buffer's memory is not given to others before the copy has been made. */
function keepUntil(bo: SvmBo, copied: Completion): void {
  const { resv } = bo.mem;
  const guard = resv.tryLock();
  if (guard === null) return;
  if (resv.reserveFences(1) === 0) resv.addFence(copied, USAGE_BOOKKEEP);
  guard.release();
}

/**
 * The system window: how a GPU reaches RAM pages in place.
 *
 * Overview. A RAM frame is JavaScript memory, which no GPU can address. The GPU reaches it through a *slot*: a page of a
 * GPU buffer that holds a copy, kept by the rules of a bounce buffer. The frame is the home of the data.
 *
 *     state     newest bytes     CPU access to the frame
 *     CLEAN     both equal       direct; a write makes the slot STALE
 *     STALE     frame            direct; the slot must not be read
 *     WRITTEN   maybe the slot   waits for a copy back
 *     BACK      slot             the copy back is under way; waits for it
 *
 * A frame has at most one slot per window; mappings count it. Without mappings it is *cached*: it keeps its frame until
 * its place is wanted, the longest unmapped first. Frames tell the access path by two flags, PG_SLOT (a write must make
 * slots stale) and PG_DEVICE_WRITTEN (WRITTEN or BACK in some window: wait), so that memory without a slot pays nothing.
 *
 * Work that can reach the window is submitted through `submitWith`. Copies go through the `WindowPort` in queue order;
 * those back are gathered until the running code awaits, so an interval is one transfer, never one per page.
 *
 * Places are single pages, so every mapping has order 0: a huge CPU page is mapped in 512. Locking: none; everything but the waiting is synchronous.
 */
import { InvariantError, assert } from "../base/assert.ts";
import { PAGE_SIZE, type Pfn } from "../base/addr.ts";
import { EBUSY, ENOMEM, type Errno } from "../base/errno.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import { mutated } from "../base/mutation.ts";
import { FrameAllocator } from "./frame-allocator.ts";
import { PG_DEVICE_WRITTEN, PG_SLOT } from "./frame-table.ts";
import type { PhysMemory } from "./phys-mem.ts";
import { SlotList } from "./slot-list.ts";
import { SlotSet } from "./slot-set.ts";

export const DMA_BIDIRECTIONAL = 0;
export const DMA_TO_DEVICE = 1;
export type DmaDirection = typeof DMA_BIDIRECTIONAL | typeof DMA_TO_DEVICE;

/** Pages mapped together after which their bytes set out, without waiting for the submission that wants them. */
const EARLY_PAGES = 512;

const FREE = 0;
const CLEAN = 1;
const STALE = 2;
const WRITTEN = 3;
const BACK = 4;

/** Runs of pages: frame `frame + i` belongs to slot `slot + i`, for `i` below `pages`. */
export interface SlotRun {
  readonly frame: Pfn;
  readonly slot: number;
  pages: number;
}

/** The copies of a window. Whatever is queued takes effect in order with the GPU's other work. */
export interface WindowPort {
  /** Queues frame -> slot; the frames' bytes are captured before it returns. */
  copyIn(runs: readonly SlotRun[]): void;
  /** Queues slot -> frame behind all that was submitted; resolves when the bytes stand in the frames. */
  copyOut(runs: readonly SlotRun[]): Promise<void>;
}

interface CopyBack {
  readonly slots: number[];
  readonly done: Promise<void>;
}

/** The window of one device. DMA addresses are byte offsets in it; 0 is never given out. @kernel dma_map_page, swiotlb */
export class SystemWindow {
  readonly #phys: PhysMemory;
  readonly #port: WindowPort;
  readonly #allocator: FrameAllocator;
  // By slot.
  readonly #frame: Uint32Array;
  readonly #state: Uint8Array;
  readonly #nTo: Uint32Array;
  readonly #nBi: Uint32Array;
  /** By RAM frame; 0 is none. */
  readonly #slotOf: Uint32Array;
  /** Slots without mappings, the longest unmapped first. */
  readonly #cached: SlotList;
  /** Mapped slots to copy in before the next submission; may name some that are not STALE any more. */
  readonly #stale: SlotSet;
  /** Pages mapped many at a time since bytes last set out. */
  #mappedSince = 0;
  /** Copies back that are gathered and not yet queued. */
  #gathering: CopyBack | null = null;
  /** Mappings refused because live ones hold all of it. */
  refusals = 0;
  /** By slot in state BACK. */
  readonly #copyingBack = new Map<number, Promise<void>>();

  /** `bytes` of window, a multiple of a page; the first page is not used. */
  constructor(phys: PhysMemory, port: WindowPort, bytes: number) {
    const slots = bytes / PAGE_SIZE;
    assert(Number.isInteger(slots) && slots >= 2, "a system window is at least two whole pages");
    this.#phys = phys;
    this.#port = port;
    this.#allocator = new FrameAllocator(1, slots);
    this.#frame = new Uint32Array(slots);
    this.#state = new Uint8Array(slots);
    this.#nTo = new Uint32Array(slots);
    this.#nBi = new Uint32Array(slots);
    this.#slotOf = new Uint32Array(phys.ramPages);
    this.#cached = new SlotList(slots);
    this.#stale = new SlotSet(slots);
    phys.addWindow(this);
  }

  /** Slots that a mapping could still get at once. */
  get available(): number {
    return this.#allocator.freeFrames + this.#cached.count;
  }

  /** Resolves when the places that only wait for a copy back are free; undefined when there are none. */
  whenPlacesComeFree(): Promise<void> | undefined {
    const waits = new Set<Promise<void>>();
    for (const [slot, done] of this.#copyingBack) if (!this.#isMapped(slot)) waits.add(done);
    return waits.size === 0 ? undefined : Promise.allSettled(waits).then(() => undefined);
  }

  /**
   * The address by which the device reaches RAM frame `pfn`; its bytes are there from the next submission on. The
   * caller maps to-device pages without write permission. -ENOMEM: live mappings hold the whole window. -EBUSY: a place
   * comes free when a copy back ends.
   */
  map(pfn: Pfn, dir: DmaDirection): number | Errno {
    if (this.#phys.fails("dma-map", PAGE_SIZE)) return ENOMEM;
    const slot = this.#slotOf[pfn]! || this.#take(pfn);
    if (slot === 0) return this.#copyingBack.size > 0 ? EBUSY : ENOMEM;
    this.#cached.delete(slot);
    if (dir === DMA_TO_DEVICE) this.#nTo[slot]! += 1;
    else this.#nBi[slot]! += 1;
    if (this.#state[slot] === STALE) this.#stale.add(slot);
    return slot * PAGE_SIZE;
  }

  /** A place for a frame that has none; 0 when all are in use. */
  #take(pfn: Pfn): number {
    const slot = this.#place();
    if (slot === 0) {
      this.refusals += 1;
      return 0;
    }
    this.#frame[slot] = pfn;
    this.#slotOf[pfn] = slot;
    this.#phys.frames.flags[pfn]! |= PG_SLOT;
    this.#state[slot] = STALE;
    return slot;
  }

  /**
   * `map` for each of the `count` frames from `pfns[first]` on; their addresses become `out[0..count)`. Returns how many
   * were mapped: fewer where one could not be, and none behind that.
   *
   * The bytes of much that is mapped set out at once, so that they are on their way while more is being mapped. What the CPU
   * writes from then on makes them stale, as ever.
   */
  mapPages(pfns: ArrayLike<Pfn>, first: number, count: number, dir: DmaDirection, out: Float64Array): number {
    const phys = this.#phys;
    const [slotOf, state, cached, stale] = [this.#slotOf, this.#state, this.#cached, this.#stale];
    const counts = dir === DMA_TO_DEVICE ? this.#nTo : this.#nBi;
    for (let i = 0; i < count; i++) {
      if (phys.failpoint !== null && phys.fails("dma-map", PAGE_SIZE)) return i;
      const pfn = pfns[first + i]!;
      const slot = slotOf[pfn]! || this.#take(pfn);
      if (slot === 0) return i;
      cached.delete(slot);
      counts[slot]! += 1;
      if (state[slot] === STALE) stale.add(slot);
      out[i] = slot * PAGE_SIZE;
    }
    this.#mappedSince += count;
    if (this.#mappedSince >= EARLY_PAGES) this.#syncForDevice();
    return count;
  }

  /**
   * Takes pages that hold no copy of a frame and are the home of a device's own buffer, in as few ascending runs as there
   * can be: all, or -ENOMEM where live mappings hold too many, -EBUSY where some come free when a copy back ends.
   */
  own(pages: number): number[] | Errno {
    if (this.available < pages) return this.#copyingBack.size > 0 ? EBUSY : ENOMEM;
    this.#allocator.wantRun(pages);
    return Array.from({ length: pages }, () => this.#place()).sort((a, b) => a - b);
  }

  /** Gives them back. The device may still read them in work that is queued already. */
  disown(pages: readonly number[]): void {
    for (const page of pages) this.#allocator.free(page);
  }

  /**
   * Undoes a `map`; the device can no longer use the address. When the result has come, what it wrote stands in the
   * frame.
   */
  unmap(addr: number, dir: DmaDirection): MaybePromise<void> {
    const slot = this.#uncount(addr, dir);
    const state = this.#state[slot]!;
    if (state === WRITTEN && this.#nBi[slot] === 0) this.#copyBack(slot);
    else if (state !== BACK) {
      this.#cacheIfUnused(slot);
      return undefined;
    }
    return this.#copyingBack.get(slot);
  }

  /** `unmap` for each of the `count` addresses from `addrs[first]` on; the result is that of all. */
  unmapPages(addrs: ArrayLike<number>, first: number, count: number, dir: DmaDirection): MaybePromise<void> {
    let one: Promise<void> | null = null;
    let several: Set<Promise<void>> | null = null;
    for (let i = first; i < first + count; i++) {
      const done = this.unmap(addrs[i]!, dir);
      // Mostly one transfer brings them all.
      if (done === undefined || done === one) continue;
      if (one === null) one = done;
      else (several ??= new Set([one])).add(done);
    }
    if (several !== null) return Promise.all(several).then(() => undefined);
    return one ?? undefined;
  }

  /** As `unmap`, for a page whose content is being discarded: nothing is copied back. */
  unmapDiscarded(addr: number, dir: DmaDirection): MaybePromise<void> {
    const slot = this.#uncount(addr, dir);
    if (this.#nBi[slot] === 0 && this.#state[slot] === WRITTEN) this.#settle(slot, STALE);
    const done = this.#copyingBack.get(slot);
    if (done === undefined) this.#cacheIfUnused(slot);
    return done;
  }

  /**
   * Calls `submit`, which submits work that can reach the window and may write the bidirectionally mapped pages at
   * `writes`, once every slot has the newest bytes. CPU accesses that wait for one of `writes` finish first, and nothing
   * comes between the last copy in and `submit`. Every replay round is a submission of its own. A function is asked anew
   * after each wait: pages may have been unmapped meanwhile.
   */
  submitWith<T>(writes: readonly number[] | (() => readonly number[]), submit: () => T): MaybePromise<T> {
    const writable = typeof writes === "function" ? writes() : writes;
    const waits = this.#beforeSubmission(writable);
    if (waits.length > 0)
      return Promise.all(waits).then(() => this.submitWith(mutated("stale-writes") ? writable : writes, submit));
    this.#syncForDevice();
    assert(this.#stale.isEmpty, "work is submitted that reads what another device has not brought home");
    for (const addr of writable) this.#mark(addr / PAGE_SIZE);
    return submit();
  }

  /** What a submission has to wait for. */
  #beforeSubmission(writes: readonly number[]): Promise<void>[] {
    const { flags } = this.#phys.frames;
    const waits: Promise<void>[] = [];
    for (const addr of writes) {
      const done = this.#copyingBack.get(addr / PAGE_SIZE);
      if (done !== undefined) waits.push(done);
    }
    for (let slot = this.#stale.next(0); slot >= 0; slot = this.#stale.next(slot + 1)) {
      // STALE here and written elsewhere: the other device's bytes come home first.
      const pfn = this.#frame[slot]!;
      const isElsewhere = this.#needsCopyIn(slot) && (flags[pfn]! & PG_DEVICE_WRITTEN) !== 0;
      const home = isElsewhere ? this.#phys.syncForCpu(pfn) : undefined;
      if (home !== undefined) waits.push(home);
    }
    return waits;
  }

  /** Every mapped slot gets the bytes of its frame where those are newer, and home already. */
  #syncForDevice(): void {
    this.#mappedSince = 0;
    const { flags } = this.#phys.frames;
    const runs: SlotRun[] = [];
    for (let slot = this.#stale.next(0); slot >= 0; slot = this.#stale.next(slot + 1)) {
      const pfn = this.#frame[slot]!;
      const isWanted = this.#needsCopyIn(slot);
      if (isWanted && (flags[pfn]! & PG_DEVICE_WRITTEN) !== 0) continue;
      this.#stale.delete(slot);
      if (!isWanted) continue;
      this.#state[slot] = CLEAN;
      appendRun(runs, pfn, slot);
    }
    if (runs.length > 0 && !mutated("window-copy-in-skipped")) this.#port.copyIn(runs);
  }

  #mark(slot: number): void {
    assert(this.#nBi[slot]! > 0, () => `window page ${slot} is to be written but not mapped for it`);
    const pfn = this.#frame[slot]!;
    this.#phys.slotsBecomeStale(pfn, this);
    this.#state[slot] = WRITTEN;
    this.#phys.frames.flags[pfn]! |= PG_DEVICE_WRITTEN;
  }

  /** Before the CPU touches the frame: resolves when what this device wrote stands there; undefined if it wrote nothing. */
  syncForCpu(pfn: Pfn): Promise<void> | undefined {
    const slot = this.#slotOf[pfn]!;
    if (slot === 0) return undefined;
    if (this.#state[slot] === WRITTEN) this.#copyBack(slot);
    return this.#copyingBack.get(slot);
  }

  /** The frame has newer bytes than the slot: the CPU wrote it, or another device is about to. */
  becomeStale(pfn: Pfn): void {
    const slot = this.#slotOf[pfn]!;
    if (slot === 0 || this.#state[slot] !== CLEAN) return;
    this.#state[slot] = STALE;
    if (this.#isMapped(slot)) this.#stale.add(slot);
  }

  /** The frame is being freed: its slot goes without a copy. Not while it is mapped. */
  forget(pfn: Pfn): void {
    const slot = this.#slotOf[pfn]!;
    if (slot === 0) return;
    assert(!this.#isMapped(slot), () => `page ${pfn} was freed while a device has it mapped`);
    assert(!this.#copyingBack.has(slot), () => `page ${pfn} was freed while its bytes come back`);
    this.#drop(slot);
  }

  /**
   * The device is lost, mappings or not: asks for everything that it wrote, so that the port can say of each frame that the
   * bytes never come and nobody finds a frame waiting for them.
   */
  abandon(): void {
    for (let slot = 1; slot < this.#state.length; slot++) if (this.#state[slot] === WRITTEN) this.#copyBack(slot);
  }

  /** The device goes. Everything is unmapped and nothing is coming back. */
  destroy(): void {
    assert(this.#copyingBack.size === 0, "a system window is destroyed while bytes come back");
    for (let slot = this.#cached.oldest; slot !== 0; slot = this.#cached.oldest) this.#drop(slot);
    assert(
      this.#allocator.freeFrames === this.#state.length - 1,
      "a system window is destroyed while pages are mapped",
    );
    this.#phys.removeWindow(this);
  }

  #isMapped(slot: number): boolean {
    return this.#nTo[slot]! + this.#nBi[slot]! > 0;
  }

  #needsCopyIn(slot: number): boolean {
    return this.#state[slot] === STALE && this.#isMapped(slot);
  }

  #uncount(addr: number, dir: DmaDirection): number {
    const slot = addr / PAGE_SIZE;
    const counts = dir === DMA_TO_DEVICE ? this.#nTo : this.#nBi;
    if (counts[slot] === 0) refuseUnmap(slot);
    counts[slot]! -= 1;
    return slot;
  }

  #cacheIfUnused(slot: number): void {
    if (!this.#isMapped(slot)) this.#cached.add(slot);
  }

  /** A free slot, taken; the place of a cached one if need be; 0 when all are in use. */
  #place(): number {
    if (this.#allocator.freeFrames > 0) return this.#allocator.alloc();
    const { oldest } = this.#cached;
    if (oldest !== 0) this.#forgetFrame(oldest);
    return oldest;
  }

  #drop(slot: number): void {
    this.#forgetFrame(slot);
    this.#allocator.free(slot);
  }

  /** The slot holds a copy of nothing any more. */
  #forgetFrame(slot: number): void {
    const pfn = this.#frame[slot]!;
    this.#cached.delete(slot);
    this.#state[slot] = FREE;
    this.#slotOf[pfn] = 0;
    this.#phys.slotGone(pfn);
  }

  hasSlot(pfn: Pfn): boolean {
    return this.#slotOf[pfn] !== 0;
  }

  /** Leaves WRITTEN or BACK. */
  #settle(slot: number, state: typeof CLEAN | typeof STALE): void {
    this.#state[slot] = state;
    this.#phys.frames.flags[this.#frame[slot]!]! &= ~PG_DEVICE_WRITTEN;
    if (state === STALE && this.#isMapped(slot)) this.#stale.add(slot);
  }

  #copyBack(slot: number): void {
    this.#state[slot] = BACK;
    this.#gathering ??= this.#gather();
    this.#gathering.slots.push(slot);
    this.#copyingBack.set(slot, this.#gathering.done);
  }

  /** A transfer that takes in every slot that asks until the running code awaits. */
  #gather(): CopyBack {
    const slots: number[] = [];
    const done = this.#transferBack(slots);
    // A device that is lost rejects every waiter; a transfer that nobody waits for must not end the program.
    done.catch(() => {});
    return { slots, done };
  }

  async #transferBack(slots: readonly number[]): Promise<void> {
    await Promise.resolve();
    this.#gathering = null;
    const runs: SlotRun[] = [];
    for (const slot of slots.toSorted((a, b) => a - b)) appendRun(runs, this.#frame[slot]!, slot);
    try {
      await this.#phys.sched.external(this.#port.copyOut(runs));
    } finally {
      // After a loss the frames keep the bytes of their last copy back.
      for (const slot of slots) {
        this.#copyingBack.delete(slot);
        this.#settle(slot, CLEAN);
        this.#cacheIfUnused(slot);
      }
    }
  }
}

function refuseUnmap(slot: number): never {
  throw new InvariantError(`window page ${slot} was unmapped more often than mapped`);
}

function appendRun(runs: SlotRun[], frame: Pfn, slot: number): void {
  const last = runs.at(-1);
  if (last !== undefined && last.frame + last.pages === frame && last.slot + last.pages === slot) last.pages += 1;
  else runs.push({ frame, slot, pages: 1 });
}

import { PAGE_SIZE, SZ_2M, type Pfn, alignUp } from "../base/addr.ts";
import { InvariantError } from "../base/assert.ts";
import { EIO, isErr } from "../base/errno.ts";
import { type Platform, Scheduler } from "../base/scheduler.ts";
import { TraceRing } from "../base/trace.ts";
import { SvmDevice } from "../driver/device.ts";
import type { Gpu } from "../hal/gpu.ts";
import { PhysMemory } from "../mm/phys-mem.ts";
import { createReferenceGpu } from "../reference/reference-gpu.ts";
import { Hardware } from "./hardware.ts";
import { type CopyFailures, NO_FAILURES } from "./program.ts";

/** How much of everything a machine has; page counts. */
export interface RigSize {
  readonly ram: number;
  readonly window: number;
  readonly tables: number;
}

/** As small as the races allow, because checks look at all of it. */
const SMALL: RigSize = { ram: 192, window: 96, tables: 32 };
/** Room for some folios of 2 MiB, with the heap at a border of as much. */
const HUGE: RigSize = { ram: 5 * 512, window: 3 * 512, tables: 512 };
const SWAP_PAGES = 64;
/** Page tables take at most this part of VRAM. */
const TABLE_SHARE = 4;

/** What the explorer needs of its host: `tick` calls back when every promise chain has run until it waits. */
export interface Host {
  readonly tick: (f: () => void) => void;
}

/**
 * A machine as small as the races allow: RAM, and one device. It outlives schedules that leave nothing behind, since to
 * make one takes longer than to run one.
 */
export class Rig {
  /** Bytes of VRAM for data. */
  readonly heapBytes: number;
  readonly sched: Scheduler;
  readonly phys: PhysMemory;
  readonly gpu: Gpu;
  readonly hardware: Hardware;
  readonly device: SvmDevice;
  /** By address in the window: which frame, and how often. */
  readonly dmaLive = new Map<number, { readonly pfn: Pfn; count: number }>();
  /** RAM frames that are free when nothing runs. */
  readonly freeAtRest: number;
  /** Schedules that it has gone through. */
  uses = 0;
  /** Its device has been unbound. */
  isSpent = false;
  /** Asked after every scheduling step, when nothing can go on by itself: false stops everything for good. */
  onStep: () => boolean = () => true;
  readonly #host: Host;
  /** Milliseconds outside of races, which have a clock of their own and must not end in the future. */
  #time = 0;
  #failures = NO_FAILURES;
  #copies = { toDevice: 0, toRam: 0 };

  constructor(heapBytes: number, isHuge: boolean, host: Host) {
    const size = isHuge ? HUGE : SMALL;
    const ptBytes = size.tables * PAGE_SIZE;
    this.heapBytes = heapBytes;
    this.#host = host;
    this.sched = new Scheduler(this.#platform());
    this.phys = new PhysMemory({
      ram: new Uint8Array(size.ram * PAGE_SIZE),
      sched: this.sched,
      poisonFreed: true,
      swapPages: SWAP_PAGES,
    });
    this.gpu = createReferenceGpu(
      {
        vramBytes: alignUp(Math.max(ptBytes + heapBytes, TABLE_SHARE * ptBytes), SZ_2M),
        ptBytes,
        syswBytes: size.window * PAGE_SIZE,
        faultQueueCapacity: 64,
        hostMemory: this.phys.ram,
      },
      { systemAtomics: true },
    );
    this.hardware = new Hardware(this.gpu);
    const device = SvmDevice.create({
      gpu: this.gpu,
      heapBytes,
      phys: this.phys,
      sched: this.sched,
      trace: new TraceRing(16, () => this.sched.now()),
    });
    if (isErr(device)) throw new InvariantError("no device");
    this.device = device;
    this.#watchDma();
    this.#watchCopies();
    this.freeAtRest = this.phys.freePages;
  }

  /** Resolves when nothing can go on by itself; see `Host`. */
  turn(): Promise<void> {
    return new Promise<void>((resume) => {
      this.#host.tick(() => {
        this.#time = Math.max(this.#time, this.sched.now());
        if (this.onStep()) resume();
      });
    });
  }

  #platform(): Platform {
    return {
      turn: () => this.turn(),
      now: () => this.#time,
      sleep: (ms) => {
        this.#time += ms;
        return this.turn();
      },
    };
  }

  /** Which copies fail from now on. */
  failCopies(failures: CopyFailures): void {
    this.#failures = failures;
    this.#copies = { toDevice: 0, toRam: 0 };
  }

  #watchCopies(): void {
    const { ops } = this.device.region;
    const toDevice = ops.copyToDevmem.bind(ops);
    const toRam = ops.copyToRam.bind(ops);
    ops.copyToDevmem = (...args) =>
      this.#failures.toDevice.includes(++this.#copies.toDevice) ? EIO : toDevice(...args);
    ops.copyToRam = (...args) => (this.#failures.toRam.includes(++this.#copies.toRam) ? EIO : toRam(...args));
  }

  #watchDma(): void {
    const { dma } = this.device;
    const map = dma.dmaMapPage.bind(dma);
    dma.dmaMapPage = (pfn, order, dir) => {
      const addr = map(pfn, order, dir);
      if (!isErr(addr)) this.#noteMapped(addr, pfn);
      return addr;
    };
    const unmap = dma.dmaUnmapPage.bind(dma);
    dma.dmaUnmapPage = (addr, order, dir) => {
      this.#noteUnmapped(addr);
      return unmap(addr, order, dir);
    };
    const mapPages = dma.dmaMapPages!.bind(dma);
    dma.dmaMapPages = (pfns, first, count, dir, out) => {
      const before = out.count;
      const mapped = mapPages(pfns, first, count, dir, out);
      for (let i = 0; i < mapped; i++) this.#noteMapped(out.addr[before + i]!, pfns[first + i]!);
      return mapped;
    };
    const unmapPages = dma.dmaUnmapPages!.bind(dma);
    dma.dmaUnmapPages = (addrs, first, count, dir) => {
      for (let i = first; i < first + count; i++) this.#noteUnmapped(addrs[i]!);
      return unmapPages(addrs, first, count, dir);
    };
  }

  #noteMapped(addr: number, pfn: Pfn): void {
    const live = this.dmaLive.get(addr);
    if (live === undefined) this.dmaLive.set(addr, { pfn, count: 1 });
    else live.count += 1;
  }

  #noteUnmapped(addr: number): void {
    const live = this.dmaLive.get(addr);
    if (live === undefined) throw new InvariantError(`window address ${addr} was unmapped but not mapped (I16)`);
    live.count -= 1;
    if (live.count === 0) this.dmaLive.delete(addr);
  }
}

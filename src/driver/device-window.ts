import { PAGE_SIZE } from "../base/addr.ts";
import type { Pfn } from "../base/addr.ts";
import { ENOMEM, isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import type { GpuSvmDevice } from "../gpusvm/ops.ts";
import { AP_HOST, AP_WINDOW, PageList } from "../hal/gpu.ts";
import type { Gpu } from "../hal/gpu.ts";
import { DMA_BIDIRECTIONAL, DMA_TO_DEVICE, SystemWindow } from "../mm/dma.ts";
import type { SlotRun } from "../mm/dma.ts";
import type { PhysMemory } from "../mm/phys-mem.ts";
import { DRM_INTERCONNECT_SYSTEM } from "../pagemap/pagemap-addr.ts";
import type { DmaDirection, PagemapAddrArray } from "../pagemap/pagemap-addr.ts";
import type { StaleFrames } from "./stale-frames.ts";

/**
 * System memory as one device reaches it: the window of `mm`, with the device's copy engine behind it
 * (spec/device.md 4.7).
 */
export class DeviceWindow implements GpuSvmDevice {
  /** The window's places are single pages, wherever there is one. */
  readonly dmaMaxOrder = 0;
  readonly #gpu: Gpu;
  readonly #window: SystemWindow;
  /** Of its window in the hardware's, which devices of one card share: bytes. */
  readonly #base: number;
  /** Frames whose newest bytes went with the device; they keep those of their last copy back. */
  readonly #stale: StaleFrames;

  constructor(gpu: Gpu, phys: PhysMemory, stale: StaleFrames, base = 0) {
    this.#gpu = gpu;
    this.#base = base;
    this.#stale = stale;
    const port = {
      copyIn: (runs: readonly SlotRun[]) => void gpu.copy(this.#listOf(runs, true)),
      copyOut: (runs: readonly SlotRun[]) => this.#copyOut(runs),
    };
    this.#window = new SystemWindow(phys, port, gpu.info.syswBytes);
    void gpu.lost.then(() => this.#window.abandon());
  }

  /** Whoever waits for the bytes gets on with the older ones when the device is gone. */
  async #copyOut(runs: readonly SlotRun[]): Promise<void> {
    try {
      await this.#gpu.copy(this.#listOf(runs, false));
    } catch (error) {
      if (!this.#gpu.isLost) throw error;
      for (const { frame, pages } of runs) for (let i = 0; i < pages; i++) this.#stale.add(frame + i, null);
    }
  }

  dmaMapPage(pfn: Pfn, _order: number, dir: DmaDirection): number | Errno {
    const addr = this.#window.map(pfn, windowDirection(dir));
    return isErr(addr) ? addr : addr + this.#base;
  }

  dmaUnmapPage(addr: number, _order: number, dir: DmaDirection): MaybePromise<void> {
    return this.#window.unmap(addr - this.#base, windowDirection(dir));
  }

  dmaMapPages(pfns: Float64Array, first: number, count: number, dir: DmaDirection, out: PagemapAddrArray): number {
    const addrs = scratchOf(count);
    const mapped = this.#window.mapPages(pfns, first, count, windowDirection(dir), addrs);
    out.pushPages(addrs, mapped, this.#base, DRM_INTERCONNECT_SYSTEM, dir);
    return mapped;
  }

  dmaUnmapPages(addrs: Float64Array, first: number, count: number, dir: DmaDirection): MaybePromise<void> {
    let own = addrs;
    let from = first;
    if (this.#base !== 0) {
      own = scratchOf(count);
      from = 0;
      for (let i = 0; i < count; i++) own[i] = addrs[first + i]! - this.#base;
    }
    return this.#window.unmapPages(own, from, count, windowDirection(dir));
  }

  /** Bytes that a mapping could still get at once. */
  get available(): number {
    return this.#window.available * PAGE_SIZE;
  }
  /** Bytes that can be mapped together; its first page never is. */
  get capacity(): number {
    return this.#gpu.info.syswBytes - PAGE_SIZE;
  }
  /** Mappings refused because live ones hold all of it. */
  get refusals(): number {
    return this.#window.refusals;
  }
  /** Undefined when no place comes free just by waiting. */
  whenPlacesComeFree(): Promise<void> | undefined {
    return this.#window.whenPlacesComeFree();
  }

  /** Pages for a buffer of the device, which no frame has a copy in. -ENOMEM or -EBUSY when there are not so many. */
  own(pages: number): number[] | Errno {
    const owned = this.#window.own(pages);
    return isErr(owned) ? owned : owned.map((page) => page + this.#basePage);
  }
  disown(pages: readonly number[]): void {
    this.#window.disown(pages.map((page) => page - this.#basePage));
  }

  submitWith<T>(writes: () => readonly number[], submit: () => Promise<T>): MaybePromise<Promise<T>> {
    const own = () => writes().map((addr) => addr - this.#base);
    return this.#window.submitWith(this.#base === 0 ? writes : own, submit);
  }

  destroy(): void {
    this.#window.destroy();
  }

  get #basePage(): number {
    return this.#base / PAGE_SIZE;
  }

  #listOf(runs: readonly SlotRun[], toDevice: boolean): PageList {
    const list = new PageList(runs.length);
    for (const { frame, slot, pages } of runs) {
      const page = slot + this.#basePage;
      if (toDevice) list.push(AP_HOST, frame, AP_WINDOW, page, pages);
      else list.push(AP_WINDOW, page, AP_HOST, frame, pages);
    }
    return list;
  }
}

/** For a device without a window: nothing can be mapped in place. */
export const NO_WINDOW: GpuSvmDevice = {
  dmaMapPage: () => ENOMEM,
  dmaUnmapPage: () => undefined,
};

/** Addresses of a call that is under way: none waits, so one array is enough. */
let scratch = new Float64Array(512);

function scratchOf(count: number): Float64Array {
  if (scratch.length < count) scratch = new Float64Array(count);
  return scratch;
}

function windowDirection(dir: DmaDirection): typeof DMA_BIDIRECTIONAL | typeof DMA_TO_DEVICE {
  return dir === DMA_TO_DEVICE ? DMA_TO_DEVICE : DMA_BIDIRECTIONAL;
}

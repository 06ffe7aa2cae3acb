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
import type { DmaDirection } from "../pagemap/pagemap-addr.ts";
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
  refusals = 0;
  /** Frames whose newest bytes went with the device; they keep those of their last copy back. */
  readonly #stale: StaleFrames;

  constructor(gpu: Gpu, phys: PhysMemory, stale: StaleFrames) {
    this.#gpu = gpu;
    this.#stale = stale;
    const port = {
      copyIn: (runs: readonly SlotRun[]) => void gpu.copy(listOf(runs, true)),
      copyOut: (runs: readonly SlotRun[]) => this.#copyOut(runs),
    };
    this.#window = new SystemWindow(phys, port, gpu.info.syswBytes);
    void gpu.lost.then(() => this.#window.abandon());
  }

  /** Whoever waits for the bytes gets on with the older ones when the device is gone. */
  async #copyOut(runs: readonly SlotRun[]): Promise<void> {
    try {
      await this.#gpu.copy(listOf(runs, false));
    } catch (error) {
      if (!this.#gpu.isLost) throw error;
      for (const { frame, pages } of runs) for (let i = 0; i < pages; i++) this.#stale.add(frame + i, null);
    }
  }

  dmaMapPage(pfn: Pfn, _order: number, dir: DmaDirection): number | Errno {
    const addr = this.#window.map(pfn, windowDirection(dir));
    if (isErr(addr)) this.refusals += 1;
    return addr;
  }

  dmaUnmapPage(addr: number, _order: number, dir: DmaDirection): MaybePromise<void> {
    return this.#window.unmap(addr, windowDirection(dir));
  }

  /** Pages for a buffer of the device, which no frame has a copy in. -ENOMEM or -EBUSY when there are not so many. */
  own(pages: number): number[] | Errno {
    return this.#window.own(pages);
  }
  disown(pages: readonly number[]): void {
    this.#window.disown(pages);
  }

  submitWith<T>(writes: readonly number[], submit: () => Promise<T>): MaybePromise<Promise<T>> {
    return this.#window.submitWith(writes, submit);
  }

  destroy(): void {
    this.#window.destroy();
  }
}

/** For a device without a window: nothing can be mapped in place. */
export const NO_WINDOW: GpuSvmDevice = {
  dmaMapPage: () => ENOMEM,
  dmaUnmapPage: () => undefined,
};

function windowDirection(dir: DmaDirection): typeof DMA_BIDIRECTIONAL | typeof DMA_TO_DEVICE {
  return dir === DMA_TO_DEVICE ? DMA_TO_DEVICE : DMA_BIDIRECTIONAL;
}

function listOf(runs: readonly SlotRun[], toDevice: boolean): PageList {
  const list = new PageList(runs.length);
  for (const { frame, slot, pages } of runs) {
    if (toDevice) list.push(AP_HOST, frame, AP_WINDOW, slot, pages);
    else list.push(AP_WINDOW, slot, AP_HOST, frame, pages);
  }
  return list;
}

import type { Pfn } from "../base/addr.ts";
import { ENOMEM, isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { DeviceLostError } from "../base/errors.ts";
import { type MaybePromise, isPromise } from "../base/maybe-promise.ts";
import type { GpuSvmDevice } from "../gpusvm/ops.ts";
import { AP_HOST, AP_WINDOW, PageList } from "../hal/gpu.ts";
import type { Gpu } from "../hal/gpu.ts";
import { DMA_BIDIRECTIONAL, DMA_TO_DEVICE, SystemWindow } from "../mm/dma.ts";
import type { SlotRun } from "../mm/dma.ts";
import type { PhysMemory } from "../mm/phys-mem.ts";
import type { DmaDirection } from "../pagemap/pagemap-addr.ts";

/**
 * System memory as one device reaches it: the window of `mm`, with the device's copy engine behind it
 * (spec/device.md 4.7).
 */
export class DeviceWindow implements GpuSvmDevice {
  readonly #window: SystemWindow;
  refusals = 0;

  constructor(gpu: Gpu, phys: PhysMemory) {
    const port = {
      copyIn: (runs: readonly SlotRun[]) => void gpu.copy(listOf(runs, true)),
      copyOut: (runs: readonly SlotRun[]) => gpu.copy(listOf(runs, false)) ?? Promise.resolve(),
    };
    this.#window = new SystemWindow(phys, port, gpu.info.syswBytes);
  }

  dmaMapPage(pfn: Pfn, _order: number, dir: DmaDirection): number | Errno {
    const addr = this.#window.map(pfn, windowDirection(dir));
    if (isErr(addr)) this.refusals += 1;
    return addr;
  }

  dmaUnmapPage(addr: number, _order: number, dir: DmaDirection): MaybePromise<void> {
    const done = this.#window.unmap(addr, windowDirection(dir));
    return isPromise(done) ? done.catch(ignoreLoss) : done;
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

/** With the device gone the frames keep the bytes of their last copy back; whoever unmaps must get on. */
function ignoreLoss(error: unknown): void {
  if (!(error instanceof DeviceLostError)) throw error;
}

/**
 * The emulated GPU on WebGPU: the only room that knows WebGPU's types.
 *
 *     const gpu = await createGpu({ vramBytes: 64 << 20, ptBytes: 4 << 20, syswBytes: 0, faultQueueCapacity: 4096, hostMemory });
 *     gpu.ptWrite(pa, encodeLeaf(page, PTE_W | PTE_AE | PTE_DM, 0));
 */
import type { Gpu, GpuConfig } from "../hal/gpu.ts";
import { WebGpu } from "./gpu.ts";
import { requestGpuDevice } from "./acquire.ts";
import type { AcquiredDevice } from "./acquire.ts";
import type { GpuOptions } from "./gpu.ts";

export { describeAdapter, requestGpuDevice } from "./acquire.ts";
export type { AcquiredDevice, AcquireOptions, AdapterDescription } from "./acquire.ts";
export type { GpuOptions } from "./gpu.ts";

/**
 * A GPU on a fresh adapter. Rejects with UnsupportedError (no WebGPU, no adapter), ConfigError (sizes that this adapter
 * cannot have) or GpuError (out of memory).
 */
export function createGpu(config: GpuConfig, options: GpuOptions = {}): Promise<Gpu> {
  return WebGpu.create(config, options);
}

/**
 * What makes GPUs: one WebGPU device that carries any number of them. `createGpu` is synchronous; what WebGPU finds wrong
 * afterwards rejects the first thing that is asked of the GPU.
 */
export class WebGpuEngine {
  readonly name = "webgpu";
  readonly acquired: AcquiredDevice;
  readonly #options: GpuOptions;

  private constructor(acquired: AcquiredDevice, options: GpuOptions) {
    this.acquired = acquired;
    this.#options = options;
  }

  /** Rejects with UnsupportedError, which says what is missing and how to get it. */
  static async prepare(options: GpuOptions = {}): Promise<WebGpuEngine> {
    return new WebGpuEngine(await requestGpuDevice(options), options);
  }

  createGpu(config: GpuConfig): Gpu {
    return WebGpu.createOn(this.acquired, config, this.#options);
  }

  destroy(): void {
    this.acquired.device.destroy();
  }
}

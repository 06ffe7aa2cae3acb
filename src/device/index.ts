/**
 * The emulated GPU on WebGPU: the only room that knows WebGPU's types.
 *
 *     const gpu = await createGpu({ vramBytes: 64 << 20, ptBytes: 4 << 20, syswBytes: 0, faultQueueCapacity: 4096, hostMemory });
 *     gpu.ptWrite(pa, encodeLeaf(page, PTE_W | PTE_AE | PTE_DM, 0));
 */
import { ConfigError, DeviceLostError } from "../base/errors.ts";
import type { Gpu, GpuConfig } from "../hal/gpu.ts";
import { WebGpu } from "./gpu.ts";
import { requestGpuDevice } from "./acquire.ts";
import type { AcquiredDevice } from "./acquire.ts";
import { planGeometry } from "./geometry.ts";
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
  readonly #options: GpuOptions;
  #acquired: AcquiredDevice;
  #loss: GPUDeviceLostInfo | null = null;

  private constructor(acquired: AcquiredDevice, options: GpuOptions) {
    this.#options = options;
    this.#acquired = acquired;
    this.#watch(acquired);
  }

  /** Rejects with UnsupportedError, which says what is missing and how to get it. */
  static async prepare(options: GpuOptions = {}): Promise<WebGpuEngine> {
    return new WebGpuEngine(await requestGpuDevice(options), options);
  }

  get acquired(): AcquiredDevice {
    return this.#acquired;
  }

  /** The WebGPU device is gone, and with it every GPU that it carried. */
  get isLost(): boolean {
    return this.#loss !== null;
  }

  /**
   * After a loss: a fresh adapter and device; GPUs made from now on live there. Does nothing while the device lives. Rejects
   * with UnsupportedError when the browser gives no adapter any more.
   */
  async renew(): Promise<void> {
    if (this.#loss === null) return;
    const acquired = await requestGpuDevice(this.#options);
    this.#loss = null;
    this.#acquired = acquired;
    this.#watch(acquired);
  }

  /** Throws ConfigError, or DeviceLostError when the device is gone and was not renewed. */
  createGpu(config: GpuConfig): Gpu {
    if (this.#loss !== null) throw new DeviceLostError(this.#loss.reason, this.#loss.message);
    return WebGpu.createOn(this.#acquired, config, this.#options);
  }

  /** Whether the adapter can bind the memory of such a GPU; `createGpu` says what is wrong if not. */
  fits(config: GpuConfig): boolean {
    try {
      planGeometry(config, this.#acquired.limits, this.#options);
      return true;
    } catch (error) {
      if (error instanceof ConfigError) return false;
      throw error;
    }
  }

  destroy(): void {
    this.#acquired.device.destroy();
  }

  #watch(acquired: AcquiredDevice): void {
    void acquired.device.lost.then((info) => {
      if (acquired === this.#acquired) this.#loss = info;
    });
  }
}

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
import { calibratePaths } from "./calibrate.ts";
import type { CalibrationHost, CopyPaths } from "./calibrate.ts";
import { planGeometry } from "./geometry.ts";
import type { GpuOptions } from "./gpu.ts";
import { defaultTable } from "./path-choice.ts";

export type { CalibrationHost, CopyPaths, PathCache } from "./calibrate.ts";
export { checkTable } from "./path-choice.ts";
export type { PathTable } from "./path-choice.ts";
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

export interface EngineOptions extends GpuOptions {
  /** Measure which way pages move best, instead of `copyPaths` or the default; kept where `calibration.cache` is given. */
  readonly calibration?: CalibrationHost;
}

/**
 * What makes GPUs: one WebGPU device that carries any number of them. `createGpu` is synchronous; what WebGPU finds wrong
 * afterwards rejects the first thing that is asked of the GPU.
 */
export class WebGpuEngine {
  readonly name = "webgpu";
  readonly #options: EngineOptions;
  #acquired: AcquiredDevice;
  #copyPaths: CopyPaths;
  #loss: GPUDeviceLostInfo | null = null;

  private constructor(acquired: AcquiredDevice, copyPaths: CopyPaths, options: EngineOptions) {
    this.#options = options;
    this.#acquired = acquired;
    this.#copyPaths = copyPaths;
    this.#watch(acquired);
  }

  /** Rejects with UnsupportedError, which says what is missing and how to get it. */
  static async prepare(options: EngineOptions = {}): Promise<WebGpuEngine> {
    const acquired = await requestGpuDevice(options);
    return new WebGpuEngine(acquired, await choosePaths(acquired, options), options);
  }

  get acquired(): AcquiredDevice {
    return this.#acquired;
  }

  /** What the copy engines of its GPUs choose by. */
  get copyPaths(): CopyPaths {
    return this.#copyPaths;
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
    this.#copyPaths = await choosePaths(acquired, this.#options);
    this.#loss = null;
    this.#acquired = acquired;
    this.#watch(acquired);
  }

  /** Throws ConfigError, or DeviceLostError when the device is gone and was not renewed. */
  createGpu(config: GpuConfig): Gpu {
    if (this.#loss !== null) throw new DeviceLostError(this.#loss.reason, this.#loss.message);
    return WebGpu.createOn(this.#acquired, config, { ...this.#options, copyPaths: this.#copyPaths.table });
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

async function choosePaths(acquired: AcquiredDevice, { calibration, copyPaths }: EngineOptions): Promise<CopyPaths> {
  if (calibration !== undefined) return calibratePaths(acquired, calibration);
  if (copyPaths !== undefined) return { source: "pinned", table: copyPaths };
  return { source: "default", table: defaultTable(acquired.adapter.fallback) };
}

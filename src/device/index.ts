/**
 * The emulated GPU on WebGPU: the only room that knows WebGPU's types.
 *
 *     const gpu = await createGpu({ vramBytes: 64 << 20, ptBytes: 4 << 20, syswBytes: 0, faultQueueCapacity: 4096, hostMemory });
 *     gpu.ptWrite(pa, encodeLeaf(page, PTE_W | PTE_AE | PTE_DM, 0));
 */
import type { Gpu, GpuConfig } from "../hal/gpu.ts";
import { WebGpu } from "./gpu.ts";
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

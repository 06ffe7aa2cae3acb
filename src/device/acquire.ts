import { UnsupportedError } from "../base/errors.ts";
import type { MemoryLimits } from "./geometry.ts";

/** How an adapter is chosen. */
export interface AcquireOptions {
  /** `"adapter"` asks for what the adapter has, up to what the device can use; `"default"` for WebGPU's defaults. */
  readonly limits?: "adapter" | "default";
  readonly powerPreference?: "low-power" | "high-performance";
}

export interface AdapterDescription {
  readonly vendor: string;
  readonly architecture: string;
  readonly description: string;
  /** True for a software adapter. */
  readonly fallback: boolean;
}

export interface AcquiredDevice {
  readonly device: GPUDevice;
  readonly adapter: AdapterDescription;
  readonly limits: Readonly<Record<string, number>> & MemoryLimits;
  readonly features: readonly string[];
}

/** What the device makes use of. More is not asked for: an adapter is free to make higher limits slower. */
const WANTED: Readonly<Record<string, number>> = {
  maxBufferSize: 2 ** 30,
  maxStorageBufferBindingSize: 2 ** 30,
  maxStorageBuffersPerShaderStage: 16,
};
/** Used where offered; nothing depends on them. */
const WANTED_FEATURES: readonly GPUFeatureName[] = ["timestamp-query", "subgroups"];

const HINT =
  "Use a current Chrome or Edge. Where it has no GPU, start it with --enable-unsafe-webgpu --enable-features=Vulkan " +
  "--use-vulkan=swiftshader --use-angle=swiftshader; WebGPU needs https or localhost.";

/** A device with negotiated limits. Rejects with UnsupportedError, which says what is missing and how to get it. */
export async function requestGpuDevice(options: AcquireOptions = {}): Promise<AcquiredDevice> {
  const adapter = await requestAdapter(options);
  const requiredLimits: Record<string, number> = {};
  if (options.limits !== "default") {
    for (const [name, wanted] of Object.entries(WANTED)) {
      requiredLimits[name] = Math.min(wanted, adapter.limits[name as keyof GPUSupportedLimits] as number);
    }
  }
  const requiredFeatures = WANTED_FEATURES.filter((name) => adapter.features.has(name));
  let device: GPUDevice;
  try {
    device = await adapter.requestDevice({ label: "webgpu-svm", requiredLimits, requiredFeatures });
  } catch (error) {
    throw new UnsupportedError([`a WebGPU device (${error instanceof Error ? error.message : String(error)})`], HINT);
  }
  return {
    device,
    adapter: describe(adapter.info),
    limits: numbers(device.limits) as AcquiredDevice["limits"],
    features: [...device.features].sort(),
  };
}

/** The adapter's own words and limits, without making a device. Rejects with UnsupportedError. */
export async function describeAdapter(
  options: AcquireOptions = {},
): Promise<{ adapter: AdapterDescription; limits: Readonly<Record<string, number>>; features: readonly string[] }> {
  const adapter = await requestAdapter(options);
  return {
    adapter: describe(adapter.info),
    limits: numbers(adapter.limits),
    features: [...adapter.features].sort(),
  };
}

async function requestAdapter(options: AcquireOptions): Promise<GPUAdapter> {
  // An adapter is consumed by one requestDevice, so each caller gets a fresh one.
  const gpu = (globalThis.navigator as Navigator | undefined)?.gpu;
  if (gpu === undefined) throw new UnsupportedError(["WebGPU (navigator.gpu)"], HINT);
  const powerPreference = options.powerPreference;
  const adapter = await gpu.requestAdapter(powerPreference === undefined ? {} : { powerPreference });
  if (adapter === null) throw new UnsupportedError(["a WebGPU adapter"], HINT);
  return adapter;
}

function describe(info: GPUAdapterInfo): AdapterDescription {
  return {
    vendor: info.vendor,
    architecture: info.architecture,
    description: info.description,
    fallback: info.isFallbackAdapter,
  };
}

/** Limits are getters of the prototype, which no copy takes along by itself. */
function numbers(limits: GPUSupportedLimits): Record<string, number> {
  const result: Record<string, number> = {};
  for (const name in limits) {
    const value = limits[name as keyof GPUSupportedLimits];
    if (typeof value === "number") result[name] = value;
  }
  return result;
}

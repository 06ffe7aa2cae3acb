import { WebGpuEngine } from "../device/index.ts";
import { ConfigError } from "../base/errors.ts";
import { createReferenceGpu } from "../reference/reference-gpu.ts";
import type { Engine } from "./machine.ts";

export type EngineName = "webgpu" | "reference";

export interface EngineOptions {
  /** `"adapter"`: what the adapter has, up to what is of use; `"default"`: WebGPU's default limits. */
  readonly limits?: "adapter" | "default";
  /** A smaller bound on the bytes of one buffer of VRAM than the adapter's; a power of two. */
  readonly maxSegBytes?: number;
}

/** The plain engine: the oracle of tests, and the fast one for exploring schedules. Runs kernels that have a TypeScript form. */
export const REFERENCE_ENGINE: Engine = {
  name: "reference",
  isLost: false,
  renew: () => Promise.resolve(),
  createGpu: (config) => createReferenceGpu(config, { systemAtomics: true }),
  destroy: () => undefined,
};

/** An engine to make a machine with. Rejects with UnsupportedError where WebGPU is missing. */
export async function prepareEngine(name: EngineName = "webgpu", options: EngineOptions = {}): Promise<Engine> {
  if (name === "reference") return REFERENCE_ENGINE;
  if (name !== "webgpu")
    throw new ConfigError("engine", `"webgpu" or "reference" is wanted, not ${JSON.stringify(name)}`);
  return WebGpuEngine.prepare({ ...options, systemAtomics: true });
}

import { checkTable, WebGpuEngine } from "../device/index.ts";
import type { EngineOptions as DeviceEngineOptions, PathTable } from "../device/index.ts";
import { ConfigError } from "../base/errors.ts";
import { createReferenceGpu } from "../reference/reference-gpu.ts";
import type { Engine } from "./machine.ts";
import { pathCache } from "./path-cache.ts";
import { hostPlatform } from "./platform.ts";

export type EngineName = "webgpu" | "reference";

export interface EngineOptions {
  /** `"adapter"`: what the adapter has, up to what is of use; `"default"`: WebGPU's default limits. */
  readonly limits?: "adapter" | "default";
  /** A smaller bound on the bytes of one buffer of VRAM than the adapter's; a power of two. */
  readonly maxSegBytes?: number;
  /**
   * How the copy engine chooses the way that pages go, by the size and the shape of a list (docs/copy-paths.md). `"default"`:
   * what suits the kind of adapter, the same every time. `"calibrate"`: what is quickest here, which takes less than a second
   * to measure and is kept for this browser and adapter. A table pins the choice: one that `engine.copyPaths` told, or
   * one's own. What moves is the same bytes each way.
   */
  readonly copyPaths?: "calibrate" | "default" | PathTable;
  /**
   * Whether batches of translations look into the TLB before they walk; what they give is the same. `"auto"`, the default: as
   * long as most of them hit.
   */
  readonly tlb?: "auto" | "on" | "off";
}

/** The plain engine: the oracle of tests, and the fast one for exploring schedules. Runs kernels that have a TypeScript form. */
export const REFERENCE_ENGINE: Engine = {
  name: "reference",
  isLost: false,
  renew: () => Promise.resolve(),
  createGpu: (config) => createReferenceGpu(config, { systemAtomics: true }),
  destroy: () => undefined,
};

/** An engine to make a machine with. Rejects with UnsupportedError where WebGPU is missing, ConfigError for a wrong option. */
export async function prepareEngine(name: EngineName = "webgpu", options: EngineOptions = {}): Promise<Engine> {
  if (name === "reference") return REFERENCE_ENGINE;
  if (name !== "webgpu")
    throw new ConfigError("engine", `"webgpu" or "reference" is wanted, not ${JSON.stringify(name)}`);
  const { copyPaths = "default", ...rest } = options;
  if (rest.tlb !== undefined && !["auto", "on", "off"].includes(rest.tlb))
    throw new ConfigError("engine.tlb", `"auto", "on" or "off" is wanted, not ${JSON.stringify(rest.tlb)}`);
  return WebGpuEngine.prepare({ ...rest, ...choiceOf(copyPaths), systemAtomics: true });
}

function choiceOf(copyPaths: NonNullable<EngineOptions["copyPaths"]>): DeviceEngineOptions {
  if (copyPaths === "default") return {};
  if (copyPaths !== "calibrate") return { copyPaths: checkTable(copyPaths) };
  const platform = hostPlatform();
  return { calibration: { now: () => platform.now(), cache: pathCache } };
}

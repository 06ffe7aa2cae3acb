import { gridOf } from "./commands.ts";
import type { Geometry } from "./geometry.ts";
import { walkShaders } from "./shaders.ts";

/** Invocations that look for what the first pass has left: few, because a software adapter pays for each. */
const REST_INVOCATIONS = 2048;

/** What the batch translator is told (`job` of shaders/walk.wgsl). */
export function walkJob(requests: number): Uint32Array<ArrayBuffer> {
  return new Uint32Array([requests, restInvocations(requests), 0, 0]);
}

/** `classes`: bit c where the TLB is looked into for leaves of class c; null: it is not looked into at all. */
export interface WalkForm {
  readonly tile: number;
  readonly requests: number;
  readonly classes: number | null;
}

/** The pipelines of the batch translator. Each is made when it is first wanted: most programs want few of them. */
export class WalkPipelines {
  readonly #device: GPUDevice;
  readonly #geometry: Geometry;
  readonly #layout: GPUPipelineLayout;
  /** By tile. */
  readonly #modules: GPUShaderModule[] = [];
  readonly #made = new Map<string, GPUComputePipeline>();

  /** `layout`: the tables of a tile, then job, requests, results. */
  constructor(device: GPUDevice, geometry: Geometry, layout: GPUPipelineLayout) {
    this.#device = device;
    this.#geometry = geometry;
    this.#layout = layout;
  }

  /** Records the translation of as many requests; groups 0 and 1 are bound. */
  dispatch(pass: GPUComputePassEncoder, { tile, requests, classes }: WalkForm): void {
    const rest = restInvocations(requests) / 64;
    const grid = gridOf(Math.ceil(requests / 64));
    if (classes === null) {
      pass.setPipeline(this.#pipeline(tile, "batch"));
      pass.dispatchWorkgroups(...grid);
    } else {
      pass.setPipeline(this.#pipeline(tile, "batch_probe", { PROBE_CLASSES: classes }));
      pass.dispatchWorkgroups(...grid);
      pass.setPipeline(this.#pipeline(tile, "batch_walk"));
      pass.dispatchWorkgroups(rest);
    }
    pass.setPipeline(this.#pipeline(tile, "batch_rest", { USE_TLB: classes === null ? 0 : 1 }));
    pass.dispatchWorkgroups(rest);
  }

  #pipeline(tile: number, entryPoint: string, constants: Record<string, number> = {}): GPUComputePipeline {
    const key = [tile, entryPoint, ...Object.values(constants)].join(" ");
    let pipeline = this.#made.get(key);
    if (pipeline === undefined) {
      const compute = { module: this.#moduleOf(tile), entryPoint, constants };
      pipeline = this.#device.createComputePipeline({ label: `walk ${key}`, layout: this.#layout, compute });
      this.#made.set(key, pipeline);
    }
    return pipeline;
  }

  #moduleOf(tile: number): GPUShaderModule {
    const label = `walk, tile ${tile}`;
    this.#modules[tile] ??= this.#device.createShaderModule({
      label,
      code: walkShaders(this.#geometry, tile).walk.code,
    });
    return this.#modules[tile];
  }
}

function restInvocations(requests: number): number {
  return Math.min(Math.ceil(requests / 64) * 64, REST_INVOCATIONS);
}

import type { ComposedShader } from "../abi/compose.ts";
import { bankCount } from "./banks.ts";
import type { Geometry } from "./geometry.ts";
import { engineShaders, walkShaders } from "./shaders.ts";
import { WalkPipelines } from "./walk-pass.ts";
import { PagePipelines } from "./ways/page-pipelines.ts";

/** The bind group layouts and pipelines of the engines. */
export interface Pipelines {
  /** Group 0 of the table engines: segment 0, ctl and faultq of a tile. */
  readonly tables: GPUBindGroupLayout;
  /** Group 0 of user kernels: all banks, ctl and faultq of a tile. */
  readonly kernelMemory: GPUBindGroupLayout;
  /** Group 1 of user kernels: launch parameters (dynamic offset), private buffer. */
  readonly kernelLaunch: GPUBindGroupLayout;
  readonly kernelLayout: GPUPipelineLayout;
  /** Group 1 of the batch translator: job, requests, results. */
  readonly requests: GPUBindGroupLayout;
  /** Group 0 of the copy engine: destination, source. */
  readonly copyBuffers: GPUBindGroupLayout;
  /** Group 0 of fill and PT_WRITE: destination. */
  readonly oneBuffer: GPUBindGroupLayout;
  /** Group 1 of the list engines: the job list (dynamic offset). */
  readonly jobs: GPUBindGroupLayout;

  /** The batch translator. */
  readonly walk: WalkPipelines;
  /** By tile. */
  readonly miss: readonly GPUComputePipeline[];
  readonly tlbFill: GPUComputePipeline;
  readonly tlbFillDone: GPUComputePipeline;
  readonly tlbInvalidate: GPUComputePipeline;
  readonly tlbInvalidateDone: GPUComputePipeline;
  readonly pteWrite: GPUComputePipeline;
  /** Copies and fills of page lists. */
  readonly pages: PagePipelines;
}

/**
 * Nothing is waited for: WebGPU compiles behind the scenes, and errors arrive in the scopes of the caller.
 */
export function createPipelines(device: GPUDevice, geometry: Geometry): Pipelines {
  const pages = PagePipelines.of(device);
  const layouts = createLayouts(device, geometry, pages);
  const shaders = engineShaders(geometry);
  const layout = (...groups: GPUBindGroupLayout[]) => device.createPipelineLayout({ bindGroupLayouts: groups });
  const moduleOf = (label: string, { code }: ComposedShader) => device.createShaderModule({ label, code });
  const module = (name: keyof typeof shaders) => moduleOf(name, shaders[name]);
  const byTile = geometry.shape.tileBytes.map((_, tile) => walkShaders(geometry, tile));
  const make = (
    label: string,
    code: GPUShaderModule,
    entryPoint: string,
    pipelineLayout: GPUPipelineLayout,
    constants: Record<string, number> = {},
  ) =>
    device.createComputePipeline({
      label,
      layout: pipelineLayout,
      compute: { module: code, entryPoint, constants },
    });

  const tlb = module("tlb");
  const tablesOnly = layout(layouts.tables);
  const walkLayout = layout(layouts.tables, layouts.requests);
  const oneLayout = layout(layouts.oneBuffer, layouts.jobs);
  return {
    ...layouts,
    walk: new WalkPipelines(device, geometry, walkLayout),
    miss: byTile.map(({ miss }) => make("miss", moduleOf("miss", miss), "miss", tablesOnly)),
    tlbFill: make("tlb fill", tlb, "fill", tablesOnly),
    tlbFillDone: make("tlb fill done", tlb, "fill_done", tablesOnly),
    tlbInvalidate: make("tlb invalidate", tlb, "invalidate", tablesOnly),
    tlbInvalidateDone: make("tlb invalidate done", tlb, "invalidate_done", tablesOnly),
    pteWrite: make("pte write", module("pteWrite"), "pte_write", oneLayout),
    pages,
  };
}

function createLayouts(device: GPUDevice, geometry: Geometry, pages: PagePipelines) {
  const group = (label: string, buffers: GPUBufferBindingLayout[]) =>
    device.createBindGroupLayout({
      label,
      entries: buffers.map((buffer, binding) => ({ binding, visibility: GPUShaderStage.COMPUTE, buffer })),
    });
  const rw: GPUBufferBindingLayout = { type: "storage" };
  const ro: GPUBufferBindingLayout = { type: "read-only-storage" };
  const kernelMemory = group(
    "kernel memory",
    Array.from({ length: bankCount(geometry) + 2 }, () => rw),
  );
  const kernelLaunch = group("kernel launch", [{ type: "uniform", hasDynamicOffset: true }, rw]);
  return {
    tables: group("tables", [rw, rw, rw]),
    kernelMemory,
    kernelLaunch,
    kernelLayout: device.createPipelineLayout({ bindGroupLayouts: [kernelMemory, kernelLaunch] }),
    requests: group("requests", [{ type: "uniform" }, ro, rw]),
    copyBuffers: pages.copyBuffers,
    oneBuffer: pages.oneBuffer,
    jobs: pages.jobs,
  };
}

import type { ComposedShader } from "../abi/compose.ts";
import { bankCount } from "./banks.ts";
import type { Geometry } from "./geometry.ts";
import { engineShaders, walkShaders } from "./shaders.ts";

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

  /** By tile: the batch translator, and what does the requests that it leaves (walk-pass.ts). */
  readonly walk: readonly GPUComputePipeline[];
  readonly walkRest: readonly GPUComputePipeline[];
  readonly miss: readonly GPUComputePipeline[];
  readonly tlbFill: GPUComputePipeline;
  readonly tlbFillDone: GPUComputePipeline;
  readonly tlbInvalidate: GPUComputePipeline;
  readonly tlbInvalidateDone: GPUComputePipeline;
  readonly copy: GPUComputePipeline;
  readonly copySame: GPUComputePipeline;
  readonly fill: GPUComputePipeline;
  readonly pteWrite: GPUComputePipeline;
}

/**
 * `pagePerWorkgroup`: the shape of the copy shaders, see copy.wgsl. `usesTlb`: off, translations walk, and their shader has no TLB in it. Nothing is waited for: WebGPU compiles behind the
 * scenes, and errors arrive in the scopes of the caller.
 */
export function createPipelines(
  device: GPUDevice,
  geometry: Geometry,
  pagePerWorkgroup: boolean,
  usesTlb = true,
): Pipelines {
  const layouts = createLayouts(device, geometry);
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

  const shape = { PAGE_PER_WORKGROUP: pagePerWorkgroup ? 1 : 0, WORKGROUP: pagePerWorkgroup ? 256 : 64 };
  const tlb = module("tlb");
  const copy = module("copy");
  const tablesOnly = layout(layouts.tables);
  const copyLayout = layout(layouts.copyBuffers, layouts.jobs);
  const walkLayout = layout(layouts.tables, layouts.requests);
  const walkModules = byTile.map(({ walk }) => moduleOf("walk", walk));
  const walkShape = { USE_TLB: usesTlb ? 1 : 0 };
  const oneLayout = layout(layouts.oneBuffer, layouts.jobs);
  return {
    ...layouts,
    walk: walkModules.map((code) => make("walk", code, "batch", walkLayout, walkShape)),
    walkRest: walkModules.map((code) => make("walk rest", code, "batch_rest", walkLayout, walkShape)),
    miss: byTile.map(({ miss }) => make("miss", moduleOf("miss", miss), "miss", tablesOnly, { USE_TLB: 0 })),
    tlbFill: make("tlb fill", tlb, "fill", tablesOnly),
    tlbFillDone: make("tlb fill done", tlb, "fill_done", tablesOnly),
    tlbInvalidate: make("tlb invalidate", tlb, "invalidate", tablesOnly),
    tlbInvalidateDone: make("tlb invalidate done", tlb, "invalidate_done", tablesOnly),
    copy: make("copy", copy, "copy_pages", copyLayout, shape),
    copySame: make("copy in one bank", copy, "copy_pages", copyLayout, { ...shape, SAME_BUFFER: 1 }),
    fill: make("fill", module("fill"), "fill_pages", oneLayout, shape),
    pteWrite: make("pte write", module("pteWrite"), "pte_write", oneLayout),
  };
}

function createLayouts(device: GPUDevice, geometry: Geometry) {
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
    copyBuffers: group("copy buffers", [rw, ro]),
    oneBuffer: group("one buffer", [rw]),
    jobs: group("jobs", [{ type: "read-only-storage", hasDynamicOffset: true }]),
  };
}

import { bankCount } from "./banks.ts";
import type { Geometry } from "./geometry.ts";
import { inErrorScopes } from "./health.ts";
import { engineShaders } from "./shaders.ts";

/** The bind group layouts and pipelines of the engines. */
export interface Pipelines {
  /** Group 0 of the table engines: segment 0, ctl, faultq. */
  readonly tables: GPUBindGroupLayout;
  /** Group 0 of user kernels: all banks, ctl, faultq. */
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

  readonly walk: GPUComputePipeline;
  readonly miss: GPUComputePipeline;
  readonly tlbFill: GPUComputePipeline;
  readonly tlbFillDone: GPUComputePipeline;
  readonly tlbInvalidate: GPUComputePipeline;
  readonly tlbInvalidateDone: GPUComputePipeline;
  readonly copy: GPUComputePipeline;
  readonly copySame: GPUComputePipeline;
  readonly fill: GPUComputePipeline;
  readonly pteWrite: GPUComputePipeline;
}

/** `pagePerWorkgroup`: the shape of the copy shaders, see copy.wgsl. */
export async function createPipelines(device: GPUDevice, geometry: Geometry, pagePerWorkgroup: boolean): Promise<Pipelines> {
  return inErrorScopes(device, "pipelines", async () => {
    const layouts = createLayouts(device, geometry);
    const shaders = engineShaders(geometry);
    const layout = (...groups: GPUBindGroupLayout[]) => device.createPipelineLayout({ bindGroupLayouts: groups });
    const module = (name: keyof typeof shaders) =>
      device.createShaderModule({ label: name, code: shaders[name].code });
    const make = (
      label: string,
      code: GPUShaderModule,
      entryPoint: string,
      pipelineLayout: GPUPipelineLayout,
      constants: Record<string, number> = {},
    ) =>
      device.createComputePipelineAsync({
        label,
        layout: pipelineLayout,
        compute: { module: code, entryPoint, constants },
      });

    const shape = { PAGE_PER_WORKGROUP: pagePerWorkgroup ? 1 : 0, WORKGROUP: pagePerWorkgroup ? 256 : 64 };
    const tlb = module("tlb");
    const copy = module("copy");
    const tablesOnly = layout(layouts.tables);
    const copyLayout = layout(layouts.copyBuffers, layouts.jobs);
    const oneLayout = layout(layouts.oneBuffer, layouts.jobs);
    const [walk, miss, tlbFill, tlbFillDone, tlbInvalidate, tlbInvalidateDone, copyOther, copySame, fill, pteWrite] =
      await Promise.all([
        make("walk", module("walk"), "batch", layout(layouts.tables, layouts.requests)),
        make("miss", module("miss"), "miss", tablesOnly, { USE_TLB: 0 }),
        make("tlb fill", tlb, "fill", tablesOnly),
        make("tlb fill done", tlb, "fill_done", tablesOnly),
        make("tlb invalidate", tlb, "invalidate", tablesOnly),
        make("tlb invalidate done", tlb, "invalidate_done", tablesOnly),
        make("copy", copy, "copy_pages", copyLayout, shape),
        make("copy in one bank", copy, "copy_pages", copyLayout, { ...shape, SAME_BUFFER: 1 }),
        make("fill", module("fill"), "fill_pages", oneLayout, shape),
        make("pte write", module("pteWrite"), "pte_write", oneLayout),
      ]);
    return {
      ...layouts,
      walk: walk!,
      miss: miss!,
      tlbFill: tlbFill!,
      tlbFillDone: tlbFillDone!,
      tlbInvalidate: tlbInvalidate!,
      tlbInvalidateDone: tlbInvalidateDone!,
      copy: copyOther!,
      copySame: copySame!,
      fill: fill!,
      pteWrite: pteWrite!,
    };
  });
}

function createLayouts(device: GPUDevice, geometry: Geometry) {
  const group = (label: string, buffers: GPUBufferBindingLayout[]) =>
    device.createBindGroupLayout({
      label,
      entries: buffers.map((buffer, binding) => ({ binding, visibility: GPUShaderStage.COMPUTE, buffer })),
    });
  const rw: GPUBufferBindingLayout = { type: "storage" };
  const ro: GPUBufferBindingLayout = { type: "read-only-storage" };
  const kernelMemory = group("kernel memory", Array.from({ length: bankCount(geometry) + 2 }, () => rw));
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

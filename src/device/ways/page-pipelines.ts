import copyWgsl from "../../../shaders/copy.wgsl?raw";
import fillWgsl from "../../../shaders/fill.wgsl?raw";

const CODE = { copy: copyWgsl, fill: fillWgsl };

/** The shape of the page kernels, see copy.wgsl: hardware wants a workgroup per page, software an invocation. */
export type KernelShape = "p/wg" | "p/inv";

const byDevice = new WeakMap<GPUDevice, PagePipelines>();

/** Pipelines are compiled when they are first asked for: 100 ms each on a software adapter. */
export class PagePipelines {
  /** Group 0 of copies: destination, source. */
  readonly copyBuffers: GPUBindGroupLayout;
  /** Group 0 of fills: destination. */
  readonly oneBuffer: GPUBindGroupLayout;
  /** Group 1: the page list (dynamic offset). */
  readonly jobs: GPUBindGroupLayout;
  readonly #device: GPUDevice;
  readonly #modules = new Map<string, GPUShaderModule>();
  readonly #made = new Map<string, GPUComputePipeline>();

  /** Those of a device, which all that copies on it shares. */
  static of(device: GPUDevice): PagePipelines {
    const shared = byDevice.get(device) ?? new PagePipelines(device);
    byDevice.set(device, shared);
    return shared;
  }

  private constructor(device: GPUDevice) {
    this.#device = device;
    const group = (label: string, buffers: GPUBufferBindingLayout[]) =>
      device.createBindGroupLayout({
        label,
        entries: buffers.map((buffer, binding) => ({ binding, visibility: GPUShaderStage.COMPUTE, buffer })),
      });
    this.copyBuffers = group("copy buffers", [{ type: "storage" }, { type: "read-only-storage" }]);
    this.oneBuffer = group("one buffer", [{ type: "storage" }]);
    this.jobs = group("jobs", [{ type: "read-only-storage", hasDynamicOffset: true }]);
  }

  /** `same`: source and destination are one buffer. */
  copy(shape: KernelShape, same: boolean): GPUComputePipeline {
    const constants = same ? { ...constantsOf(shape), SAME_BUFFER: 1 } : constantsOf(shape);
    return this.#pipeline(`copy ${shape}${same ? " in one bank" : ""}`, "copy", "copy_pages", constants);
  }

  fill(shape: KernelShape): GPUComputePipeline {
    return this.#pipeline(`fill ${shape}`, "fill", "fill_pages", constantsOf(shape));
  }

  #pipeline(
    label: string,
    source: keyof typeof CODE,
    entryPoint: string,
    constants: Record<string, number>,
  ): GPUComputePipeline {
    let pipeline = this.#made.get(label);
    if (pipeline === undefined) {
      const buffers = source === "copy" ? this.copyBuffers : this.oneBuffer;
      pipeline = this.#device.createComputePipeline({
        label,
        layout: this.#device.createPipelineLayout({ bindGroupLayouts: [buffers, this.jobs] }),
        compute: { module: this.#module(source), entryPoint, constants },
      });
      this.#made.set(label, pipeline);
    }
    return pipeline;
  }

  #module(source: keyof typeof CODE): GPUShaderModule {
    let module = this.#modules.get(source);
    if (module === undefined) {
      module = this.#device.createShaderModule({ label: source, code: CODE[source] });
      this.#modules.set(source, module);
    }
    return module;
  }
}

function constantsOf(shape: KernelShape): Record<string, number> {
  return shape === "p/wg" ? { PAGE_PER_WORKGROUP: 1, WORKGROUP: 256 } : { PAGE_PER_WORKGROUP: 0, WORKGROUP: 64 };
}

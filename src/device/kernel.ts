import { ConfigError, GpuError } from "../base/errors.ts";
import type { ComposedShader } from "../abi/compose.ts";
import { DESIGN_IDEMPOTENT, DESIGN_ITEM, DESIGN_PREFAULT } from "../abi/tables.ts";
import type { Kernel, KernelDesign, KernelSource } from "../hal/gpu.ts";
import type { Geometry } from "./geometry.ts";
import { inErrorScopes } from "./health.ts";
import type { Pipelines } from "./pipelines.ts";
import { kernelShader } from "./shaders.ts";
import type { KernelShape } from "./shaders.ts";

/** Entry points of a kernel's module. */
type Entry = "svm_main" | "svm_prefault_buffers" | "svm_prefault_items";

const DESIGNS: Readonly<Record<KernelDesign, number>> = {
  item: DESIGN_ITEM,
  workgroup: DESIGN_ITEM,
  idempotent: DESIGN_IDEMPOTENT,
  prefault: DESIGN_PREFAULT,
};

/** A compiled user kernel: a module per tile, one pipeline per entry point and number of page-table levels. */
export class WebGpuKernel implements Kernel {
  readonly name: string;
  readonly design: KernelDesign;
  /** True when items have continuation words. */
  readonly usesCont: boolean;
  /** True when the kernel has a pre-pass of its own, `fn prefault(item: u32)`. */
  readonly prefaultsItems: boolean;
  readonly #workgroupSize: number;
  readonly #device: GPUDevice;
  readonly #geometry: Geometry;
  readonly #source: KernelSource;
  readonly #shape: KernelShape;
  /** By tile. */
  readonly #modules: GPUShaderModule[];
  readonly #layout: GPUPipelineLayout;
  readonly #pipelines = new Map<string, GPUComputePipeline>();

  private constructor(
    device: GPUDevice,
    geometry: Geometry,
    source: KernelSource,
    shape: KernelShape,
    module: GPUShaderModule,
    layout: GPUPipelineLayout,
  ) {
    this.name = source.name;
    this.design = shape.design;
    this.usesCont = /\bsvm_(set_)?cont\b/.test(source.wgsl);
    this.prefaultsItems = shape.prefaultsItems;
    this.#workgroupSize = source.workgroupSize ?? 64;
    this.#device = device;
    this.#geometry = geometry;
    this.#source = source;
    this.#shape = shape;
    this.#modules = [module];
    this.#layout = layout;
  }

  /** Rejects with GpuError; the message names the file, line and column where the WGSL is wrong. */
  static async compile(
    device: GPUDevice,
    geometry: Geometry,
    pipelines: Pipelines,
    source: KernelSource,
  ): Promise<WebGpuKernel> {
    const file = `${source.name}.wgsl`;
    const shape: KernelShape = {
      atomics: source.atomics === true,
      design: source.design ?? "item",
      prefaultsItems: source.design === "prefault" && /\bfn\s+prefault\b/.test(source.wgsl),
    };
    const module = await createModule(device, file, kernelShader(geometry, file, source.wgsl, shape, 0));
    const kernel = new WebGpuKernel(device, geometry, source, shape, module, pipelines.kernelLayout);
    const entries: Entry[] = ["svm_main", ...(shape.prefaultsItems ? (["svm_prefault_items"] as const) : [])];
    await Promise.all(entries.map((entry) => kernel.#prepare(entry, file)));
    return kernel;
  }

  /** Work items or workgroups per workgroup of the dispatch. */
  get itemsPerWorkgroup(): number {
    return this.design === "workgroup" ? 1 : 64;
  }

  /** The pipeline for address spaces of 4 or 5 levels on a tile. The rare ones are made when they are first wanted. */
  pipeline(levels: number, entry: Entry = "svm_main", tile = 0): GPUComputePipeline {
    const key = `${entry} ${levels} ${tile}`;
    let pipeline = this.#pipelines.get(key);
    if (pipeline === undefined) {
      if (levels !== 4 && levels !== 5) throw new ConfigError("asid", "the address space is not set up");
      pipeline = this.#device.createComputePipeline(this.#descriptor(entry, levels, tile));
      this.#pipelines.set(key, pipeline);
    }
    return pipeline;
  }

  /** What most launches want: 4 levels, tile 0. */
  async #prepare(entry: Entry, file: string): Promise<void> {
    const pipeline = await inErrorScopes(this.#device, file, () =>
      this.#device.createComputePipelineAsync(this.#descriptor(entry, 4, 0)).catch((error: unknown) => {
        throw new GpuError("validation", file, error instanceof Error ? error.message : String(error));
      }),
    );
    this.#pipelines.set(`${entry} 4 0`, pipeline);
  }

  /** The text that compiled for tile 0 compiles for the others: they differ in constants. */
  #moduleOf(tile: number): GPUShaderModule {
    const { name, wgsl } = this.#source;
    this.#modules[tile] ??= this.#device.createShaderModule({
      label: `${name}.wgsl, tile ${tile}`,
      code: kernelShader(this.#geometry, `${name}.wgsl`, wgsl, this.#shape, tile).code,
    });
    return this.#modules[tile];
  }

  #descriptor(entryPoint: Entry, levels: number, tile: number): GPUComputePipelineDescriptor {
    const constants: Record<string, number> = { SVM_LEVELS: levels };
    if (entryPoint === "svm_main") {
      if (this.design === "workgroup") constants["SVM_WORKGROUP"] = this.#workgroupSize;
      else constants["SVM_DESIGN"] = DESIGNS[this.design];
    }
    return { label: this.name, layout: this.#layout, compute: { module: this.#moduleOf(tile), entryPoint, constants } };
  }
}

async function createModule(device: GPUDevice, file: string, shader: ComposedShader): Promise<GPUShaderModule> {
  device.pushErrorScope("validation");
  const module = device.createShaderModule({ label: file, code: shader.code });
  // The compilation info says the same with positions.
  const [scoped, info] = await Promise.all([device.popErrorScope(), module.getCompilationInfo()]);
  const errors = info.messages.filter((message) => message.type === "error");
  if (errors.length > 0) throw new GpuError("validation", file, errors.map((e) => describe(shader, e)).join("\n"));
  if (scoped !== null) throw new GpuError("validation", file, scoped.message);
  return module;
}

/** `histogram.wgsl:12:5: message`. */
function describe(shader: ComposedShader, message: GPUCompilationMessage): string {
  const place = shader.locate(message.lineNum);
  return `${place.file}:${place.line}:${message.linePos}: ${message.message}`;
}

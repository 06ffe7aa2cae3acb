import { ConfigError, GpuError } from "../base/errors.ts";
import type { ComposedShader } from "../abi/compose.ts";
import type { Kernel, KernelSource } from "../hal/gpu.ts";
import type { Geometry } from "./geometry.ts";
import { inErrorScopes } from "./health.ts";
import type { Pipelines } from "./pipelines.ts";
import { kernelShader } from "./shaders.ts";

/** A compiled user kernel: one pipeline per number of page-table levels. */
export class WebGpuKernel implements Kernel {
  readonly name: string;
  /** True when items have continuation words. */
  readonly usesCont: boolean;
  readonly #device: GPUDevice;
  readonly #module: GPUShaderModule;
  readonly #layout: GPUPipelineLayout;
  readonly #byLevels = new Map<number, GPUComputePipeline>();

  private constructor(device: GPUDevice, source: KernelSource, module: GPUShaderModule, layout: GPUPipelineLayout) {
    this.name = source.name;
    this.usesCont = /\bsvm_(set_)?cont\b/.test(source.wgsl);
    this.#device = device;
    this.#module = module;
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
    const shader = kernelShader(geometry, file, source.wgsl, source.atomics === true);
    const module = await createModule(device, file, shader);
    const kernel = new WebGpuKernel(device, source, module, pipelines.kernelLayout);
    const pipeline = await inErrorScopes(device, file, () =>
      device.createComputePipelineAsync(kernel.#descriptor(4)).catch((error: unknown) => {
        throw new GpuError("validation", file, error instanceof Error ? error.message : String(error));
      }),
    );
    kernel.#byLevels.set(4, pipeline);
    return kernel;
  }

  /** The pipeline for address spaces of 4 or 5 levels. The rare second one is made when it is first wanted. */
  pipeline(levels: number): GPUComputePipeline {
    let pipeline = this.#byLevels.get(levels);
    if (pipeline === undefined) {
      if (levels !== 4 && levels !== 5) throw new ConfigError("asid", "the address space is not set up");
      pipeline = this.#device.createComputePipeline(this.#descriptor(levels));
      this.#byLevels.set(levels, pipeline);
    }
    return pipeline;
  }

  #descriptor(levels: number): GPUComputePipelineDescriptor {
    return {
      label: this.name,
      layout: this.#layout,
      compute: { module: this.#module, entryPoint: "svm_main", constants: { SVM_LEVELS: levels } },
    };
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

import { JOB_BINDING_BYTES } from "../commands.ts";
import type { PageKernel } from "../ways/way.ts";
import { type PageKernelName, pagesPerGroup, pipelineOf } from "./page-kernel.ts";
import type { WayEngine } from "./way-engine.ts";

/** WebGPU's limit on workgroups in one dimension; the kernels take strides beyond it. */
const MAX_WORKGROUPS = 65535;
const PAGES_PER_DISPATCH = JOB_BINDING_BYTES / 8;

/** A kernel of page-kernel.ts in the place of the copy engine's own, for the same lists. Copies only. */
export async function listKernel(engine: WayEngine, name: PageKernelName): Promise<PageKernel> {
  return new ListKernel(engine, name, await pipelineOf(engine.context.commands.device, name));
}

class ListKernel implements PageKernel {
  readonly uploadBank: number;
  readonly downloadBank: number;
  readonly #engine: WayEngine;
  readonly #name: PageKernelName;
  readonly #pipeline: GPUComputePipeline;
  readonly #pairs = new Uint32Array(PAGES_PER_DISPATCH * 2);
  #count = 0;
  #source = 0;
  #target = 0;

  constructor(engine: WayEngine, name: PageKernelName, pipeline: GPUComputePipeline) {
    this.#engine = engine;
    this.#name = name;
    this.#pipeline = pipeline;
    this.uploadBank = engine.context.banks.length;
    this.downloadBank = this.uploadBank + 1;
  }

  copy(sourceBank: number, sourcePage: number, bank: number, page: number): void {
    if (this.#count === PAGES_PER_DISPATCH || sourceBank !== this.#source || bank !== this.#target) this.flush();
    this.#source = sourceBank;
    this.#target = bank;
    this.#pairs[this.#count * 2] = sourcePage;
    this.#pairs[this.#count * 2 + 1] = page;
    this.#count += 1;
  }

  fill(): void {
    throw new TypeError("a kernel that only copies");
  }

  flush(): void {
    if (this.#count === 0) return;
    const { commands } = this.#engine.context;
    const pairs = this.#pairs.subarray(0, this.#count * 2);
    commands.reserve(pairs.byteLength);
    const { buffer, offset } = commands.put(pairs);
    const group = commands.device.createBindGroup({
      label: `path: ${this.#name}`,
      layout: this.#pipeline.getBindGroupLayout(0),
      entries: [
        { binding: 0, resource: { buffer: this.#buffer(this.#source) } },
        { binding: 1, resource: { buffer: this.#buffer(this.#target) } },
        { binding: 2, resource: { buffer, offset, size: pairs.byteLength } },
      ],
    });
    const pass = commands.pass();
    pass.setPipeline(this.#pipeline);
    pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(Math.min(Math.ceil(this.#count / pagesPerGroup(this.#name)), MAX_WORKGROUPS));
    this.#count = 0;
  }

  #buffer(bank: number): GPUBuffer {
    const { context, ways } = this.#engine;
    if (bank === this.uploadBank) return ways.staging.upload;
    return bank === this.downloadBank ? ways.staging.download : context.banks[bank]!;
  }
}

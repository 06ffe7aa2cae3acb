import { JOB_BINDING_BYTES, gridOf } from "../commands.ts";
import type { CopyStaging } from "./copy-staging.ts";
import type { KernelShape } from "./page-pipelines.ts";
import type { PageKernel, WayContext } from "./way.ts";

/** Jobs of a dispatch: what the job binding holds behind its header. */
const JOBS_PER_DISPATCH = JOB_BINDING_BYTES / 8 - 1;
/** The source of fills. */
const NO_SOURCE = -1;

/** A job list in the making: header {count, 0}, then two words per job. */
class JobList {
  readonly words = new Uint32Array(JOB_BINDING_BYTES / 4);
  count = 0;

  push(w0: number, w1: number): void {
    this.count += 1;
    this.words[this.count * 2] = w0;
    this.words[this.count * 2 + 1] = w1;
  }
}

/** The copy and fill shaders on lists of pages, one dispatch per pair of banks. */
export class PageJobs implements PageKernel {
  readonly uploadBank: number;
  readonly downloadBank: number;
  readonly #c: WayContext;
  readonly #staging: CopyStaging;
  readonly #shape: KernelShape;
  readonly #jobsGroup: GPUBindGroup;
  readonly #noSource: GPUBuffer;
  readonly #bindGroups = new Map<number, GPUBindGroup>();
  /** By source bank and target bank. */
  readonly #lists = new Map<number, JobList>();

  constructor(context: WayContext, staging: CopyStaging, shape: KernelShape) {
    this.#c = context;
    this.#staging = staging;
    this.#shape = shape;
    this.uploadBank = context.banks.length;
    this.downloadBank = this.uploadBank + 1;
    const { commands } = context;
    this.#jobsGroup = commands.device.createBindGroup({
      layout: context.pagePipelines.jobs,
      entries: [{ binding: 0, resource: { buffer: commands.stage, size: JOB_BINDING_BYTES } }],
    });
    this.#noSource = commands.createBuffer({ label: "no source", size: 16, usage: GPUBufferUsage.STORAGE });
  }

  copy(sourceBank: number, sourcePage: number, bank: number, page: number): void {
    this.#add(sourceBank, bank, sourcePage, page);
  }

  fill(bank: number, page: number): void {
    this.#add(NO_SOURCE, bank, 0, page);
  }

  flush(): void {
    for (const [key, list] of this.#lists) if (list.count > 0) this.#dispatch(key, list);
  }

  destroy(): void {
    this.#noSource.destroy();
  }

  #add(source: number, target: number, w0: number, w1: number): void {
    const key = (source + 1) * (this.downloadBank + 1) + target;
    let list = this.#lists.get(key);
    if (list === undefined) {
      list = new JobList();
      this.#lists.set(key, list);
    }
    list.push(w0, w1);
    if (list.count === JOBS_PER_DISPATCH) this.#dispatch(key, list);
  }

  #dispatch(key: number, list: JobList): void {
    const { commands, pagePipelines } = this.#c;
    const shape = this.#shape;
    const source = Math.floor(key / (this.downloadBank + 1)) - 1;
    const target = key % (this.downloadBank + 1);
    list.words[0] = list.count;
    const words = list.words.subarray(0, (list.count + 1) * 2);
    commands.reserve(words.byteLength);
    const staged = commands.put(words);
    const pass = commands.pass();
    pass.setPipeline(source < 0 ? pagePipelines.fill(shape) : pagePipelines.copy(shape, source === target));
    pass.setBindGroup(0, this.#buffers(key, source, target));
    pass.setBindGroup(1, this.#jobsGroup, [staged.offset]);
    pass.dispatchWorkgroups(...gridOf(shape === "p/wg" ? list.count : Math.ceil(list.count / 64)));
    list.count = 0;
  }

  #buffers(key: number, source: number, target: number): GPUBindGroup {
    const { commands, pagePipelines } = this.#c;
    let group = this.#bindGroups.get(key);
    if (group === undefined) {
      const entries: GPUBindGroupEntry[] = [{ binding: 0, resource: { buffer: this.#buffer(target) } }];
      if (source >= 0) {
        // A buffer may be bound only once in a dispatch; the shader reads through the other binding then.
        const buffer = source === target ? this.#noSource : this.#buffer(source);
        entries.push({ binding: 1, resource: { buffer } });
      }
      const layout = source < 0 ? pagePipelines.oneBuffer : pagePipelines.copyBuffers;
      group = commands.inDoubt(() => commands.device.createBindGroup({ layout, entries }));
      this.#bindGroups.set(key, group);
    }
    return group;
  }

  #buffer(bank: number): GPUBuffer {
    if (bank === this.uploadBank) return this.#staging.upload;
    return bank === this.downloadBank ? this.#staging.download : this.#c.banks[bank]!;
  }
}

import { PAGE_SIZE } from "../base/addr.ts";
import { AP_HOST, SG_CLEAR, SG_STRIDE } from "../hal/gpu.ts";
import { JOB_BINDING_BYTES, gridOf } from "./commands.ts";
import { SG_PAGE_MASK } from "./copy-context.ts";
import type { CopyContext } from "./copy-context.ts";
import type { CopyStaging } from "./copy-staging.ts";

/** Jobs of a dispatch: what the job binding holds behind its header. */
const JOBS_PER_DISPATCH = JOB_BINDING_BYTES / 8 - 1;
/** Runs of a list up to which each is cleared by itself, without a dispatch. */
const CLEARS_ONE_BY_ONE = 32;

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

/**
 * Inside the device: copies and clears by the copy and fill shaders, one dispatch per pair of banks. Memory of one
 * buffer cannot be moved by buffer copies (WebGPU wants two different buffers).
 */
export class PageJobs {
  /** Banks of the staging buffers, behind those of memory. */
  readonly uploadBank: number;
  readonly downloadBank: number;
  readonly #c: CopyContext;
  readonly #staging: CopyStaging;
  readonly #jobsGroup: GPUBindGroup;
  readonly #noSource: GPUBuffer;
  readonly #bindGroups = new Map<string, GPUBindGroup>();
  /** By source bank and target bank; -1 is the source of fills. */
  readonly #lists = new Map<number, JobList>();

  constructor(context: CopyContext, staging: CopyStaging) {
    this.#c = context;
    this.#staging = staging;
    this.uploadBank = context.memory.banks.length;
    this.downloadBank = this.uploadBank + 1;
    const { device, stage } = context.commands;
    this.#jobsGroup = device.createBindGroup({
      layout: context.pipelines.jobs,
      entries: [{ binding: 0, resource: { buffer: stage, size: JOB_BINDING_BYTES } }],
    });
    this.#noSource = device.createBuffer({ label: "no source", size: 16, usage: GPUBufferUsage.STORAGE });
  }

  record(words: Uint32Array, count: number): void {
    const clears = countClears(words, count);
    for (let at = 0; at < count * SG_STRIDE; at += SG_STRIDE) {
      const target = words[at + 1]! >>> 30;
      if (target === AP_HOST) continue;
      const page = words[at + 1]! & SG_PAGE_MASK;
      const pages = words[at + 2]!;
      if ((words[at + 3]! & SG_CLEAR) !== 0) {
        this.#c.counters.fillBytes += pages * PAGE_SIZE;
        if (clears <= CLEARS_ONE_BY_ONE) this.#clearRun(target, page, pages);
        else this.#addFill(target, page, pages);
      } else if (words[at]! >>> 30 !== AP_HOST) {
        this.#addCopy(words[at]! >>> 30, words[at]! & SG_PAGE_MASK, target, page, pages);
      }
    }
    this.flush();
  }

  /** Lists the copy of a page, or with source -1 its fill with the pattern w0. Pages count from the start of their bank. */
  add(source: number, target: number, w0: number, w1: number): void {
    const key = (source + 1) * (this.downloadBank + 1) + target;
    let list = this.#lists.get(key);
    if (list === undefined) {
      list = new JobList();
      this.#lists.set(key, list);
    }
    list.push(w0, w1);
    if (list.count === JOBS_PER_DISPATCH) this.#dispatch(key, list);
  }

  /** Records what is listed. */
  flush(): void {
    for (const [key, list] of this.#lists) if (list.count > 0) this.#dispatch(key, list);
  }

  destroy(): void {
    this.#noSource.destroy();
  }

  #clearRun(aperture: number, first: number, pages: number): void {
    const { commands, memory } = this.#c;
    let page = first;
    for (let left = pages; left > 0;) {
      const n = Math.min(left, memory.runIn(aperture, page));
      const bank = memory.banks[memory.bankOf(aperture, page)]!;
      commands.encoder().clearBuffer(bank, memory.pageIn(aperture, page) * PAGE_SIZE, n * PAGE_SIZE);
      page += n;
      left -= n;
    }
  }

  #addFill(aperture: number, first: number, pages: number): void {
    const { memory } = this.#c;
    for (let page = first; page < first + pages; page++) {
      this.add(-1, memory.bankOf(aperture, page), 0, memory.pageIn(aperture, page));
    }
  }

  #addCopy(fromAp: number, from: number, toAp: number, to: number, pages: number): void {
    const { memory } = this.#c;
    for (let i = 0; i < pages; i++) {
      const source = memory.bankOf(fromAp, from + i);
      const target = memory.bankOf(toAp, to + i);
      this.add(source, target, memory.pageIn(fromAp, from + i), memory.pageIn(toAp, to + i));
    }
  }

  #dispatch(key: number, list: JobList): void {
    const { commands, pipelines, pagePerWorkgroup } = this.#c;
    const source = Math.floor(key / (this.downloadBank + 1)) - 1;
    const target = key % (this.downloadBank + 1);
    list.words[0] = list.count;
    const words = list.words.subarray(0, (list.count + 1) * 2);
    commands.reserve(words.byteLength);
    const staged = commands.put(words);
    const pass = commands.pass();
    pass.setPipeline(source < 0 ? pipelines.fill : source === target ? pipelines.copySame : pipelines.copy);
    pass.setBindGroup(0, this.#buffers(source, target));
    pass.setBindGroup(1, this.#jobsGroup, [staged.offset]);
    pass.dispatchWorkgroups(...gridOf(pagePerWorkgroup ? list.count : Math.ceil(list.count / 64)));
    list.count = 0;
  }

  #buffers(source: number, target: number): GPUBindGroup {
    const { commands, pipelines } = this.#c;
    const key = `${source} ${target}`;
    let group = this.#bindGroups.get(key);
    if (group === undefined) {
      const entries: GPUBindGroupEntry[] = [{ binding: 0, resource: { buffer: this.#buffer(target) } }];
      if (source >= 0) {
        // A buffer may be bound only once in a dispatch; the shader reads through the other binding then.
        const buffer = source === target ? this.#noSource : this.#buffer(source);
        entries.push({ binding: 1, resource: { buffer } });
      }
      const layout = source < 0 ? pipelines.oneBuffer : pipelines.copyBuffers;
      group = commands.inDoubt(() => commands.device.createBindGroup({ layout, entries }));
      this.#bindGroups.set(key, group);
    }
    return group;
  }

  #buffer(bank: number): GPUBuffer {
    if (bank === this.uploadBank) return this.#staging.upload;
    return bank === this.downloadBank ? this.#staging.download : this.#c.memory.banks[bank]!;
  }
}

function countClears(words: Uint32Array, count: number): number {
  let clears = 0;
  for (let at = 0; at < count * SG_STRIDE; at += SG_STRIDE) {
    if ((words[at + 3]! & SG_CLEAR) !== 0 && words[at + 1]! >>> 30 !== AP_HOST) clears += 1;
  }
  return clears;
}

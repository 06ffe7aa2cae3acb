import { PAGE_SIZE } from "../base/addr.ts";
import { JOB_BINDING_BYTES, gridOf } from "./commands.ts";
import type { CopyBanks } from "./copy-banks.ts";
import type { CopyContext } from "./copy-context.ts";
import type { CopyOutcome } from "./copy-outcome.ts";
import type { CopyPipelines } from "./copy-pipelines.ts";

const PART_WORDS = 4;
/** Parts of a dispatch: what the list binding holds behind its header. */
const PARTS_PER_DISPATCH = JOB_BINDING_BYTES / 16 - 1;
/** Words of one part of a word copy: as long as a page, so that one invocation does not loop for long. */
const WORDS_PER_PART = PAGE_SIZE / 4;
/** What the GPU moves in one submission: far below what a watchdog would stop. */
const BYTES_PER_SUBMISSION = 64 << 20;

/** The part of a pipeline in the making: header {count}, then {source, destination, words, job} each. */
interface PartList {
  readonly words: Uint32Array;
  readonly source: number;
  readonly target: number;
  readonly pages: boolean;
  count: number;
}

/**
 * Runs inside the device, cut into parts of at most a page: one dispatch per pair of banks and kind, the copy and fill
 * shaders of the job form. Each part done is counted for its job.
 */
export class CopyParts {
  readonly #c: CopyContext;
  readonly #banks: CopyBanks;
  readonly #outcome: CopyOutcome;
  readonly #pipelines: CopyPipelines;
  readonly #noSource: GPUBuffer;
  /** By source bank, target bank (-1: fill) and kind. */
  readonly #lists = new Map<number, PartList>();
  readonly #groups = new Map<number, GPUBindGroup>();
  #groupsVersion = 0;
  #recorded = 0;

  constructor(context: CopyContext, banks: CopyBanks, outcome: CopyOutcome, pipelines: CopyPipelines) {
    this.#c = context;
    this.#banks = banks;
    this.#outcome = outcome;
    this.#pipelines = pipelines;
    this.#noSource = context.commands.createBuffer({
      label: "no source",
      size: 16,
      usage: GPUBufferUsage.STORAGE,
    });
  }

  copy(fromAp: number, source: number, toAp: number, target: number, bytes: number, job: number): void {
    const banks = this.#banks;
    const pages = source % PAGE_SIZE === 0 && target % PAGE_SIZE === 0 && bytes % PAGE_SIZE === 0;
    for (let done = 0; done < bytes;) {
      const [from, to] = [source + done, target + done];
      const n = Math.min(bytes - done, banks.runFrom(fromAp, from), banks.runFrom(toAp, to));
      const list = this.#list(banks.bankOf(fromAp, from), banks.bankOf(toAp, to), pages);
      this.#split(list, banks.offsetOf(fromAp, from) / 4, banks.offsetOf(toAp, to) / 4, n / 4, job);
      done += n;
    }
    this.#submitIfMuch(bytes);
  }

  fill(aperture: number, target: number, bytes: number, pattern: number, job: number): void {
    const banks = this.#banks;
    const pages = target % PAGE_SIZE === 0 && bytes % PAGE_SIZE === 0;
    for (let done = 0; done < bytes;) {
      const n = Math.min(bytes - done, banks.runFrom(aperture, target + done));
      const list = this.#list(-1, banks.bankOf(aperture, target + done), pages);
      this.#split(list, pattern, banks.offsetOf(aperture, target + done) / 4, n / 4, job);
      done += n;
    }
    this.#submitIfMuch(bytes);
  }

  /** Records what is listed. */
  flush(): void {
    for (const list of this.#lists.values()) this.#dispatch(list);
  }

  destroy(): void {
    this.#noSource.destroy();
  }

  /** Offsets in words of their banks; of a fill the source is the pattern. */
  #split(list: PartList, source: number, target: number, words: number, job: number): void {
    const unit = list.pages ? WORDS_PER_PART : 1;
    const fill = list.source < 0;
    for (let done = 0; done < words; done += WORDS_PER_PART) {
      if (list.count === PARTS_PER_DISPATCH) this.#dispatch(list);
      list.count += 1;
      const at = list.count * PART_WORDS;
      list.words[at] = fill ? source : (source + done) / unit;
      list.words[at + 1] = (target + done) / unit;
      list.words[at + 2] = Math.min(words - done, WORDS_PER_PART);
      list.words[at + 3] = job;
      this.#outcome.expect(job, 1);
    }
  }

  #list(source: number, target: number, pages: boolean): PartList {
    const key = this.#key(source, target) * 2 + (pages ? 1 : 0);
    let list = this.#lists.get(key);
    if (list === undefined) {
      list = { words: new Uint32Array(JOB_BINDING_BYTES / 4), source, target, pages, count: 0 };
      this.#lists.set(key, list);
    }
    return list;
  }

  #key(source: number, target: number): number {
    return (source + 1) * (this.#banks.slotBank + 1) + target;
  }

  #dispatch(list: PartList): void {
    if (list.count === 0) return;
    const { commands, pagePerWorkgroup } = this.#c;
    list.words[0] = list.count;
    const words = list.words.subarray(0, (list.count + 1) * PART_WORDS);
    commands.reserve(words.byteLength);
    const staged = commands.put(words);
    const pass = commands.pass();
    pass.setPipeline(this.#pipelineOf(list));
    pass.setBindGroup(0, this.#buffers(list.source, list.target));
    pass.setBindGroup(1, this.#outcome.parts, [staged.offset]);
    pass.dispatchWorkgroups(...gridOf(pagePerWorkgroup ? list.count : Math.ceil(list.count / 64)));
    list.count = 0;
  }

  #pipelineOf({ source, target, pages }: PartList): GPUComputePipeline {
    const p = this.#pipelines;
    if (source < 0) return pages ? p.fillPages : p.fillWords;
    if (source === target) return pages ? p.copyPagesSame : p.copyWordsSame;
    return pages ? p.copyPages : p.copyWords;
  }

  #buffers(source: number, target: number): GPUBindGroup {
    if (this.#groupsVersion !== this.#banks.version) this.#groups.clear();
    this.#groupsVersion = this.#banks.version;
    const key = this.#key(source, target);
    let group = this.#groups.get(key);
    if (group === undefined) {
      const { commands, pipelines } = this.#c;
      const entries: GPUBindGroupEntry[] = [{ binding: 0, resource: { buffer: this.#banks.buffer(target) } }];
      if (source >= 0) {
        // A buffer may be bound only once in a dispatch; the shader reads through the other binding then.
        const buffer = source === target ? this.#noSource : this.#banks.buffer(source);
        entries.push({ binding: 1, resource: { buffer } });
      }
      const layout = source < 0 ? pipelines.oneBuffer : pipelines.copyBuffers;
      group = commands.inDoubt(() => commands.device.createBindGroup({ layout, entries }));
      this.#groups.set(key, group);
    }
    return group;
  }

  #submitIfMuch(bytes: number): void {
    this.#recorded += bytes;
    if (this.#recorded < BYTES_PER_SUBMISSION) return;
    this.#recorded = 0;
    this.flush();
    this.#c.commands.submit();
  }
}

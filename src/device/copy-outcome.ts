import { JOB_PENDING, JOB_WORD, JOB_WORDS, ENGINES, signalsFence } from "../hal/copy-job.ts";
import type { JobBatch } from "../hal/copy-job.ts";
import { JOB_BINDING_BYTES } from "./commands.ts";
import type { CopyContext } from "./copy-context.ts";
import type { CopyPipelines } from "./copy-pipelines.ts";
import type { Tile } from "./tile.ts";

/** Bytes of an entry of `finish`: status, parts expected, engine + 1, seqno. */
const ENTRY_BYTES = 16;
const PROGRESS_BYTES = 8;

interface Tables {
  readonly capacity: number;
  readonly entries: GPUBuffer;
  /** Per job: parts done, verdict of its VA checks. */
  readonly progress: GPUBuffer;
  readonly outcomes: GPUBuffer;
  readonly parts: GPUBindGroup;
  readonly group: GPUBindGroup;
}

/** What becomes of the jobs of a batch: the GPU counts what it did, and decides at the end (copy_finish.wgsl). */
export class CopyOutcome {
  readonly #c: CopyContext;
  readonly #pipelines: CopyPipelines;
  #tables: Tables | null = null;
  #expected = new Uint32Array(0);

  constructor(context: CopyContext, pipelines: CopyPipelines) {
    this.#c = context;
    this.#pipelines = pipelines;
  }

  /** Group 1 of the shaders that count. */
  get parts(): GPUBindGroup {
    return this.#tables!.parts;
  }

  /** Where the GPU counts for a job. */
  progressOf(job: number): { buffer: GPUBuffer; offset: number } {
    return { buffer: this.#tables!.progress, offset: job * PROGRESS_BYTES };
  }

  begin(jobs: number): void {
    this.#expected = new Uint32Array(jobs);
    this.#tables = this.#ensure(jobs);
    this.#c.commands.encoder().clearBuffer(this.#tables.progress, 0, jobs * PROGRESS_BYTES);
  }

  /** `parts` more of a job are on their way to the GPU. */
  expect(job: number, parts: number): void {
    this.#expected[job]! += parts;
  }

  /**
   * Records the end of the batch on a tile, whose fences it signals; `checked` are the states after the host's checks. Resolves with the final ones; `arrived`
   * gets them first, in the order in which downloads are delivered.
   */
  finish(
    batch: JobBatch,
    tile: Tile,
    checked: Uint32Array,
    arrived: (status: Uint32Array) => void,
  ): Promise<Uint32Array> {
    const { commands, health, readback } = this.#c;
    const jobs = checked.length;
    const { entries, outcomes, group } = this.#tables!;
    const words = this.#entries(batch, checked);
    for (let at = 0; at < words.byteLength; at += JOB_BINDING_BYTES) {
      commands.write(entries, at, words.subarray(at / 4, (at + JOB_BINDING_BYTES) / 4));
    }
    const pass = commands.pass();
    pass.setPipeline(this.#pipelines.finish);
    pass.setBindGroup(0, tile.tables);
    pass.setBindGroup(1, group);
    pass.dispatchWorkgroups(1);
    const result = new Promise<Uint32Array>((resolve, reject) => {
      const deliver = (data: Uint8Array<ArrayBuffer>) => {
        const status = new Uint32Array(data.slice(0, jobs * 4).buffer);
        arrived(status);
        resolve(status);
      };
      const to = readback.reserve(Math.ceil(jobs / 2) * 8, deliver, reject);
      commands.encoder().copyBufferToBuffer(outcomes, 0, to.buffer, to.offset, jobs * 4);
    });
    return health.guard(result);
  }

  destroy(): void {
    this.#tables?.entries.destroy();
    this.#tables?.progress.destroy();
    this.#tables?.outcomes.destroy();
    this.#tables = null;
  }

  #entries(batch: JobBatch, checked: Uint32Array): Uint32Array {
    const entries = new Uint32Array((checked.length + 1) * (ENTRY_BYTES / 4));
    entries[0] = checked.length;
    for (let i = 0; i < checked.length; i++) {
      const job = i * JOB_WORDS;
      const engine = batch.words[job + JOB_WORD.fenceEngine]!;
      const fence = signalsFence(batch.words, job) && engine < ENGINES ? engine + 1 : 0;
      const expected = checked[i] === JOB_PENDING ? this.#expected[i]! : 0;
      entries.set([checked[i]!, expected, fence, batch.words[job + JOB_WORD.fenceSeqno]!], (i + 1) * 4);
    }
    return entries;
  }

  #ensure(jobs: number): Tables {
    if (this.#tables !== null && this.#tables.capacity >= jobs) return this.#tables;
    const { commands } = this.#c;
    // What is recorded may still name the old ones.
    commands.submit();
    this.destroy();
    const capacity = 2 ** Math.ceil(Math.log2(Math.max(jobs, 256)));
    const make = (label: string, size: number, usage: number) =>
      commands.createBuffer({ label, size, usage: GPUBufferUsage.STORAGE | usage });
    const entries = make("job entries", (capacity + 1) * ENTRY_BYTES, GPUBufferUsage.COPY_DST);
    const progress = make("job progress", capacity * PROGRESS_BYTES, GPUBufferUsage.COPY_DST);
    const outcomes = make("job outcomes", capacity * 4, GPUBufferUsage.COPY_SRC);
    const groups = commands.inDoubt(() => this.#groups(entries, progress, outcomes));
    return { capacity, entries, progress, outcomes, ...groups };
  }

  #groups(entries: GPUBuffer, progress: GPUBuffer, outcomes: GPUBuffer) {
    const { device, stage } = this.#c.commands;
    const parts = device.createBindGroup({
      layout: this.#pipelines.parts,
      entries: [
        { binding: 0, resource: { buffer: stage, size: JOB_BINDING_BYTES } },
        { binding: 1, resource: { buffer: progress } },
      ],
    });
    const group = device.createBindGroup({
      layout: this.#pipelines.outcome,
      entries: [entries, progress, outcomes].map((buffer, binding) => ({ binding, resource: { buffer } })),
    });
    return { parts, group };
  }
}

import { Ctl, Request, Result } from "../abi/tables.ts";
import { REQUEST_WORDS } from "../hal/gpu.ts";
import type { Commands } from "./commands.ts";
import type { Pipelines } from "./pipelines.ts";
import type { Readback } from "./readback.ts";
import type { Tlb } from "./tlb.ts";
import type { TlbUse } from "./tlb-use.ts";
import { walkJob } from "./walk-pass.ts";

/** Requests per batch: bounds a dispatch's time and the buffers. */
const BATCH = 1 << 18;
/** `tlb_classes` and `tlb_misses` of ctl. */
const STATISTICS_BYTES = 8;

export interface TranslatorContext {
  readonly commands: Commands;
  readonly pipelines: Pipelines;
  readonly readback: Readback;
  /** The tile that translates. */
  readonly tile: { readonly index: number; readonly ctl: GPUBuffer; readonly tlb: Tlb; readonly tables: GPUBindGroup };
  readonly use: TlbUse;
}

/** The batch translator of a tile: requests in, results out, TLB filled behind it (spec/device.md 3.1). */
export class Translator {
  readonly #c: TranslatorContext;
  #buffers: { capacity: number; job: GPUBuffer; requests: GPUBuffer; results: GPUBuffer; group: GPUBindGroup } | null =
    null;
  /** `tlb_misses` as the last batch has left it. */
  #misses = 0;

  constructor(context: TranslatorContext) {
    this.#c = context;
  }

  /** `requests` is captured before the first await. */
  async translate(requests: Uint32Array): Promise<Uint32Array> {
    const count = requests.length / REQUEST_WORDS;
    const results = new Uint32Array((count * Result.size) / 4);
    const reads: Promise<void>[] = [];
    for (let first = 0; first < count; first += BATCH) {
      const n = Math.min(BATCH, count - first);
      const batch = requests.subarray(first * REQUEST_WORDS, (first + n) * REQUEST_WORDS);
      reads.push(this.#batch(batch, n, results, (first * Result.size) / 4));
    }
    await Promise.all(reads);
    return results;
  }

  destroy(): void {
    this.#buffers?.requests.destroy();
    this.#buffers?.results.destroy();
    this.#buffers?.job.destroy();
    this.#buffers = null;
  }

  #batch(requests: Uint32Array, count: number, results: Uint32Array, at: number): Promise<void> {
    const { capacity: _, ...b } = this.#ensure(count);
    // writeBuffer takes effect at once, so earlier work has to be in the queue.
    const { commands, readback, tile, use } = this.#c;
    commands.submit();
    const { queue } = commands.device;
    commands.inDoubt(() => {
      queue.writeBuffer(b.requests, 0, requests as Uint32Array<ArrayBuffer>);
      queue.writeBuffer(b.job, 0, walkJob(count));
    });
    const pass = commands.pass();
    pass.setBindGroup(0, tile.tables);
    pass.setBindGroup(1, b.group);
    const looked = this.record(pass, count);
    const bytes = count * Result.size;
    const parts = [
      { source: b.results, offset: 0, bytes },
      { source: tile.ctl, offset: Ctl.offset.tlb_classes, bytes: STATISTICS_BYTES },
    ];
    const read = readback.readParts(parts);
    commands.submit();
    return read.then(({ buffer }) => {
      results.set(new Uint32Array(buffer, 0, bytes / 4), at);
      const [classes, misses] = new Uint32Array(buffer, bytes) as unknown as [number, number];
      use.classes = classes;
      if (looked) use.note(count, (misses - this.#misses) >>> 0);
      this.#misses = misses;
    });
  }

  /**
   * Records the translation of requests whose buffers are bound as group 1, and what takes over the TLB's candidates. True
   * when it looks into the TLB.
   */
  record(pass: GPUComputePassEncoder, requests: number): boolean {
    const { pipelines, tile, use } = this.#c;
    const looks = use.next(requests);
    pipelines.walk.dispatch(pass, { tile: tile.index, requests, classes: looks ? use.classes : null });
    tile.tlb.fill(pass, looks);
    return looks;
  }

  #ensure(count: number) {
    if (this.#buffers !== null && this.#buffers.capacity >= count) return this.#buffers;
    const { commands, pipelines } = this.#c;
    const { device } = commands;
    this.destroy();
    const capacity = 2 ** Math.ceil(Math.log2(Math.max(count, 1024)));
    const storage = GPUBufferUsage.STORAGE;
    const requests = commands.createBuffer({
      label: "requests",
      size: capacity * Request.size,
      usage: storage | GPUBufferUsage.COPY_DST,
    });
    const results = commands.createBuffer({
      label: "results",
      size: capacity * Result.size,
      usage: storage | GPUBufferUsage.COPY_SRC,
    });
    const job = commands.createBuffer({
      label: "job",
      size: 16,
      usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST,
    });
    const entries = [job, requests, results].map((buffer, binding) => ({ binding, resource: { buffer } }));
    const group = commands.inDoubt(() => device.createBindGroup({ layout: pipelines.requests, entries }));
    this.#buffers = { capacity, job, requests, results, group };
    return this.#buffers;
  }
}

import { Request, Result } from "../abi/tables.ts";
import { REQUEST_WORDS } from "../hal/gpu.ts";
import type { Commands } from "./commands.ts";
import type { Pipelines } from "./pipelines.ts";
import type { Readback } from "./readback.ts";
import type { Tlb } from "./tlb.ts";
import { dispatchWalk, walkJob } from "./walk-pass.ts";

/** Requests per batch: bounds a dispatch's time and the buffers. */
const BATCH = 1 << 18;

/** The batch translator of a tile: requests in, results out, TLB filled behind it (spec/device.md 3.1). */
export class Translator {
  readonly #commands: Commands;
  readonly #pipelines: Pipelines;
  readonly #tile: number;
  readonly #readback: Readback;
  readonly #tlb: Tlb;
  readonly #tables: GPUBindGroup;
  #buffers: { capacity: number; job: GPUBuffer; requests: GPUBuffer; results: GPUBuffer; group: GPUBindGroup } | null =
    null;

  constructor(
    commands: Commands,
    pipelines: Pipelines,
    readback: Readback,
    tlb: Tlb,
    tables: GPUBindGroup,
    tile: number,
  ) {
    this.#commands = commands;
    this.#pipelines = pipelines;
    this.#tile = tile;
    this.#readback = readback;
    this.#tlb = tlb;
    this.#tables = tables;
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
    this.#commands.submit();
    const queue = this.#commands.device.queue;
    this.#commands.inDoubt(() => {
      queue.writeBuffer(b.requests, 0, requests as Uint32Array<ArrayBuffer>);
      queue.writeBuffer(b.job, 0, walkJob(count));
    });
    const pass = this.#commands.pass();
    pass.setBindGroup(0, this.#tables);
    pass.setBindGroup(1, b.group);
    dispatchWalk(pass, this.#pipelines, this.#tile, count);
    this.#tlb.fill(pass);
    const read = this.#readback.read(b.results, 0, count * Result.size);
    this.#commands.submit();
    return read.then((bytes) => results.set(new Uint32Array(bytes.buffer), at));
  }

  #ensure(count: number) {
    if (this.#buffers !== null && this.#buffers.capacity >= count) return this.#buffers;
    const { device } = this.#commands;
    this.destroy();
    const capacity = 2 ** Math.ceil(Math.log2(Math.max(count, 1024)));
    const storage = GPUBufferUsage.STORAGE;
    const requests = this.#commands.createBuffer({
      label: "requests",
      size: capacity * Request.size,
      usage: storage | GPUBufferUsage.COPY_DST,
    });
    const results = this.#commands.createBuffer({
      label: "results",
      size: capacity * Result.size,
      usage: storage | GPUBufferUsage.COPY_SRC,
    });
    const job = this.#commands.createBuffer({
      label: "job",
      size: 16,
      usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST,
    });
    const entries = [job, requests, results].map((buffer, binding) => ({ binding, resource: { buffer } }));
    const group = this.#commands.inDoubt(() => device.createBindGroup({ layout: this.#pipelines.requests, entries }));
    this.#buffers = { capacity, job, requests, results, group };
    return this.#buffers;
  }
}

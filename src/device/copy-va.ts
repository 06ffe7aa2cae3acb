import { PAGE_SIZE, alignDown, hi32, lo32 } from "../base/addr.ts";
import { ACCESS_READ, ACCESS_WRITE, ENGINE_COPY } from "../abi/fault.ts";
import { windowLocation } from "../abi/memory-map.ts";
import { Request, Result } from "../abi/tables.ts";
import { AP_VA } from "../hal/copy-job.ts";
import { AP_HOST, AP_WINDOW, REQUEST_WORDS } from "../hal/gpu.ts";
import { gridOf } from "./commands.ts";
import type { CopyBanks } from "./copy-banks.ts";
import type { CopyContext } from "./copy-context.ts";
import type { CopyOutcome } from "./copy-outcome.ts";
import type { CopyPipelines } from "./copy-pipelines.ts";
import type { HostShadow } from "./copy-shadow.ts";
import type { Tile } from "./tile.ts";
import { walkJob } from "./walk-pass.ts";

/** Layout of `work` and of its pieces: see copy_va.wgsl. */
const HEADER_WORDS = 8;
const PIECE_WORDS = 8;
const SIDE_LOCATION = 0;
const SIDE_SLOT = 1;
const SIDE_RESULT = 2;
const SIDE_PATTERN = 3;
const OPENS_PAGE = 1 << 8;

/** A job with a virtual side; addresses in bytes. */
export interface VaJob {
  readonly job: number;
  readonly asid: number;
  readonly tag: number;
  readonly checkOnly: boolean;
  /** Apertures; `from` is -1 for a fill. */
  readonly from: number;
  readonly source: number;
  readonly to: number;
  readonly target: number;
  readonly bytes: number;
  readonly pattern: number;
}

interface Buffers {
  readonly requestBytes: number;
  readonly workBytes: number;
  readonly job: GPUBuffer;
  readonly requests: GPUBuffer;
  readonly results: GPUBuffer;
  readonly work: GPUBuffer;
  readonly translate: GPUBindGroup;
  readonly move: GPUBindGroup;
  readonly version: number;
}

/**
 * VA jobs, without asking the host: it would answer too late, for what is queued next may take the pages away. The batch
 * translator's answers stay on the GPU, which checks them and moves the bytes, or stores nothing and leaves its verdict.
 */
export class CopyVa {
  readonly #c: CopyContext;
  readonly #banks: CopyBanks;
  readonly #outcome: CopyOutcome;
  readonly #pipelines: CopyPipelines;
  #buffers: Buffers | null = null;

  constructor(context: CopyContext, banks: CopyBanks, outcome: CopyOutcome, pipelines: CopyPipelines) {
    this.#c = context;
    this.#banks = banks;
    this.#outcome = outcome;
    this.#pipelines = pipelines;
  }

  /** Records the job, whose addresses are those of the tile's tables. `shadow` has slots for its host pages. */
  record(job: VaJob, shadow: HostShadow | null, tile: Tile): void {
    const { commands, memory, pagePerWorkgroup } = this.#c;
    const { shape } = memory.geometry;
    const requests = requestsOf(job);
    const pieces = this.#pieces(job, shadow);
    const count = pieces.length / PIECE_WORDS;
    const mapWords = Math.ceil((windowLocation(shape) * 4 + shape.syswBytes) / PAGE_SIZE / 32);
    const work = new Uint32Array(HEADER_WORDS + pieces.length);
    work.set([0, 0, count, job.checkOnly ? 1 : 0, mapWords]);
    work.set(pieces, HEADER_WORDS);
    const b = this.#ensure(requests.byteLength, work.byteLength + 2 * mapWords * 4);
    // writeBuffer takes effect at once, so earlier work has to be in the queue.
    commands.submit();
    const { queue } = commands.device;
    const n = requests.length / REQUEST_WORDS;
    commands.inDoubt(() => {
      queue.writeBuffer(b.job, 0, walkJob(n));
      queue.writeBuffer(b.requests, 0, requests);
      queue.writeBuffer(b.work, 0, work);
    });
    commands.encoder().clearBuffer(b.work, work.byteLength, 2 * mapWords * 4);
    const pass = commands.pass();
    pass.setBindGroup(0, tile.tables);
    pass.setBindGroup(1, b.translate);
    tile.translator.record(pass, n);
    pass.setBindGroup(0, b.move);
    pass.setPipeline(this.#pipelines.vaCheck);
    pass.dispatchWorkgroups(...gridOf(Math.ceil(count / 64)));
    pass.setPipeline(this.#pipelines.vaAliasCheck);
    pass.dispatchWorkgroups(...gridOf(Math.ceil(count / 64)));
    pass.setPipeline(this.#pipelines.vaMove);
    pass.dispatchWorkgroups(...gridOf(pagePerWorkgroup ? count : Math.ceil(count / 64)));
    const progress = this.#outcome.progressOf(job.job);
    commands.encoder().copyBufferToBuffer(b.work, 0, progress.buffer, progress.offset, 8);
    this.#outcome.expect(job.job, job.checkOnly ? 0 : count);
  }

  destroy(): void {
    const b = this.#buffers;
    if (b !== null) for (const buffer of [b.job, b.requests, b.results, b.work]) buffer.destroy();
    this.#buffers = null;
  }

  /** Pieces end at the page borders of both sides. */
  #pieces(job: VaJob, shadow: HostShadow | null): Uint32Array {
    const fill = job.from < 0;
    const sourcePages = fill || job.from !== AP_VA ? 0 : pagesOf(job.source, job.bytes);
    const most = pagesOf(job.target, job.bytes) + (fill ? 0 : pagesOf(job.source, job.bytes));
    const words = new Uint32Array(most * PIECE_WORDS);
    let at = 0;
    for (let done = 0; done < job.bytes;) {
      const [source, target] = [job.source + done, job.target + done];
      const toBorder = fill ? PAGE_SIZE : PAGE_SIZE - (source % PAGE_SIZE);
      const n = Math.min(job.bytes - done, toBorder, PAGE_SIZE - (target % PAGE_SIZE));
      const from = fill ? SIDE_PATTERN : this.#side(words, at, job.from, source, job.source, 0, shadow);
      if (fill) words[at] = job.pattern;
      const to = this.#side(words, at + 2, job.to, target, job.target, sourcePages, shadow);
      const opens = done === 0 || target % PAGE_SIZE === 0;
      words[at + 4] = n / 4;
      words[at + 5] = from | (to << 4) | (opens ? OPENS_PAGE : 0);
      at += PIECE_WORDS;
      done += n;
    }
    return words.subarray(0, at);
  }

  /** Writes the two words of a side; returns its kind. `first` is where the side of the job begins. */
  #side(
    words: Uint32Array,
    at: number,
    aperture: number,
    address: number,
    first: number,
    firstResult: number,
    shadow: HostShadow | null,
  ): number {
    if (aperture === AP_VA) {
      words[at] = firstResult + (alignDown(address, PAGE_SIZE) - alignDown(first, PAGE_SIZE)) / PAGE_SIZE;
      words[at + 1] = (address % PAGE_SIZE) / 4;
      return SIDE_RESULT;
    }
    if (aperture === AP_HOST) {
      words[at] = shadow!.slotAt(address) / 4;
      return SIDE_SLOT;
    }
    const base = aperture === AP_WINDOW ? windowLocation(this.#c.memory.geometry.shape) : 0;
    words[at] = base + address / 4;
    return SIDE_LOCATION;
  }

  #ensure(requestBytes: number, workBytes: number): Buffers {
    const old = this.#buffers;
    const fits = old !== null && old.requestBytes >= requestBytes && old.workBytes >= workBytes;
    const slots = this.#banks.slots;
    if (fits && old.version === this.#banks.version) return old;
    const { commands, memory, pipelines } = this.#c;
    const { device } = commands;
    // What is recorded may still name the old ones.
    commands.submit();
    this.destroy();
    const room = (bytes: number) => 2 ** Math.ceil(Math.log2(Math.max(bytes, 32768)));
    const make = (label: string, size: number, usage: number) => commands.createBuffer({ label, size, usage });
    const storage = GPUBufferUsage.STORAGE;
    const sizes = { requestBytes: room(requestBytes), workBytes: room(workBytes) };
    const job = make("va job", 16, GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST);
    const requests = make("va requests", sizes.requestBytes, storage | GPUBufferUsage.COPY_DST);
    const results = make("va results", (sizes.requestBytes / Request.size) * Result.size, storage);
    const work = make("va work", sizes.workBytes, storage | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC);
    const group = (layout: GPUBindGroupLayout, buffers: readonly GPUBuffer[]) =>
      device.createBindGroup({
        layout,
        entries: buffers.map((buffer, binding) => ({ binding, resource: { buffer } })),
      });
    this.#buffers = {
      ...sizes,
      job,
      requests,
      results,
      work,
      translate: commands.inDoubt(() => group(pipelines.requests, [job, requests, results])),
      move: commands.inDoubt(() => group(this.#pipelines.va, [...memory.banks, slots, work, results])),
      version: this.#banks.version,
    };
    return this.#buffers;
  }
}

function pagesOf(address: number, bytes: number): number {
  return Math.ceil((address + bytes) / PAGE_SIZE) - Math.floor(address / PAGE_SIZE);
}

/** One request per page of a virtual side, those of the source first. Their faults are recorded. */
function requestsOf(job: VaJob): Uint32Array<ArrayBuffer> {
  const sides: [number, number][] = [];
  if (job.from === AP_VA) sides.push([job.source, ACCESS_READ]);
  if (job.to === AP_VA) sides.push([job.target, ACCESS_WRITE]);
  const pages = sides.reduce((sum, [address]) => sum + pagesOf(address, job.bytes), 0);
  const words = new Uint32Array(pages * REQUEST_WORDS);
  const { asid, va_lo: vaLo, va_hi: vaHi, flags, engine, work } = Request.word;
  let at = 0;
  for (const [address, access] of sides) {
    const first = alignDown(address, PAGE_SIZE);
    for (let i = 0; i < pagesOf(address, job.bytes); i++, at += REQUEST_WORDS) {
      words[at + asid] = job.asid;
      words[at + vaLo] = lo32(first + i * PAGE_SIZE);
      words[at + vaHi] = hi32(first + i * PAGE_SIZE);
      words[at + flags] = access;
      words[at + engine] = ENGINE_COPY;
      words[at + work] = job.tag;
    }
  }
  return words;
}

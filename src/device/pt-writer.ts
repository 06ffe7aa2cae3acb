import { PAGE_SIZE, isAligned } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { tileBase } from "../abi/tiles.ts";
import type { GpuCounters } from "../hal/gpu.ts";
import { firstSegment } from "./banks.ts";
import { JOB_BINDING_BYTES } from "./commands.ts";
import type { Commands } from "./commands.ts";
import type { Memory } from "./memory.ts";
import type { Pipelines } from "./pipelines.ts";

/** Runs up to which each is a buffer copy of its own; more go a table at a time, or else through the PT_WRITE shader. */
const RUNS_ONE_BY_ONE = 64;
/** Runs up to which each is a write of the queue where nothing else is to be submitted. */
const RUNS_WRITTEN = 4;
/** Entries per dispatch: 16 bytes each behind a header of the same size. */
const JOBS_PER_DISPATCH = JOB_BINDING_BYTES / 16 - 1;

/**
 * PT_WRITE for a tile: page-table entries, always whole. Writes collect until something could see them (a walk, a read of VRAM, a
 * copy, a submission) and then go out together; each entry is 8 aligned bytes, so no walk sees half of one.
 *
 * Scattered faults change hundreds of entries in few tables. The stretch of a table from the first to the last of them goes out
 * as a whole then, with what stands between them: a copy takes two or three tenths of a millisecond less than the dispatch that
 * stores entry by entry (256 entries, SwiftShader). What stands there is known as long as nobody else has written to the tables, which
 * raw copy jobs may.
 */
export class PtWriter {
  readonly #commands: Commands;
  /** Segment 0 of the tile, and the PA of its first byte. */
  readonly #segment: GPUBuffer;
  readonly #base: number;
  readonly #ptBytes: number;
  readonly #pipelines: Pipelines;
  readonly #counters: GpuCounters;
  readonly #buffers: GPUBindGroup;
  readonly #jobsGroup: GPUBindGroup;
  /** Words of all pending runs, one after the other. */
  #words = new Uint32Array(4096);
  #used = 0;
  /** Pairs: byte of the first entry in the aperture, words. */
  #runs: number[] = [];
  /** The aperture as it has been written here. */
  readonly #mirror: Uint32Array;
  #isMirrorTrue = true;

  constructor(commands: Commands, memory: Memory, pipelines: Pipelines, counters: GpuCounters, tile: number) {
    this.#commands = commands;
    this.#segment = memory.banks[firstSegment(memory.geometry, tile)]!;
    this.#base = tileBase(tile);
    this.#ptBytes = memory.geometry.shape.ptBytes;
    this.#mirror = new Uint32Array(this.#ptBytes / 4);
    this.#pipelines = pipelines;
    this.#counters = counters;
    const { device, stage } = commands;
    this.#buffers = device.createBindGroup({
      layout: pipelines.oneBuffer,
      entries: [{ binding: 0, resource: { buffer: this.#segment } }],
    });
    this.#jobsGroup = device.createBindGroup({
      layout: pipelines.jobs,
      entries: [{ binding: 0, resource: { buffer: stage, size: JOB_BINDING_BYTES } }],
    });
  }

  /** See `Gpu.ptWrite`. */
  write(pa: number, words: Uint32Array): void {
    const at = pa - this.#base;
    const inside = at >= 2 * PAGE_SIZE && at + words.byteLength <= this.#ptBytes;
    assert(inside && isAligned(at, 8) && isAligned(words.length, 2), () => `PT_WRITE outside the aperture at ${pa}`);
    // One emission must fit the stage.
    if ((this.#used + words.length) * 4 > JOB_BINDING_BYTES) this.emit();
    this.#grow(words.length);
    store(words, this.#words, this.#used);
    store(words, this.#mirror, at / 4);
    this.#used += words.length;
    this.#counters.pteWrites += words.length / 2;
    const last = this.#runs.length - 2;
    if (last >= 0 && this.#runs[last]! + this.#runs[last + 1]! * 4 === at) this.#runs[last + 1]! += words.length;
    else this.#runs.push(at, words.length);
  }

  /** Somebody else writes to the tables, or may. */
  othersWrite(): void {
    this.#isMirrorTrue = false;
  }

  /**
   * Sends what is pending on its way, by a submission that the caller makes behind this or, where all there is to submit is
   * a few entries, without one: it would hold up whoever waits by as much as 512 pages do that are written beside it.
   */
  send(): void {
    const runs = this.#runs;
    if (!this.#commands.isEmpty || runs.length / 2 > RUNS_WRITTEN) {
      this.emit();
      return;
    }
    this.#write(runs, this.#words);
    this.#runs = [];
    this.#used = 0;
  }

  /** Puts what is pending before whatever is recorded next. */
  emit(): void {
    if (this.#used === 0) return;
    const runs = this.#runs;
    const words = this.#words.subarray(0, this.#used);
    this.#runs = [];
    this.#used = 0;
    if (runs.length / 2 <= RUNS_ONE_BY_ONE) {
      this.#copyRuns(runs, words);
      return;
    }
    const stretches = this.#isMirrorTrue ? stretchesOf(runs) : null;
    if (stretches === null || stretches.length / 2 > RUNS_ONE_BY_ONE) {
      this.#dispatchEntries(runs, words);
      return;
    }
    const known = this.#wordsOf(stretches);
    if (this.#commands.isEmpty && stretches.length / 2 <= RUNS_WRITTEN) this.#write(stretches, known);
    else this.#copyRuns(stretches, known);
  }

  /** By writes of the queue: nothing is recorded. */
  #write(runs: readonly number[], words: Uint32Array): void {
    const bytes = new Uint8Array(words.buffer);
    let from = 0;
    for (let i = 0; i < runs.length; i += 2) {
      const length = runs[i + 1]! * 4;
      this.#commands.writes.put(this.#segment, runs[i]!, bytes, from, length);
      from += length;
    }
  }

  /** What stands in the tables there, one after the other. */
  #wordsOf(stretches: readonly number[]): Uint32Array {
    let length = 0;
    for (let i = 1; i < stretches.length; i += 2) length += stretches[i]!;
    const words = new Uint32Array(length);
    let to = 0;
    for (let i = 0; i < stretches.length; i += 2) {
      const first = stretches[i]! / 4;
      words.set(this.#mirror.subarray(first, first + stretches[i + 1]!), to);
      to += stretches[i + 1]!;
    }
    return words;
  }

  #copyRuns(runs: readonly number[], words: Uint32Array): void {
    this.#commands.reserve(words.byteLength);
    const staged = this.#commands.put(words);
    const encoder = this.#commands.encoder();
    let from = staged.offset;
    for (let i = 0; i < runs.length; i += 2) {
      const bytes = runs[i + 1]! * 4;
      encoder.copyBufferToBuffer(staged.buffer, from, this.#segment, runs[i]!, bytes);
      from += bytes;
    }
  }

  /** Invocations have no order among themselves, so of two writes to one entry only the last is sent. */
  #dispatchEntries(runs: number[], words: Uint32Array): void {
    const last = new Map<number, number>();
    let at = 0;
    for (let i = 0; i < runs.length; i += 2) {
      for (let k = 0; k < runs[i + 1]!; k += 2, at += 2) last.set(runs[i]! / 8 + k / 2, at);
    }
    let jobs = new Uint32Array((Math.min(last.size, JOBS_PER_DISPATCH) + 1) * 4);
    let count = 0;
    let left = last.size;
    for (const [entry, from] of last) {
      count += 1;
      jobs[count * 4] = entry;
      jobs[count * 4 + 1] = words[from]!;
      jobs[count * 4 + 2] = words[from + 1]!;
      left -= 1;
      if (count < JOBS_PER_DISPATCH && left > 0) continue;
      jobs[0] = count;
      this.#dispatch(jobs, count);
      jobs = new Uint32Array((Math.min(left, JOBS_PER_DISPATCH) + 1) * 4);
      count = 0;
    }
  }

  #dispatch(jobs: Uint32Array, count: number): void {
    this.#commands.reserve(jobs.byteLength);
    const staged = this.#commands.put(jobs);
    const pass = this.#commands.pass();
    pass.setPipeline(this.#pipelines.pteWrite);
    pass.setBindGroup(0, this.#buffers);
    pass.setBindGroup(1, this.#jobsGroup, [staged.offset]);
    pass.dispatchWorkgroups(Math.ceil(count / 64));
  }

  #grow(words: number): void {
    if (this.#used + words <= this.#words.length) return;
    const grown = new Uint32Array(Math.max(this.#words.length * 2, this.#used + words));
    grown.set(this.#words.subarray(0, this.#used));
    this.#words = grown;
  }
}

/** From the first to the last of the runs that begin in one table, as a run, table by table. */
function stretchesOf(runs: readonly number[]): number[] {
  const stretches: number[] = [];
  const byTable = new Map<number, number>();
  for (let i = 0; i < runs.length; i += 2) {
    const at = runs[i]!;
    const end = at + runs[i + 1]! * 4;
    const table = Math.floor(at / PAGE_SIZE);
    const known = byTable.get(table);
    if (known === undefined) {
      byTable.set(table, stretches.length);
      stretches.push(at, runs[i + 1]!);
      continue;
    }
    const first = Math.min(stretches[known]!, at);
    const last = Math.max(stretches[known]! + stretches[known + 1]! * 4, end);
    stretches[known] = first;
    stretches[known + 1] = (last - first) / 4;
  }
  return stretches;
}

/** An entry by itself is stored sooner than a copy is called. */
function store(words: Uint32Array, into: Uint32Array, at: number): void {
  if (words.length === 2) {
    into[at] = words[0]!;
    into[at + 1] = words[1]!;
  } else {
    into.set(words, at);
  }
}

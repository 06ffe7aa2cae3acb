/**
 * Jobs of the copy engine: the descriptor of spec/device.md 4.1 and batches of them.
 *
 * Order. The jobs of a batch take effect as if done one after the other, before whatever is queued later. Host bytes are
 * read when the batch is submitted and written when it completes; a job that reads what an earlier one of its batch
 * writes to host memory gets those bytes all the same.
 *
 * Checks, in this order; the first that fails is the job's status, and the job does none of its work:
 *
 * 1. E_OPCODE: no such opcode; a linear opcode with a scatter list.
 * 2. E_DST_RANGE: a fence for an engine that the table has not.
 * 3. E_LENGTH: nothing to do (length, pages or entries 0; an empty scatter list); more than 4 GiB - 1 in one list.
 * 4. E_ALIGN: an address or length that is no multiple of 4; PT_WRITE: of 8.
 * 5. E_SRC_RANGE: source past its aperture, unknown aperture, scatter list or payload past its end.
 * 6. E_DST_RANGE: the same of the destination. PT_WRITE: E_PTE.
 * 7. E_OVERLAP: a source and a destination of the job share a byte.
 * 8. E_FAULT: a page of a VA side does not translate. E_OVERLAP: it does, but two destinations, or a source and a
 *    destination, are the same bytes of memory.
 *
 * Example: fill a page of VRAM, copy it to RAM, signal copy engine 0.
 *
 *     const batch = new JobBatch();
 *     batch.fill({ to: AP_VRAM, at: pa, bytes: 4096, pattern: 0xdeadbeef });
 *     batch.copy({ from: AP_VRAM, source: pa, to: AP_HOST, target: frame * 4096, bytes: 4096, fence: { engine: 0, seqno: 1 } });
 *     const [filled, copied] = await gpu.submitJobs(batch);
 */
import { hi32, lo32 } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { AP_HOST, AP_VRAM, SG_STRIDE } from "./gpu.ts";
import type { PageList } from "./gpu.ts";

/** Apertures of a descriptor besides AP_VRAM, AP_WINDOW, AP_HOST: a virtual address of the job's ASID. */
export const AP_VA = 3;

export const JOB_NOP = 0;
export const JOB_COPY = 1;
export const JOB_FILL = 2;
export const JOB_PT_WRITE = 3;
export const JOB_FENCE = 4;
export const JOB_COPY_SG = 5;
export const JOB_FILL_SG = 6;

/** Descriptor flags. */
export const JOB_FLAG_FENCE = 1;
/** Checks and translates, moves nothing; done bytes stay 0. */
export const JOB_FLAG_CHECK_ONLY = 2;

/** Job status. */
export const JOB_PENDING = 0;
export const JOB_OK = 1;
export const E_OPCODE = 2;
export const E_ALIGN = 3;
export const E_SRC_RANGE = 4;
export const E_DST_RANGE = 5;
export const E_OVERLAP = 6;
export const E_LENGTH = 7;
export const E_PTE = 8;
export const E_FAULT = 9;
/** The device was lost or destroyed before the job was complete. */
export const E_CANCELED = 10;
/** The device failed, or did not do all of the job. */
export const E_DEVICE = 11;

/** Words of a descriptor, and what they hold. */
export const JOB_WORDS = 16;
export const JOB_WORD = {
  /** 7:0 opcode, 11:8 source aperture, 15:12 destination aperture, 31:16 flags. */
  control: 0,
  tag: 1,
  /** Addresses are bytes: PA, window offset, RAM frame * 4096 + offset, VA. PT_WRITE: first word in the payload. */
  sourceLo: 2,
  sourceHi: 3,
  targetLo: 4,
  targetHi: 5,
  bytes: 6,
  /** Of FILL, FILL_SG and of CLEAR entries of COPY_SG. */
  pattern: 7,
  sgIndex: 8,
  sgCount: 9,
  asid: 10,
  fenceEngine: 11,
  fenceSeqno: 12,
  entries: 13,
  /** Out, filled when the batch is complete. */
  status: 14,
  bytesDone: 15,
} as const;

/** Entries of one PT_WRITE: one whole table. */
export const PT_WRITE_MAX = 512;
/** VA ranges end here: what an address of the stack can hold. */
export const VA_LIMIT = 2 ** 53;
/** Engines that the device's table knows. */
export const ENGINES = 16;

export interface JobFence {
  readonly engine: number;
  readonly seqno: number;
}

/** What every job may carry. */
export interface JobOptions {
  readonly tag?: number;
  readonly fence?: JobFence;
  readonly checkOnly?: boolean;
}

export interface CopyJob extends JobOptions {
  readonly from: number;
  readonly source: number;
  readonly to: number;
  readonly target: number;
  readonly bytes: number;
  readonly asid?: number;
}

export interface FillJob extends JobOptions {
  readonly to: number;
  readonly at: number;
  readonly bytes: number;
  readonly pattern: number;
  readonly asid?: number;
}

/** Descriptors with their scatter lists and page-table entries. The caller's again when its results are there. */
export class JobBatch {
  words = new Uint32Array(4 * JOB_WORDS);
  count = 0;
  /** Scatter entries of all jobs, SG_STRIDE words each. */
  sg = new Uint32Array(16 * SG_STRIDE);
  sgCount = 0;
  /** Page-table entries of all PT_WRITE jobs, two words each. */
  payload = new Uint32Array(64);
  payloadWords = 0;

  clear(): void {
    this.count = 0;
    this.sgCount = 0;
    this.payloadWords = 0;
  }

  /** Appends a descriptor as it is; returns its index. */
  push(descriptor: ArrayLike<number>): number {
    assert(descriptor.length <= JOB_WORDS, () => `a descriptor has ${JOB_WORDS} words, not ${descriptor.length}`);
    if ((this.count + 1) * JOB_WORDS > this.words.length) this.words = grown(this.words, this.words.length * 2);
    const at = this.count * JOB_WORDS;
    this.words.fill(0, at, at + JOB_WORDS);
    this.words.set(descriptor, at);
    this.count += 1;
    return this.count - 1;
  }

  nop(options: JobOptions = {}): number {
    return this.#job(JOB_NOP, options);
  }

  copy(job: CopyJob): number {
    return this.#job(JOB_COPY, job, job);
  }

  fill(job: FillJob): number {
    return this.#job(JOB_FILL, job, { ...job, from: 0, source: 0, target: job.at }, job.pattern);
  }

  /** Copies the runs of `list`; entries with SG_CLEAR are filled with `pattern`. */
  copySg(list: PageList, options: JobOptions & { readonly pattern?: number } = {}): number {
    return this.#scatter(JOB_COPY_SG, list, options.pattern ?? 0, options);
  }

  /** Fills the destinations of `list`. */
  fillSg(list: PageList, pattern: number, options: JobOptions = {}): number {
    return this.#scatter(JOB_FILL_SG, list, pattern, options);
  }

  /** Writes whole entries, two words each (lo, hi), at PA `pa`. */
  ptWrite(pa: number, entries: Uint32Array, options: JobOptions = {}): number {
    const first = this.payloadWords;
    const end = first + entries.length;
    if (end > this.payload.length) this.payload = grown(this.payload, Math.max(end, this.payload.length * 2));
    this.payload.set(entries, first);
    this.payloadWords = end;
    const index = this.#job(JOB_PT_WRITE, options, { from: AP_HOST, source: first, to: AP_VRAM, target: pa, bytes: 0 });
    this.words[index * JOB_WORDS + JOB_WORD.entries] = entries.length / 2;
    return index;
  }

  /** Signals when everything before it in the batch is done. */
  fence(fence: JobFence, options: JobOptions = {}): number {
    return this.#job(JOB_FENCE, { ...options, fence });
  }

  #scatter(opcode: number, list: PageList, pattern: number, options: JobOptions): number {
    const first = this.sgCount;
    this.sgCount += list.count;
    if (this.sgCount * SG_STRIDE > this.sg.length) this.sg = grown(this.sg, this.sgCount * SG_STRIDE * 2);
    this.sg.set(list.words.subarray(0, list.count * SG_STRIDE), first * SG_STRIDE);
    const index = this.#job(opcode, options, undefined, pattern);
    this.words[index * JOB_WORDS + JOB_WORD.sgIndex] = first;
    this.words[index * JOB_WORDS + JOB_WORD.sgCount] = list.count;
    return index;
  }

  #job(opcode: number, options: JobOptions, ends?: Omit<CopyJob, keyof JobOptions>, pattern = 0): number {
    const { tag = 0, fence, checkOnly = false } = options;
    const { from = 0, source = 0, to = 0, target = 0, bytes = 0, asid = 0 } = ends ?? {};
    const flags = (fence === undefined ? 0 : JOB_FLAG_FENCE) | (checkOnly ? JOB_FLAG_CHECK_ONLY : 0);
    const control = opcode | (from << 8) | (to << 12) | (flags << 16);
    const addresses = [lo32(source), hi32(source), lo32(target), hi32(target)];
    return this.push([control, tag, ...addresses, bytes, pattern, 0, 0, asid, fence?.engine ?? 0, fence?.seqno ?? 0]);
  }
}

/** What became of a job. */
export interface JobResult {
  readonly tag: number;
  /** JOB_OK or E_*. */
  readonly status: number;
  readonly bytesDone: number;
}

/** True when the job signals a fence: by its flag, or because it is one. */
export function signalsFence(words: Uint32Array, at: number): boolean {
  const control = words[at + JOB_WORD.control]!;
  return (control & 255) === JOB_FENCE || ((control >>> 16) & JOB_FLAG_FENCE) !== 0;
}

/** Takes the outcome down in the descriptors and hands it out. `bytes`: what each job does when it does it. */
export function reportJobs(batch: JobBatch, status: ArrayLike<number>, bytes: ArrayLike<number>): JobResult[] {
  const results: JobResult[] = [];
  for (let i = 0; i < status.length; i++) {
    const at = i * JOB_WORDS;
    const bytesDone = status[i] === JOB_OK ? bytes[i]! : 0;
    batch.words[at + JOB_WORD.status] = status[i]!;
    batch.words[at + JOB_WORD.bytesDone] = bytesDone;
    results.push({ tag: batch.words[at + JOB_WORD.tag]!, status: status[i]!, bytesDone });
  }
  return results;
}

function grown(words: Uint32Array<ArrayBuffer>, length: number): Uint32Array<ArrayBuffer> {
  const bigger = new Uint32Array(length);
  bigger.set(words);
  return bigger;
}

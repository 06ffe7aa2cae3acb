import { PAGE_SIZE, fromHiLo } from "../base/addr.ts";
import {
  AP_VA,
  JOB_COPY,
  JOB_FENCE,
  JOB_FILL,
  JOB_FILL_SG,
  JOB_NOP,
  JOB_PT_WRITE,
  JOB_WORD,
  JOB_WORDS,
} from "../hal/copy-job.ts";
import type { VramSpace } from "../abi/tiles.ts";
import type { JobBatch } from "../hal/copy-job.ts";
import { SG_CLEAR, SG_STRIDE } from "../hal/gpu.ts";
import { SG_PAGE_MASK, placeInMemory } from "./copy-context.ts";

/** What a run does. VA runs are whole jobs; all others are linear between two memories. */
export const RUN_COPY = 0;
export const RUN_FILL = 1;
export const RUN_PT_WRITE = 2;
export const RUN_VA = 3;

/** Memories of runs besides AP_VRAM, AP_WINDOW, AP_HOST: pages of RAM that live in a GPU buffer for the batch. */
export const AP_SLOT = 4;

/** Fields of a run, one number each; addresses and sizes in bytes. */
export const RUN = { kind: 0, from: 1, source: 2, to: 3, target: 4, bytes: 5, value: 6, job: 7 } as const;
export const RUN_STRIDE = 8;
/** The fields in the order of RUN, for a run taken out of `Runs.fields`. */
export type RunFields = [
  kind: number,
  from: number,
  source: number,
  to: number,
  target: number,
  bytes: number,
  value: number,
  job: number,
];

/** The runs of a batch, in order; addresses of AP_VRAM are linear (abi/tiles.ts). `value`: pattern of a fill, first payload word of a PT_WRITE. */
export class Runs {
  fields = new Float64Array(16 * RUN_STRIDE);
  count = 0;

  clear(): void {
    this.count = 0;
  }

  push(
    kind: number,
    from: number,
    source: number,
    to: number,
    target: number,
    bytes: number,
    value: number,
    job: number,
  ): void {
    const at = this.count * RUN_STRIDE;
    if (at === this.fields.length) {
      const grown = new Float64Array(this.fields.length * 2);
      grown.set(this.fields);
      this.fields = grown;
    }
    const { fields } = this;
    fields[at] = kind;
    fields[at + 1] = from;
    fields[at + 2] = source;
    fields[at + 3] = to;
    fields[at + 4] = target;
    fields[at + 5] = bytes;
    fields[at + 6] = value;
    fields[at + 7] = job;
    this.count += 1;
  }

  /** Appends what a checked job does; returns its bytes. */
  addJob(batch: JobBatch, index: number, vram: VramSpace): number {
    const at = index * JOB_WORDS;
    const { words } = batch;
    const control = words[at + JOB_WORD.control]!;
    const opcode = control & 255;
    if (opcode === JOB_NOP || opcode === JOB_FENCE) return 0;
    const from = (control >>> 8) & 15;
    const to = (control >>> 12) & 15;
    const fill = opcode === JOB_FILL;
    const source = fromHiLo(words[at + JOB_WORD.sourceHi]!, words[at + JOB_WORD.sourceLo]!);
    const target = fromHiLo(words[at + JOB_WORD.targetHi]!, words[at + JOB_WORD.targetLo]!);
    if (opcode === JOB_PT_WRITE) {
      const bytes = words[at + JOB_WORD.entries]! * 8;
      this.push(RUN_PT_WRITE, from, 0, to, placeInMemory(vram, to, target), bytes, source, index);
      return bytes;
    }
    const pattern = words[at + JOB_WORD.pattern]!;
    if (opcode !== JOB_COPY && opcode !== JOB_FILL)
      return this.#addScatter(batch, index, opcode === JOB_FILL_SG, pattern, vram);
    const bytes = words[at + JOB_WORD.bytes]!;
    // Of a fill the source is no address.
    const first = fill ? source : placeInMemory(vram, from, source);
    const into = placeInMemory(vram, to, target);
    if (to === AP_VA || (from === AP_VA && !fill)) {
      this.push(RUN_VA, fill ? -1 : from, first, to, into, bytes, pattern, index);
    } else {
      this.#addLinear(fill ? RUN_FILL : RUN_COPY, from, first, to, into, bytes, pattern, index);
    }
    return bytes;
  }

  #addScatter(batch: JobBatch, index: number, fills: boolean, pattern: number, vram: VramSpace): number {
    const first = batch.words[index * JOB_WORDS + JOB_WORD.sgIndex]! * SG_STRIDE;
    const end = first + batch.words[index * JOB_WORDS + JOB_WORD.sgCount]! * SG_STRIDE;
    let total = 0;
    for (let at = first; at < end; at += SG_STRIDE) {
      const w0 = batch.sg[at]!;
      const w1 = batch.sg[at + 1]!;
      const bytes = batch.sg[at + 2]! * PAGE_SIZE;
      const kind = fills || (batch.sg[at + 3]! & SG_CLEAR) !== 0 ? RUN_FILL : RUN_COPY;
      const [from, to] = [w0 >>> 30, w1 >>> 30];
      const source = kind === RUN_FILL ? 0 : placeInMemory(vram, from, (w0 & SG_PAGE_MASK) * PAGE_SIZE);
      const target = placeInMemory(vram, to, (w1 & SG_PAGE_MASK) * PAGE_SIZE);
      this.push(kind, from, source, to, target, bytes, pattern, index);
      total += bytes;
    }
    return total;
  }

  /** Where whole pages lie inside, they go apart from the words around them: pages are copied by vec4. */
  #addLinear(
    kind: number,
    from: number,
    source: number,
    to: number,
    target: number,
    bytes: number,
    pattern: number,
    job: number,
  ): void {
    const congruent = kind === RUN_FILL || source % PAGE_SIZE === target % PAGE_SIZE;
    const head = (PAGE_SIZE - (target % PAGE_SIZE)) % PAGE_SIZE;
    const pages = bytes - head - ((target + bytes) % PAGE_SIZE);
    if (!congruent || pages < PAGE_SIZE || pages === bytes) {
      this.push(kind, from, source, to, target, bytes, pattern, job);
      return;
    }
    const tail = bytes - head - pages;
    if (head > 0) this.push(kind, from, source, to, target, head, pattern, job);
    this.push(kind, from, source + head, to, target + head, pages, pattern, job);
    if (tail > 0) this.push(kind, from, source + head + pages, to, target + head + pages, tail, pattern, job);
  }
}

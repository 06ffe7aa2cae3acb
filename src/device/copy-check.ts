import { PAGE_SIZE, fromHiLo } from "../base/addr.ts";
import {
  AP_VA,
  ENGINES,
  E_ALIGN,
  E_DST_RANGE,
  E_LENGTH,
  E_OPCODE,
  E_OVERLAP,
  E_PTE,
  E_SRC_RANGE,
  JOB_COPY,
  JOB_FENCE,
  JOB_FILL,
  JOB_FILL_SG,
  JOB_NOP,
  JOB_PENDING,
  JOB_PT_WRITE,
  JOB_WORD,
  JOB_WORDS,
  PT_WRITE_MAX,
  VA_LIMIT,
  signalsFence,
} from "../hal/copy-job.ts";
import type { JobBatch } from "../hal/copy-job.ts";
import { tileBase, tileOf } from "../abi/tiles.ts";
import type { VramSpace } from "../abi/tiles.ts";
import { AP_VRAM, SG_CLEAR, SG_STRIDE } from "../hal/gpu.ts";
import { SG_PAGE_MASK, placeInMemory } from "./copy-context.ts";
import type { PageMarks } from "./copy-marks.ts";

/** What addresses are checked against. */
export interface CopyBounds {
  /** Addresses of AP_VRAM are PAs, also where the device has several tiles. */
  readonly vram: VramSpace;
  readonly syswBytes: number;
  readonly hostBytes: number;
  /** Of each tile. */
  readonly ptBytes: number;
}

/**
 * The checks that need no translation, in the order of hal/copy-job.ts. JOB_PENDING: the job may run. Nothing is stored
 * before all checks of a job are done.
 */
export function checkJob(batch: JobBatch, index: number, bounds: CopyBounds, marks: PageMarks): number {
  const at = index * JOB_WORDS;
  const { words } = batch;
  const opcode = words[at + JOB_WORD.control]! & 255;
  const linear = opcode === JOB_COPY || opcode === JOB_FILL;
  if (opcode > JOB_FILL_SG || (linear && words[at + JOB_WORD.sgCount]! > 0)) return E_OPCODE;
  if (signalsFence(words, at) && words[at + JOB_WORD.fenceEngine]! >= ENGINES) return E_DST_RANGE;
  if (opcode === JOB_NOP || opcode === JOB_FENCE) return JOB_PENDING;
  if (opcode === JOB_PT_WRITE) return checkPtWrite(batch, at, bounds);
  return linear ? checkLinear(words, at, opcode === JOB_FILL, bounds) : checkScatter(batch, at, opcode, bounds, marks);
}

function checkPtWrite(batch: JobBatch, at: number, bounds: CopyBounds): number {
  const { words } = batch;
  const entries = words[at + JOB_WORD.entries]!;
  if (entries === 0) return E_LENGTH;
  if (words[at + JOB_WORD.targetLo]! % 8 !== 0) return E_ALIGN;
  const first = fromHiLo(words[at + JOB_WORD.sourceHi]!, words[at + JOB_WORD.sourceLo]!);
  if (first + entries * 2 > batch.payloadWords) return E_SRC_RANGE;
  const pa = fromHiLo(words[at + JOB_WORD.targetHi]!, words[at + JOB_WORD.targetLo]!);
  const inAperture = pa - tileBase(tileOf(pa));
  const inside = inAperture >= 2 * PAGE_SIZE && inAperture + entries * 8 <= bounds.ptBytes;
  const exists = bounds.vram.contains(pa, entries * 8);
  const to = (words[at + JOB_WORD.control]! >>> 12) & 15;
  return to === AP_VRAM && inside && exists && entries <= PT_WRITE_MAX ? JOB_PENDING : E_PTE;
}

function checkLinear(words: Uint32Array, at: number, fill: boolean, bounds: CopyBounds): number {
  const bytes = words[at + JOB_WORD.bytes]!;
  if (bytes === 0) return E_LENGTH;
  const sourceLo = fill ? 0 : words[at + JOB_WORD.sourceLo]!;
  if (sourceLo % 4 !== 0 || words[at + JOB_WORD.targetLo]! % 4 !== 0 || bytes % 4 !== 0) return E_ALIGN;
  const control = words[at + JOB_WORD.control]!;
  const from = (control >>> 8) & 15;
  const to = (control >>> 12) & 15;
  const source = fromHiLo(words[at + JOB_WORD.sourceHi]!, sourceLo);
  const target = fromHiLo(words[at + JOB_WORD.targetHi]!, words[at + JOB_WORD.targetLo]!);
  if (!fill && !fits(from, source, bytes, bounds)) return E_SRC_RANGE;
  if (!fits(to, target, bytes, bounds)) return E_DST_RANGE;
  const overlap = !fill && from === to && source < target + bytes && target < source + bytes;
  return overlap ? E_OVERLAP : JOB_PENDING;
}

function fits(aperture: number, address: number, bytes: number, bounds: CopyBounds): boolean {
  if (aperture === AP_VRAM) return bounds.vram.contains(address, bytes);
  const end = [0, bounds.syswBytes, bounds.hostBytes, VA_LIMIT][aperture] ?? 0;
  return address + bytes <= end;
}

function checkScatter(batch: JobBatch, job: number, opcode: number, bounds: CopyBounds, marks: PageMarks): number {
  const first = batch.words[job + JOB_WORD.sgIndex]! * SG_STRIDE;
  const end = first + batch.words[job + JOB_WORD.sgCount]! * SG_STRIDE;
  if (first === end) return E_LENGTH;
  if (end > batch.sgCount * SG_STRIDE) return E_SRC_RANGE;
  const { sg } = batch;
  let pages = 0;
  let sourceFits = true;
  let targetFits = true;
  for (let at = first; at < end; at += SG_STRIDE) {
    const n = sg[at + 2]!;
    if (n === 0) return E_LENGTH;
    pages += n;
    const fill = opcode === JOB_FILL_SG || (sg[at + 3]! & SG_CLEAR) !== 0;
    if (!fill) sourceFits &&= pagesFit(sg[at]!, n, bounds);
    targetFits &&= pagesFit(sg[at + 1]!, n, bounds);
  }
  if (pages * PAGE_SIZE >= 2 ** 32) return E_LENGTH;
  if (!sourceFits) return E_SRC_RANGE;
  if (!targetFits) return E_DST_RANGE;
  return opcode !== JOB_FILL_SG && overlaps(sg, first, end, bounds.vram, marks) ? E_OVERLAP : JOB_PENDING;
}

/** Scatter entries know no VA. */
function pagesFit(word: number, pages: number, bounds: CopyBounds): boolean {
  const aperture = word >>> 30;
  return aperture !== AP_VA && fits(aperture, (word & SG_PAGE_MASK) * PAGE_SIZE, pages * PAGE_SIZE, bounds);
}

/** True when the list reads a page that it also writes. */
function overlaps(sg: Uint32Array, first: number, end: number, vram: VramSpace, marks: PageMarks): boolean {
  marks.begin();
  for (let at = first; at < end; at += SG_STRIDE) {
    const w1 = sg[at + 1]!;
    marks.raise(w1 >>> 30, placeInMemory(vram, w1 >>> 30, (w1 & SG_PAGE_MASK) * PAGE_SIZE), sg[at + 2]! * PAGE_SIZE, 1);
  }
  for (let at = first; at < end; at += SG_STRIDE) {
    if ((sg[at + 3]! & SG_CLEAR) !== 0) continue;
    const w0 = sg[at]!;
    if (
      marks.largest(
        w0 >>> 30,
        placeInMemory(vram, w0 >>> 30, (w0 & SG_PAGE_MASK) * PAGE_SIZE),
        sg[at + 2]! * PAGE_SIZE,
      ) > 0
    )
      return true;
  }
  return false;
}

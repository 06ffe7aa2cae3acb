import type { KernelSource, ReferenceKernelContext } from "../hal/gpu.ts";
import copyWgsl from "../../shaders/kernels/copy.wgsl?raw";
import fillWgsl from "../../shaders/kernels/fill.wgsl?raw";
import jobWgsl from "../../shaders/kernels/job.wgsl?raw";
import readWgsl from "../../shaders/kernels/read.wgsl?raw";
import writeWgsl from "../../shaders/kernels/write.wgsl?raw";

/**
 * The kernels behind the GPU access verbs, each in WGSL and, for the reference engine, in TypeScript. Both obey the rule
 * of transactional items: everything is translated before anything is stored.
 */

const READ = 0;
const WRITE = 1;
const ATOMIC = 2;
const PAGE = 4096;

function arg64(c: ReferenceKernelContext, i: number): number {
  return c.args[2 * i]! + c.args[2 * i + 1]! * 2 ** 32;
}

/** Kinds of a job's operations, as in job.wgsl. */
export const JOB_LOAD = 0;
export const JOB_STORE = 1;
export const JOB_ADD = 2;
/** Input words per operation. */
export const JOB_WORDS = 4;

export const JOB: KernelSource = {
  name: "job",
  wgsl: jobWgsl,
  atomics: true,
  reference(item, c) {
    const parallel = c.args[1] === 1;
    const end = parallel ? item + 1 : c.args[0]!;
    for (let i = parallel ? item : c.cont; i < end; i++) {
      const kind = c.input[4 * i]!;
      const va = c.input[4 * i + 1]! + c.input[4 * i + 2]! * 2 ** 32;
      const value = c.input[4 * i + 3]!;
      const at = c.translate(va, kind === JOB_LOAD ? READ : kind === JOB_STORE ? WRITE : ATOMIC);
      if (c.missed) {
        c.cont = i;
        return;
      }
      const old = kind === JOB_STORE ? 0 : c.load(at);
      if (kind === JOB_STORE) c.store(at, value);
      else if (kind === JOB_ADD) c.store(at, old + value);
      c.out[i] = old;
    }
  },
};

/** What an item works on: the bytes `[lo, hi)` of the page at `base`, all relative to the first page of the area. */
interface Piece {
  readonly base: number;
  readonly lo: number;
  readonly hi: number;
  /** Offset of the area in its first page. */
  readonly head: number;
  /** Location of the page. */
  readonly at: number;
}

/** The piece of page `item` of the area that argument 0 points to. Good only if nothing has missed. */
function piece(item: number, c: ReferenceKernelContext, length: number, access: number): Piece {
  const start = arg64(c, 0);
  const head = start % PAGE;
  const base = item * PAGE;
  const at = c.translate(start - head + base, access);
  return { base, lo: Math.max(head, base), hi: Math.min(head + length, base + PAGE), head, at };
}

function headMask(byte: number): number {
  return (0xffffffff << ((byte & 3) * 8)) >>> 0;
}
function tailMask(lastByte: number): number {
  return 0xffffffff >>> ((3 - (lastByte & 3)) * 8);
}

/** Stores `value(w)` to every word of the piece, masked at both ends. */
function storeMasked(c: ReferenceKernelContext, p: Piece, value: (word: number) => number): void {
  const first = (p.lo - p.base) >>> 2;
  const last = (p.hi - p.base - 1) >>> 2;
  for (let w = first; w <= last; w++) {
    let mask = 0xffffffff;
    if (w === first) mask = (mask & headMask(p.lo)) >>> 0;
    if (w === last) mask = (mask & tailMask(p.hi - 1)) >>> 0;
    const v = value(w);
    c.store(p.at + w, mask === 0xffffffff ? v : ((c.load(p.at + w) & ~mask) | (v & mask)) >>> 0);
  }
}

export const FILL: KernelSource = {
  name: "fill",
  wgsl: fillWgsl,
  reference(item, c) {
    const p = piece(item, c, c.args[2]!, WRITE);
    if (c.missed) return;
    storeMasked(c, p, () => c.args[4]!);
  },
};

export const READ_WORDS: KernelSource = {
  name: "read",
  wgsl: readWgsl,
  reference(item, c) {
    const p = piece(item, c, c.args[2]!, READ);
    if (c.missed) return;
    for (let byte = p.lo; byte < p.hi; byte += 4) c.out[(byte - p.head) / 4] = c.load(p.at + (byte - p.base) / 4);
  },
};

export const WRITE_WORDS: KernelSource = {
  name: "write",
  wgsl: writeWgsl,
  reference(item, c) {
    const p = piece(item, c, c.args[2]!, WRITE);
    if (c.missed) return;
    storeMasked(c, p, (w) => c.input[item * 1024 + w - (p.head >>> 2)]!);
  },
};

export const COPY: KernelSource = {
  name: "copy",
  wgsl: copyWgsl,
  reference(item, c) {
    const p = piece(item, c, c.args[4]!, WRITE);
    const source = arg64(c, 1) + (p.lo - p.head);
    const offset = source % PAGE;
    const at0 = c.translate(source - offset, READ);
    const at1 = offset + (p.hi - p.lo) > PAGE ? c.translate(source - offset + PAGE, READ) : 0;
    if (c.missed) return;
    const wordAt = (word: number): number => c.load(word < 1024 ? at0 + word : at1 + word - 1024);
    // Source byte of the target page's first; words that lie alike are copied as such.
    const shift = offset - (p.lo - p.base);
    if (shift % 4 === 0) {
      storeMasked(c, p, (w) => wordAt(w + shift / 4));
      return;
    }
    const byteAt = (b: number): number => (wordAt(b >>> 2) >>> ((b & 3) * 8)) & 255;
    storeMasked(c, p, (w) => {
      let value = 0;
      for (let k = 0; k < 4; k++) {
        const target = p.base + w * 4 + k;
        if (target >= p.lo && target < p.hi) value |= byteAt(offset + target - p.lo) << (8 * k);
      }
      return value >>> 0;
    });
  },
};

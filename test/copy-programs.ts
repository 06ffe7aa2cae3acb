import { hi32, lo32 } from "../src/base/addr.ts";
import {
  AP_VA,
  E_ALIGN,
  E_DST_RANGE,
  E_LENGTH,
  E_OPCODE,
  E_OVERLAP,
  E_PTE,
  E_SRC_RANGE,
  JOB_COPY,
  JOB_COPY_SG,
  JOB_FENCE,
  JOB_FILL,
  JOB_FILL_SG,
  JOB_FLAG_FENCE,
  JOB_NOP,
  JOB_OK,
  JOB_PT_WRITE,
  JOB_WORD,
  JOB_WORDS,
  JobBatch,
} from "../src/hal/copy-job.ts";
import { AP_HOST, AP_VRAM, AP_WINDOW, PageList } from "../src/hal/gpu.ts";
import type { Gpu } from "../src/hal/gpu.ts";

/** Programs for the copy engine that every engine has to run alike, and a model of memory to compare with. */
const PAGE = 4096;
const MIB = 1 << 20;

/** A machine of any engine: 8 MiB of VRAM of which 1 MiB page tables, a window of 1 MiB, 2 MiB of RAM. */
export const CONFIG = { vramBytes: 8 * MIB, ptBytes: MIB, syswBytes: MIB, faultQueueCapacity: 4096 };
export const RAM = 2 * MIB;

/** All bytes of a machine, and what linear jobs do to them, one byte after the other. */
export class ByteModel {
  readonly gpu: Gpu;
  readonly host: Uint8Array;
  /** By aperture. */
  readonly memory: readonly Uint8Array<ArrayBuffer>[];

  constructor(gpu: Gpu, host: Uint8Array) {
    this.gpu = gpu;
    this.host = host;
    this.memory = [gpu.info.vramBytes, gpu.info.syswBytes, host.length].map((bytes) => new Uint8Array(bytes));
  }

  /** Every word of VRAM's heap, the window and RAM tells where it belongs. */
  async poison(): Promise<void> {
    const { ptBytes } = this.gpu.info;
    for (const [aperture, bytes] of this.memory.entries()) {
      const words = new Uint32Array(bytes.buffer);
      const first = aperture === AP_VRAM ? ptBytes / 4 : 0;
      for (let i = first; i < words.length; i++) words[i] = ((aperture + 1) * 0x10000000 + i * 4) >>> 0;
      if (aperture === AP_HOST) continue;
      for (let at = first * 4; at < bytes.length; at += this.host.length) {
        const n = Math.min(this.host.length, bytes.length - at);
        this.host.set(bytes.subarray(at, at + n));
        const list = new PageList();
        list.push(AP_HOST, 0, aperture, at / PAGE, n / PAGE);
        void this.gpu.copy(list);
      }
    }
    this.host.set(this.memory[AP_HOST]!);
    await this.gpu.idle();
  }

  copy(from: number, source: number, to: number, target: number, bytes: number): void {
    this.memory[to]!.set(this.memory[from]!.slice(source, source + bytes), target);
  }

  fill(to: number, at: number, bytes: number, pattern: number): void {
    new Uint32Array(this.memory[to]!.buffer, at, bytes / 4).fill(pattern);
  }

  /** Where memory differs: the first wrong word, or null. */
  async difference(): Promise<string | null> {
    const ram = differ("RAM", this.host, this.memory[AP_HOST]!);
    const vram = ram ?? differ("VRAM", await this.gpu.readVram(0, this.gpu.info.vramBytes), this.memory[AP_VRAM]!);
    if (vram !== null) return vram;
    const saved = this.host.slice();
    const list = new PageList();
    list.push(AP_WINDOW, 0, AP_HOST, 0, this.gpu.info.syswBytes / PAGE);
    await this.gpu.copy(list);
    const window = differ("window", this.host.slice(0, this.gpu.info.syswBytes), this.memory[AP_WINDOW]!);
    this.host.set(saved);
    return window;
  }
}

function differ(name: string, bytes: Uint8Array, expected: Uint8Array<ArrayBuffer>): string | null {
  const got = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  const want = new Uint32Array(expected.buffer);
  for (let i = 0; i < want.length; i++) {
    if (got[i] !== want[i]) return `${name} word at 0x${(i * 4).toString(16)}: ${got[i]} instead of ${want[i]}`;
  }
  return null;
}

/** A descriptor by names; addresses in bytes. */
export function descriptor(fields: {
  opcode: number;
  flags?: number;
  from?: number;
  source?: number;
  to?: number;
  target?: number;
  bytes?: number;
  pattern?: number;
  sgIndex?: number;
  sgCount?: number;
  asid?: number;
  engine?: number;
  seqno?: number;
  entries?: number;
  tag?: number;
}): number[] {
  const w = new Array<number>(JOB_WORDS).fill(0);
  const { opcode, flags = 0, from = 0, source = 0, to = 0, target = 0 } = fields;
  w[JOB_WORD.control] = opcode | (from << 8) | (to << 12) | (flags << 16);
  w[JOB_WORD.tag] = fields.tag ?? 0;
  w[JOB_WORD.sourceLo] = lo32(source);
  w[JOB_WORD.sourceHi] = hi32(source);
  w[JOB_WORD.targetLo] = lo32(target);
  w[JOB_WORD.targetHi] = hi32(target);
  w[JOB_WORD.bytes] = fields.bytes ?? 0;
  w[JOB_WORD.pattern] = fields.pattern ?? 0;
  w[JOB_WORD.sgIndex] = fields.sgIndex ?? 0;
  w[JOB_WORD.sgCount] = fields.sgCount ?? 0;
  w[JOB_WORD.asid] = fields.asid ?? 0;
  w[JOB_WORD.fenceEngine] = fields.engine ?? 0;
  w[JOB_WORD.fenceSeqno] = fields.seqno ?? 0;
  w[JOB_WORD.entries] = fields.entries ?? 0;
  return w;
}

const HEAP = MIB;
const VRAM_END = CONFIG.vramBytes;
const linear = (opcode: number, from: number, source: number, to: number, target: number, bytes: number) =>
  descriptor({ opcode, from, source, to, target, bytes, pattern: 7 });
const copy = (from: number, source: number, to: number, target: number, bytes: number) =>
  linear(JOB_COPY, from, source, to, target, bytes);
const fill = (to: number, target: number, bytes: number) => linear(JOB_FILL, 0, 1, to, target, bytes);
const sg = (opcode: number, sgIndex: number, sgCount: number) => descriptor({ opcode, sgIndex, sgCount, pattern: 7 });
const entries = (target: number, n: number, more: { to?: number; source?: number } = {}) =>
  descriptor({ opcode: JOB_PT_WRITE, from: AP_HOST, target, entries: n, ...more });

/** Scatter entries that the SG cases below name by index: source and destination as (aperture, page), pages, flags. */
const SG_ENTRIES: readonly (readonly [number, number, number, number, number, number])[] = [
  [AP_VRAM, 300, AP_VRAM, 310, 4, 0],
  [AP_VRAM, 310, AP_VRAM, 320, 1, 0],
  [AP_VRAM, 300, AP_VRAM, 301, 2, 0],
  [AP_VRAM, 300, AP_VRAM, 310, 0, 0],
  [AP_VRAM, 2047, AP_VRAM, 310, 2, 0],
  [AP_VRAM, 300, AP_VRAM, 2047, 2, 0],
  [AP_VA, 300, AP_VRAM, 310, 1, 0],
  [AP_VRAM, 300, AP_VA, 310, 1, 0],
  [AP_VRAM, 5000, AP_VRAM, 310, 1, 1],
];

/** Each job alone, by name: the first rule that it breaks gives the status. None of them changes a byte. */
export const REFUSED: readonly (readonly [string, number[], number])[] = [
  ["an opcode that does not exist", descriptor({ opcode: 7 }), E_OPCODE],
  ["a linear copy with a scatter list", [...copy(AP_VRAM, HEAP, AP_VRAM, HEAP + PAGE, 4).slice(0, 9), 1], E_OPCODE],
  ["a fence of an engine past the table", descriptor({ opcode: JOB_FENCE, engine: 16 }), E_DST_RANGE],
  [
    "a flag for an engine past the table",
    descriptor({ opcode: JOB_NOP, flags: JOB_FLAG_FENCE, engine: 16 }),
    E_DST_RANGE,
  ],
  ["a copy of no bytes", copy(AP_VRAM, HEAP, AP_VRAM, HEAP + PAGE, 0), E_LENGTH],
  ["a fill of no bytes, before its address", fill(AP_VRAM, HEAP + 1, 0), E_LENGTH],
  ["a source between words", copy(AP_VRAM, HEAP + 2, AP_VRAM, HEAP + PAGE, 4), E_ALIGN],
  ["a destination between words", copy(AP_VRAM, HEAP, AP_WINDOW, 1, 4), E_ALIGN],
  ["a length between words", copy(AP_HOST, 0, AP_VRAM, HEAP, 6), E_ALIGN],
  ["a fill between words", fill(AP_WINDOW, 2, 4), E_ALIGN],
  ["alignment before range", copy(AP_VRAM, VRAM_END + 2, AP_VRAM, HEAP, 4), E_ALIGN],
  ["a source one word past VRAM", copy(AP_VRAM, VRAM_END - 4, AP_WINDOW, 0, 8), E_SRC_RANGE],
  ["a source past the window", copy(AP_WINDOW, MIB, AP_VRAM, HEAP, 4), E_SRC_RANGE],
  ["a source past RAM", copy(AP_HOST, RAM - 4, AP_VRAM, HEAP, 8), E_SRC_RANGE],
  ["a source in no aperture", copy(9, 0, AP_VRAM, HEAP, 4), E_SRC_RANGE],
  ["a source far above", copy(AP_VRAM, 2 ** 36, AP_VRAM, HEAP, 4), E_SRC_RANGE],
  ["source before destination", copy(AP_VRAM, VRAM_END, AP_VRAM, VRAM_END, 4), E_SRC_RANGE],
  ["a destination one word past VRAM", copy(AP_HOST, 0, AP_VRAM, VRAM_END - 4, 8), E_DST_RANGE],
  ["a destination past the window", copy(AP_VRAM, HEAP, AP_WINDOW, MIB - 4, 8), E_DST_RANGE],
  ["a destination past RAM", copy(AP_VRAM, HEAP, AP_HOST, RAM, 4), E_DST_RANGE],
  ["a destination in no aperture", copy(AP_VRAM, HEAP, 4, 0, 4), E_DST_RANGE],
  ["a fill past VRAM", fill(AP_VRAM, VRAM_END, 4), E_DST_RANGE],
  ["addresses past 2^53", copy(AP_VA, 2 ** 53, AP_VRAM, HEAP, 4), E_SRC_RANGE],
  ["a copy onto itself", copy(AP_VRAM, HEAP, AP_VRAM, HEAP, 64), E_OVERLAP],
  ["one word in common, upward", copy(AP_VRAM, HEAP, AP_VRAM, HEAP + 60, 64), E_OVERLAP],
  ["one word in common, downward", copy(AP_HOST, 60, AP_HOST, 0, 64), E_OVERLAP],
  ["virtual ranges with a word in common", copy(AP_VA, 4096, AP_VA, 4100, 8), E_OVERLAP],
  ["an empty scatter list", sg(JOB_COPY_SG, 0, 0), E_LENGTH],
  ["a scatter list past its end", sg(JOB_COPY_SG, SG_ENTRIES.length, 1), E_SRC_RANGE],
  ["a run of no pages", sg(JOB_COPY_SG, 3, 1), E_LENGTH],
  ["a scattered source past VRAM", sg(JOB_COPY_SG, 4, 1), E_SRC_RANGE],
  ["a scattered destination past VRAM, in the last entry", sg(JOB_COPY_SG, 5, 1), E_DST_RANGE],
  ["a scattered fill past VRAM", sg(JOB_FILL_SG, 5, 1), E_DST_RANGE],
  ["a virtual page in a scatter list", sg(JOB_COPY_SG, 6, 1), E_SRC_RANGE],
  ["a virtual destination in a scatter list", sg(JOB_COPY_SG, 7, 1), E_DST_RANGE],
  ["one entry that overlaps itself", sg(JOB_COPY_SG, 2, 1), E_OVERLAP],
  ["one entry that reads what another writes", sg(JOB_COPY_SG, 0, 2), E_OVERLAP],
  ["no entries for a table", entries(2 * PAGE, 0), E_LENGTH],
  ["half an entry", entries(2 * PAGE + 4, 1), E_ALIGN],
  ["entries past the payload", entries(2 * PAGE, 1, { source: 2048 }), E_SRC_RANGE],
  ["page 0", entries(0, 1), E_PTE],
  ["page 1", entries(2 * PAGE - 8, 1), E_PTE],
  ["entries past the aperture", entries(MIB - 8, 2), E_PTE],
  ["entries in the heap", entries(MIB, 1), E_PTE],
  ["entries in the window", entries(2 * PAGE, 1, { to: AP_WINDOW }), E_PTE],
  ["513 entries", entries(2 * PAGE, 513), E_PTE],
];

/** A job that does its work wherever it stands. */
export const SG_CLEAR_PAST_END = sg(JOB_COPY_SG, 8, 1);

/** A batch with the scatter entries and the payload that REFUSED talks about. */
export function batchForRefused(): JobBatch {
  const batch = new JobBatch();
  for (const [from, source, to, target, pages, flags] of SG_ENTRIES) {
    const list = new PageList();
    list.push(from, source, to, target, pages, flags);
    batch.copySg(list);
  }
  batch.ptWrite(0, new Uint32Array(2048));
  batch.count = 0;
  return batch;
}

/** A program: a batch, what it does to the model, and the states it ends with. */
export interface Program {
  readonly name: string;
  run(batch: JobBatch, model: ByteModel): void;
  readonly status?: readonly number[];
}

/** Linear copy and fill, both in the batch and in the model. */
class Script {
  readonly batch: JobBatch;
  readonly model: ByteModel;
  constructor(batch: JobBatch, model: ByteModel) {
    this.batch = batch;
    this.model = model;
  }
  copy(from: number, source: number, to: number, target: number, bytes: number): void {
    this.batch.copy({ from, source, to, target, bytes });
    this.model.copy(from, source, to, target, bytes);
  }
  fill(to: number, at: number, bytes: number, pattern: number): void {
    this.batch.fill({ to, at, bytes, pattern });
    this.model.fill(to, at, bytes, pattern);
  }
}

const program = (name: string, body: (s: Script) => void): Program => ({
  name,
  run: (batch, model) => body(new Script(batch, model)),
});

/** Where each aperture has room: a half to read from, a half to write to. */
const LOW = [HEAP, 0, 0];
const HIGH = [HEAP + 3 * MIB + 512 * 1024, MIB / 2, MIB];
const NAMES = ["VRAM", "window", "RAM"];

function everyDirection(): Program[] {
  const programs: Program[] = [];
  for (const from of [AP_VRAM, AP_WINDOW, AP_HOST]) {
    for (const to of [AP_VRAM, AP_WINDOW, AP_HOST]) {
      const [source, target] = [LOW[from]!, HIGH[to]!];
      programs.push(
        program(`${NAMES[from]} to ${NAMES[to]}: words, a page, a page and its neighbours' words, pages`, (s) => {
          s.copy(from, source + 4, to, target + 16, 4);
          s.copy(from, source + 8, to, target + 24, 4088);
          s.copy(from, source + PAGE, to, target + 2 * PAGE, PAGE);
          s.copy(from, source + 4 * PAGE + 100, to, target + 4 * PAGE + 100, 3 * PAGE);
          s.copy(from, source + 9 * PAGE + 4, to, target + 9 * PAGE + 8, 5 * PAGE - 12);
          s.copy(from, source + 20 * PAGE, to, target + 20 * PAGE, 70 * PAGE);
        }),
      );
    }
  }
  return programs;
}

/** Programs of linear jobs that all succeed. */
export const PROGRAMS: readonly Program[] = [
  ...everyDirection(),
  program("fill patterns: words, pages, both, zero, all memories", (s) => {
    for (const [to, at] of HIGH.entries()) {
      s.fill(to, at + 4, 4, 0xdeadbeef);
      s.fill(to, at + 4092, 8, 0x01020304);
      s.fill(to, at + 2 * PAGE, PAGE, 0xffffffff);
      s.fill(to, at + 4 * PAGE - 4, 2 * PAGE + 8, 0x80000001);
      s.fill(to, at + 8 * PAGE, PAGE, 0);
      s.fill(to, at + 16 * PAGE, 80 * PAGE, 0);
    }
  }),
  program("runs across segment borders, both orders of segments", (s) => {
    s.copy(AP_VRAM, 2 * MIB - 3 * PAGE, AP_VRAM, 6 * MIB - 5 * PAGE, 9 * PAGE);
    s.copy(AP_VRAM, 6 * MIB - 20 * PAGE, AP_VRAM, 4 * MIB - 5 * PAGE, 9 * PAGE);
    s.copy(AP_VRAM, 4 * MIB - 40, AP_VRAM, 2 * MIB - 20, 60);
    s.fill(AP_VRAM, 6 * MIB - 8, 16, 5);
  }),
  program("read after write: a chain through memories", (s) => {
    s.fill(AP_VRAM, HEAP, PAGE, 0x11111111);
    s.copy(AP_VRAM, HEAP, AP_VRAM, HEAP + PAGE, PAGE);
    s.copy(AP_VRAM, HEAP + PAGE, AP_WINDOW, 0, PAGE);
    s.copy(AP_WINDOW, 0, AP_VRAM, HEAP + 8 * PAGE, PAGE);
    s.copy(AP_VRAM, HEAP + 8 * PAGE + 4, AP_VRAM, HEAP + 9 * PAGE, 8);
  }),
  program("write after write: the later one stays", (s) => {
    s.fill(AP_VRAM, HEAP, 2 * PAGE, 1);
    s.fill(AP_VRAM, HEAP + PAGE, PAGE, 2);
    s.copy(AP_HOST, 0, AP_VRAM, HEAP + PAGE + 4, 8);
    s.fill(AP_VRAM, HEAP + PAGE + 8, 4, 3);
  }),
  program("write after read: two pages change places over a third", (s) => {
    s.copy(AP_VRAM, HEAP, AP_VRAM, HEAP + 2 * PAGE, PAGE);
    s.copy(AP_VRAM, HEAP + PAGE, AP_VRAM, HEAP, PAGE);
    s.copy(AP_VRAM, HEAP + 2 * PAGE, AP_VRAM, HEAP + PAGE, PAGE);
    s.copy(AP_HOST, 8 * PAGE, AP_VRAM, HEAP + 2 * PAGE, PAGE);
  }),
  program("write after read: a big clear follows the copy of what it clears", (s) => {
    s.copy(AP_VRAM, HEAP + 200 * PAGE, AP_VRAM, HEAP + 300 * PAGE, 20 * PAGE);
    s.fill(AP_VRAM, HEAP + 200 * PAGE, 20 * PAGE, 0);
    s.copy(AP_VRAM, HEAP + 300 * PAGE, AP_HOST, 0, 4 * PAGE);
    s.fill(AP_VRAM, HEAP + 300 * PAGE, 32 * PAGE, 0);
  }),
  program("host bytes written by the batch are read by it", (s) => {
    s.copy(AP_VRAM, HEAP, AP_HOST, 100, PAGE);
    s.copy(AP_HOST, 96, AP_VRAM, HEAP + 4 * PAGE, 64);
    s.fill(AP_HOST, 104, 4, 0xabcdef);
    s.copy(AP_HOST, 0, AP_HOST, 3 * PAGE, 2 * PAGE);
    s.copy(AP_HOST, 3 * PAGE, AP_WINDOW, PAGE, 2 * PAGE);
    s.copy(AP_WINDOW, PAGE, AP_HOST, 0, 200);
  }),
  program("host writes end in order, whoever makes them", (s) => {
    s.copy(AP_VRAM, HEAP, AP_HOST, 0, 2 * PAGE);
    s.fill(AP_HOST, PAGE - 4, 8, 1);
    s.copy(AP_VRAM, HEAP + 8 * PAGE, AP_HOST, PAGE, 16);
    s.copy(AP_HOST, 9 * PAGE, AP_HOST, PAGE + 8, 16);
    s.copy(AP_HOST, 0, AP_VRAM, HEAP, 0x100);
  }),
];

/** Runs a program; null when states and memory are as they should be, else what is not. */
export async function check(model: ByteModel, { run, status }: Program): Promise<string | null> {
  const batch = new JobBatch();
  run(batch, model);
  const results = await model.gpu.submitJobs(batch);
  const expected = status ?? results.map(() => JOB_OK);
  const got = results.map((r) => r.status).join(" ");
  if (got !== expected.join(" ")) return `states ${got} instead of ${expected.join(" ")}`;
  return model.difference();
}

import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { PTE_DM, PTE_NULL, PTE_W } from "../../src/abi/pte.ts";
import { AP_VA, JobBatch } from "../../src/hal/copy-job.ts";
import { AP_HOST, AP_VRAM, AP_WINDOW, PageList } from "../../src/hal/gpu.ts";
import type { Gpu } from "../../src/hal/gpu.ts";
import { createReferenceGpu } from "../../src/reference/reference-gpu.ts";
import { descriptor } from "../copy-programs.ts";
import { TestTables, bootGpu } from "./support.ts";

const PAGE = 4096;
const KIB = 1024;
const CONFIG = { vramBytes: 2048 * KIB, ptBytes: 256 * KIB, syswBytes: 64 * KIB, faultQueueCapacity: 4096 };
const RAM = 64 * KIB;
const HEAP_PAGE = 64;
const VA = 0x700000000000;

interface Side {
  readonly gpu: Gpu;
  readonly host: Uint8Array;
}
let real: Side;
let model: Side;

/** Pages 0..7 VRAM in disorder, 8..11 window, 12 read-only, 13 NULL, 14 the same as 0; 15 faults. */
function mapAll(gpu: Gpu): void {
  const tables = new TestTables(gpu, 2);
  for (let i = 0; i < 8; i++) tables.map(VA + i * PAGE, (HEAP_PAGE + ((i * 5) % 8)) * PAGE, PTE_DM | PTE_W);
  for (let i = 8; i < 12; i++) tables.map(VA + i * PAGE, (i - 6) * PAGE, PTE_W);
  tables.map(VA + 12 * PAGE, (HEAP_PAGE + 9) * PAGE, PTE_DM);
  tables.map(VA + 13 * PAGE, 0, PTE_NULL | PTE_W);
  tables.map(VA + 14 * PAGE, HEAP_PAGE * PAGE, PTE_DM | PTE_W);
}

beforeAll(async () => {
  const { gpu, host } = await bootGpu(
    { ...CONFIG, hostMemory: new Uint8Array(new SharedArrayBuffer(RAM)) },
    { maxSegBytes: 512 * KIB, separateWindow: true },
  );
  real = { gpu, host };
  const copy = new Uint8Array(RAM);
  model = { gpu: createReferenceGpu({ ...CONFIG, hostMemory: copy }), host: copy };
  for (const side of [real, model]) {
    mapAll(side.gpu);
    const words = new Uint32Array(side.host.buffer);
    for (let i = 0; i < words.length; i++) words[i] = Math.imul(i + 1, 0x9e3779b1);
    const list = new PageList();
    // Around the border between two segments, and the window.
    for (let page = 0; page < 16; page += 1) list.push(AP_HOST, page, AP_VRAM, HEAP_PAGE + page, 1);
    for (let page = 0; page < 16; page += 1) list.push(AP_HOST, 15 - page, AP_VRAM, 120 + page, 1);
    for (let page = 0; page < 16; page += 1) list.push(AP_HOST, (page * 3) % 16, AP_WINDOW, page, 1);
    side.gpu.copy(list);
  }
});
afterAll(() => real.gpu.destroy());

/** Mostly right addresses of few pages, so that jobs depend on each other; sometimes wrong ones. */
/** One of the usual values most of the time; one of the others once in thirty. */
function mostly<T>(usual: readonly T[], others: readonly T[]): fc.Arbitrary<T> {
  return fc.oneof(
    { weight: 29, arbitrary: fc.constantFrom(...usual) },
    { weight: 1, arbitrary: fc.constantFrom(...others) },
  );
}
const aperture = mostly([AP_VRAM, AP_VRAM, AP_VRAM, AP_WINDOW, AP_HOST, AP_HOST, AP_HOST, AP_VA, AP_VA], [5]);
const address = fc.record({
  page: mostly([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 15]),
  word: fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, { weight: 2, arbitrary: fc.nat(1023) }),
  stray: mostly([0], [2]),
});
type Address = { page: number; word: number; stray: number };
const bytes = fc.oneof(
  fc.integer({ min: 1, max: 3 }).map((n) => n * PAGE),
  fc.integer({ min: 1, max: 2500 }).map((n) => n * 4),
  mostly([4, 8, PAGE - 4, PAGE + 4], [0, 6]),
);

function resolve(ap: number, { page, word, stray }: Address): number {
  const base = ap === AP_VRAM ? (page % 2 === 0 ? HEAP_PAGE : 120) * PAGE : ap === AP_VA ? VA : 0;
  return base + page * PAGE + word * 4 + stray;
}

const linear = fc
  .record({
    opcode: mostly([1, 1, 1, 2], [0, 4, 7]),
    from: aperture,
    to: aperture,
    source: address,
    target: address,
    bytes,
    pattern: fc.nat(),
    tag: fc.nat(99),
    flags: mostly([0, 0, 1], [2]),
    engine: mostly([0, 1, 2, 15], [16]),
    asid: mostly([2], [7]),
  })
  .map((j) => ({
    kind: "job" as const,
    words: descriptor({ ...j, source: resolve(j.from, j.source), target: resolve(j.to, j.target), seqno: j.tag }),
  }));
const run = fc.record({
  from: mostly([0, 0, 1, 2], [3]),
  to: fc.constantFrom(0, 0, 1, 2),
  source: fc.nat(15),
  target: fc.nat(15),
  pages: mostly([1, 1, 1, 2], [0]),
  flags: fc.constantFrom(0, 0, 1),
});
const scatter = fc
  .record({ fills: fc.constantFrom(false, false, true), runs: fc.array(run, { maxLength: 4 }), pattern: fc.nat() })
  .map((j) => ({ kind: "scatter" as const, ...j }));
const entries = fc
  .record({
    page: fc.constantFrom(0, 1, 50, 51, 63, 64),
    word: fc.constantFrom(0, 1, 2, 1022),
    n: fc.constantFrom(0, 1, 2, 512, 513),
    seed: fc.nat(),
  })
  .map((j) => ({ kind: "entries" as const, ...j }));
const job = fc.oneof(
  { weight: 8, arbitrary: linear },
  { weight: 3, arbitrary: scatter },
  { weight: 1, arbitrary: entries },
);

function build(jobs: readonly (typeof job extends fc.Arbitrary<infer T> ? T : never)[]): JobBatch {
  const batch = new JobBatch();
  for (const j of jobs) {
    if (j.kind === "job") {
      batch.push(j.words);
    } else if (j.kind === "entries") {
      const words = new Uint32Array(j.n * 2).map((_, i) => Math.imul(i + j.seed, 0x85ebca6b));
      batch.ptWrite(j.page * PAGE + j.word * 4, words);
    } else {
      const list = new PageList();
      const page = (ap: number, n: number) => (ap === AP_VRAM ? HEAP_PAGE + n : n);
      for (const r of j.runs) list.push(r.from, page(r.from, r.source), r.to, page(r.to, r.target), r.pages, r.flags);
      if (j.fills) batch.fillSg(list, j.pattern);
      else batch.copySg(list, { pattern: j.pattern });
    }
  }
  return batch;
}

async function observe({ gpu, host }: Side, batch: JobBatch): Promise<unknown> {
  const results = await gpu.submitJobs(batch);
  const engines = await gpu.readEngines();
  const { count } = await gpu.drainFaults();
  const { uploadBytes, downloadBytes, fillBytes, pteWrites } = gpu.counters;
  return {
    results,
    engines: [...engines],
    faults: count,
    counters: { uploadBytes, downloadBytes, fillBytes, pteWrites },
    host: sum(host),
  };
}

function sum(data: Uint8Array): number {
  const words = new Uint32Array(data.buffer, data.byteOffset, data.byteLength / 4);
  let h = 0;
  for (let i = 0; i < words.length; i++) h = (Math.imul(h, 31) + words[i]!) >>> 0;
  return h;
}

async function memory({ gpu, host }: Side): Promise<Uint8Array[]> {
  const vram = await gpu.readVram(0, CONFIG.vramBytes);
  const saved = host.slice();
  const list = new PageList();
  list.push(AP_WINDOW, 0, AP_HOST, 0, 16);
  await gpu.copy(list);
  const window = host.slice();
  host.set(saved);
  return [vram, window, saved];
}

test("random batches: both engines agree, byte for byte and status for status", async () => {
  const seen = new Map<number, number>();
  await fc.assert(
    fc.asyncProperty(fc.array(job, { minLength: 1, maxLength: 14, size: "max" }), async (jobs) => {
      const [got, wanted] = [await observe(real, build(jobs)), await observe(model, build(jobs))];
      expect(got).toEqual(wanted);
      for (const r of (wanted as { results: { status: number }[] }).results)
        seen.set(r.status, (seen.get(r.status) ?? 0) + 1);
      const [a, b] = [await memory(real), await memory(model)];
      expect(a.map(sum)).toEqual(b.map(sum));
    }),
    { numRuns: 150, seed: 20261121, endOnFailure: true },
  );
  // Every error but those of a device that fails; and most jobs do something, so that they meet in memory.
  expect([...seen.keys()].sort((x, y) => x - y)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9]);
  const total = [...seen.values()].reduce((sum, n) => sum + n, 0);
  expect(seen.get(1)! / total).toBeGreaterThan(0.6);
}, 60000);

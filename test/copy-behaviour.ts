import { afterAll, beforeAll, expect, test } from "vitest";
import { SZ_1G } from "../src/base/addr.ts";
import { ENGINE_COPY, decodeFault } from "../src/abi/fault.ts";
import { PTE_DM, PTE_NULL, PTE_W, encodeLeaf } from "../src/abi/pte.ts";
import {
  AP_VA,
  E_ALIGN,
  E_FAULT,
  E_OVERLAP,
  E_PTE,
  JOB_OK,
  JOB_WORD,
  JOB_WORDS,
  JobBatch,
} from "../src/hal/copy-job.ts";
import type { JobResult } from "../src/hal/copy-job.ts";
import { AP_HOST, AP_VRAM, AP_WINDOW, PageList, SG_CLEAR } from "../src/hal/gpu.ts";
import type { Gpu } from "../src/hal/gpu.ts";
import { ByteModel, SG_CLEAR_PAST_END, batchForRefused } from "./copy-programs.ts";
import { TestTables } from "./gpu/support.ts";

const PAGE = 4096;
const MIB = 1 << 20;
const HEAP = MIB;
const VA = 0x7f1234500000;

const statuses = (results: readonly JobResult[]) => results.map((r) => r.status);

/** What fences, scatter lists, page-table writes and virtual sides do, on any engine. */
export function copyBehaviour(boot: () => Promise<{ gpu: Gpu; host: Uint8Array }>): void {
  let gpu: Gpu;
  let model: ByteModel;
  let tables: TestTables;
  beforeAll(async () => {
    const made = await boot();
    gpu = made.gpu;
    model = new ByteModel(gpu, made.host);
    await model.poison();
    tables = new TestTables(gpu, 3, 8);
    for (let i = 0; i < 8; i++) tables.map(VA + i * PAGE, HEAP + (20 - i) * PAGE, PTE_DM | PTE_W);
    for (let i = 8; i < 12; i++) tables.map(VA + i * PAGE, i * PAGE, PTE_W);
    tables.map(VA + 12 * PAGE, 0, PTE_NULL | PTE_W);
    tables.map(VA + 13 * PAGE, HEAP + 40 * PAGE, PTE_DM);
    tables.map(VA + 14 * PAGE, HEAP + 20 * PAGE, PTE_DM | PTE_W);
    // Page tables are no matter of the model.
    model.memory[AP_VRAM]!.set(await gpu.readVram(0, MIB));
  });
  afterAll(() => gpu.destroy());

  /** Where a mapped page lies. */
  const place = (page: number): [number, number] =>
    page < 8 ? [AP_VRAM, HEAP + (20 - page) * PAGE] : [AP_WINDOW, page * PAGE];

  test("a descriptor carries its outcome: status, bytes done, tag", async () => {
    const batch = new JobBatch();
    batch.fill({ to: AP_VRAM, at: HEAP, bytes: 64, pattern: 1, tag: 77 });
    batch.fill({ to: AP_VRAM, at: HEAP + 2, bytes: 64, pattern: 1, tag: 78 });
    batch.fill({ to: AP_VRAM, at: HEAP, bytes: 64, pattern: 2, tag: 79, checkOnly: true });
    model.fill(AP_VRAM, HEAP, 64, 1);
    expect(await gpu.submitJobs(batch)).toEqual([
      { tag: 77, status: JOB_OK, bytesDone: 64 },
      { tag: 78, status: E_ALIGN, bytesDone: 0 },
      { tag: 79, status: JOB_OK, bytesDone: 0 },
    ]);
    expect(batch.words[JOB_WORD.status]).toBe(JOB_OK);
    expect(batch.words[JOB_WORD.bytesDone]).toBe(64);
    expect(batch.words[JOB_WORDS + JOB_WORD.status]).toBe(E_ALIGN);
    expect(await model.difference()).toBeNull();
  });

  test("fences carry the first error before them in their batch, and later jobs go on", async () => {
    const batch = new JobBatch();
    batch.fence({ engine: 1, seqno: 7 });
    batch.fill({ to: AP_VRAM, at: HEAP, bytes: 2, pattern: 1 });
    batch.ptWrite(0, new Uint32Array(2));
    batch.fill({ to: AP_VRAM, at: HEAP, bytes: 4, pattern: 9, fence: { engine: 2, seqno: 0xffffffff } });
    batch.fence({ engine: 15, seqno: 3 });
    model.fill(AP_VRAM, HEAP, 4, 9);
    expect(statuses(await gpu.submitJobs(batch))).toEqual([JOB_OK, E_ALIGN, E_PTE, JOB_OK, JOB_OK]);
    const engines = await gpu.readEngines();
    expect([...engines.subarray(4, 12)]).toEqual([7, 0, 0, 0, 0xffffffff, E_ALIGN, 1, 0]);
    expect([...engines.subarray(60)]).toEqual([3, E_ALIGN, 1, 0]);
    const again = new JobBatch();
    again.nop({ fence: { engine: 2, seqno: 5 } });
    await gpu.submitJobs(again);
    expect([...(await gpu.readEngines()).subarray(8, 12)]).toEqual([5, 0, 0, 0]);
    expect(await model.difference()).toBeNull();
  });

  test("scatter lists copy, clear with the pattern, and fill; a page written twice keeps the later bytes", async () => {
    const batch = new JobBatch();
    const list = new PageList();
    const moves: [number, number, number, number][] = [];
    for (let i = 0; i < 40; i++) {
      const from = [AP_VRAM, AP_WINDOW, AP_HOST][i % 3]!;
      const to = [AP_HOST, AP_VRAM, AP_WINDOW, AP_VRAM][i % 4]!;
      const source = (from === AP_VRAM ? 256 : 0) + 2 * i;
      const target = (to === AP_VRAM ? 600 : 128) + 2 * i;
      list.push(from, source, to, target, 1);
      moves.push([from, source, to, target]);
    }
    list.push(AP_VRAM, 260, AP_VRAM, 602, 1);
    list.push(0, 0, AP_VRAM, 700, 2, SG_CLEAR);
    for (const [from, source, to, target] of moves) model.copy(from, source * PAGE, to, target * PAGE, PAGE);
    model.copy(AP_VRAM, 260 * PAGE, AP_VRAM, 602 * PAGE, PAGE);
    model.fill(AP_VRAM, 700 * PAGE, 2 * PAGE, 0x5a5a5a5a);
    batch.copySg(list, { pattern: 0x5a5a5a5a });
    const holes = new PageList();
    for (const [i, to] of [AP_VRAM, AP_WINDOW, AP_HOST].entries()) {
      holes.pushClear(to, 800 * (1 - Math.min(i, 1)) + 200, 2);
      model.fill(to, (800 * (1 - Math.min(i, 1)) + 200) * PAGE, 2 * PAGE, 3);
    }
    batch.fillSg(holes, 3);
    const results = await gpu.submitJobs(batch);
    expect(results.map((r) => [r.status, r.bytesDone])).toEqual([
      [JOB_OK, 43 * PAGE],
      [JOB_OK, 6 * PAGE],
    ]);
    expect(await model.difference()).toBeNull();
  });

  test("a CLEAR entry has no source to be wrong", async () => {
    const batch = batchForRefused();
    batch.push(SG_CLEAR_PAST_END);
    model.fill(AP_VRAM, 310 * PAGE, PAGE, 7);
    expect(statuses(await gpu.submitJobs(batch))).toEqual([JOB_OK]);
    expect(await model.difference()).toBeNull();
  });

  test("PT_WRITE: whole tables, in order with the copies of the batch", async () => {
    const table = new Uint32Array(1024).map((_, i) => i * 3);
    const batch = new JobBatch();
    batch.ptWrite(200 * PAGE, table);
    batch.copy({ from: AP_VRAM, source: 200 * PAGE, to: AP_VRAM, target: 900 * PAGE, bytes: PAGE });
    batch.ptWrite(200 * PAGE + 8, encodeLeaf(HEAP, PTE_DM, 0));
    batch.copy({ from: AP_VRAM, source: 200 * PAGE, to: AP_HOST, target: 0, bytes: 32 });
    const words = new Uint32Array(model.memory[AP_VRAM]!.buffer);
    words.set(table, (200 * PAGE) / 4);
    model.copy(AP_VRAM, 200 * PAGE, AP_VRAM, 900 * PAGE, PAGE);
    words.set(encodeLeaf(HEAP, PTE_DM, 0), (200 * PAGE) / 4 + 2);
    model.copy(AP_VRAM, 200 * PAGE, AP_HOST, 0, 32);
    expect((await gpu.submitJobs(batch)).map((r) => r.bytesDone)).toEqual([PAGE, PAGE, 8, 32]);
    expect(await model.difference()).toBeNull();
  });

  test.each([AP_VRAM, AP_WINDOW, AP_HOST])("virtual to and from memory %i, pages and words", async (ap) => {
    const near = ap === AP_VRAM ? HEAP + 64 * PAGE : 64 * PAGE;
    const batch = new JobBatch();
    // Pages 6 to 9: two of VRAM, two of the window.
    batch.copy({ from: AP_VA, source: VA + 6 * PAGE + 8, to: ap, target: near + 16, bytes: 3 * PAGE, asid: 3 });
    batch.copy({ from: ap, source: near + 4 * PAGE, to: AP_VA, target: VA + 7 * PAGE, bytes: 2 * PAGE, asid: 3 });
    batch.copy({ from: ap, source: near, to: ap, target: near + 9 * PAGE, bytes: PAGE });
    let done = 0;
    for (const [page, at, n] of [
      [6, 8, PAGE - 8],
      [7, 0, PAGE],
      [8, 0, PAGE],
      [9, 0, 8],
    ] as const) {
      const [from, start] = place(page);
      model.copy(from, start + at, ap, near + 16 + done, n);
      done += n;
    }
    for (const [i, page] of [7, 8].entries()) {
      const [to, start] = place(page);
      model.copy(ap, near + (4 + i) * PAGE, to, start, PAGE);
    }
    model.copy(ap, near, ap, near + 9 * PAGE, PAGE);
    expect((await gpu.submitJobs(batch)).map((r) => [r.status, r.bytesDone])).toEqual([
      [JOB_OK, 3 * PAGE],
      [JOB_OK, 2 * PAGE],
      [JOB_OK, PAGE],
    ]);
    expect(await model.difference()).toBeNull();
  });

  test("virtual fills; a NULL page reads as zero and swallows stores", async () => {
    const batch = new JobBatch();
    batch.fill({ to: AP_VA, at: VA + PAGE - 8, bytes: 16, pattern: 0xabcd, asid: 3 });
    batch.fill({ to: AP_VA, at: VA + 12 * PAGE, bytes: PAGE, pattern: 0xabcd, asid: 3 });
    batch.copy({ from: AP_VA, source: VA + 12 * PAGE, to: AP_HOST, target: 4, bytes: 64, asid: 3 });
    model.fill(AP_VRAM, HEAP + 21 * PAGE - 8, 8, 0xabcd);
    model.fill(AP_VRAM, HEAP + 19 * PAGE, 8, 0xabcd);
    model.fill(AP_HOST, 4, 64, 0);
    expect(statuses(await gpu.submitJobs(batch))).toEqual([JOB_OK, JOB_OK, JOB_OK]);
    expect(await model.difference()).toBeNull();
  });

  test("a page that faults: E_FAULT with records, nothing stored, others go on, the fence tells", async () => {
    await gpu.drainFaults();
    const batch = new JobBatch();
    batch.copy({
      from: AP_VA,
      source: VA + 12 * PAGE,
      to: AP_VA,
      target: VA + 13 * PAGE,
      bytes: PAGE,
      asid: 3,
      tag: 5,
    });
    batch.copy({ from: AP_VA, source: VA + 14 * PAGE, to: AP_HOST, target: 0, bytes: 2 * PAGE, asid: 3 });
    batch.fill({ to: AP_VA, at: VA, bytes: 4, pattern: 1, asid: 9 });
    batch.fill({ to: AP_VA, at: VA, bytes: 4, pattern: 1, asid: 3, checkOnly: true });
    batch.fill({ to: AP_VA, at: VA + 2 ** 48, bytes: 4, pattern: 1, asid: 3, checkOnly: true });
    batch.fill({ to: AP_VRAM, at: HEAP, bytes: 4, pattern: 0x77, fence: { engine: 4, seqno: 1 } });
    model.fill(AP_VRAM, HEAP, 4, 0x77);
    expect(statuses(await gpu.submitJobs(batch))).toEqual([E_FAULT, E_FAULT, E_FAULT, JOB_OK, E_FAULT, JOB_OK]);
    expect([...(await gpu.readEngines()).subarray(16, 19)]).toEqual([1, E_FAULT, 0]);
    const { records, count } = await gpu.drainFaults();
    const faults = Array.from({ length: count }, (_, i) => decodeFault(records, i * 8));
    expect(faults.map((f) => [f.va, f.asid, f.engineClass]).sort()).toEqual(
      [
        [VA + 13 * PAGE, 3, ENGINE_COPY],
        [VA + 15 * PAGE, 3, ENGINE_COPY],
        [VA, 9, ENGINE_COPY],
        [VA + 2 ** 48, 3, ENGINE_COPY],
      ].sort(),
    );
    expect(faults.find((f) => f.va === VA + 13 * PAGE)!.work).toBe(5);
    expect(await model.difference()).toBeNull();
  });

  test("addresses that differ and are the same memory: E_OVERLAP where bytes are shared, not where only the page is", async () => {
    const batch = new JobBatch();
    const copy = (source: number, to: number, target: number, bytes: number) =>
      batch.copy({ from: AP_VA, source, to, target, bytes, asid: 3 });
    // Page 14 is page 0.
    copy(VA + 14 * PAGE, AP_VA, VA, PAGE);
    copy(VA + 14 * PAGE, AP_VRAM, HEAP + 20 * PAGE + 60, 64);
    copy(VA + 14 * PAGE, AP_VA, VA + 64, 64);
    model.copy(AP_VRAM, HEAP + 20 * PAGE, AP_VRAM, HEAP + 20 * PAGE + 64, 64);
    expect(statuses(await gpu.submitJobs(batch))).toEqual([E_OVERLAP, E_OVERLAP, JOB_OK]);
    expect(await model.difference()).toBeNull();
  });

  test("two destination pages that are one: E_OVERLAP", async () => {
    tables.map(VA + 30 * PAGE, HEAP + 50 * PAGE, PTE_DM | PTE_W);
    tables.map(VA + 31 * PAGE, HEAP + 50 * PAGE, PTE_DM | PTE_W);
    const batch = new JobBatch();
    batch.fill({ to: AP_VA, at: VA + 30 * PAGE, bytes: 2 * PAGE, pattern: 1, asid: 3 });
    batch.fill({ to: AP_VA, at: VA + 31 * PAGE - 64, bytes: 128, pattern: 1, asid: 3 });
    model.memory[AP_VRAM]!.set(await gpu.readVram(0, MIB));
    model.fill(AP_VRAM, HEAP + 51 * PAGE - 64, 64, 1);
    model.fill(AP_VRAM, HEAP + 50 * PAGE, 64, 1);
    expect(statuses(await gpu.submitJobs(batch))).toEqual([E_OVERLAP, JOB_OK]);
    expect(await model.difference()).toBeNull();
  });

  test("later queued work does not reach into a virtual job: its page may be given away at once", async () => {
    const list = new PageList();
    list.pushClear(AP_VRAM, (HEAP + 18 * PAGE) / PAGE, 1);
    const batch = new JobBatch();
    batch.copy({ from: AP_VA, source: VA + 2 * PAGE, to: AP_VRAM, target: HEAP + 70 * PAGE, bytes: PAGE, asid: 3 });
    model.copy(AP_VRAM, HEAP + 18 * PAGE, AP_VRAM, HEAP + 70 * PAGE, PAGE);
    const done = gpu.submitJobs(batch);
    tables.unmap(VA + 2 * PAGE);
    gpu.tlbInvalidate(3, VA + 2 * PAGE, VA + 3 * PAGE - 1);
    void gpu.copy(list);
    model.fill(AP_VRAM, HEAP + 18 * PAGE, PAGE, 0);
    expect(statuses(await done)).toEqual([JOB_OK]);
    model.memory[AP_VRAM]!.set(await gpu.readVram(0, MIB));
    expect(await model.difference()).toBeNull();
  });

  test("the kernel's address space: ASID 1 maps VRAM with 1 GiB leaves at 256 GiB", async () => {
    const kernel = new TestTables(gpu, 1, 40);
    kernel.map(256 * SZ_1G, 0, PTE_DM | PTE_W, 2);
    const at = 256 * SZ_1G;
    const batch = new JobBatch();
    batch.copy({ from: AP_VA, source: at + HEAP, to: AP_VA, target: at + 2 * HEAP, bytes: 40 * PAGE, asid: 1 });
    batch.fill({ to: AP_VA, at: at + gpu.info.vramBytes, bytes: 4, pattern: 0, asid: 1 });
    model.memory[AP_VRAM]!.set(await gpu.readVram(0, MIB));
    model.copy(AP_VRAM, HEAP, AP_VRAM, 2 * HEAP, 40 * PAGE);
    expect(statuses(await gpu.submitJobs(batch))).toEqual([JOB_OK, E_FAULT]);
    expect(await model.difference()).toBeNull();
  });

  test("an empty batch has no results", async () => expect(await gpu.submitJobs(new JobBatch())).toEqual([]));
}

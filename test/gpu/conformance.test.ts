import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { decodeFault, isFaultStamped } from "../../src/abi/fault.ts";
import { PTE_AE, PTE_COMPACT, PTE_DM, PTE_NULL, PTE_P, PTE_PS, PTE_PS64, PTE_W } from "../../src/abi/pte.ts";
import { REQUEST_NO_RECORD, STATUS_FAULT, STATUS_NULL, STATUS_VRAM } from "../../src/abi/tables.ts";
import { tlbSet } from "../../src/abi/tlb.ts";
import { hi32, lo32 } from "../../src/base/addr.ts";
import { Random } from "../../src/base/random.ts";
import {
  AP_HOST,
  AP_VRAM,
  ASID_FAULT_MODE,
  ASID_VALID,
  PageList,
  REQUEST_WORDS,
  RESULT_WORDS,
} from "../../src/hal/gpu.ts";
import type { Gpu, Kernel } from "../../src/hal/gpu.ts";
import { createReferenceGpu } from "../../src/reference/reference-gpu.ts";
import { LIMITS_NAME, MIB, TestTables, bootGpu, fillPages, requestWords } from "./support.ts";
import type { TestGpu } from "./support.ts";

/** Items of the conformance list (spec/device.md 9) that translate, faults and tlb do not cover. */
const RW = PTE_W | PTE_AE | PTE_DM;

test("the limits that this run is for are in force", async () => {
  const { gpu } = await bootGpu();
  const { limits, nseg } = gpu.info;
  const bound = [limits["maxStorageBufferBindingSize"], limits["maxStorageBuffersPerShaderStage"]];
  if (LIMITS_NAME === "default") expect(bound).toEqual([128 * MIB, 8]);
  expect(nseg).toBe(LIMITS_NAME === "small" ? 4 : 1);
  gpu.destroy();
});

/**
 * X3 and X12: 100,000 random tables with an address each, on the batch translator, the lean form in a kernel, and the plain
 * model: the same bits.
 *
 * A table here is a path: entry i of each of an address space's four table pages belongs to address i alone, whose
 * indices are all i. So four pages hold 512 tables, and the aperture hundreds of address spaces.
 */
describe("100,000 random tables and addresses", () => {
  const VRAM = 16 * MIB;
  const PT = 4 * MIB;
  const SYSW = MIB;
  const PATHS = 512;
  const SPACES = 200;
  const outcomes = new Map<string, number>();
  let t: TestGpu;
  let reference: Gpu;
  let lean: Kernel;

  beforeAll(async () => {
    t = await bootGpu({ vramBytes: VRAM, ptBytes: PT, syswBytes: SYSW });
    const hostMemory = new Uint8Array(4096);
    const config = { vramBytes: VRAM, ptBytes: PT, syswBytes: SYSW, faultQueueCapacity: 64, hostMemory };
    reference = createReferenceGpu(config, { tlb: false });
    lean = await t.gpu.compile({ name: "lean", wgsl: LEAN });
    const random = new Random(3);
    for (let space = 1; space <= SPACES; space++) buildSpace(random, space);
  });
  afterAll(() => t.gpu.destroy());

  function pageOf(space: number, level: number): number {
    return (2 + (space - 1) * 4 + level) * 4096;
  }

  function buildSpace(random: Random, space: number): void {
    for (let level = 0; level < 4; level++) {
      const words = new Uint32Array(PATHS * 2);
      for (let i = 0; i < PATHS; i++) {
        const [lo, hi] = randomEntry(random, space, level, i);
        words[i * 2] = lo;
        words[i * 2 + 1] = hi;
      }
      for (const gpu of [t.gpu, reference]) gpu.ptWrite(pageOf(space, level), words);
    }
    const flags = random.below(40) === 0 ? 0 : ASID_VALID | ASID_FAULT_MODE;
    for (const gpu of [t.gpu, reference]) gpu.asidSet(space, pageOf(space, 3), flags | (4 << 4));
  }

  /** Mostly what a driver would write; then holes, stray bits, pointers into other tables and out of the aperture. */
  function randomEntry(random: Random, space: number, level: number, i: number): [number, number] {
    if (random.below(14) === 0) return [random.below(16) << 1, random.u32()];
    let lo = PTE_P;
    let hi = 0;
    if (level === 0 || (level < 3 && random.below(6) === 0)) {
      for (const bit of [PTE_W, PTE_AE, PTE_DM]) if (random.below(4) !== 0) lo |= bit;
      if (random.below(12) === 0) lo |= PTE_NULL;
      const limit = (lo & PTE_DM) !== 0 ? VRAM : SYSW;
      if (level === 0) {
        lo |= random.below((limit / 4096) * 1.1) * 4096;
        const hint = random.below(8);
        // A 64 KiB page; entry i holds the address of its own part, and of compact tables the whole's.
        if (hint === 0) lo = (lo & 0xffff0fff) | PTE_PS64 | ((i & 15) << 12);
        else if (hint === 1) lo &= 0xffff0fff;
      } else lo |= PTE_PS | (level === 1 ? random.below(limit / (2 * MIB) + 1) * 2 * MIB : 0);
    } else {
      lo |= random.below(30) === 0 ? random.below(2 * (PT / 4096)) * 4096 : pageOf(space, level - 1);
      if (random.below(2) === 0) lo |= PTE_W;
      if (level === 1 && random.below(4) === 0) lo |= PTE_COMPACT;
    }
    if (random.below(24) === 0) lo ^= 1 << random.below(32);
    if (random.below(24) === 0) hi ^= 1 << random.below(32);
    return [lo >>> 0, hi >>> 0];
  }

  function requestsOf(random: Random, space: number): Uint32Array {
    const words = new Uint32Array(PATHS * REQUEST_WORDS);
    for (let i = 0; i < PATHS; i++) {
      const page = i * (1 + 2 ** 9 + 2 ** 18 + 2 ** 27);
      const va = page * 4096 + random.below(1024) * 4;
      const stray = random.below(100) === 0 ? random.below(2 ** 16) * 2 ** 16 : 0;
      words.set([space, lo32(va), hi32(va) + stray, random.below(3) | REQUEST_NO_RECORD, 4, i], i * REQUEST_WORDS);
    }
    return words;
  }

  test("batch translator (cold and warm), lean form and model are one", async () => {
    const random = new Random(4);
    let tables = 0;
    for (let first = 1; first <= SPACES; first += 20) {
      const requests = new Uint32Array(20 * PATHS * REQUEST_WORDS);
      for (let k = 0; k < 20; k++) requests.set(requestsOf(random, first + k), k * PATHS * REQUEST_WORDS);
      const expected = await reference.translate(requests);
      expect(firstDifference(await t.gpu.translate(requests), expected)).toBeNull();
      // The end of the batch again: what the TLB has kept of it hits now.
      const tail = requests.subarray(-2 * PATHS * REQUEST_WORDS);
      const tailExpected = expected.subarray(-2 * PATHS * RESULT_WORDS);
      expect(firstDifference(await t.gpu.translate(tail), tailExpected)).toBeNull();
      const found = await Promise.all(Array.from({ length: 20 }, (_, k) => leanForm(first + k, requests, k * PATHS)));
      for (let i = 0; i < 20 * PATHS; i++) {
        const want = locationOf(expected, requests, i);
        const got = found[Math.floor(i / PATHS)]!;
        const [location, done] = got.subarray((i % PATHS) * 2, (i % PATHS) * 2 + 2);
        if ((done === 1 ? location! : -1) !== want) expect(`${i}: ${done} ${location}`).toBe(`${i}: ${want}`);
        const status = expected[i * RESULT_WORDS]!;
        const info = expected[i * RESULT_WORDS + 3]!;
        const name = status === STATUS_FAULT ? `fault ${info & 255}` : `${status} ${info & 3}`;
        outcomes.set(name, (outcomes.get(name) ?? 0) + 1);
        tables += 1;
      }
    }
    expect(tables).toBeGreaterThan(100_000);
  });

  /** Rounds of launches do not overlap on the host, but all are queued at once. */
  async function leanForm(space: number, requests: Uint32Array, first: number): Promise<Uint32Array> {
    const input = new Uint32Array(PATHS * 3);
    for (let i = 0; i < PATHS; i++) {
      const at = (first + i) * REQUEST_WORDS;
      input.set([requests[at + 1]!, requests[at + 2]!, requests[at + 3]! & 3], i * 3);
    }
    const launch = t.gpu.launch(lean, { asid: space, items: PATHS, input, outWords: PATHS * 2 });
    await launch.round();
    const out = await launch.readOut();
    launch.end();
    return out;
  }

  function locationOf(results: Uint32Array, requests: Uint32Array, i: number): number {
    const [status, paLo] = results.subarray(i * RESULT_WORDS, i * RESULT_WORDS + 2);
    if (status === STATUS_FAULT) return -1;
    const windowAt = t.gpu.info.nseg === 1 ? VRAM / 4 : (t.gpu.info.nseg * t.gpu.info.segBytes) / 4;
    if (status !== STATUS_NULL) return (status === STATUS_VRAM ? 0 : windowAt) + (paLo! >>> 2);
    return (requests[i * REQUEST_WORDS + 1]! & 0xfff) >>> 2;
  }

  test("they met every outcome that there is", () => {
    const sizes = [0, 1, 2, 3].flatMap((c) => [`0 ${c}`, `1 ${c}`, `2 ${c}`]);
    // Not present for each reason, the violations, and every fatal fault.
    const reasons = [0, 1, 2, 3, 4, 5, 6, 7].map((reason) => `fault ${reason << 4}`);
    const faults = ["fault 1", "fault 2", ...[1, 2, 3, 4].map((reason) => `fault ${3 | (reason << 4)}`)];
    const rare = [...sizes, ...reasons, ...faults].filter((name) => (outcomes.get(name) ?? 0) < 3);
    expect(rare).toEqual([]);
  });
});

const LEAN = `
fn kernel(item: u32) {
  let va = vec2u(svm_in(3u * item), svm_in(3u * item + 1u));
  var location = 0u;
  switch (svm_in(3u * item + 2u)) {
    case 0u: { location = svm_read(va); }
    case 1u: { location = svm_write(va); }
    default: { location = svm_atomic(va); }
  }
  svm_out(2u * item, location);
  svm_out(2u * item + 1u, select(1u, 0u, svm_missed()));
}`;

function firstDifference(found: Uint32Array, expected: Uint32Array): string | null {
  for (let i = 0; i < expected.length; i++) {
    if (found[i] === expected[i]) continue;
    const at = i - (i % RESULT_WORDS);
    return `${at / RESULT_WORDS}: ${[...found.subarray(at, at + 4)]} instead of ${[...expected.subarray(at, at + 4)]}`;
  }
  return null;
}

describe("X4: the counters of the fault queue run freely and wrap at 2^32", () => {
  const CAP = 64;
  const BASE = 0x4000_0000_0000;
  const starts = [2 ** 32 - 1, 2 ** 32 - 30, 2 ** 32 - CAP, 7];

  test.each(starts)("from %i on: nothing is lost, and order and overflow are as from 0", async (faultQueueStart) => {
    const { gpu } = await bootGpu({ faultQueueCapacity: CAP }, { faultQueueStart });
    const tables = new TestTables(gpu, 1);
    for (const count of [1, 31, CAP, CAP + 1, 3 * CAP]) {
      const vas = Array.from({ length: count }, (_, i) => BASE + i * 4096);
      await gpu.translate(requestWords(vas.map((va, i) => ({ asid: tables.asid, va, work: i }))));
      const { records, count: held, dropped } = await gpu.drainFaults();
      expect([held, dropped]).toEqual([Math.min(count, CAP), Math.max(0, count - CAP)]);
      const found = Array.from({ length: held }, (_, i) => decodeFault(records, i * 8));
      expect(found.every((fault, i) => isFaultStamped(records, i * 8) && fault.va === BASE + fault.work * 4096)).toBe(
        true,
      );
      expect(new Set(found.map((fault) => fault.va)).size).toBe(held);
      expect(await gpu.drainFaults()).toMatchObject({ count: 0, dropped: 0 });
    }
    const kernel = await gpu.compile({
      name: "touch",
      wgsl: "fn kernel(item: u32) { _ = svm_read(addr_add(arg64(0u), item * 4096u)); }",
    });
    const launch = gpu.launch(kernel, { asid: 1, items: 100, args: [lo32(BASE), hi32(BASE)] });
    expect(await launch.round()).toMatchObject({ remaining: 100, count: CAP, dropped: 100 - CAP });
    launch.end();
    gpu.destroy();
  });
});

describe("X5: the TLB", () => {
  const BASE = 0x7f00_0000_0000;
  const HEAP = MIB;
  let t: TestGpu;
  let tables: TestTables;
  beforeAll(async () => {
    t = await bootGpu();
    tables = new TestTables(t.gpu, 1);
  });
  afterAll(() => t.gpu.destroy());

  async function wordAt(va: number): Promise<number> {
    const [status, pa] = await t.gpu.translate(requestWords([{ asid: 1, va, flags: REQUEST_NO_RECORD }]));
    if (status !== STATUS_VRAM) return -1;
    return new Uint32Array((await t.gpu.readVram(pa!, 4)).slice().buffer)[0]!;
  }

  test("zap, invalidate, the page goes to another: a read sees the new data, and never the other's", async () => {
    fillPages(t.hostWords, 0, 2, 1);
    const up = new PageList();
    up.push(AP_HOST, 0, AP_VRAM, HEAP / 4096, 2);
    t.gpu.copy(up);
    tables.map(BASE, HEAP, RW);
    expect(await wordAt(BASE)).toBe(t.hostWords[0]);
    // Zap, invalidation and the new tenant's bytes are queued together with the read behind them.
    tables.unmap(BASE, 2);
    t.gpu.tlbInvalidate(1, BASE, BASE + 4095);
    const tenant = new PageList();
    tenant.pushClear(AP_VRAM, HEAP / 4096, 1);
    t.gpu.copy(tenant);
    expect(await wordAt(BASE)).toBe(-1);
    tables.map(BASE, HEAP + 4096, RW);
    expect(await wordAt(BASE)).toBe(t.hostWords[1024]);
    tables.map(BASE + 4096, HEAP, RW);
    expect(await wordAt(BASE + 4096)).toBe(0);
  });

  test("the set of an address is that of section 3.3", () => {
    const va = 0x7f12_3456_7abc;
    expect([0, 1, 2, 3].map((c) => tlbSet(va, 2, c))).toEqual([91, 53, 2, 14]);
    expect([0, 1, 2, 3].map((c) => tlbSet(va, 3, c))).toEqual([218, 33, 26, 7]);
  });

  test("a 64 KiB entry answers for all its pages and goes by a range over any of them", async () => {
    const va = BASE + 2 ** 30;
    const map = (pa: number) => {
      for (let i = 0; i < 16; i++) tables.map(va + i * 4096, pa + i * 4096, RW | PTE_PS64);
    };
    const pa = async (at: number) =>
      (await t.gpu.translate(requestWords([{ asid: 1, va: at, flags: REQUEST_NO_RECORD }])))[1];
    map(2 * MIB);
    expect(await pa(va)).toBe(2 * MIB);
    map(3 * MIB);
    // Stale for every page of it, by the one that was asked for.
    expect(await pa(va + 15 * 4096)).toBe(2 * MIB + 15 * 4096);
    t.gpu.tlbInvalidate(1, va + 65536, va + 65536 + 4095);
    expect(await pa(va + 4096)).toBe(2 * MIB + 4096);
    t.gpu.tlbInvalidate(1, va + 15 * 4096 + 4095, va + 65536 + 4095);
    expect(await pa(va)).toBe(3 * MIB);
  });
});

import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { decodeFault, faultKey, isFaultStamped } from "../../src/abi/fault.ts";
import { PTE_AE, PTE_DM, PTE_W } from "../../src/abi/pte.ts";
import { REQUEST_NO_RECORD, REQUEST_PREFETCH } from "../../src/abi/tables.ts";
import type { LaunchOptions } from "../../src/hal/gpu.ts";
import { MIB, TestTables, bootGpu, requestWords } from "./support.ts";
import type { TestGpu, TestRequest } from "./support.ts";

const CAP = 64;
const BASE = 0x4000_0000_0000;
const ASID = 1;

let t: TestGpu;
let tables: TestTables;

beforeAll(async () => {
  t = await bootGpu({ faultQueueCapacity: CAP });
  tables = new TestTables(t.gpu, ASID);
});
beforeEach(() => t.gpu.drainFaults());
afterAll(() => t.gpu.destroy());

/** Translates and returns what the queue holds then. */
async function faultsOf(requests: TestRequest[]) {
  await t.gpu.translate(requestWords(requests));
  return t.gpu.drainFaults();
}

function distinct(count: number, first = 0): TestRequest[] {
  return Array.from({ length: count }, (_, i) => ({ asid: ASID, va: BASE + (first + i) * 4096 }));
}

test("a record carries everything about the access, in the Xe layout", async () => {
  tables.unmap(BASE, 2);
  const engine = 3 | (5 << 3);
  const { records, count } = await faultsOf([{ asid: ASID, va: BASE + 0xabc, access: 2, engine, work: 0x12345678 }]);
  expect(count).toBe(1);
  expect(isFaultStamped(records)).toBe(true);
  expect(decodeFault(records)).toMatchObject({
    va: BASE + 0xabc,
    asid: ASID,
    access: 2,
    type: 0,
    level: 0,
    reason: 2,
    prefetch: false,
    engineClass: 3,
    engineInstance: 5,
    work: 0x12345678,
  });
});

test("the level is that of the entry at which the walk stopped", async () => {
  const levels: number[] = [];
  for (const [i, level] of [0, 1, 2, 3].entries()) {
    const va = BASE + (i + 1) * 2 ** 39;
    if (level < 3) tables.entry(va, level);
    levels.push(decodeFault((await faultsOf([{ asid: ASID, va }])).records).level);
  }
  expect(levels).toEqual([0, 1, 2, 3]);
});

describe("the queue at its capacity", () => {
  test.each([CAP - 1, CAP, CAP + 1, 3 * CAP])("%i faults: what does not fit is counted as dropped", async (count) => {
    const result = await faultsOf(distinct(count));
    expect(result.count).toBe(Math.min(count, CAP));
    expect(result.dropped).toBe(Math.max(0, count - CAP));
    expect(result.count + result.dropped + result.dedupHits).toBe(count);
    const pages = new Set(Array.from({ length: result.count }, (_, i) => decodeFault(result.records, i * 8).va));
    expect(pages.size).toBe(result.count);
  });

  test("drained, it is empty and takes the same faults again", async () => {
    expect((await faultsOf(distinct(3))).count).toBe(3);
    expect(await t.gpu.drainFaults()).toMatchObject({ count: 0, dropped: 0, dedupHits: 0, fatal: 0 });
    expect((await faultsOf(distinct(3))).count).toBe(3);
  });
});

describe("dedup", () => {
  test("one record per page, access and address space; prefetch apart", async () => {
    const same: TestRequest[] = Array.from({ length: 100 }, (_, i) => ({ asid: ASID, va: BASE + 0x10_0000 + i * 8 }));
    const others: TestRequest[] = [
      { asid: ASID, va: BASE + 0x10_0000, access: 1 },
      { asid: ASID, va: BASE + 0x10_0000, access: 2 },
      { asid: ASID, va: BASE + 0x10_0000, flags: REQUEST_PREFETCH },
      { asid: 200, va: BASE + 0x10_0000 },
    ];
    expect(await faultsOf([...same, ...others])).toMatchObject({ count: 5, dedupHits: 99, dropped: 0 });
  });

  test("NO_RECORD leaves no trace, not even in the dedup table", async () => {
    const silent = distinct(5).map((r) => ({ ...r, flags: REQUEST_NO_RECORD }));
    const fatal = { asid: 200, va: BASE, flags: REQUEST_NO_RECORD };
    expect(await faultsOf([...silent, fatal])).toMatchObject({ count: 0, dropped: 0, dedupHits: 0, fatal: 0 });
    await t.gpu.translate(requestWords(silent));
    expect(await faultsOf(distinct(5))).toMatchObject({ count: 5, dedupHits: 0 });
  });

  test("two pages with one key give one record: the other faults again in its next round", async () => {
    // The key mixes (page ^ hi * c) one to one, so that two addresses collide where that is equal.
    const c = 0x9e3779b1;
    const hi = 0x4000;
    let other = hi + 1;
    while ((Math.imul(other, c) ^ Math.imul(hi, c)) >>> 20 !== 0) other += 1;
    const page = (Math.imul(other, c) ^ Math.imul(hi, c)) >>> 0;
    const vas = [hi * 2 ** 32, other * 2 ** 32 + page * 4096];
    expect(faultKey(vas[0]!, ASID, 0, false)).toBe(faultKey(vas[1]!, ASID, 0, false));
    const requests = vas.map((va) => ({ asid: ASID, va }));
    expect(await faultsOf(requests)).toMatchObject({ count: 1, dedupHits: 1 });
    expect(await faultsOf(requests.slice(1))).toMatchObject({ count: 1, dedupHits: 0 });
  });

  test("keys that find their four slots taken are recorded every time rather than lost", async () => {
    // Pages whose keys begin at one slot of the table: the first four take slots, the others find none.
    const slots = 4096;
    const wanted = faultKey(BASE, ASID, 0, false) % slots;
    const crowd: TestRequest[] = [];
    for (let i = 0; crowd.length < 6; i++) {
      if (faultKey(BASE + i * 4096, ASID, 0, false) % slots === wanted) crowd.push({ asid: ASID, va: BASE + i * 4096 });
    }
    const result = await faultsOf([...crowd, ...crowd]);
    expect(result.count + result.dedupHits).toBe(12);
    expect(result.count).toBe(4 + 2 * 2);
  });
});

describe("fatal faults", () => {
  test("are counted, but a prefetch never kills", async () => {
    const requests = [
      { asid: 200, va: BASE },
      { asid: 201, va: BASE },
      { asid: 300, va: BASE },
    ];
    expect(await faultsOf(requests)).toMatchObject({ count: 3, fatal: 3 });
    const hints = requests.map((r) => ({ ...r, flags: REQUEST_PREFETCH }));
    expect(await faultsOf(hints)).toMatchObject({ count: 3, fatal: 0 });
  });

  test.each([
    ["an address past the space", BASE + 2 ** 48, 2, 7],
    ["a physical address past VRAM", BASE + 7 * 2 ** 39, 4, 0],
  ])("%s", async (_name, va, reason, level) => {
    tables.map(BASE + 7 * 2 ** 39, 16 * MIB, PTE_W | PTE_AE | PTE_DM);
    const { records, fatal } = await faultsOf([{ asid: ASID, va }]);
    expect(fatal).toBe(1);
    expect(decodeFault(records)).toMatchObject({ va, type: 3, reason, level });
  });
});

test("a kernel's misses beyond the queue are dropped, counted, and served in later rounds", async () => {
  const kernel = await t.gpu.compile({
    name: "touch",
    wgsl: `fn kernel(item: u32) { _ = svm_read(addr_add(arg64(0u), item * 4096u)); }`,
  });
  const va = BASE + 9 * 2 ** 39;
  const launch = t.gpu.launch(kernel, { asid: ASID, items: 150, args: [va % 2 ** 32, Math.floor(va / 2 ** 32)] });
  const remaining: number[] = [];
  for (;;) {
    const result = await launch.round();
    remaining.push(result.remaining);
    if (result.remaining === 0) break;
    expect(result.count + result.dropped).toBe(result.remaining);
    for (let i = 0; i < result.count; i++) tables.map(decodeFault(result.records, i * 8).va, 8 * MIB, PTE_W | PTE_DM);
  }
  expect(remaining).toEqual([150, 150 - CAP, 150 - 2 * CAP, 0]);
  launch.end();
});

describe("an item's first miss is a fault, those behind it are hints", () => {
  const va = BASE + 10 * 2 ** 39;
  const args = [va % 2 ** 32, Math.floor(va / 2 ** 32)];
  const words = "_ = svm_read(arg64(0u)); _ = svm_write(addr_add(arg64(0u), 0x2008u));";

  /** Access, hint and address behind `va` of what the last of `rounds` rounds has recorded. */
  async function recorded(wgsl: string, options: Pick<LaunchOptions, "buffers">, rounds: number): Promise<string[]> {
    const kernel = await t.gpu.compile({ name: "order", wgsl: `fn kernel(item: u32) { ${wgsl} }` });
    const launch = t.gpu.launch(kernel, { asid: ASID, items: 1, args, ...options });
    let result = await launch.round();
    for (let i = 1; i < rounds; i++) result = await launch.round();
    launch.end();
    const faults = Array.from({ length: result.count }, (_, i) => decodeFault(result.records, i * 8));
    return faults.map((f) => `${f.access} ${f.prefetch ? "hint" : "fault"} ${(f.va - va).toString(16)}`).sort();
  }

  test("by address", async () => {
    expect(await recorded(words, {}, 1)).toEqual(["0 fault 0", "1 hint 2008"]);
  });

  test("through a buffer first: the first round's pre-pass only hints", async () => {
    const buffers = [{ at: va + 0x10000, bytes: 8192, access: 0 }] as const;
    const wgsl = `_ = svm_at(0u, 0x1004u); ${words}`;
    expect(await recorded(wgsl, { buffers }, 2)).toEqual(["0 fault 11004", "0 hint 0", "1 hint 2008"]);
  });
});

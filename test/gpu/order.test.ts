import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { PTE_DM, PTE_W, encodeLeaf } from "../../src/abi/pte.ts";
import { AP_HOST, AP_VRAM, PageList } from "../../src/hal/gpu.ts";
import { MIB, TestTables, bootGpu, requestWords } from "./support.ts";
import type { TestGpu } from "./support.ts";

const HEAP = MIB / 4096;

let t: TestGpu;
let asid = 0;
let tables: TestTables;

beforeAll(async () => {
  t = await bootGpu();
});
beforeEach(() => {
  asid += 1;
  tables = new TestTables(t.gpu, asid, 2 + (asid - 1) * 8);
  t.gpu.flush();
});
afterAll(() => t.gpu.destroy());

function page(from: number, source: number, to: number, target: number, pages = 1): PageList {
  const list = new PageList();
  list.push(from, source, to, target, pages);
  return list;
}

describe("queued work takes effect in call order", () => {
  test("a page whose download is queued may be overwritten at once: old bytes arrive, new bytes stay", async () => {
    t.host.fill(1, 0, 4096);
    t.gpu.copy(page(AP_HOST, 0, AP_VRAM, HEAP));
    const arrived = t.gpu.copy(page(AP_VRAM, HEAP, AP_HOST, 9));
    t.host.fill(2, 0, 4096);
    t.gpu.copy(page(AP_HOST, 0, AP_VRAM, HEAP));
    await arrived;
    expect(t.host.subarray(9 * 4096, 10 * 4096).every((b) => b === 1)).toBe(true);
    expect((await t.gpu.readVram(HEAP * 4096, 4096)).every((b) => b === 2)).toBe(true);
  });

  test("the same with a clear and with a copy inside VRAM in between", async () => {
    t.host.fill(3, 0, 4096);
    t.gpu.copy(page(AP_HOST, 0, AP_VRAM, HEAP));
    t.gpu.copy(page(AP_VRAM, HEAP, AP_VRAM, HEAP + 1));
    const clear = new PageList();
    clear.pushClear(AP_VRAM, HEAP, 1);
    t.gpu.copy(clear);
    t.gpu.copy(page(AP_VRAM, HEAP + 1, AP_VRAM, HEAP + 2));
    const arrived = t.gpu.copy(page(AP_VRAM, HEAP, AP_HOST, 5, 3));
    t.host.fill(4, 0, 4096);
    t.gpu.copy(page(AP_HOST, 0, AP_VRAM, HEAP + 1));
    await arrived;
    expect([5, 6, 7].map((p) => t.host[p * 4096])).toEqual([0, 3, 3]);
  });

  test("a host page is captured by the call, not when the GPU gets to it", async () => {
    t.host.fill(5, 0, 4096);
    t.gpu.copy(page(AP_HOST, 0, AP_VRAM, HEAP));
    t.host.fill(6, 0, 4096);
    expect((await t.gpu.readVram(HEAP * 4096, 4))[0]).toBe(5);
  });

  test("two downloads into one host page end with the later one", async () => {
    t.host.fill(1, 0, 4096);
    t.host.fill(2, 4096, 8192);
    t.gpu.copy(page(AP_HOST, 0, AP_VRAM, HEAP, 2));
    const first = t.gpu.copy(page(AP_VRAM, HEAP, AP_HOST, 8));
    t.gpu.flush();
    const second = t.gpu.copy(page(AP_VRAM, HEAP + 1, AP_HOST, 8));
    await Promise.all([first, second]);
    expect(t.host[8 * 4096]).toBe(2);
  });

  test("entries: the last write to an entry counts, a translation sees those before it only", async () => {
    const at = tables.entry(0x1000, 0);
    const request = requestWords([{ asid, va: 0x1000 }]);
    t.gpu.ptWrite(at, encodeLeaf(2 * MIB, PTE_DM, 0));
    t.gpu.ptWrite(at, encodeLeaf(3 * MIB, PTE_DM, 0));
    const before = t.gpu.translate(request);
    t.gpu.ptWrite(at, encodeLeaf(4 * MIB, PTE_DM, 0));
    t.gpu.tlbInvalidate(asid, 0x1000, 0x1fff);
    const after = t.gpu.translate(request);
    expect((await before)[1]).toBe(3 * MIB);
    expect((await after)[1]).toBe(4 * MIB);
  });

  test("hundreds of scattered entries, some written twice, arrive as if one by one", async () => {
    const last = new Map<number, number>();
    for (let i = 0; i < 700; i++) {
      const va = 0x1000 * ((i * 37) % 500) * 3;
      const pa = MIB + i * 4096;
      tables.map(va, pa, PTE_DM | PTE_W);
      last.set(va, pa);
    }
    const vas = [...last.keys()];
    const out = await t.gpu.translate(requestWords(vas.map((va) => ({ asid, va }))));
    expect(vas.map((_, i) => out[i * 4 + 1])).toEqual([...last.values()]);
  });

  test("a copy of a table sees the entries written before it", async () => {
    const at = tables.entry(0x1000, 0);
    t.gpu.ptWrite(at, new Uint32Array([0xaaaa0001, 0x123]));
    const arrived = t.gpu.copy(page(AP_VRAM, Math.floor(at / 4096), AP_HOST, 20));
    t.gpu.ptWrite(at, new Uint32Array(2));
    await arrived;
    expect([...t.hostWords.subarray(20 * 1024 + 2, 20 * 1024 + 4)]).toEqual([0xaaaa0001, 0x123]);
  });

  test("and so does a copy of it inside VRAM", async () => {
    const at = tables.entry(0x1000, 0);
    t.gpu.ptWrite(at, new Uint32Array([0xaaaa0001, 0x456]));
    t.gpu.copy(page(AP_VRAM, Math.floor(at / 4096), AP_VRAM, HEAP + 3));
    t.gpu.ptWrite(at, new Uint32Array(2));
    const copied = await t.gpu.readVram((HEAP + 3) * 4096 + 8, 8);
    expect([...new Uint32Array(copied.buffer, copied.byteOffset, 2)]).toEqual([0xaaaa0001, 0x456]);
  });

  test.each(["bytes from the host", "zeros"])(
    "%s for the page of a table come behind the entries written before",
    async (what) => {
      const at = tables.entry(0x1000, 0);
      const table = Math.floor(at / 4096);
      t.host.fill(7, 0, 4096);
      t.gpu.ptWrite(at, new Uint32Array([0xaaaa0001, 0x123]));
      const list = new PageList();
      if (what === "zeros") list.pushClear(AP_VRAM, table, 1);
      else list.push(AP_HOST, 0, AP_VRAM, table, 1);
      t.gpu.copy(list);
      const byte = what === "zeros" ? 0 : 7;
      expect((await t.gpu.readVram(table * 4096, 4096)).every((b) => b === byte)).toBe(true);
    },
  );

  test("entries cannot be written to the two pages that are never tables, nor outside the aperture", () => {
    const entry = encodeLeaf(0, 0, 0);
    for (const pa of [0, 4096, 8184, MIB, 12, 4 * MIB]) expect(() => t.gpu.ptWrite(pa, entry)).toThrow(/PT_WRITE/);
    expect(() => t.gpu.ptWrite(MIB - 8, new Uint32Array(4))).toThrow(/PT_WRITE/);
  });
});

describe("few submissions", () => {
  test("downloads asked for in one turn share a submission and a mapping", async () => {
    const before = { ...t.gpu.counters };
    const arrived = Array.from({ length: 20 }, (_, i) => t.gpu.copy(page(AP_VRAM, HEAP + i * 3, AP_HOST, i)));
    await Promise.all(arrived);
    expect(t.gpu.counters.submissions - before.submissions).toBe(1);
    expect(t.gpu.counters.readbacks - before.readbacks).toBe(1);
    expect(t.gpu.counters.downloadBytes - before.downloadBytes).toBe(20 * 4096);
  });

  test("a round with its evictions, entries and invalidations is one submission and one readback", async () => {
    const kernel = await t.gpu.compile({
      name: "nothing",
      wgsl: "fn kernel(item: u32) { _ = svm_read(vec2u(0u, 0u)); }",
    });
    const launch = t.gpu.launch(kernel, { asid, items: 1 });
    await launch.round();
    const before = { ...t.gpu.counters };
    const arrived = t.gpu.copy(page(AP_VRAM, HEAP, AP_HOST, 1, 100));
    tables.map(0, HEAP * 4096, PTE_DM);
    t.gpu.tlbInvalidate(asid, 0, 4095);
    const [result] = await Promise.all([launch.round(), arrived]);
    expect(result.remaining).toBe(0);
    expect(t.gpu.counters.submissions - before.submissions).toBe(1);
    expect(t.gpu.counters.readbacks - before.readbacks).toBe(1);
    launch.end();
  });
});

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { decodeFault, isFaultStamped } from "../../src/abi/fault.ts";
import { PTE_AE, PTE_DM, PTE_NULL, PTE_W } from "../../src/abi/pte.ts";
import { AP_HOST, AP_VRAM, AP_WINDOW, PageList } from "../../src/hal/gpu.ts";
import type { KernelSource } from "../../src/hal/gpu.ts";
import { LAYOUTS, MIB, TestTables, bootGpu, fillPages } from "./support.ts";
import type { TestGpu } from "./support.ts";

const RW = PTE_W | PTE_AE | PTE_DM;
const HEAP = MIB / 4096;
const BASE = 0x7f12_3400_0000;

/** Sums each page into an output word, and counts how often an item took effect. */
const SUM: KernelSource = {
  name: "sum",
  atomics: true,
  wgsl: `
fn kernel(item: u32) {
  let at = svm_read(addr_add(arg64(0u), item * 4096u));
  let counter = svm_atomic(arg64(1u));
  if (svm_missed()) { return; }
  var sum = 0u;
  for (var w = 0u; w < 1024u; w++) { sum += svm_load(at + w); }
  svm_out(item, sum);
  svm_atomic_add(counter + item, 1u);
}`,
};

function split(va: number): number[] {
  return [va % 2 ** 32, Math.floor(va / 2 ** 32)];
}

describe.each(LAYOUTS)("on $name", ({ config, options }) => {
  let t: TestGpu;
  let asid = 0;

  beforeAll(async () => {
    t = await bootGpu(config, options);
  });
  afterAll(() => t.gpu.destroy());

  /** Every test gets an address space of its own, with its tables apart from the others'. */
  function newSpace(): TestTables {
    asid += 1;
    return new TestTables(t.gpu, asid, 2 + (asid - 1) * 12);
  }

  describe("a kernel that faults", () => {
    test("is replayed until every item is done, each exactly once", async () => {
      const tables = newSpace();
      const pages = 40;
      fillPages(t.hostWords, 0, pages, 1);
      const kernel = await t.gpu.compile(SUM);
      const counterVa = BASE + 0x10000000;
      const args = [...split(BASE), ...split(counterVa)];
      const launch = t.gpu.launch(kernel, { asid: tables.asid, items: pages, args, outWords: pages });

      let rounds = 0;
      let mapped = 0;
      for (;;) {
        const result = await launch.round();
        if (result.remaining === 0) break;
        rounds += 1;
        expect(result.fatal).toBe(0);
        expect(result.count).toBeGreaterThan(0);
        const list = new PageList();
        // Serve at most 17 pages a round, so that several rounds are needed.
        for (let i = 0; i < Math.min(result.count, 17); i++) {
          expect(isFaultStamped(result.records, i * 8)).toBe(true);
          const fault = decodeFault(result.records, i * 8);
          const isCounter = fault.va === counterVa;
          const index = (fault.va - BASE) / 4096;
          const page = isCounter ? HEAP + 1000 : HEAP + index;
          if (isCounter) list.pushClear(AP_VRAM, page, 1);
          else list.push(AP_HOST, index, AP_VRAM, page, 1);
          tables.map(fault.va, page * 4096, RW);
          mapped += 1;
        }
        t.gpu.copy(list);
        expect(rounds).toBeLessThan(10);
      }
      expect(rounds).toBe(3);
      expect(mapped).toBe(pages + 1);

      const out = await launch.readOut();
      for (let i = 0; i < pages; i++) {
        let sum = 0;
        for (let w = 0; w < 1024; w++) sum = (sum + t.hostWords[i * 1024 + w]!) >>> 0;
        expect(out[i]).toBe(sum);
      }
      const counters = new Uint32Array((await t.gpu.readVram((HEAP + 1000) * 4096, pages * 4)).slice().buffer);
      expect([...counters]).toEqual(Array.from({ length: pages }, () => 1));
      launch.end();
    });

    test("reports one record per page, however many items miss it", async () => {
      const tables = newSpace();
      const kernel = await t.gpu.compile({
        name: "words",
        wgsl: `fn kernel(item: u32) { let at = svm_read(addr_add(arg64(0u), item * 4u)); if (svm_missed()) { return; } svm_out(0u, svm_load(at)); }`,
      });
      const launch = t.gpu.launch(kernel, { asid: tables.asid, items: 3000, args: split(BASE), outWords: 1 });
      const result = await launch.round();
      expect(result.remaining).toBe(3000);
      expect(result.count).toBe(3);
      expect(result.dedupHits).toBe(2997);
      const pages = [0, 1, 2].map((i) => decodeFault(result.records, i * 8).va - BASE).map((d) => Math.floor(d / 4096));
      expect(pages.sort()).toEqual([0, 1, 2]);
      launch.end();
    });

    test("records several independent misses of one item in one round", async () => {
      const tables = newSpace();
      const kernel = await t.gpu.compile({
        name: "four",
        wgsl: `fn kernel(item: u32) {
          for (var i = 0u; i < 4u; i++) { _ = svm_read(addr_add(arg64(0u), i * 0x200000u)); }
          _ = svm_write(arg64(1u));
        }`,
      });
      const launch = t.gpu.launch(kernel, {
        asid: tables.asid,
        items: 1,
        args: [...split(BASE), ...split(BASE + 2 ** 40)],
      });
      const result = await launch.round();
      expect(result.count).toBe(5);
      const accesses = Array.from({ length: 5 }, (_, i) => decodeFault(result.records, i * 8).access);
      expect(accesses).toEqual([0, 0, 0, 0, 1]);
      launch.end();
    });

    test("carries item, ASID, access and epoch in its record", async () => {
      const tables = newSpace();
      const kernel = await t.gpu.compile({
        name: "store",
        wgsl: `fn kernel(item: u32) { let at = svm_write(addr_add(arg64(0u), item * 4096u)); if (svm_missed()) { return; } svm_store(at, 7u); }`,
      });
      const launch = t.gpu.launch(kernel, { asid: tables.asid, items: 2, args: split(BASE + 8) });
      const first = await launch.round();
      const faults = [0, 1].map((i) => decodeFault(first.records, i * 8)).sort((a, b) => a.work - b.work);
      expect(faults[1]).toMatchObject({
        asid: tables.asid,
        va: BASE + 4096 + 8,
        access: 1,
        type: 0,
        work: 1,
        engineClass: 4,
      });
      const second = await launch.round();
      expect(decodeFault(second.records, 0).epoch).toBe(faults[0]!.epoch + 1);
      launch.end();
    });
  });

  describe("special pages", () => {
    test("NULL pages read zero, drop stores, and leave atomics without effect", async () => {
      const tables = newSpace();
      tables.map(BASE, 0, PTE_NULL | PTE_W);
      const kernel = await t.gpu.compile({
        name: "null",
        atomics: true,
        wgsl: `fn kernel(item: u32) {
          let r = svm_read(arg64(0u)); let w = svm_write(arg64(0u)); let a = svm_atomic(arg64(0u));
          if (svm_missed()) { return; }
          svm_store(w, 0x1234u);
          svm_store(r, 0x5678u);
          svm_out(0u, svm_atomic_add(a, 5u)); svm_out(1u, svm_atomic_exchange(a, 9u)); svm_out(2u, svm_load(a)); svm_out(3u, svm_load(r));
          svm_out(4u, svm_load(w));
        }`,
      });
      const launch = t.gpu.launch(kernel, { asid: tables.asid, items: 1, args: split(BASE + 16), outWords: 5 });
      expect((await launch.round()).remaining).toBe(0);
      expect([...(await launch.readOut())]).toEqual([0, 0, 0, 0, 0]);
      const zero = await t.gpu.readVram(0, 4096);
      expect(zero.every((b) => b === 0)).toBe(true);
      launch.end();
    });

    test("loops over whole pages read zero from NULL pages, whatever was stored there, and store nothing", async () => {
      const tables = newSpace();
      tables.map(BASE, 0, PTE_NULL | PTE_W);
      tables.map(BASE + 4096, (HEAP + 5) * 4096, RW);
      tables.map(BASE + 8192, (HEAP + 6) * 4096, RW);
      const kernel = await t.gpu.compile({
        name: "null-loops",
        wgsl: `
fn map_word(value: u32, index: u32) -> u32 { return index | 1u; }
fn zip_words(a: u32, b: u32, index: u32) -> u32 { seen |= b; return a; }
var<private> seen: u32;
fn kernel(item: u32) {
  let nothing = svm_write(arg64(0u));
  let page = svm_write(addr_add(arg64(0u), 4096u));
  if (svm_missed()) { return; }
  svm_map(page, nothing, 1024u, 0u);
  svm_zip(page, nothing, 1024u, 0u);
  svm_out(0u, seen);
  svm_map(nothing, page, 1024u, 0u);
  svm_zip(nothing, page, 1024u, 0u);
  svm_out(1u, seen);
}`,
      });
      const launch = t.gpu.launch(kernel, { asid: tables.asid, items: 1, args: split(BASE), outWords: 2 });
      expect((await launch.round()).remaining).toBe(0);
      expect([...(await launch.readOut())]).toEqual([0, 1023]);
      expect((await t.gpu.readVram(0, 4096)).every((b) => b === 0)).toBe(true);
      expect((await t.gpu.readVram((HEAP + 5) * 4096, 4096)).every((b) => b === 0)).toBe(true);
      launch.end();
    });

    test("a loop over a page stores nothing in page tables, not even where a leaf points at them", async () => {
      const tables = newSpace();
      const table = tables.entry(BASE, 0) - (tables.entry(BASE, 0) % 4096);
      tables.map(BASE, table, RW);
      const before = await t.gpu.readVram(table, 4096);
      const kernel = await t.gpu.compile({
        name: "wild",
        wgsl: `
fn map_word(value: u32, index: u32) -> u32 { return 0u; }
fn kernel(item: u32) {
  let at = svm_write(arg64(0u));
  if (svm_missed()) { return; }
  svm_map(at, at, 1024u, 0u);
}`,
      });
      const launch = t.gpu.launch(kernel, { asid: tables.asid, items: 1, args: split(BASE) });
      expect((await launch.round()).remaining).toBe(0);
      expect(await t.gpu.readVram(table, 4096)).toEqual(before);
      launch.end();
    });

    test("pages of the system window are read and written in place", async () => {
      const tables = newSpace();
      fillPages(t.hostWords, 0, 2, 77);
      const list = new PageList();
      list.push(AP_HOST, 0, AP_WINDOW, 254, 2);
      t.gpu.copy(list);
      tables.map(BASE, 255 * 4096, PTE_W);
      tables.map(BASE + 4096, 254 * 4096, 0);
      const kernel = await t.gpu.compile({
        name: "window",
        wgsl: `fn kernel(item: u32) {
          let to = svm_write(arg64(0u)); let source = svm_read(addr_add(arg64(0u), 4096u));
          if (svm_missed()) { return; }
          for (var w = 0u; w < 1024u; w++) { svm_store(to + w, svm_load(to + w) ^ svm_load(source + w)); }
        }`,
      });
      const launch = t.gpu.launch(kernel, { asid: tables.asid, items: 1, args: split(BASE) });
      expect((await launch.round()).remaining).toBe(0);
      launch.end();
      const back = new PageList();
      back.push(AP_WINDOW, 254, AP_HOST, 10, 2);
      await t.gpu.copy(back);
      const [first, second] = [t.hostWords.slice(0, 1024), t.hostWords.slice(1024, 2048)];
      expect(t.hostWords.slice(10240, 11264)).toEqual(first);
      expect(t.hostWords.slice(11264, 12288)).toEqual(second.map((v, i) => v ^ first[i]!));
    });

    test("after a miss, stores through later translations go nowhere, even when the kernel does not ask", async () => {
      const tables = newSpace();
      const list = new PageList();
      list.pushClear(AP_VRAM, HEAP + 1200, 1);
      t.gpu.copy(list);
      tables.map(BASE, (HEAP + 1200) * 4096, RW);
      const kernel = await t.gpu.compile({
        name: "careless",
        wgsl: `fn kernel(item: u32) {
          let missing = svm_read(addr_add(arg64(0u), 4096u));
          let at = svm_write(arg64(0u));
          svm_store(at, svm_load(missing) + 1u);
        }`,
      });
      const launch = t.gpu.launch(kernel, { asid: tables.asid, items: 1, args: split(BASE) });
      expect((await launch.round()).remaining).toBe(1);
      expect((await t.gpu.readVram((HEAP + 1200) * 4096, 4))[0]).toBe(0);
      tables.map(BASE + 4096, (HEAP + 1201) * 4096, RW);
      launch.end();
    });

    test("a write to a read-only page faults as a write violation and stores nothing", async () => {
      const tables = newSpace();
      const list = new PageList();
      list.pushClear(AP_VRAM, HEAP + 1200, 1);
      t.gpu.copy(list);
      tables.map(BASE, (HEAP + 1200) * 4096, PTE_DM);
      const kernel = await t.gpu.compile({
        name: "violate",
        wgsl: `fn kernel(item: u32) { let at = svm_write(arg64(0u)); svm_store(at, 0xffffffffu); }`,
      });
      const launch = t.gpu.launch(kernel, { asid: tables.asid, items: 1, args: split(BASE) });
      const result = await launch.round();
      expect(decodeFault(result.records)).toMatchObject({ type: 1, access: 1, level: 0 });
      const bytes = await t.gpu.readVram((HEAP + 1200) * 4096, 4096);
      expect(bytes.every((b) => b === 0)).toBe(true);
      launch.end();
    });

    test("an unusable address space is a fatal fault, and the launch goes on to tell so", async () => {
      const kernel = await t.gpu.compile({ name: "any", wgsl: `fn kernel(item: u32) { _ = svm_read(arg64(0u)); }` });
      const tables = newSpace();
      t.gpu.asidSet(tables.asid, tables.root, 0x48 | 1);
      const launch = t.gpu.launch(kernel, { asid: tables.asid, items: 1, args: split(BASE) });
      const result = await launch.round();
      expect(result).toMatchObject({ remaining: 1, fatal: 1, count: 1 });
      expect(decodeFault(result.records)).toMatchObject({ type: 3, reason: 1, level: 7 });
      launch.end();
    });
  });

  describe("serial mode", () => {
    test("runs the lowest undone item alone, and the rest finishes when it is lifted", async () => {
      const tables = newSpace();
      const kernel = await t.gpu.compile({
        name: "one",
        atomics: true,
        wgsl: `fn kernel(item: u32) {
          let at = svm_read(addr_add(arg64(0u), item * 4096u));
          let counter = svm_atomic(arg64(1u));
          if (svm_missed()) { return; }
          svm_out(item, svm_atomic_add(counter + item, 1u) + item + 1u);
        }`,
      });
      const counters = new PageList();
      counters.pushClear(AP_VRAM, HEAP + 1250, 1);
      t.gpu.copy(counters);
      const counterVa = BASE + 2 ** 30;
      tables.map(counterVa, (HEAP + 1250) * 4096, RW);
      const args = [...split(BASE), ...split(counterVa)];
      const launch = t.gpu.launch(kernel, { asid: tables.asid, items: 40, args, outWords: 40 });
      for (const i of [0, 1, 35]) tables.map(BASE + i * 4096, (HEAP + 1100) * 4096, RW);
      expect((await launch.round()).remaining).toBe(37);
      launch.setSpan(1);
      const alone = await launch.round();
      expect(alone).toMatchObject({ remaining: 37, count: 1 });
      expect(decodeFault(alone.records).va).toBe(BASE + 2 * 4096);
      tables.map(BASE + 2 * 4096, (HEAP + 1100) * 4096, RW);
      expect((await launch.round()).remaining).toBe(36);
      launch.setSpan(Infinity);
      for (let i = 3; i < 40; i++) tables.map(BASE + i * 4096, (HEAP + 1100) * 4096, RW);
      expect((await launch.round()).remaining).toBe(0);
      expect([...(await launch.readOut())]).toEqual(Array.from({ length: 40 }, (_, i) => i + 1));
      launch.end();
    });
  });

  describe("launch data", () => {
    test("continuation words survive a miss and begin at zero, also in a reused buffer", async () => {
      const kernel = await t.gpu.compile({
        name: "cont",
        wgsl: `fn kernel(item: u32) {
          svm_out(item, svm_cont());
          svm_set_cont(svm_cont() + item + 1u);
          let at = svm_read(arg64(0u));
        }`,
      });
      for (let pass = 0; pass < 2; pass++) {
        const tables = newSpace();
        const launch = t.gpu.launch(kernel, { asid: tables.asid, items: 3, args: split(BASE), outWords: 3 });
        expect((await launch.round()).remaining).toBe(3);
        expect([...(await launch.readOut())]).toEqual([0, 0, 0]);
        tables.map(BASE, (HEAP + 1100) * 4096, RW);
        expect((await launch.round()).remaining).toBe(0);
        expect([...(await launch.readOut())]).toEqual([1, 2, 3]);
        launch.end();
      }
    });

    test("arguments and input arrive, small and large", async () => {
      const kernel = await t.gpu.compile({
        name: "io",
        wgsl: `fn kernel(item: u32) { svm_out(item, svm_in(item) + arg(31u) + svm_in(0xffffffffu)); svm_out(0xfffffff0u, 1u); }`,
      });
      for (const items of [5, 100000]) {
        const input = Uint32Array.from({ length: items }, (_, i) => i * 3);
        const args = new Uint32Array(32);
        args[31] = 0xf0000000;
        const tables = newSpace();
        const launch = t.gpu.launch(kernel, { asid: tables.asid, items, args, input, outWords: items });
        expect((await launch.round()).remaining).toBe(0);
        const out = await launch.readOut();
        expect(out.every((v, i) => v === (i * 3 + 0xf0000000) >>> 0)).toBe(true);
        launch.end();
      }
    });

    test("more items than fit one row of workgroups are all run once", async () => {
      const kernel = await t.gpu.compile({
        name: "many",
        wgsl: `fn kernel(item: u32) { if ((item & 0xffffu) == 0u) { svm_out(item >> 16u, item); } }`,
      });
      const items = 3_000_000;
      const tables = newSpace();
      const launch = t.gpu.launch(kernel, { asid: tables.asid, items, outWords: Math.ceil(items / 65536) });
      expect((await launch.round()).remaining).toBe(0);
      const out = await launch.readOut();
      expect(out.every((v, i) => v === i * 65536)).toBe(true);
      launch.end();
    });
  });

  describe("wrong WGSL", () => {
    test("is reported with the user's own line", async () => {
      const wgsl = "// one\nfn kernel(item: u32) {\n  let x: u32 = nonsense;\n}\n";
      await expect(t.gpu.compile({ name: "bad", wgsl })).rejects.toThrow(/bad\.wgsl:3:16:.*nonsense/);
    });

    test("a kernel without `fn kernel` is refused", async () => {
      await expect(t.gpu.compile({ name: "none", wgsl: "fn other() {}" })).rejects.toThrow(/kernel/);
    });
  });
});

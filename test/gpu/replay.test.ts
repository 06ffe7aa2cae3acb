import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { decodeFault } from "../../src/abi/fault.ts";
import type { FaultFields } from "../../src/abi/fault.ts";
import { PTE_AE, PTE_DM, PTE_W } from "../../src/abi/pte.ts";
import { AP_HOST, AP_VRAM, PageList } from "../../src/hal/gpu.ts";
import type { Gpu, KernelSource, LaunchOptions, RoundResult } from "../../src/hal/gpu.ts";
import { LAYOUTS, MIB, TestTables, bootGpu, fillPages } from "./support.ts";
import type { TestGpu } from "./support.ts";

/** Conformance X7: every replay design on the hardware, served by a few lines that map what is asked for. */
const RW = PTE_W | PTE_AE | PTE_DM;
const HEAP = MIB / 4096;
const BASE = 0x7f12_3400_0000;
const OUT = BASE + 2 ** 30;
const COUNTER = BASE + 2 ** 31;
const PAGES = 64;

function split(va: number): number[] {
  return [va % 2 ** 32, Math.floor(va / 2 ** 32)];
}
const ARGS = [...split(BASE), ...split(OUT), ...split(COUNTER)];

/** For every page i of the input: out word i = sum of the page, and the counter goes up by one. */
const COMMIT = "svm_store(o, sum); svm_atomic_add(c, 1u);";
const PAGE = "addr_add(arg64(0u), item * 4096u)";
const ITEM: KernelSource = {
  name: "sum-item",
  atomics: true,
  wgsl: `fn kernel(item: u32) {
    let x = svm_read(${PAGE}); let o = svm_write(addr_add(arg64(1u), item * 4u)); let c = svm_atomic(arg64(2u));
    if (svm_missed()) { return; }
    var sum = 0u;
    for (var w = 0u; w < 1024u; w++) { sum += svm_load(x + w); }
    ${COMMIT}
  }`,
};
const GROUP: KernelSource = {
  name: "sum-group",
  atomics: true,
  design: "workgroup",
  workgroupSize: 32,
  wgsl: `var<workgroup> part: array<u32, SVM_WORKGROUP>;
  fn workgroup_kernel(item: u32, lane: u32) {
    let x = svm_read(${PAGE});
    if (svm_vote()) { return; }
    for (var w = lane; w < 1024u; w += SVM_WORKGROUP) { part[lane] += svm_load(x + w); }
    workgroupBarrier();
    var sum = 0u;
    if (lane == 0u) { for (var i = 0u; i < SVM_WORKGROUP; i++) { sum += part[i]; } }
    // A second phase that translates has a vote of its own.
    let o = svm_write(addr_add(arg64(1u), item * 4u)); let c = svm_atomic(arg64(2u));
    if (svm_vote()) { return; }
    if (lane == 0u) { ${COMMIT} }
  }`,
};
const IDEMPOTENT: KernelSource = {
  name: "sum-idempotent",
  design: "idempotent",
  wgsl: `fn kernel(item: u32) {
    let x = svm_read(${PAGE});
    var sum = 0u;
    for (var w = 0u; w < 1024u; w++) { sum += svm_load(x + w); }
    svm_store(svm_write(addr_add(arg64(1u), item * 4u)), sum);
  }`,
};
const PREFAULT: KernelSource = {
  name: "sum-prefault",
  design: "prefault",
  atomics: true,
  wgsl: `fn prefault(item: u32) { svm_touch(${PAGE}, 4096u, ACCESS_READ); }
  fn kernel(item: u32) {
    let x = svm_read(${PAGE});
    var sum = 0u;
    for (var w = 0u; w < 1024u; w++) { sum += svm_load(x + w); }
    let o = svm_at(0u, item * 4u); let c = svm_at(1u, 0u);
    ${COMMIT}
  }`,
};
const DESIGNS: { design: string; source: KernelSource; counts: boolean; buffers: LaunchOptions["buffers"] }[] = [
  { design: "A: items", source: ITEM, counts: true, buffers: [] },
  { design: "A: workgroups", source: GROUP, counts: true, buffers: [] },
  { design: "B", source: IDEMPOTENT, counts: false, buffers: [] },
  {
    design: "D",
    source: PREFAULT,
    counts: true,
    buffers: [
      { at: OUT, bytes: PAGES * 4, access: 1 },
      { at: COUNTER, bytes: 4, access: 2 },
    ],
  },
];

/** Memory of `frames` pages: serves faults, taking pages from the oldest address where there is no free one. */
class Pager {
  readonly resident = new Map<number, number>();
  readonly #gpu: Gpu;
  readonly #tables: TestTables;
  readonly #free: number[];

  constructor(gpu: Gpu, tables: TestTables, frames: number) {
    this.#gpu = gpu;
    this.#tables = tables;
    this.#free = Array.from({ length: frames }, (_, i) => HEAP + i);
  }

  /** Input pages come from host memory, results keep their place for good. */
  bring(va: number): void {
    const page = va - (va % 4096);
    if (this.resident.has(page)) return;
    const isInput = page < OUT;
    if (this.#free.length === 0) this.#evict();
    const frame = this.#free.pop()!;
    const list = new PageList();
    if (isInput) list.push(AP_HOST, (page - BASE) / 4096, AP_VRAM, frame, 1);
    else list.pushClear(AP_VRAM, frame, 1);
    void this.#gpu.copy(list);
    this.#tables.map(page, frame * 4096, RW);
    this.resident.set(page, frame);
  }

  #evict(): void {
    for (const [page, frame] of this.resident) {
      if (page >= OUT) continue;
      this.resident.delete(page);
      this.#tables.unmap(page, 1);
      this.#gpu.tlbInvalidate(this.#tables.asid, page, page + 4095);
      this.#free.push(frame);
      return;
    }
    throw new Error("nothing can be evicted");
  }

  read(va: number, words: number): Promise<Uint32Array> {
    const frame = this.resident.get(va)!;
    return this.#gpu.readVram(frame * 4096, words * 4).then((bytes) => new Uint32Array(bytes.slice().buffer));
  }
}

function faultsOf(result: RoundResult): FaultFields[] {
  return Array.from({ length: result.count }, (_, i) => decodeFault(result.records, i * 8));
}

describe.each([LAYOUTS[0]!, LAYOUTS[3]!])("on $name", ({ config, options }) => {
  let t: TestGpu;
  let asid = 0;
  const sums = new Uint32Array(PAGES);

  beforeAll(async () => {
    t = await bootGpu(config, options);
    fillPages(t.hostWords, 0, PAGES, 5);
    for (let i = 0; i < PAGES * 1024; i++) sums[i >> 10] = (sums[i >> 10]! + t.hostWords[i]!) >>> 0;
  });
  afterAll(() => t.gpu.destroy());

  function newSpace(): TestTables {
    asid += 1;
    return new TestTables(t.gpu, asid, 2 + (asid - 1) * 10);
  }

  describe.each(DESIGNS)("design $design", ({ source, counts, buffers }) => {
    test.each([
      { missing: 0, what: "nothing missing" },
      { missing: 1, what: "1 % missing" },
      { missing: 32, what: "half missing" },
      { missing: 64, what: "all missing" },
    ])("gives every result exactly once with $what", async ({ missing }) => {
      const tables = newSpace();
      const pager = new Pager(t.gpu, tables, PAGES + 2);
      // The missing pages are spread over the area.
      const absent = new Set(Array.from({ length: missing }, (_, i) => (i * 37) % PAGES));
      for (let i = 0; i < PAGES; i++) if (!absent.has(i)) pager.bring(BASE + i * 4096);
      if (missing === 0) for (const va of [OUT, COUNTER]) pager.bring(va);
      const kernel = await t.gpu.compile(source);
      const launch = t.gpu.launch(kernel, {
        asid: tables.asid,
        items: PAGES,
        args: ARGS,
        ...(buffers ? { buffers } : {}),
      });
      let rounds = 0;
      for (;;) {
        const result = await launch.round();
        rounds += 1;
        expect(result.fatal).toBe(0);
        expect(result.unannounced ?? 0).toBe(0);
        if (result.remaining === 0) break;
        for (const fault of faultsOf(result)) pager.bring(fault.va);
        expect(rounds).toBeLessThan(12);
      }
      expect(rounds === 1).toBe(missing === 0);
      expect(await pager.read(OUT, PAGES)).toEqual(sums);
      if (counts) expect((await pager.read(COUNTER, 1))[0]).toBe(PAGES);
      launch.end();
    });
  });

  describe("less memory than the working set", () => {
    test.each([DESIGNS[0]!, DESIGNS[1]!])("$design goes on with what fits, each item once", async ({ source }) => {
      const tables = newSpace();
      const pager = new Pager(t.gpu, tables, 12);
      const kernel = await t.gpu.compile(source);
      const launch = t.gpu.launch(kernel, { asid: tables.asid, items: PAGES, args: ARGS });
      pager.bring(OUT);
      pager.bring(COUNTER);
      for (let rounds = 0; ; rounds++) {
        const result = await launch.round();
        if (result.remaining === 0) break;
        for (const fault of faultsOf(result).slice(0, 10)) pager.bring(fault.va);
        expect(rounds).toBeLessThan(20);
      }
      expect(await pager.read(OUT, PAGES)).toEqual(sums);
      expect((await pager.read(COUNTER, 1))[0]).toBe(PAGES);
      launch.end();
    });

    test("B never has a round without faults, and finishes item by item in serial mode", async () => {
      const tables = newSpace();
      const pager = new Pager(t.gpu, tables, 12);
      const kernel = await t.gpu.compile(IDEMPOTENT);
      const launch = t.gpu.launch(kernel, { asid: tables.asid, items: 24, args: ARGS });
      for (let round = 0; round < 6; round++) {
        const result = await launch.round();
        expect(result.remaining).toBeGreaterThan(0);
        for (const fault of faultsOf(result)) pager.bring(fault.va);
      }
      launch.setSerial(true);
      for (let rounds = 0; ; rounds++) {
        const result = await launch.round();
        if (result.remaining === 0) break;
        for (const fault of faultsOf(result)) pager.bring(fault.va);
        expect(rounds).toBeLessThan(60);
      }
      expect(await pager.read(OUT, 24)).toEqual(sums.slice(0, 24));
      launch.end();
    });
  });

  test("D runs nothing before all is there, and a page that no pre-pass named ends it", async () => {
    const tables = newSpace();
    const pager = new Pager(t.gpu, tables, PAGES + 2);
    const kernel = await t.gpu.compile({
      ...PREFAULT,
      wgsl: PREFAULT.wgsl.replace("4096u, ACCESS_READ", "0u, ACCESS_READ"),
    });
    const launch = t.gpu.launch(kernel, { asid: tables.asid, items: PAGES, args: ARGS, buffers: DESIGNS[3]!.buffers! });
    const closed = await launch.round();
    expect(closed).toMatchObject({ remaining: PAGES, count: 2 });
    expect(
      faultsOf(closed)
        .map((f) => [f.va, f.prefetch])
        .sort(),
    ).toEqual([
      [OUT, false],
      [COUNTER, false],
    ]);
    for (const fault of faultsOf(closed)) pager.bring(fault.va);
    expect(await launch.round()).toMatchObject({ remaining: 0, unannounced: PAGES });
    expect((await pager.read(COUNTER, 1))[0]).toBe(0);
    launch.end();
  });

  test("more misses than the retry list holds are found again, each item once", async () => {
    const tables = newSpace();
    const pager = new Pager(t.gpu, tables, PAGES + 2);
    const kernel = await t.gpu.compile(ITEM);
    const launch = t.gpu.launch(kernel, { asid: tables.asid, items: PAGES, args: ARGS, retryCapacity: 5 });
    const left: number[] = [];
    for (;;) {
      const result = await launch.round();
      left.push(result.remaining);
      if (result.remaining === 0) break;
      for (const fault of faultsOf(result)
        .filter((f) => !f.prefetch)
        .slice(0, 31))
        pager.bring(fault.va);
      for (const va of [OUT, COUNTER]) pager.bring(va);
      expect(left.length).toBeLessThan(6);
    }
    expect(left).toEqual([64, 33, 2, 0]);
    expect((await pager.read(COUNTER, 1))[0]).toBe(PAGES);
    expect(await pager.read(OUT, PAGES)).toEqual(sums);
    launch.end();
  });

  describe("poison", () => {
    /** Follows a chain of pointers without ever asking; address words lie in the pages themselves. */
    const chain = (design: "item" | "idempotent"): KernelSource => ({
      name: `chain-${design}`,
      design,
      atomics: design === "item",
      wgsl: `fn kernel(item: u32) {
        var va = arg64(0u);
        for (var hop = 0u; hop < arg(6u); hop++) {
          let at = svm_read(va);
          va = vec2u(svm_load(at), svm_load(at + 1u)) + vec2u(item * 0u, 0u);
          svm_store(svm_write(addr_add(va, 64u)), 0xdeadu);
          ${design === "item" ? "svm_atomic_add(svm_atomic(vec2u(va.x, va.y ^ 0xffff0000u)), 1u);" : ""}
        }
        svm_store(svm_write(arg64(1u)), 1u);
      }`,
    });

    test.each(["item", "idempotent"] as const)(
      "design %s: wild pointers are hints, never fatal, never a store",
      async (design) => {
        const tables = newSpace();
        const kernel = await t.gpu.compile(chain(design));
        // The whole heap is known beforehand, so that a wild store anywhere shows.
        const all = new PageList();
        all.push(AP_HOST, 0, AP_VRAM, HEAP, PAGES);
        void t.gpu.copy(all);
        tables.map(OUT, (HEAP + 1) * 4096, RW);
        const before = await t.gpu.readVram(MIB, PAGES * 4096);
        const launch = t.gpu.launch(kernel, { asid: tables.asid, items: 3, args: [...ARGS, 6] });
        const result = await launch.round();
        expect(result).toMatchObject({ remaining: 3, fatal: 0 });
        const faults = faultsOf(result);
        expect(faults.filter((f) => !f.prefetch).map((f) => f.va)).toEqual([BASE]);
        expect(faults.some((f) => f.prefetch)).toBe(true);
        const after = await t.gpu.readVram(MIB, PAGES * 4096);
        expect(after.findIndex((byte, i) => byte !== before[i])).toBe(-1);
        launch.end();
      },
    );

    test("the page of zeros stays zero under all of it", async () => {
      expect((await t.gpu.readVram(0, 4096)).every((b) => b === 0)).toBe(true);
    });

    test("a first miss that is no hint still kills: a non-canonical address", async () => {
      const tables = newSpace();
      const kernel = await t.gpu.compile({
        name: "wild",
        wgsl: "fn kernel(item: u32) { _ = svm_read(vec2u(0u, 0x10000u)); }",
      });
      const launch = t.gpu.launch(kernel, { asid: tables.asid, items: 2 });
      expect(await launch.round()).toMatchObject({ remaining: 2, fatal: 1 });
      launch.end();
    });
  });

  test("atomics that are given back count without a gap, whatever missed in between", async () => {
    const tables = newSpace();
    const pager = new Pager(t.gpu, tables, PAGES + 2);
    pager.bring(COUNTER);
    const items = 300;
    // Staged: the atomic first, its result into the continuation word, then the store whose place depends on it.
    const kernel = await t.gpu.compile({
      name: "append",
      atomics: true,
      wgsl: `fn kernel(item: u32) {
        if (svm_cont() == 0u) {
          let c = svm_atomic(arg64(2u));
          if (svm_missed()) { return; }
          svm_set_cont(svm_atomic_add(c, 1u) + 1u);
        }
        let o = svm_write(addr_add(arg64(1u), (svm_cont() - 1u) * 256u));
        if (svm_missed()) { return; }
        svm_store(o, item + 1u);
      }`,
    });
    const launch = t.gpu.launch(kernel, { asid: tables.asid, items, args: ARGS });
    for (let rounds = 0; ; rounds++) {
      const result = await launch.round();
      if (result.remaining === 0) break;
      for (const fault of faultsOf(result).slice(0, 7)) pager.bring(fault.va);
      expect(rounds).toBeLessThan(12);
    }
    expect((await pager.read(COUNTER, 1))[0]).toBe(items);
    const got: number[] = [];
    for (let slot = 0; slot < items; slot += 16) {
      const words = await pager.read(OUT + slot * 256, 1024);
      for (let k = 0; k < 16 && slot + k < items; k++) got.push(words[k * 64]!);
    }
    expect(got.sort((a, b) => a - b)).toEqual(Array.from({ length: items }, (_, i) => i + 1));
    launch.end();
  });

  test("a read-only page refuses stores of every design with one record, and keeps its bytes", async () => {
    for (const source of [ITEM, GROUP, IDEMPOTENT]) {
      const tables = newSpace();
      const pager = new Pager(t.gpu, tables, 4);
      for (const va of [BASE, COUNTER]) pager.bring(va);
      tables.map(OUT, (HEAP + 20) * 4096, PTE_DM);
      const before = await t.gpu.readVram((HEAP + 20) * 4096, 4096);
      const launch = t.gpu.launch(await t.gpu.compile(source), { asid: tables.asid, items: 1, args: ARGS });
      const result = await launch.round();
      expect(result.remaining).toBe(1);
      expect(faultsOf(result)).toMatchObject([{ type: 1, access: 1, va: OUT, prefetch: false }]);
      const after = await t.gpu.readVram((HEAP + 20) * 4096, 4096);
      expect(after.findIndex((byte, i) => byte !== before[i])).toBe(-1);
      expect((await pager.read(COUNTER, 1))[0]).toBe(0);
      launch.end();
    }
  });
});

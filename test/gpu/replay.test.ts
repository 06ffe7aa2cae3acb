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
    return new TestTables(t.gpu, asid, 2 + (asid - 1) * 9);
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
      launch.setSpan(1);
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
    const tables = newSpace();
    const pager = new Pager(t.gpu, tables, 4);
    for (const va of [BASE, COUNTER]) pager.bring(va);
    tables.map(OUT, (HEAP + 20) * 4096, PTE_DM);
    const before = await t.gpu.readVram((HEAP + 20) * 4096, 4096);
    for (const source of [ITEM, GROUP, IDEMPOTENT]) {
      const launch = t.gpu.launch(await t.gpu.compile(source), { asid: tables.asid, items: 1, args: ARGS });
      const result = await launch.round();
      expect(result.remaining).toBe(1);
      expect(faultsOf(result)).toMatchObject([{ type: 1, access: 1, va: OUT, prefetch: false }]);
      launch.end();
    }
    const after = await t.gpu.readVram((HEAP + 20) * 4096, 4096);
    expect(after.findIndex((byte, i) => byte !== before[i])).toBe(-1);
    expect((await pager.read(COUNTER, 1))[0]).toBe(0);
  });

  test("typed words, cursors and the atomics on numbers", async () => {
    const tables = newSpace();
    const pager = new Pager(t.gpu, tables, 12);
    for (let i = 0; i < 3; i++) pager.bring(BASE + i * 4096);
    for (let i = 0; i < 4; i++) pager.bring(OUT + i * 4096);
    pager.bring(COUNTER);
    const kernel = await t.gpu.compile({
      name: "typed",
      atomics: true,
      wgsl: `fn kernel(item: u32) {
        // 2000 words across page ends that do not coincide.
        svm_touch(addr_add(arg64(0u), 400u), 8000u, ACCESS_READ);
        svm_touch(addr_add(arg64(1u), 40u), 8000u, ACCESS_WRITE);
        let c = svm_atomic(arg64(2u));
        if (svm_missed()) { return; }
        svm_atomic_add_f32(c, 0.5);
        svm_atomic_min_i32(c + 1u, -3 - i32(item));
        svm_atomic_max_i32(c + 2u, i32(item) - 5);
        svm_atomic_sub_i32(c + 3u, 2);
        svm_store_f32(c + 4u, -1.5);
        if (item != 0u) { return; }
        svm_store4(c + 8u, vec4u(1u, 2u, 3u, 4u) + svm_load4(c + 12u));
        svm_store_vec2f(c + 16u, vec2f(2.0, -4.0));
        svm_store_i32(c + 18u, i32(svm_load_f32(c + 4u) * 2.0));
        var x = svm_cursor(addr_add(arg64(0u), 400u));
        var y = svm_cursor(addr_add(arg64(1u), 40u));
        for (var left = 2000u; left > 0u;) {
          svm_seek_read(&x);
          svm_seek_write(&y);
          let n = min(left, min(x.words, y.words));
          for (var i = 0u; i < n; i++) { svm_store(y.at + i, svm_load(x.at + i)); }
          svm_step(&x, n);
          svm_step(&y, n);
          left -= n;
        }
      }`,
    });
    const launch = t.gpu.launch(kernel, { asid: tables.asid, items: 200, args: ARGS });
    for (let rounds = 0; (await launch.round()).remaining > 0; rounds++) expect(rounds).toBeLessThan(50);
    launch.end();
    const words = await pager.read(COUNTER, 20);
    const floats = new Float32Array(words.buffer);
    expect([floats[0], words[1]! | 0, words[2]! | 0, words[3]! | 0]).toEqual([100, -202, 194, -400]);
    expect([floats[4], floats[16], words[17], words[18]! | 0]).toEqual([-1.5, 2, 0xc0800000, -3]);
    expect([...words.slice(8, 12)]).toEqual([1, 2, 3, 4]);
    const copied: number[] = [];
    for (let page = 0; page < 2; page++) copied.push(...(await pager.read(OUT + page * 4096, 1024)));
    expect(copied.slice(10, 2010)).toEqual([...t.hostWords.slice(100, 2100)]);
    expect(copied[9]).toBe(0);
    expect(copied[2010]).toBe(0);
  });

  test("streams reach what loads and stores reach, in every bank", async () => {
    const tables = newSpace();
    const frames = 6 * 256 - 8;
    const pager = new Pager(t.gpu, tables, 8);
    // A page in the last segment, beside the first ones of the heap.
    const far = new PageList();
    far.push(AP_HOST, 1, AP_VRAM, frames, 1);
    void t.gpu.copy(far);
    tables.map(BASE + 4096, frames * 4096, RW);
    pager.bring(BASE);
    pager.bring(OUT);
    const kernel = await t.gpu.compile({
      name: "streams",
      wgsl: `var<private> total: u32;
      fn fold_word(value: u32, index: u32) { total += value ^ index; }
      fn map_word(value: u32, index: u32) -> u32 { return value + index; }
      fn zip_words(a: u32, b: u32, index: u32) -> u32 { return a * 3u + b; }
      fn kernel(item: u32) {
        let near = svm_read(arg64(0u)); let far = svm_write(addr_add(arg64(0u), 4096u)); let to = svm_write(arg64(1u));
        if (svm_missed()) { return; }
        svm_fold(near, 1024u, 7u);
        svm_out(0u, total);
        svm_map(far + 24u, to, 1000u, 5u);
        svm_zip(near, far, 5000u, 0u);
      }`,
    });
    const launch = t.gpu.launch(kernel, { asid: tables.asid, items: 1, args: ARGS, outWords: 1 });
    expect((await launch.round()).remaining).toBe(0);
    const near = t.hostWords.slice(0, 1024);
    const distant = t.hostWords.slice(1024, 2048);
    const total = near.reduce((sum, value, i) => (sum + (value ^ (i + 7))) >>> 0, 0);
    expect([...(await launch.readOut())]).toEqual([total]);
    launch.end();
    const mapped = [...distant.slice(24)].map((value, i) => (value + i + 5) >>> 0);
    expect([...(await pager.read(OUT, 1000))]).toEqual(mapped);
    const zipped = new Uint32Array((await t.gpu.readVram(frames * 4096, 4096)).slice().buffer);
    expect([...zipped]).toEqual([...distant].map((b, i) => (Math.imul(near[i]!, 3) + b) >>> 0));
    // No word behind the page, which the count would have reached.
    expect((await t.gpu.readVram((frames + 1) * 4096, 4096)).every((byte) => byte === 0)).toBe(true);
  });
});

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { hi32, lo32 } from "../src/base/addr.ts";
import { Random } from "../src/base/random.ts";
import { ENGINE_COPY, FAULT_NOT_PRESENT, decodeFault } from "../src/abi/fault.ts";
import { PTE_AE, PTE_DM, PTE_W, encodeDirectory, encodeLeaf, ptIndex } from "../src/abi/pte.ts";
import { TILE_STRIDE, TILE_STRIDE_PAGES, tileBase } from "../src/abi/tiles.ts";
import { AP_VA, E_DST_RANGE, E_FAULT, E_OVERLAP, E_PTE, E_SRC_RANGE, JOB_OK, JobBatch } from "../src/hal/copy-job.ts";
import { AP_HOST, AP_VRAM, AP_WINDOW, ASID_FAULT_MODE, ASID_VALID, PageList } from "../src/hal/gpu.ts";
import type { Gpu, GpuConfig, KernelSource } from "../src/hal/gpu.ts";
import { TestTables, requestWords } from "./gpu/support.ts";

/** What a device of several tiles does, on any engine (spec/device.md 1.1, 3.2, 4). */
const MIB = 1 << 20;
const PAGE = 4096;
const PT = MIB;
const RAM_PAGES = 1024;
/** Unequal, so that no tile's bounds can stand for another's. */
export const TILE_BYTES = [8 * MIB, 4 * MIB, 6 * MIB] as const;
export const TILES_CONFIG = {
  vramBytes: TILE_BYTES[0],
  moreTiles: TILE_BYTES.slice(1),
  ptBytes: PT,
  syswBytes: MIB,
  faultQueueCapacity: 256,
} satisfies Partial<GpuConfig>;

const RW = PTE_W | PTE_AE;
const VA = 0x7f12_3450_0000;
const STATUS = { vram: 0, window: 1, fault: 3 };
const PHYS_RANGE = 3 | (4 << 4);
const MALFORMED = 3 | (3 << 4);
const ALL = [0, 1, 2];

/** dst[item] = src[item] + 1 for the first word of each page, counted in word 0 of the third buffer. */
const ADVANCE: KernelSource = {
  name: "advance",
  atomics: true,
  wgsl: `
fn kernel(item: u32) {
  let source = svm_read(addr_add(arg64(0u), item * 4096u));
  let into = svm_write(addr_add(arg64(1u), item * 4096u));
  let count = svm_atomic(arg64(2u));
  if (svm_missed()) { return; }
  svm_store(into, svm_load(source) + 1u);
  svm_atomic_add(count, 1u);
}`,
  reference: (item, m) => {
    const va = (i: number) => m.args[2 * i + 1]! * 2 ** 32 + m.args[2 * i]!;
    const from = m.translate(va(0) + item * PAGE, 0);
    const to = m.translate(va(1) + item * PAGE, 1);
    const count = m.translate(va(2), 2);
    if (m.missed) return;
    m.store(to, m.load(from) + 1);
    m.store(count, m.load(count) + 1);
  },
};

function pageIn(tile: number, page: number): number {
  return tile * TILE_STRIDE_PAGES + page;
}

export function tileBehaviour(boot: () => Promise<{ gpu: Gpu; host: Uint8Array }>): void {
  let gpu: Gpu;
  let words: Uint32Array;
  let asid = 10;
  beforeAll(async () => {
    const made = await boot();
    gpu = made.gpu;
    words = new Uint32Array(made.host.buffer);
  });
  afterAll(() => gpu.destroy());

  /** An address space on `tile`, its tables apart from those of the other tests. */
  function space(tile: number, id = ++asid): TestTables {
    return new TestTables(gpu, id, 2 + (id - 10) * 8, 4, tile);
  }

  /** Results of reads (or of `access`) through the tables of a tile: status, PA, info. */
  async function translate(tables: TestTables, vas: readonly number[], access = 0): Promise<number[][]> {
    const requests = requestWords(vas.map((va) => ({ asid: tables.asid, va, access, flags: 1 << 5 })));
    const out = await gpu.translate(requests, tables.tile);
    return vas.map((_, i) => [out[4 * i]!, out[4 * i + 2]! * 2 ** 32 + out[4 * i + 1]!, out[4 * i + 3]!]);
  }

  async function wordAt(pa: number): Promise<number> {
    return new Uint32Array((await gpu.readVram(pa, 4)).slice().buffer)[0]!;
  }

  /** Puts words at the start of pages, by way of RAM. */
  async function poke(pages: readonly (readonly [aperture: number, page: number, value: number])[]): Promise<void> {
    const list = new PageList();
    pages.forEach(([aperture, page, value], i) => {
      words.fill(value, i * 1024, (i + 1) * 1024);
      list.push(AP_HOST, i, aperture, page, 1);
    });
    void gpu.copy(list);
    await gpu.idle();
  }

  test("the device tells its tiles", () => {
    expect(gpu.info.tileBytes).toEqual(TILE_BYTES);
    expect(gpu.info.vramBytes).toBe(TILE_BYTES[0]);
  });

  describe.each(ALL)("the walker of tile %i", (tile) => {
    test("a leaf may name memory of any tile, to its last byte and not beyond", async () => {
      const tables = space(tile);
      const wanted: [pa: number, flags: number, exists: boolean][] = [];
      for (const [u, bytes] of TILE_BYTES.entries()) {
        wanted.push([tileBase(u), PTE_DM, true], [tileBase(u) + PT, PTE_DM, true]);
        wanted.push([tileBase(u) + bytes - PAGE, PTE_DM, true], [tileBase(u) + bytes, PTE_DM, false]);
      }
      // No such tile, the highest address that an entry can hold; the window lies in no tile.
      wanted.push([3 * TILE_STRIDE, PTE_DM, false], [2 ** 46 - PAGE, PTE_DM, false]);
      wanted.push(
        [MIB - PAGE, 0, true],
        [MIB, 0, false],
        [tileBase(1), 0, false],
        [tileBase(tile) + PAGE, 0, tile === 0],
      );
      wanted.forEach(([pa, flags], i) => tables.map(VA + i * PAGE, pa, RW | flags));
      const expected = wanted.map(([pa, flags, exists]) =>
        exists ? [flags === PTE_DM ? STATUS.vram : STATUS.window, pa + 8, 3 << 2] : [STATUS.fault, 0, PHYS_RANGE],
      );
      const vas = wanted.map((_, i) => VA + i * PAGE + 8);
      expect(await translate(tables, vas, 1)).toEqual(expected);
      // From the TLB.
      expect(await translate(tables, vas, 1)).toEqual(expected);
    });

    test("of a big leaf only the addresses inside a tile exist, also on a hit", async () => {
      const tables = space(tile);
      tables.map(0x40000000, tileBase(1), RW | PTE_DM, 2);
      const vas = [0x40000000, 0x40000000 + TILE_BYTES[1] - 4, 0x40000000 + TILE_BYTES[1]];
      const info = 3 | (3 << 2);
      const expected = [
        [STATUS.vram, tileBase(1), info],
        [STATUS.vram, tileBase(1) + TILE_BYTES[1] - 4, info],
        [STATUS.fault, 0, PHYS_RANGE | (2 << 8)],
      ];
      expect(await translate(tables, vas)).toEqual(expected);
      expect(await translate(tables, vas)).toEqual(expected);
    });

    test.each(ALL.filter((u) => u !== tile))("tables in the aperture of tile %i are none", async (other) => {
      const [mine, theirs] = [space(tile), space(other)];
      mine.map(VA, tileBase(tile) + PT, RW | PTE_DM);
      theirs.map(VA, tileBase(tile) + PT, RW | PTE_DM);
      const entry = mine.root + ptIndex(VA, 3) * 8;
      const child = theirs.entry(VA, 2) - ptIndex(VA, 2) * 8;
      gpu.ptWrite(entry, encodeDirectory(child));
      expect(await translate(mine, [VA])).toEqual([[STATUS.fault, 0, MALFORMED | (2 << 8)]]);
      gpu.asidSet(mine.asid, theirs.root, ASID_VALID | ASID_FAULT_MODE, tile);
      expect(await translate(mine, [VA])).toEqual([[STATUS.fault, 0, MALFORMED | (3 << 8)]]);
      // The page that is never handed out.
      gpu.asidSet(mine.asid, tileBase(tile), ASID_VALID | ASID_FAULT_MODE, tile);
      expect(await translate(mine, [VA])).toEqual([[STATUS.fault, 0, MALFORMED | (3 << 8)]]);
    });
  });

  test("an ASID means on each tile what that tile's table says", async () => {
    const all = ALL.map((tile) => space(tile, 40));
    for (const tables of all) tables.map(VA, tileBase(2 - tables.tile) + 2 * MIB, RW | PTE_DM);
    for (const tables of all) {
      expect((await translate(tables, [VA]))[0]![1]).toBe(tileBase(2 - tables.tile) + 2 * MIB);
    }
    gpu.asidSet(40, 0, 0, 1);
    gpu.tlbInvalidateAsid(40, 1);
    const statuses = await Promise.all(all.map(async (tables) => (await translate(tables, [VA]))[0]![0]));
    expect(statuses).toEqual([STATUS.vram, STATUS.fault, STATUS.vram]);
  });

  test("each tile has a TLB of its own, which no other's invalidation reaches", async () => {
    const all = ALL.map((tile) => space(tile, 41));
    const paOf = async () => Promise.all(all.map(async (tables) => (await translate(tables, [VA]))[0]![1]! % MIB));
    for (const tables of all) tables.map(VA, tileBase(tables.tile) + 2 * MIB, RW | PTE_DM);
    expect(await paOf()).toEqual([0, 0, 0]);
    for (const tables of all) tables.map(VA, tileBase(tables.tile) + 2 * MIB + PAGE, RW | PTE_DM);
    const first = gpu.tlbInvalidate(41, VA, VA + PAGE - 1, 1);
    // Stale on the others, and known to be.
    expect(await paOf()).toEqual([0, PAGE, 0]);
    expect(gpu.tlbInvalidate(41, VA, VA + PAGE - 1, 1)).toBe(first + 1);
    gpu.tlbInvalidate(41, VA, VA + PAGE - 1, 0);
    gpu.tlbInvalidate(41, VA, VA + PAGE - 1, 2);
    expect(await paOf()).toEqual([PAGE, PAGE, PAGE]);
  });

  test("faults stand in the queue of the tile that walked", async () => {
    const tables = space(1);
    for (const tile of ALL) await gpu.drainFaults(tile);
    await gpu.translate(requestWords([{ asid: tables.asid, va: VA + 0x123 * PAGE }]), 1);
    const counts = await Promise.all(ALL.map(async (tile) => (await gpu.drainFaults(tile)).count));
    expect(counts).toEqual([0, 1, 0]);
  });

  test.each(ALL)("a kernel on tile %i works on the memory of all tiles, and faults on its own", async (tile) => {
    const tables = space(tile);
    const kernel = await gpu.compile(ADVANCE);
    const counter = VA + 64 * PAGE;
    // Page i of the source lies in tile i mod 4, of which the fourth is the window; the target runs the other way.
    const at = (i: number) => (i % 4 === 3 ? ([AP_WINDOW, i] as const) : ([AP_VRAM, pageIn(i % 4, 300 + i)] as const));
    const items = 12;
    await poke([
      ...Array.from({ length: items }, (_, i) => [...at(i), 1000 * tile + i] as const),
      ...Array.from({ length: items }, (_, i) => [...at(100 + items - i), 0] as const),
      [AP_VRAM, pageIn(2, 290), 0],
    ]);
    const map = (va: number, [aperture, page]: readonly [number, number]) =>
      tables.map(va, page * PAGE, RW | (aperture === AP_VRAM ? PTE_DM : 0));
    for (let i = 0; i < items; i++) map(VA + i * PAGE, at(i));
    map(counter, [AP_VRAM, pageIn(2, 290)]);
    const vas = [VA, VA + 32 * PAGE, counter];
    const args = vas.flatMap((va) => [lo32(va), hi32(va)]);
    const launch = gpu.launch(kernel, { asid: tables.asid, tile, items, args });
    const missed = await launch.round();
    expect(missed).toMatchObject({ remaining: items, count: items, fatal: 0 });
    const faults = Array.from({ length: items }, (_, i) => decodeFault(missed.records, i * 8));
    expect(faults.every((fault) => fault.type === FAULT_NOT_PRESENT && fault.asid === tables.asid)).toBe(true);
    for (let i = 0; i < items; i++) map(VA + (32 + i) * PAGE, at(100 + items - i));
    expect((await launch.round()).remaining).toBe(0);
    launch.end();
    expect(await wordAt(tileBase(2) + 290 * PAGE)).toBe(items);
    const list = new PageList();
    for (let i = 0; i < items; i++) {
      const [aperture, page] = at(100 + items - i);
      list.push(aperture, page, AP_HOST, i, 1);
    }
    await gpu.copy(list);
    const got = Array.from({ length: items }, (_, i) => words[i * 1024]);
    expect(got).toEqual(Array.from({ length: items }, (_, i) => 1000 * tile + i + 1));
  });

  test.each(ALL)(
    "a kernel on tile %i meets PHYS_RANGE where no tile is, and stores nothing in page tables",
    async (tile) => {
      const tables = space(tile);
      const kernel = await gpu.compile(ADVANCE);
      await poke([
        [AP_VRAM, pageIn(0, 400), 7],
        [AP_VRAM, pageIn(1, 401), 0],
      ]);
      tables.map(VA, tileBase(0) + 400 * PAGE, RW | PTE_DM);
      tables.map(VA + 2 * PAGE, tileBase(1) + 401 * PAGE, RW | PTE_DM);
      const args = [0, 1, 2].flatMap((i) => [lo32(VA + i * PAGE), hi32(VA)]);
      const store = async (pa: number) => {
        tables.map(VA + PAGE, pa, RW | PTE_DM);
        const launch = gpu.launch(kernel, { asid: tables.asid, tile, items: 1, args });
        const { remaining, fatal } = await launch.round();
        launch.end();
        return { remaining, fatal };
      };
      for (const [u, bytes] of TILE_BYTES.entries()) {
        expect(await store(tileBase(u) + bytes)).toEqual({ remaining: 1, fatal: 1 });
        const victim = tileBase(u) + PT - PAGE;
        const before = await wordAt(victim);
        expect(await store(victim)).toEqual({ remaining: 0, fatal: 0 });
        expect(await wordAt(victim)).toBe(before);
        expect(await store(tileBase(u) + bytes - PAGE)).toEqual({ remaining: 0, fatal: 0 });
        expect(await wordAt(tileBase(u) + bytes - PAGE)).toBe(8);
      }
      expect(await store(3 * TILE_STRIDE)).toEqual({ remaining: 1, fatal: 1 });
    },
  );

  test("page lists between all tiles, the window and RAM, against a flat memory", async () => {
    const random = new Random(5);
    // Places of a page: aperture and number, 24 each in 5 memories.
    const place = (n: number): readonly [number, number] => {
      const [memory, i] = [Math.floor(n / 24), n % 24];
      if (memory < 3) return [AP_VRAM, pageIn(memory, TILE_BYTES[memory]! / PAGE - 24 + i)];
      return memory === 3 ? [AP_WINDOW, 200 + i] : [AP_HOST, 512 + i];
    };
    const model = new Uint32Array(5 * 24);
    const set = new PageList();
    for (let n = 0; n < model.length; n++) {
      model[n] = 5000 + n;
      words.fill(model[n]!, n * 1024, (n + 1) * 1024);
      if (n < 4 * 24) set.push(AP_HOST, n, ...place(n), 1);
      else words.fill(model[n]!, (512 + n - 96) * 1024, (513 + n - 96) * 1024);
    }
    await gpu.copy(set);
    for (let round = 0; round < 12; round++) {
      const [from, to] = [random.below(5), random.below(5)];
      const list = new PageList();
      const [source, target] = [from * 24 + random.below(12), to * 24 + 12];
      for (let i = 0; i < 12; i++) list.push(...place(source + i), ...place(target + i), 1);
      if (from === to && source + 12 > target) continue;
      model.copyWithin(target, source, source + 12);
      const done = gpu.copy(list);
      if (done !== null) await done;
    }
    const clear = new PageList();
    clear.pushClear(AP_VRAM, place(30)[1], 3);
    model.fill(0, 30, 33);
    void gpu.copy(clear);
    const back = new PageList();
    for (let n = 0; n < 96; n++) back.push(...place(n), AP_HOST, n, 1);
    await gpu.copy(back);
    const got = Array.from(model, (_, n) => words[(n < 96 ? n : 512 + n - 96) * 1024 + (n % 1024)]);
    expect(got).toEqual([...model]);
  });

  test("a run that leaves its tile, or is in none, is refused before anything is done", () => {
    for (const [page, pages] of [
      [pageIn(1, TILE_BYTES[1] / PAGE - 1), 2],
      [pageIn(3, 0), 1],
      [TILE_BYTES[0] / PAGE, 1],
    ] as const) {
      const list = new PageList();
      list.push(AP_HOST, 0, AP_VRAM, page, pages);
      expect(() => gpu.copy(list)).toThrow(/aperture 0/);
    }
  });

  describe("copy jobs", () => {
    const A = tileBase(1) + 2 * MIB;
    const B = tileBase(2) + 3 * MIB;

    test("between tiles, in both directions, words and pages, in the order of the batch", async () => {
      const batch = new JobBatch();
      batch.fill({ to: AP_VRAM, at: A, bytes: 3 * PAGE, pattern: 0xa });
      batch.fill({ to: AP_VRAM, at: B, bytes: 3 * PAGE, pattern: 0xb });
      batch.copy({ from: AP_VRAM, source: A, to: AP_VRAM, target: B + PAGE, bytes: PAGE });
      batch.copy({ from: AP_VRAM, source: B + PAGE - 8, to: AP_VRAM, target: A + 4, bytes: 16 });
      batch.copy({ from: AP_VRAM, source: A + 4, to: AP_HOST, target: 0, bytes: 20 });
      const scatter = new PageList();
      scatter.push(AP_VRAM, A / PAGE, AP_VRAM, 700, 1);
      scatter.push(AP_VRAM, B / PAGE, AP_VRAM, A / PAGE + 20, 1);
      scatter.pushClear(AP_VRAM, B / PAGE + 2, 1);
      batch.copySg(scatter, { pattern: 0xcc });
      expect((await gpu.submitJobs(batch)).map((r) => r.status)).toEqual(new Array(6).fill(JOB_OK));
      expect([...words.subarray(0, 5)]).toEqual([0xb, 0xb, 0xa, 0xa, 0xa]);
      expect(await wordAt(700 * PAGE + 4)).toBe(0xb);
      expect(await wordAt(A + 20 * PAGE)).toBe(0xb);
      expect(await wordAt(B + 2 * PAGE)).toBe(0xcc);
      expect(await wordAt(B + PAGE + 12)).toBe(0xa);
    });

    test("ranges are checked tile by tile", async () => {
      const end = tileBase(1) + TILE_BYTES[1];
      const batch = new JobBatch();
      batch.copy({ from: AP_VRAM, source: end - PAGE, to: AP_VRAM, target: B, bytes: PAGE + 4 });
      batch.copy({ from: AP_VRAM, source: B, to: AP_VRAM, target: end - 4, bytes: 8 });
      batch.fill({ to: AP_VRAM, at: 3 * TILE_STRIDE, bytes: 4, pattern: 0 });
      batch.copy({ from: AP_VRAM, source: A, to: AP_VRAM, target: A + 4, bytes: 8 });
      // The same place in another tile is no overlap.
      batch.copy({ from: AP_VRAM, source: A, to: AP_VRAM, target: A + TILE_STRIDE, bytes: 8 });
      const gap = new PageList();
      gap.push(AP_VRAM, B / PAGE, AP_VRAM, end / PAGE, 1);
      batch.copySg(gap);
      const entries = new Uint32Array(2);
      for (const pa of [tileBase(1) + PAGE, tileBase(1) + PT, 3 * TILE_STRIDE + 4 * PAGE]) batch.ptWrite(pa, entries);
      const expected = [E_SRC_RANGE, E_DST_RANGE, E_DST_RANGE, E_OVERLAP, JOB_OK, E_DST_RANGE, E_PTE, E_PTE, E_PTE];
      expect((await gpu.submitJobs(batch)).map((r) => r.status)).toEqual(expected);
    });

    test("the batch is its tile's: virtual addresses, fences and faults", async () => {
      const id = ++asid;
      const all = ALL.map((tile) => space(tile, id));
      const engines = await Promise.all(ALL.map((tile) => gpu.readEngines(tile)));
      for (const tile of ALL) await gpu.drainFaults(tile);
      for (const { tile } of all) {
        const batch = new JobBatch();
        // The job's own page-table write is seen by its virtual side.
        const entry = all[tile]!.entry(VA, 0);
        batch.ptWrite(entry, encodeLeaf(tileBase((tile + 1) % 3) + 5 * PAGE + PT, RW | PTE_DM, 0));
        batch.fill({ to: AP_VA, at: VA, bytes: PAGE, pattern: 77 + tile, asid: id });
        batch.fence({ engine: 3, seqno: 50 + tile });
        batch.fill({ to: AP_VA, at: VA + 9 * PAGE, bytes: 4, pattern: 1, asid: id });
        const results = await gpu.submitJobs(batch, tile);
        expect(results.map((r) => r.status)).toEqual([JOB_OK, JOB_OK, JOB_OK, E_FAULT]);
      }
      for (const tile of ALL) {
        expect(await wordAt(tileBase((tile + 1) % 3) + 5 * PAGE + PT)).toBe(77 + tile);
        const table = await gpu.readEngines(tile);
        expect([...table.subarray(12, 16)]).toEqual([50 + tile, 0, 0, 0]);
        expect([...table.subarray(16)]).toEqual([...engines[tile]!.subarray(16)]);
        const { count, records } = await gpu.drainFaults(tile);
        expect(count).toBe(1);
        expect(decodeFault(records, 0)).toMatchObject({ va: VA + 9 * PAGE, engineClass: ENGINE_COPY });
      }
    });

    test("a virtual job that writes one page of memory twice is refused, whatever the tile", async () => {
      const tables = space(2);
      tables.map(VA, A, RW | PTE_DM);
      tables.map(VA + PAGE, A, RW | PTE_DM);
      tables.map(VA + 2 * PAGE, A - TILE_STRIDE, RW | PTE_DM);
      const batch = new JobBatch();
      batch.fill({ to: AP_VA, at: VA, bytes: 2 * PAGE, pattern: 1, asid: tables.asid });
      batch.fill({ to: AP_VA, at: VA + PAGE, bytes: 2 * PAGE, pattern: 2, asid: tables.asid });
      batch.copy({ from: AP_VRAM, source: A, to: AP_VA, target: VA, bytes: PAGE, asid: tables.asid });
      expect((await gpu.submitJobs(batch, 2)).map((r) => r.status)).toEqual([E_OVERLAP, JOB_OK, E_OVERLAP]);
    });
  });

  test("what is not of this device is refused by name", () => {
    expect(() => gpu.asidSet(2, 0, 0, 3)).toThrow("there is no tile 3");
    expect(() => gpu.ptWrite(3 * TILE_STRIDE + 8 * PAGE, new Uint32Array(2))).toThrow("there is no tile 3");
  });
}

/** RAM that the tests need. */
export const TILES_RAM = RAM_PAGES * PAGE;

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { PTE_AE, PTE_DM, PTE_NULL, PTE_PS64, PTE_W, encodeDirectory } from "../../src/abi/pte.ts";
import { REQUEST_NO_RECORD, STATUS_NULL, STATUS_VRAM, STATUS_WINDOW } from "../../src/abi/tables.ts";
import { hi32, lo32 } from "../../src/base/addr.ts";
import { Random } from "../../src/base/random.ts";
import { AP_HOST, AP_VRAM, AP_WINDOW, PageList } from "../../src/hal/gpu.ts";
import type { Gpu, Kernel, KernelSource } from "../../src/hal/gpu.ts";
import { createReferenceGpu } from "../../src/reference/reference-gpu.ts";
import { LAYOUTS, MIB, TestTables, bootGpu, requestWords } from "./support.ts";
import type { TestGpu, TestRequest } from "./support.ts";

/**
 * Isolation: whatever the page tables say, a kernel reads and writes exactly what the reference walker finds for its
 * address, and nothing else changes anywhere (spec/device.md 0.2, 3, 9). Bits of the tables of one address space are
 * flipped at random; every word of VRAM and of the window is known, so a wrong access shows wherever it goes. An address
 * space beside it keeps its tables and its content.
 *
 * `SVM_FUZZ` is the number of corruptions of a run: 15000 in the suite, 100000 and more by hand.
 */
const CORRUPTIONS = Number(import.meta.env["SVM_FUZZ"] ?? 15000);
const PER_ROUND = 200;
const ITEMS = 1536;
const VRAM = 8 * MIB;
const PT = 256 << 10;
const SYSW = 256 << 10;
const BASE = 0x2aaa_0000_0000;
const RW = PTE_W | PTE_AE | PTE_DM;
const MUTANT = 1;
const NEIGHBOUR = 2;
/** Host pages: the start is for what goes up, the window comes back behind it. */
const WINDOW_COPY = VRAM / 4096;

const READ: KernelSource = {
  name: "fuzz-read",
  wgsl: `fn kernel(item: u32) {
    let at = svm_read(vec2u(svm_in(2u * item), svm_in(2u * item + 1u)));
    if (svm_missed()) { return; }
    svm_out(2u * item, svm_load(at));
    svm_out(2u * item + 1u, 1u);
  }`,
};
/** Half of the items never ask whether they missed. */
const WRITE: KernelSource = {
  name: "fuzz-write",
  wgsl: `fn kernel(item: u32) {
    let at = svm_write(vec2u(svm_in(2u * item), svm_in(2u * item + 1u)));
    if (svm_missed() && (item & 1u) == 0u) { return; }
    svm_store(at, arg(0u) + item);
  }`,
};
const ATOMIC: KernelSource = {
  name: "fuzz-atomic",
  atomics: true,
  wgsl: `fn kernel(item: u32) {
    let at = svm_atomic(vec2u(svm_in(2u * item), svm_in(2u * item + 1u)));
    if (svm_missed() && (item & 1u) == 0u) { return; }
    _ = svm_atomic_add(at, arg(0u) + item);
  }`,
};
const ACCESS = [READ, WRITE, ATOMIC];

/** The device, the oracle, and what every word of the device's memory must be. */
class Rig {
  readonly t: TestGpu;
  readonly oracle: Gpu;
  readonly vram = new Uint32Array(VRAM / 4);
  readonly window = new Uint32Array(SYSW / 4);
  readonly kernels: Kernel[] = [];
  /** What an address space's tables were built as: entry address to words. */
  readonly entries = new Map<number, Uint32Array>();

  constructor(t: TestGpu) {
    this.t = t;
    const hostMemory = new Uint8Array(4096);
    // Without a TLB: it says what the tables say now, and kernels have none either.
    this.oracle = createReferenceGpu(
      { vramBytes: VRAM, ptBytes: PT, syswBytes: SYSW, faultQueueCapacity: 64, hostMemory },
      { tlb: false },
    );
    this.#fillMemory();
  }

  ptWrite(pa: number, words: Uint32Array): void {
    this.t.gpu.ptWrite(pa, words);
    this.oracle.ptWrite(pa, words);
    this.vram.set(words, pa / 4);
  }

  asidSet(asid: number, root: number, flags: number): void {
    this.t.gpu.asidSet(asid, root, flags);
    this.oracle.asidSet(asid, root, flags);
  }

  #fillMemory(): void {
    const { gpu, hostWords } = this.t;
    const list = new PageList();
    for (let i = PT / 4; i < VRAM / 4; i++) this.vram[i] = Math.imul(i, 0x9e3779b1);
    for (let i = 0; i < SYSW / 4; i++) this.window[i] = Math.imul(i, 0x85ebca6b) ^ 0x5a5a5a5a;
    hostWords.set(this.vram);
    list.push(AP_HOST, PT / 4096, AP_VRAM, PT / 4096, (VRAM - PT) / 4096);
    hostWords.set(this.window, (WINDOW_COPY * 4096) / 4);
    list.push(AP_HOST, WINDOW_COPY, AP_WINDOW, 0, SYSW / 4096);
    gpu.copy(list);
  }

  /** The words of memory that the device has now; the two pages that are never tables are the caller's to judge. */
  async memory(): Promise<{ vram: Uint32Array; window: Uint32Array }> {
    const { gpu, hostWords } = this.t;
    const list = new PageList();
    list.push(AP_WINDOW, 0, AP_HOST, WINDOW_COPY, SYSW / 4096);
    const [bytes] = await Promise.all([gpu.readVram(0, VRAM), gpu.copy(list)]);
    const at = (WINDOW_COPY * 4096) / 4;
    return {
      vram: new Uint32Array(bytes.slice().buffer),
      window: hostWords.slice(at, at + SYSW / 4),
    };
  }
}

/** Leaves of every kind over every part of memory; the table entries that exist are noted. */
function buildMutant(rig: Rig, random: Random): number[] {
  const vas: number[] = [];
  const noted = {
    ptWrite: (pa: number, words: Uint32Array) => {
      rig.ptWrite(pa, words);
      if (words.length === 2) rig.entries.set(pa, words.slice());
    },
    asidSet: (asid: number, root: number, flags: number) => rig.asidSet(asid, root, flags),
  };
  const tables = new TestTables(noted, MUTANT, 2);
  const flags = () => [RW, RW, PTE_DM, PTE_W | PTE_DM, PTE_W, PTE_W | PTE_AE, 0, PTE_NULL | PTE_W][random.below(8)]!;
  for (let i = 0; i < 600; i++) {
    const va = BASE + Math.floor(i / 40) * 2 * MIB + (i % 40) * 4096;
    const f = flags();
    // The neighbour's memory is the upper half of VRAM: nothing of it is mapped here.
    const pages = (f & PTE_DM) !== 0 ? (VRAM / 2 - PT) / 4096 : SYSW / 4096;
    tables.map(va, ((f & PTE_DM) !== 0 ? PT : 0) + random.below(pages) * 4096, f);
    vas.push(va);
  }
  for (let i = 0; i < 16; i++) {
    const va = BASE + 2 ** 30 + i * 4096;
    tables.map(va, 2 * MIB + i * 4096, RW | PTE_PS64);
    vas.push(va);
  }
  tables.map(BASE + 2 ** 31, 2 * MIB, RW, 1);
  tables.map(BASE + 2 ** 33, 0, PTE_DM, 2);
  vas.push(BASE + 2 ** 31, BASE + 2 ** 33);
  // A compact table is made by hand: the child of a directory with bit 6.
  const compact = BASE + 2 ** 32;
  const first = tables.entry(compact, 0);
  const page = first - (first % 4096);
  noted.ptWrite(tables.entry(compact, 1), encodeDirectory(page, true));
  for (let i = 0; i < 32; i++) {
    noted.ptWrite(page + i * 8, new Uint32Array([(PT + (i % 16) * 65536 + 1) | RW, 0]));
    vas.push(compact + i * 65536);
  }
  return vas;
}

function flipBits(random: Random, words: Uint32Array): Uint32Array {
  const flipped = words.slice();
  for (let n = 1 + random.below(3); n > 0; n--) {
    const bit = random.below(64);
    flipped[bit >>> 5] = (flipped[bit >>> 5]! ^ (1 << (bit & 31))) >>> 0;
  }
  return flipped;
}

/** Mostly addresses that mean something, or nearly so. */
function randomVa(random: Random, vas: readonly number[]): number {
  const va = vas[random.below(vas.length)]! + random.below(1024) * 4;
  const dice = random.below(10);
  if (dice < 7) return va;
  if (dice === 7) return random.below(2 ** 16) * 2 ** 32 + random.below(2 ** 30) * 4;
  const bit = 2 ** (2 + random.below(50));
  return Math.floor(va / bit) % 2 === 0 ? va + bit : va - bit;
}

/** Word that an access reaches: VRAM words first, the window's behind them; -1 none, -2 reads as zero and drops stores. */
async function expectedPlaces(rig: Rig, asid: number, vas: readonly number[], access: number): Promise<number[]> {
  const requests: TestRequest[] = vas.map((va) => ({ asid, va, access, flags: REQUEST_NO_RECORD }));
  const results = await rig.oracle.translate(requestWords(requests));
  return vas.map((_, i) => {
    const [status, lo] = results.subarray(i * 4, i * 4 + 2);
    if (status === STATUS_VRAM) return lo! >>> 2;
    if (status === STATUS_WINDOW) return VRAM / 4 + (lo! >>> 2);
    return status === STATUS_NULL ? -2 : -1;
  });
}

/** One launch of `access` over `vas`; what it did is checked or put into the model. The number of items that were done. */
async function runKernel(rig: Rig, asid: number, access: number, vas: readonly number[], tag: number): Promise<number> {
  const { gpu } = rig.t;
  const input = new Uint32Array(vas.length * 2);
  vas.forEach((va, i) => input.set([lo32(va), hi32(va)], i * 2));
  const places = await expectedPlaces(rig, asid, vas, access);
  const done = places.filter((place) => place !== -1).length;
  const kernel = rig.kernels[access]!;
  const outWords = access === 0 ? vas.length * 2 : 0;
  const launch = gpu.launch(kernel, { asid, items: vas.length, args: [tag], input, outWords });
  const result = await launch.round();
  expect(result.remaining).toBe(vas.length - done);
  const modelAt = (place: number) => (place < VRAM / 4 ? rig.vram[place]! : rig.window[place - VRAM / 4]!);
  if (access === 0) {
    const out = await launch.readOut();
    places.forEach((place, i) => {
      const found = `${vas[i]!.toString(16)}: ${out[i * 2 + 1]} ${out[i * 2]}`;
      const want = `${vas[i]!.toString(16)}: ${place === -1 ? "0 0" : `1 ${place === -2 ? 0 : modelAt(place)}`}`;
      if (found !== want) expect(found).toBe(want);
    });
    launch.end();
    return done;
  }
  launch.end();
  const memory = await rig.memory();
  const actual = (place: number) => (place < VRAM / 4 ? memory.vram[place]! : memory.window[place - VRAM / 4]!);
  const stored = new Map<number, number[]>();
  places.forEach((place, i) => {
    // Page tables are read-only to kernels, even where a leaf points at them.
    if (place < PT / 4) return;
    const values = stored.get(place);
    if (values === undefined) stored.set(place, [(tag + i) >>> 0]);
    else values.push((tag + i) >>> 0);
  });
  for (const [place, values] of stored) {
    const sum = values.reduce((a, b) => (a + b) >>> 0, modelAt(place));
    // Of two stores to one word either may be the last.
    const value = access === 2 ? sum : values.includes(actual(place)) ? actual(place) : values[0]!;
    if (place < VRAM / 4) rig.vram[place] = value;
    else rig.window[place - VRAM / 4] = value;
  }
  expectMemory(rig, memory);
  return done;
}

function expectMemory(rig: Rig, memory: { vram: Uint32Array; window: Uint32Array }): void {
  const differs = (found: Uint32Array, model: Uint32Array, from: number) => {
    for (let i = from; i < model.length; i++) if (found[i] !== model[i]) return i;
    return -1;
  };
  const zero = memory.vram.subarray(0, 1024);
  expect(zero.findIndex((w) => w !== 0)).toBe(-1);
  // Page 1 takes the stores that must go nowhere.
  expect(differs(memory.vram, rig.vram, 2048)).toBe(-1);
  expect(differs(memory.window, rig.window, 0)).toBe(-1);
}

describe("page tables with bits flipped at random", () => {
  let rig: Rig;
  let vas: number[];
  let neighbours: number[];

  beforeAll(async () => {
    rig = new Rig(
      await bootGpu({
        vramBytes: VRAM,
        ptBytes: PT,
        syswBytes: SYSW,
        hostMemory: new Uint8Array(new SharedArrayBuffer(VRAM + MIB)),
      }),
    );
    for (const source of ACCESS) rig.kernels.push(await rig.t.gpu.compile(source));
    vas = buildMutant(rig, new Random(1));
    const tables = new TestTables(rig, NEIGHBOUR, 50);
    neighbours = Array.from({ length: 64 }, (_, i) => BASE + i * 4096);
    neighbours.forEach((va, i) => tables.map(va, VRAM / 2 + i * 4096, RW));
  });
  afterAll(() => rig.t.gpu.destroy());

  test(
    "no kernel touches a word that the reference walker does not find for its address",
    async () => {
      const random = new Random(20260101);
      const all = [...rig.entries.keys()];
      const last = 40 * 4096;
      let corruptions = 0;
      let done = 0;
      let items = 0;
      for (let round = 0; corruptions < CORRUPTIONS; round++) {
        const spoiled = new Set<number>();
        for (let i = 0; i < PER_ROUND; i++) {
          // Entries in use, and now and then any word of any table page.
          const pa =
            random.below(5) === 0 ? 8192 + random.below((last - 8192) / 8) * 8 : all[random.below(all.length)]!;
          rig.ptWrite(pa, flipBits(random, rig.vram.subarray(pa / 4, pa / 4 + 2)));
          spoiled.add(pa);
          corruptions += 1;
        }
        for (let access = 0; access < 3; access++) {
          const wanted = Array.from({ length: ITEMS }, () => randomVa(random, vas));
          done += await runKernel(rig, MUTANT, access, wanted, (round * 3 + access) * 65536 + 1);
          items += ITEMS;
        }
        // What was spoiled is mended, but for a few that stay a while and add up.
        for (const pa of spoiled) {
          if (random.below(40) !== 0) rig.ptWrite(pa, rig.entries.get(pa) ?? new Uint32Array(2));
        }
        if (round % 8 === 7) for (const [pa, words] of rig.entries) rig.ptWrite(pa, words);
        if (round % 20 === 0) await runKernel(rig, NEIGHBOUR, 0, neighbours, 0);
      }
      await runKernel(rig, NEIGHBOUR, 0, neighbours, 0);
      expect(rig.t.gpu.isLost).toBe(false);
      // The fuzz is worth nothing when most accesses fail, or none does.
      expect(done / items).toBeGreaterThan(0.2);
      expect(done / items).toBeLessThan(0.9);
    },
    30000 + CORRUPTIONS * 2,
  );
});

/** Storing where no translation led: a kernel may do arithmetic on locations, and get it wrong. */
const WILD: KernelSource = {
  name: "wild",
  atomics: true,
  wgsl: `fn kernel(item: u32) {
    let at = svm_in(item);
    switch (item % 4u) {
      case 0u: { svm_store(at, 0xdead0000u + item); }
      case 1u: { _ = svm_atomic_exchange(at, 0xdead0000u + item); }
      case 2u: { _ = svm_atomic_and(at, 0u); }
      default: { _ = svm_atomic_compare_exchange(at, svm_load(at), 0xdead0000u + item); }
    }
  }`,
};

const WILD_LAYOUTS = [
  ...LAYOUTS,
  {
    name: "four segments and no window",
    config: { vramBytes: 8 * MIB, syswBytes: 0 },
    options: { maxSegBytes: 2 * MIB },
  },
  { name: "segments of which the last is short", config: { vramBytes: 6 * MIB }, options: { maxSegBytes: 4 * MIB } },
];

describe.each(WILD_LAYOUTS)("wild locations, $name", ({ config, options }) => {
  test("reach no page table, and nothing past the end of a buffer", async () => {
    const { gpu, host } = await bootGpu({ ...config, hostMemory: new Uint8Array(16 * MIB) }, options);
    const { vramBytes, ptBytes, syswBytes, nseg, segBytes } = gpu.info;
    const tables = new TestTables(gpu, MUTANT);
    tables.map(BASE, ptBytes, RW);
    const before = await gpu.readVram(8192, ptBytes - 8192);
    const windowAt = nseg === 1 ? vramBytes / 4 : (nseg * segBytes) / 4;
    const end = windowAt + syswBytes / 4;
    const random = new Random(9);
    const edges = [
      0,
      1023,
      1024,
      2047,
      2048,
      ptBytes / 4 - 1,
      end,
      end + 1,
      end + 1023,
      end + 1024,
      2 ** 31,
      2 ** 32 - 1,
    ];
    const beyond = Array.from({ length: 2000 }, () => end + random.below(2 ** 32 - end));
    const tablesInside = Array.from({ length: 2000 }, () => random.below(ptBytes / 4));
    const input = new Uint32Array(
      [...edges, ...edges, ...edges, ...edges].sort((a, b) => a - b).concat(beyond, tablesInside),
    );
    const kernel = await gpu.compile(WILD);
    const launch = gpu.launch(kernel, { asid: MUTANT, items: input.length, input });
    expect((await launch.round()).remaining).toBe(0);
    launch.end();

    expect(firstNonZero(await gpu.readVram(0, 4096))).toBe(-1);
    const after = await gpu.readVram(8192, ptBytes - 8192);
    expect(firstNonZero(after.map((b, i) => b ^ before[i]!))).toBe(-1);
    expect(firstNonZero(await gpu.readVram(ptBytes, vramBytes - ptBytes))).toBe(-1);
    if (syswBytes > 0) {
      host.fill(0xff, 0, syswBytes);
      const list = new PageList();
      list.push(AP_WINDOW, 0, AP_HOST, 0, syswBytes / 4096);
      await gpu.copy(list);
      expect(firstNonZero(host.subarray(0, syswBytes))).toBe(-1);
    }
    const found = await gpu.translate(requestWords([{ asid: MUTANT, va: BASE, access: 2 }]));
    expect([...found.subarray(0, 2)]).toEqual([STATUS_VRAM, ptBytes]);
    gpu.destroy();
  });
});

function firstNonZero(bytes: Uint8Array): number {
  for (let i = 0; i < bytes.length; i++) if (bytes[i] !== 0) return i;
  return -1;
}

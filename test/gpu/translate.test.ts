import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { decodeFault } from "../../src/abi/fault.ts";
import { PTE_AE, PTE_COMPACT, PTE_DM, PTE_NULL, PTE_P, PTE_PS, PTE_PS64, PTE_W } from "../../src/abi/pte.ts";
import { hi32, lo32 } from "../../src/base/addr.ts";
import { Random } from "../../src/base/random.ts";
import {
  AP_HOST,
  AP_VRAM,
  ASID_BANNED,
  ASID_FAULT_MODE,
  ASID_VALID,
  FAULT_WORDS,
  PageList,
  REQUEST_WORDS,
} from "../../src/hal/gpu.ts";
import type { Gpu } from "../../src/hal/gpu.ts";
import { createReferenceGpu } from "../../src/reference/reference-gpu.ts";
import { MIB, bootGpu } from "./support.ts";
import type { TestGpu } from "./support.ts";

/**
 * The WGSL translators against the plain model of the reference engine: the same random tables and requests, results and
 * fault records equal to the bit (spec/device.md X3, X12).
 */
const VRAM = 16 * MIB;
const SYSW = MIB;
/** Indices used at every level: few enough that random addresses meet the entries. */
const INDICES = [0, 1, 5, 254, 510, 511];
const TABLES_PER_LEVEL = 4;

const outcomes = new Set<string>();
let t: TestGpu;
let reference: Gpu;

beforeAll(async () => {
  t = await bootGpu();
  const hostMemory = new Uint8Array(4096);
  reference = createReferenceGpu({
    vramBytes: VRAM,
    ptBytes: MIB,
    syswBytes: SYSW,
    faultQueueCapacity: 4096,
    hostMemory,
  });
});
afterAll(() => t.gpu.destroy());

function tablePa(level: number, i: number): number {
  return (2 + level * TABLES_PER_LEVEL + i) * 4096;
}

function ptWrite(pa: number, words: Uint32Array): void {
  t.gpu.ptWrite(pa, words);
  reference.ptWrite(pa, words);
}

function asidSet(asid: number, root: number, flags: number): void {
  t.gpu.asidSet(asid, root, flags);
  reference.asidSet(asid, root, flags);
}

/** Mostly well-formed entries; now and then a hole, a broken bit, a pointer out of the aperture. */
function randomEntry(random: Random, level: number): [number, number] {
  const dice = random.below(100);
  if (dice < 8) return [random.below(16) << 1, random.u32()];
  let lo = PTE_P;
  let hi = 0;
  const isLeaf = level === 0 || (level <= 2 && random.below(4) === 0);
  if (isLeaf) {
    for (const bit of [PTE_W, PTE_AE, PTE_DM]) if (random.below(4) !== 0) lo |= bit;
    if (random.below(level === 0 ? 10 : 4) === 0) lo |= PTE_NULL;
    const pages = random.below(5000) * 4096;
    if (level === 2) lo |= PTE_PS;
    else if (level === 1) lo |= PTE_PS | (random.below(2) * random.below(10) * 2 * MIB);
    else lo |= pages;
    if (random.below(30) === 0) hi |= 1 << random.below(32);
  } else {
    const child = random.below(TABLES_PER_LEVEL);
    lo |= tablePa(level - 1, child) | (random.below(2) << 1);
    if (level === 1 && random.below(4) === 0) lo |= PTE_COMPACT;
    if (random.below(40) === 0) lo = (lo & 0xfff) | (MIB + 4096 * random.below(4));
    if (random.below(60) === 0) lo &= 0xfff;
  }
  // Not bit 8: a 64 KiB hint on a single entry gives undefined results once the TLB holds it.
  if (random.below(15) === 0) lo ^= 1 << [0, 1, 2, 5, 6, 7, 9, 10, 11][random.below(9)]!;
  return [lo >>> 0, hi >>> 0];
}

function buildTables(random: Random, levels: number): void {
  for (let level = 0; level < levels; level++) {
    for (let i = 0; i < TABLES_PER_LEVEL; i++) {
      const words = new Uint32Array(1024);
      for (const index of INDICES) words.set(randomEntry(random, level), index * 2);
      if (level === 0 && i < 3)
        for (const first of [0, 240, 496]) if (random.below(3) === 0) writeHintRun(random, words, first);
      // Compact tables use the first 32 entries: aligned to 64 KiB.
      if (level === 0 && i === 3) {
        for (const index of INDICES) if (index < 32) words[index * 2] = (words[index * 2]! & ~0xf100) >>> 0;
      }
      ptWrite(tablePa(level, i), words);
    }
  }
}

/** Sixteen equal neighbours that are one 64 KiB page. */
function writeHintRun(random: Random, words: Uint32Array, first: number): void {
  const flags = [PTE_W, PTE_AE, PTE_DM].reduce(
    (all, bit) => (random.below(4) !== 0 ? all | bit : all),
    PTE_P | PTE_PS64,
  );
  const isNull = random.below(6) === 0 ? PTE_NULL : 0;
  const pa = random.below(random.below(2) === 0 ? 16 : 300) * 65536;
  for (let i = 0; i < 16; i++) words.set([flags | isNull | (pa + i * 4096), 0], (first + i) * 2);
}

function randomVa(random: Random, levels: number): number {
  let va = random.below(4096);
  for (let level = 0; level < levels; level++) va += INDICES[random.below(INDICES.length)]! * 2 ** (12 + 9 * level);
  // Also the 64 KiB pages of compact tables, and beyond the end of the address space.
  if (random.below(4) === 0) va = Math.floor(va / MIB / 2) * MIB * 2 + random.below(6) * 65536 + random.below(65536);
  if (random.below(200) === 0) va += 2 ** (12 + 9 * levels);
  return va - (va % 4);
}

function randomRequests(random: Random, asid: number, levels: number, count: number, flags: number): Uint32Array {
  const words = new Uint32Array(count * REQUEST_WORDS);
  for (let i = 0; i < count; i++) {
    const va = randomVa(random, levels);
    const w = [random.below(300) === 0 ? 255 : asid, lo32(va), hi32(va), random.below(3) | flags, 4, i, 0, 0];
    words.set(w, i * REQUEST_WORDS);
  }
  return words;
}

const CASES = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10].map((seed) => ({ seed, levels: seed % 4 === 0 ? 5 : 4 }));

describe.each(CASES)("random tables, seed $seed, $levels levels", ({ seed, levels }) => {
  const asid = seed;

  beforeAll(() => {
    buildTables(new Random(seed), levels);
    asidSet(asid, tablePa(levels - 1, 0), ASID_VALID | ASID_FAULT_MODE | (levels << 4));
    t.gpu.tlbInvalidateAsid(asid);
    reference.tlbInvalidateAsid(asid);
  });

  test("the batch translator agrees with the model, cold and with the TLB warm", async () => {
    const requests = randomRequests(new Random(seed * 77), asid, levels, 6000, 1 << 5);
    const cold = await t.gpu.translate(requests);
    const expected = await reference.translate(requests);
    expect(firstDifference(cold, expected, 4)).toBeNull();
    expect(firstDifference(await t.gpu.translate(requests), expected, 4)).toBeNull();
    for (let i = 0; i < 6000; i++) outcomes.add(outcomeName(expected[i * 4]!, expected[i * 4 + 3]!));
  });

  test("fault records are the model's", async () => {
    const requests = randomRequests(new Random(seed * 99), asid, levels, 1500, 0);
    await Promise.all([t.gpu.drainFaults(), reference.drainFaults()]);
    await Promise.all([t.gpu.translate(requests), reference.translate(requests)]);
    const [real, model] = await Promise.all([t.gpu.drainFaults(), reference.drainFaults()]);
    expect(real).toMatchObject({ count: model.count, dropped: 0, dedupHits: model.dedupHits, fatal: model.fatal });
    // Of equal faults any may be the one recorded, so the work item, the word inside the page and the epoch may differ.
    expect(sortedRecords(real.records)).toEqual(sortedRecords(model.records));
  });

  test("the lean form is done exactly where the full one gives an address, and gives the same", async () => {
    const count = 6000;
    const requests = ownRequests(new Random(seed * 55), asid, levels, count);
    const { locations } = await runLean(asid, requests);
    const full = await reference.translate(requests);
    for (let i = 0; i < count; i++) {
      const [status, paLo] = full.subarray(i * 4, i * 4 + 2);
      const inPage = (requests[i * REQUEST_WORDS + 1]! % 4096) / 4;
      const location = status === 0 ? paLo! / 4 : status === 1 ? (VRAM + paLo!) / 4 : status === 2 ? inPage : -1;
      expect(`${i}: ${locations[i]}`).toBe(`${i}: ${location}`);
    }
  });

  test("what the lean form misses is recorded with the cause that the model finds", async () => {
    const count = 3000;
    const requests = ownRequests(new Random(seed * 33), asid, levels, count);
    const { causes, round } = await runLean(asid, requests);
    const full = await reference.translate(requests);
    for (const [item, cause] of causes) expect(`${item}: ${cause}`).toBe(`${item}: ${full[item * 4 + 3]}`);
    const failed = Array.from({ length: count }, (_, i) => i).filter((i) => full[i * 4] === 3);
    expect(round).toMatchObject({ remaining: failed.length, count: causes.size, dropped: 0 });
    expect(round.count + round.dedupHits).toBe(failed.length);
    expect(round.fatal).toBe([...causes.values()].filter((cause) => (cause & 15) === 3).length);
  });
});

/** Size class of an address, type and fatal reason of a fault. */
function outcomeName(status: number, info: number): string {
  if (status !== 3) return `${["vram", "window", "null"][status]} class ${info & 3}`;
  return (info & 15) === 3 ? `fatal ${(info >> 4) & 15}` : `fault ${info & 15}`;
}

test("the random tables met every outcome that there is", () => {
  const classes = [0, 1, 2, 3].flatMap((c) => [`null class ${c}`, `vram class ${c}`, `window class ${c}`]);
  const faults = ["fault 0", "fault 1", "fault 2", "fatal 1", "fatal 2", "fatal 3", "fatal 4"];
  expect([...classes, ...faults].filter((name) => !outcomes.has(name))).toEqual([]);
});

/** Whether the lean form finds the address, one item per request. */
/** Random accesses of kernels, whose address space is that of the launch. */
function ownRequests(random: Random, asid: number, levels: number, count: number): Uint32Array {
  const requests = randomRequests(random, asid, levels, count, 1 << 5);
  for (let i = 0; i < count; i++) requests[i * REQUEST_WORDS] = asid;
  return requests;
}

/**
 * The requests as accesses of a kernel, an item each: where the word is, -1 for what is not done; the causes on record, as
 * the info of a translation, by item; and the round.
 */
async function runLean(asid: number, requests: Uint32Array) {
  const count = requests.length / REQUEST_WORDS;
  const input = new Uint32Array(count * 3);
  for (let i = 0; i < count; i++) {
    const [, lo, hi, flags] = requests.subarray(i * REQUEST_WORDS, i * REQUEST_WORDS + 4);
    input.set([lo!, hi!, flags! & 3], i * 3);
  }
  const kernel = await t.gpu.compile({ name: "lean", wgsl: LEAN_PROBE });
  const launch = t.gpu.launch(kernel, { asid, items: count, input, outWords: count * 2 });
  const round = await launch.round();
  const out = await launch.readOut();
  launch.end();
  const causes = new Map<number, number>();
  for (let at = 0; at < round.records.length; at += FAULT_WORDS) {
    const { work, type, reason, level } = decodeFault(round.records, at);
    causes.set(work, type | (reason << 4) | (level << 8));
  }
  const locations = Array.from({ length: count }, (_, i) => (out[i * 2 + 1] === 1 ? out[i * 2]! : -1));
  return { locations, causes, round };
}

describe("one broken entry on the way", () => {
  const VA = 0x1234_5678_9000;
  const asid = 200;
  const [root, dir2, dir1, table, outside] = [100, 101, 102, 103, 256].map((page) => page * 4096);
  const good = {
    3: dir2! | PTE_P | PTE_W,
    2: dir1! | PTE_P | PTE_W,
    1: table! | PTE_P | PTE_W,
    0: (2 * MIB) | PTE_P | PTE_W | PTE_AE | PTE_DM,
  };
  type Broken = Partial<Record<0 | 1 | 2 | 3, [number, number]>>;

  beforeAll(() => {
    // What lies behind the aperture looks like a table too.
    const copyOfTable = new PageList();
    t.hostWords.fill(good[0], 0, 1024);
    for (let i = 1; i < 1024; i += 2) t.hostWords[i] = 0;
    copyOfTable.push(AP_HOST, 0, AP_VRAM, outside! / 4096, 1);
    t.gpu.copy(copyOfTable);
  });

  /** `cause`: what the record of a kernel's access says, null where it is done. */
  async function probe(broken: Broken, rootPa = root!, flags = ASID_VALID | ASID_FAULT_MODE) {
    for (const [level, page] of [
      [3, root],
      [2, dir2],
      [1, dir1],
      [0, table],
    ] as const) {
      const at = page! + (Math.floor(VA / 2 ** (12 + 9 * level)) % 512) * 8;
      t.gpu.ptWrite(at, new Uint32Array(broken[level] ?? [good[level], 0]));
    }
    t.gpu.asidSet(asid, rootPa, flags);
    t.gpu.tlbInvalidateAsid(asid);
    const requests = new Uint32Array([asid, VA % 2 ** 32, Math.floor(VA / 2 ** 32), 1 | (1 << 5), 0, 0, 0, 0]);
    const [status, , , info] = await t.gpu.translate(requests);
    const { locations, causes } = await runLean(asid, requests);
    return { status: status!, info: info!, lean: locations[0] !== -1, cause: causes.get(0) ?? null };
  }

  test("none: the control case is translated by both forms", async () => {
    expect(await probe({})).toMatchObject({ status: 0, lean: true, cause: null });
  });

  test.each<[string, number, Broken]>([
    ["a table pointer of 0", 2, { 3: [PTE_P, 0] }],
    ["a table pointer just outside the aperture", 0, { 1: [MIB | PTE_P, 0] }],
    ["a table pointer above 4 GiB", 0, { 1: [good[1], 1] }],
    ["a directory with PS at level 3", 3, { 3: [good[3] | PTE_PS, 0] }],
    ["a directory with bit 6 at level 2", 2, { 2: [good[2] | PTE_COMPACT, 0] }],
    ["a directory with NULL", 1, { 1: [good[1] | PTE_NULL, 0] }],
    ["a directory with DM", 1, { 1: [good[1] | PTE_DM, 0] }],
    ["a leaf with bit 2", 0, { 0: [good[0] | 4, 0] }],
    ["a leaf with address bit 46", 0, { 0: [good[0], 1 << 14] }],
    ["a leaf with bit 63", 0, { 0: [good[0], 0x80000000] }],
    ["a 2 MiB leaf that is not aligned", 1, { 1: [(2 * MIB + 4096) | PTE_P | PTE_W | PTE_PS | PTE_DM, 0] }],
    ["a 1 GiB leaf that is not aligned", 2, { 2: [(2 * MIB) | PTE_P | PTE_W | PTE_PS | PTE_DM, 0] }],
    ["a 64 KiB hint with the address of another page", 0, { 0: [good[0] | PTE_PS64 | 0x3000, 0] }],
    ["a compact leaf that is not aligned", 0, { 1: [good[1] | PTE_COMPACT, 0], 0: [0, 0] }],
  ])("%s is malformed at level %i", async (name, level, broken) => {
    if (name.startsWith("a compact leaf")) {
      const at = table! + (Math.floor(VA / 65536) % 32) * 8;
      t.gpu.ptWrite(at, new Uint32Array([good[0] | 0x1000, 0]));
    }
    const info = 3 | (3 << 4) | (level << 8);
    expect(await probe(broken)).toEqual({ status: 3, info, lean: false, cause: info });
  });

  test.each([
    ["unaligned", (root ?? 0) + 8],
    ["zero", 0],
    ["outside the aperture", outside!],
    ["above 4 GiB", 2 ** 32 + root!],
  ])("a root that is %s is malformed at level 3", async (_name, pa) => {
    const info = 3 | (3 << 4) | (3 << 8);
    expect(await probe({}, pa)).toEqual({ status: 3, info, lean: false, cause: info });
  });

  test("a banned address space is none", async () => {
    const info = 3 | (1 << 4) | (7 << 8);
    const banned = await probe({}, root!, ASID_VALID | ASID_FAULT_MODE | ASID_BANNED);
    expect(banned).toEqual({ status: 3, info, lean: false, cause: info });
  });
});

const LEAN_PROBE = `
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

function firstDifference(a: Uint32Array, b: Uint32Array, stride: number): string | null {
  for (let i = 0; i < a.length; i++) {
    if (a[i] === b[i]) continue;
    const from = i - (i % stride);
    return `${from / stride}: ${[...a.subarray(from, from + stride)]} instead of ${[...b.subarray(from, from + stride)]}`;
  }
  return null;
}

function sortedRecords(records: Uint32Array): string[] {
  const lines: string[] = [];
  for (let at = 0; at < records.length; at += FAULT_WORDS) {
    const [w0, w1, w2, w3, w4] = records.subarray(at, at + 5);
    lines.push([w0, w1, w2, w3, w4! & ~0xfff].map((w) => w!.toString(16)).join(" "));
  }
  return lines.sort();
}

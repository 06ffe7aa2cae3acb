import { beforeEach, describe, expect, test } from "vitest";
import { SZ_2M, SZ_4K, SZ_64K, hi32, lo32 } from "../../src/base/addr.ts";
import { UnsupportedError } from "../../src/base/errors.ts";
import {
  ACCESS_ATOMIC,
  ACCESS_READ,
  ACCESS_WRITE,
  FATAL_BAD_ASID,
  FATAL_MALFORMED,
  FATAL_NONCANONICAL,
  FATAL_PHYS_RANGE,
  FAULT_ATOMIC_VIOLATION,
  FAULT_FATAL,
  FAULT_NOT_PRESENT,
  FAULT_WRITE_VIOLATION,
  decodeFault,
  isFaultStamped,
} from "../../src/abi/fault.ts";
import {
  PTE_AE,
  PTE_COMPACT,
  PTE_DM,
  PTE_NULL,
  PTE_PS64,
  PTE_W,
  REASON_EVICTED,
  encodeDirectory,
  encodeLeaf,
  encodeNotPresent,
  ptIndex,
} from "../../src/abi/pte.ts";
import {
  REQUEST_NO_RECORD,
  REQUEST_PREFETCH,
  STATUS_FAULT,
  STATUS_NULL,
  STATUS_VRAM,
  STATUS_WINDOW,
} from "../../src/abi/tables.ts";
import { AP_HOST, AP_VRAM, AP_WINDOW, ASID_BANNED, ASID_FAULT_MODE, ASID_VALID, PageList } from "../../src/hal/gpu.ts";
import type { Gpu, KernelSource } from "../../src/hal/gpu.ts";
import { createReferenceGpu } from "../../src/reference/reference-gpu.ts";

const VRAM = 8 * SZ_2M;
const PT = SZ_2M;
const WINDOW = 16 * SZ_4K;
const ASID = 2;
const ROOT = 0x2000;
/** Tables of the one path that the tests use. */
const L2 = 0x3000;
const L1 = 0x4000;
const L0 = 0x5000;
const COMPACT = 0x6000;
const BASE = 0x7f1234400000;
const FLAGS = PTE_W | PTE_AE | PTE_DM;

let gpu: Gpu;
let host: Uint8Array;

beforeEach(() => {
  host = new Uint8Array(64 * SZ_4K);
  gpu = createReferenceGpu({
    vramBytes: VRAM,
    ptBytes: PT,
    syswBytes: WINDOW,
    faultQueueCapacity: 64,
    hostMemory: host,
  });
  gpu.asidSet(ASID, ROOT, ASID_VALID | ASID_FAULT_MODE);
  entry(ROOT, BASE, 3, encodeDirectory(L2));
  entry(L2, BASE, 2, encodeDirectory(L1));
  entry(L1, BASE, 1, encodeDirectory(L0));
});

function entry(table: number, va: number, level: number, words: Uint32Array, compact = false): void {
  gpu.ptWrite(table + 8 * ptIndex(va, level, compact), words);
}
function map(va: number, pa: number, flags = FLAGS): void {
  entry(L0, va, 0, encodeLeaf(pa, flags, 0));
}

interface Answer {
  status: number;
  pa: number;
  type: number;
  reason: number;
  level: number;
}
async function ask(va: number, access: number, flags = REQUEST_NO_RECORD, asid = ASID): Promise<Answer> {
  const words = await gpu.translate(new Uint32Array([asid, lo32(va), hi32(va), access | flags, 4, 7, 0, 0]));
  const info = words[3]!;
  return {
    status: words[0]!,
    pa: words[2]! * 2 ** 32 + words[1]!,
    type: info & 15,
    reason: (info >>> 4) & 15,
    level: info >>> 8,
  };
}

describe("the walk", () => {
  test("a 4 KiB leaf gives its page and the offset inside it", async () => {
    map(BASE + 0x5000, 0x300000);
    expect(await ask(BASE + 0x5abc, ACCESS_READ)).toMatchObject({ status: STATUS_VRAM, pa: 0x300abc });
  });

  test("big, compact, hinted, window and NULL leaves are found by size and aperture", async () => {
    const big = BASE + SZ_2M;
    entry(L1, big, 1, encodeLeaf(2 * SZ_2M, FLAGS, 1));
    expect(await ask(big + 0x12344, ACCESS_WRITE)).toMatchObject({ status: STATUS_VRAM, pa: 2 * SZ_2M + 0x12344 });

    const compact = BASE + 2 * SZ_2M;
    entry(L1, compact, 1, encodeDirectory(COMPACT, true));
    entry(COMPACT, compact + SZ_64K, 0, encodeLeaf(5 * SZ_64K, FLAGS, 0), true);
    expect(await ask(compact + SZ_64K + 0xfff0, ACCESS_READ)).toMatchObject({
      status: STATUS_VRAM,
      pa: 5 * SZ_64K + 0xfff0,
    });

    map(BASE + 0x13000, 0x403000, FLAGS | PTE_PS64);
    expect(await ask(BASE + 0x13010, ACCESS_READ)).toMatchObject({ status: STATUS_VRAM, pa: 0x403010 });
    map(BASE + 0x24000, 0x2000, PTE_W);
    expect(await ask(BASE + 0x24008, ACCESS_WRITE)).toMatchObject({ status: STATUS_WINDOW, pa: 0x2008 });
    map(BASE + 0x25000, 0, PTE_NULL);
    expect(await ask(BASE + 0x25008, ACCESS_READ)).toMatchObject({ status: STATUS_NULL, pa: 0 });
  });

  test.each([
    ["never mapped", (): void => {}, ACCESS_READ, FAULT_NOT_PRESENT, 0, 0],
    [
      "evicted",
      () => entry(L0, BASE, 0, encodeNotPresent(REASON_EVICTED)),
      ACCESS_READ,
      FAULT_NOT_PRESENT,
      REASON_EVICTED,
      0,
    ],
    ["no table", () => entry(L1, BASE, 1, new Uint32Array(2)), ACCESS_READ, FAULT_NOT_PRESENT, 0, 1],
    ["read-only", () => map(BASE, 0x300000, PTE_DM), ACCESS_WRITE, FAULT_WRITE_VIOLATION, 0, 0],
    ["write before atomic", () => map(BASE, 0x300000, PTE_DM), ACCESS_ATOMIC, FAULT_WRITE_VIOLATION, 0, 0],
    ["no atomics", () => map(BASE, 0x300000, PTE_DM | PTE_W), ACCESS_ATOMIC, FAULT_ATOMIC_VIOLATION, 0, 0],
    ["atomic in the window", () => map(BASE, 0x1000, PTE_AE | PTE_W), ACCESS_ATOMIC, FAULT_ATOMIC_VIOLATION, 0, 0],
    ["beyond VRAM", () => map(BASE, VRAM), ACCESS_READ, FAULT_FATAL, FATAL_PHYS_RANGE, 0],
    ["beyond the window", () => map(BASE, WINDOW, PTE_W), ACCESS_READ, FAULT_FATAL, FATAL_PHYS_RANGE, 0],
    ["reserved bit", () => map(BASE, 0x300000, FLAGS | 4), ACCESS_READ, FAULT_FATAL, FATAL_MALFORMED, 0],
    [
      "compact bit on a leaf",
      () => map(BASE, 0x300000, FLAGS | PTE_COMPACT),
      ACCESS_READ,
      FAULT_FATAL,
      FATAL_MALFORMED,
      0,
    ],
    ["misplaced hint", () => map(BASE, 0x301000, FLAGS | PTE_PS64), ACCESS_READ, FAULT_FATAL, FATAL_MALFORMED, 0],
    [
      "misaligned big leaf",
      () => entry(L1, BASE, 1, encodeLeaf(0x300000, FLAGS, 1)),
      ACCESS_READ,
      FAULT_FATAL,
      FATAL_MALFORMED,
      1,
    ],
    [
      "table outside the aperture",
      () => entry(L1, BASE, 1, encodeDirectory(PT)),
      ACCESS_READ,
      FAULT_FATAL,
      FATAL_MALFORMED,
      0,
    ],
    ["table at zero", () => entry(L1, BASE, 1, encodeDirectory(0)), ACCESS_READ, FAULT_FATAL, FATAL_MALFORMED, 0],
  ] as const)("%s faults with its type, reason and level", async (_name, prepare, access, type, reason, level) => {
    prepare();
    expect(await ask(BASE, access)).toEqual({ status: STATUS_FAULT, pa: 0, type, reason, level });
  });

  test("a bad address space and an address beyond 48 bits are fatal before any entry is read", async () => {
    expect(await ask(BASE, ACCESS_READ, REQUEST_NO_RECORD, 9)).toMatchObject({
      type: FAULT_FATAL,
      reason: FATAL_BAD_ASID,
      level: 7,
    });
    expect(await ask(2 ** 48, ACCESS_READ)).toMatchObject({ type: FAULT_FATAL, reason: FATAL_NONCANONICAL, level: 7 });
    gpu.asidSet(ASID, ROOT, ASID_VALID | ASID_BANNED);
    expect(await ask(BASE, ACCESS_READ)).toMatchObject({ type: FAULT_FATAL, reason: FATAL_BAD_ASID });
  });
});

describe("the TLB", () => {
  test("answers with the old page until it is invalidated, then with the new one", async () => {
    map(BASE, 0x300000);
    await ask(BASE, ACCESS_READ);
    map(BASE, 0x400000);
    expect((await ask(BASE + 4, ACCESS_READ)).pa).toBe(0x300004);
    gpu.tlbInvalidate(ASID, BASE + SZ_4K, BASE + SZ_2M);
    expect((await ask(BASE + 4, ACCESS_READ)).pa).toBe(0x300004);
    gpu.tlbInvalidate(ASID + 1, BASE, BASE);
    expect((await ask(BASE + 4, ACCESS_READ)).pa).toBe(0x300004);
    gpu.tlbInvalidate(ASID, BASE + 4095, BASE + 4095);
    expect((await ask(BASE + 4, ACCESS_READ)).pa).toBe(0x400004);
  });

  test("forgets an address space by its generation", async () => {
    map(BASE, 0x300000);
    await ask(BASE, ACCESS_READ);
    map(BASE, 0x400000);
    gpu.tlbInvalidateAsid(ASID);
    expect((await ask(BASE, ACCESS_READ)).pa).toBe(0x400000);
  });

  test("gives stale answers when invalidations are dropped", async () => {
    map(BASE, 0x300000);
    await ask(BASE, ACCESS_READ);
    map(BASE, 0x400000);
    gpu.dropTlbInvalidations = true;
    gpu.tlbInvalidate(ASID, BASE, BASE + 4095);
    gpu.tlbInvalidateAsid(ASID);
    expect((await ask(BASE, ACCESS_READ)).pa).toBe(0x300000);
  });

  test("never caches a fault, and walks again when a hit lacks the permission", async () => {
    expect((await ask(BASE, ACCESS_READ)).status).toBe(STATUS_FAULT);
    map(BASE, 0x300000, PTE_DM);
    expect((await ask(BASE, ACCESS_WRITE)).type).toBe(FAULT_WRITE_VIOLATION);
    expect((await ask(BASE, ACCESS_READ)).status).toBe(STATUS_VRAM);
    map(BASE, 0x300000, FLAGS);
    expect((await ask(BASE, ACCESS_WRITE)).status).toBe(STATUS_VRAM);
  });

  test("sequence numbers count up", () => {
    const first = gpu.tlbInvalidate(ASID, BASE, BASE);
    expect(gpu.tlbInvalidateAsid(ASID)).toBe(first + 1);
  });
});

describe("the fault queue", () => {
  test("a record says what faulted, where, and for whom", async () => {
    await ask(BASE + 0x1abc, ACCESS_WRITE, 0);
    const { records, count, dedupHits } = await gpu.drainFaults();
    expect({ count, dedupHits }).toEqual({ count: 1, dedupHits: 0 });
    expect(isFaultStamped(records)).toBe(true);
    expect(decodeFault(records)).toMatchObject({
      va: BASE + 0x1abc,
      asid: ASID,
      access: ACCESS_WRITE,
      type: FAULT_NOT_PRESENT,
      level: 0,
      work: 7,
      engineClass: 4,
      prefetch: false,
    });
  });

  test("duplicates of a page and access are merged; another access or a hint is not", async () => {
    await ask(BASE, ACCESS_READ, 0);
    await ask(BASE + 8, ACCESS_READ, 0);
    await ask(BASE, ACCESS_WRITE, 0);
    await ask(BASE, ACCESS_READ, REQUEST_PREFETCH);
    expect(await gpu.drainFaults()).toMatchObject({ count: 3, dedupHits: 1, dropped: 0 });
    await ask(BASE, ACCESS_READ, 0);
    expect(await gpu.drainFaults()).toMatchObject({ count: 1, dedupHits: 0 });
  });

  test("a full queue drops and counts", async () => {
    for (let page = 0; page < 70; page++) await ask(BASE + page * SZ_4K, ACCESS_READ, 0);
    expect(await gpu.drainFaults()).toMatchObject({ count: 64, dropped: 6, dedupHits: 0 });
  });

  test("fatal faults are counted, hints among them are not, and NO_RECORD leaves no trace", async () => {
    await ask(BASE, ACCESS_READ, 0, 9);
    await ask(BASE, ACCESS_READ, REQUEST_PREFETCH, 9);
    await ask(BASE, ACCESS_READ, REQUEST_NO_RECORD, 9);
    expect(await gpu.drainFaults()).toMatchObject({ count: 2, fatal: 1 });
  });
});

describe("copies", () => {
  const page = (byte: number): Uint8Array => new Uint8Array(SZ_4K).fill(byte);

  test("an upload captures the host page at the call", async () => {
    host.set(page(7), SZ_4K);
    const list = new PageList();
    list.push(AP_HOST, 1, AP_VRAM, PT / SZ_4K, 1);
    expect(gpu.copy(list)).toBeNull();
    host.fill(0);
    expect(await gpu.readVram(PT, SZ_4K)).toEqual(page(7));
    expect(gpu.counters.uploadBytes).toBe(SZ_4K);
  });

  test("a download shows what VRAM held at the call, and only when its promise resolves", async () => {
    host.set(page(7), 0);
    const up = new PageList();
    up.push(AP_HOST, 0, AP_VRAM, 600, 1);
    gpu.copy(up);
    const down = new PageList();
    down.push(AP_VRAM, 600, AP_HOST, 5, 1);
    const done = gpu.copy(down);
    expect(done).not.toBeNull();
    const clear = new PageList();
    clear.pushClear(AP_VRAM, 600, 1);
    gpu.copy(clear);
    expect(host.subarray(5 * SZ_4K, 6 * SZ_4K)).toEqual(page(0));
    await done;
    expect(host.subarray(5 * SZ_4K, 6 * SZ_4K)).toEqual(page(7));
    expect(await gpu.readVram(600 * SZ_4K, SZ_4K)).toEqual(page(0));
  });

  test("runs are copied between VRAM and the window", async () => {
    host.set(page(1), 0);
    host.set(page(2), SZ_4K);
    const list = new PageList();
    list.push(AP_HOST, 0, AP_WINDOW, 3, 2);
    gpu.copy(list);
    const move = new PageList();
    move.push(AP_WINDOW, 3, AP_VRAM, 700, 2);
    gpu.copy(move);
    const got = await gpu.readVram(700 * SZ_4K, 2 * SZ_4K);
    expect([got[0], got[SZ_4K]]).toEqual([1, 2]);
  });
});

describe("launches", () => {
  const increment: KernelSource = {
    name: "increment",
    wgsl: "",
    reference(item, m) {
      const at = m.translate(BASE + item * SZ_4K, ACCESS_WRITE);
      if (m.missed) return;
      m.store(at, m.load(at) + m.args[0]!);
    },
  };
  const read = async (pa: number): Promise<number> => new Uint32Array((await gpu.readVram(pa, 4)).buffer)[0]!;

  test("items that miss stay undone, are recorded, and run once their page is there", async () => {
    map(BASE, 0x300000);
    const launch = gpu.launch(await gpu.compile(increment), { asid: ASID, items: 3, args: [5] });
    const first = await launch.round();
    expect(first).toMatchObject({ remaining: 2, count: 2, dropped: 0, fatal: 0 });
    expect([decodeFault(first.records), decodeFault(first.records, 8)]).toMatchObject([
      { va: BASE + SZ_4K, work: 1, access: ACCESS_WRITE, asid: ASID },
      { va: BASE + 2 * SZ_4K, work: 2 },
    ]);
    map(BASE + SZ_4K, 0x301000);
    map(BASE + 2 * SZ_4K, 0x302000);
    expect(await launch.round()).toMatchObject({ remaining: 0, count: 0 });
    launch.end();
    expect([await read(0x300000), await read(0x301000), await read(0x302000)]).toEqual([5, 5, 5]);
  });

  test("serial mode runs the lowest undone item alone", async () => {
    const launch = gpu.launch(await gpu.compile(increment), { asid: ASID, items: 3, args: [1] });
    await launch.round();
    launch.setSpan(1);
    const serial = await launch.round();
    expect(serial).toMatchObject({ remaining: 3, count: 1 });
    expect(decodeFault(serial.records).work).toBe(0);
    for (let i = 0; i < 3; i++) map(BASE + i * SZ_4K, 0x300000 + i * SZ_4K);
    expect((await launch.round()).remaining).toBe(2);
    launch.setSpan(Infinity);
    expect((await launch.round()).remaining).toBe(0);
  });

  test("the continuation word survives a miss, input is captured, output is read back", async () => {
    const steps: KernelSource = {
      name: "steps",
      wgsl: "",
      reference(_item, m) {
        for (let i = m.cont; i < 2; i++) {
          const at = m.translate(BASE + i * SZ_4K, ACCESS_ATOMIC);
          if (m.missed) {
            m.cont = i;
            return;
          }
          m.out[i] = m.load(at);
          m.store(at, m.load(at) + m.input[i]!);
        }
      },
    };
    map(BASE, 0x300000);
    const input = new Uint32Array([10, 20]);
    const launch = gpu.launch(await gpu.compile(steps), { asid: ASID, items: 1, input, outWords: 2 });
    input.fill(0);
    expect((await launch.round()).remaining).toBe(1);
    map(BASE + SZ_4K, 0x301000);
    expect((await launch.round()).remaining).toBe(0);
    expect([await read(0x300000), await read(0x301000)]).toEqual([10, 20]);
    expect(await launch.readOut()).toEqual(new Uint32Array([0, 0]));
  });

  test("every missed page of an item is recorded, each once, up to eight", async () => {
    const gather: KernelSource = {
      name: "gather",
      wgsl: "",
      reference(_item, m) {
        for (let page = 0; page < 10; page++) m.translate(BASE + page * SZ_4K, ACCESS_READ);
      },
    };
    const launch = gpu.launch(await gpu.compile(gather), { asid: ASID, items: 2 });
    expect(await launch.round()).toMatchObject({ remaining: 2, count: 8, dedupHits: 8 });
  });

  test("a round begins with an empty queue and a new epoch; a finished launch has no more rounds", async () => {
    await ask(BASE, ACCESS_READ, 0);
    const launch = gpu.launch(await gpu.compile(increment), { asid: ASID, items: 1, args: [1] });
    const first = await launch.round();
    expect([first.count, decodeFault(first.records).epoch]).toEqual([1, 2]);
    map(BASE, 0x300000);
    expect(await launch.round()).toMatchObject({ remaining: 0, count: 0 });
    expect(await launch.round()).toMatchObject({ remaining: 0, count: 0 });
    expect(gpu.counters.rounds).toBe(2);
  });

  test("kernels walk the tables: a stale TLB entry does not reach them", async () => {
    map(BASE, 0x300000);
    await ask(BASE, ACCESS_READ);
    map(BASE, 0x301000);
    const launch = gpu.launch(await gpu.compile(increment), { asid: ASID, items: 1, args: [9] });
    await launch.round();
    expect([await read(0x300000), await read(0x301000)]).toEqual([0, 9]);
  });

  test("misses beyond the queue are dropped and come again", async () => {
    const launch = gpu.launch(await gpu.compile(increment), { asid: ASID, items: 70, args: [1] });
    expect(await launch.round()).toMatchObject({ remaining: 70, count: 64, dropped: 6 });
    expect(await launch.round()).toMatchObject({ remaining: 70, count: 64, dropped: 6 });
  });

  test("a store through a location translated after a miss goes nowhere", async () => {
    const sink: KernelSource = {
      name: "sink",
      wgsl: "",
      reference(_item, m) {
        m.translate(BASE + SZ_4K, ACCESS_READ);
        m.store(m.translate(BASE, ACCESS_WRITE), 1);
      },
    };
    map(BASE, 0x300000);
    const launch = gpu.launch(await gpu.compile(sink), { asid: ASID, items: 1 });
    expect((await launch.round()).remaining).toBe(1);
    expect(await read(0x300000)).toBe(0);
  });

  test("NULL pages read zero and swallow stores", async () => {
    map(BASE, 0, PTE_NULL | PTE_W);
    const launch = gpu.launch(await gpu.compile(increment), { asid: ASID, items: 1, args: [5] });
    expect((await launch.round()).remaining).toBe(0);
    expect(await read(0)).toBe(0);
  });

  test("a kernel that stores after a miss is a bug that is named", async () => {
    const wrong: KernelSource = {
      name: "wrong",
      wgsl: "",
      reference(_item, m) {
        const at = m.translate(BASE, ACCESS_WRITE);
        m.translate(BASE + SZ_4K, ACCESS_READ);
        m.store(at, 1);
      },
    };
    map(BASE, 0x300000);
    const launch = gpu.launch(await gpu.compile(wrong), { asid: ASID, items: 1 });
    await expect(launch.round()).rejects.toThrow(/wrong: item 0 stored after a miss/);
  });

  test("a kernel without a TypeScript version is refused", async () => {
    await expect(gpu.compile({ name: "only-wgsl", wgsl: "" })).rejects.toBeInstanceOf(UnsupportedError);
  });
});

test("a destroyed device says so", async () => {
  gpu.destroy();
  expect(gpu.isLost).toBe(true);
  expect(await gpu.lost).toMatchObject({ reason: "destroyed" });
  await expect(gpu.readVram(0, 4)).rejects.toThrow(/lost/);
});

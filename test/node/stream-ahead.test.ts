import { describe, expect, test } from "vitest";
import { PAGE_SIZE, hi32, lo32 } from "../../src/base/addr.ts";
import { KernelError } from "../../src/base/errors.ts";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import type { VmConfig } from "../../src/machine/machine.ts";
import type { KernelBuffer, Vm } from "../../src/machine/vm.ts";
import { MORE_SHAPES, describeShape, describeStreams } from "../stream-behaviour.ts";
import {
  closeWorld,
  firstDifference,
  makeStreamWorld,
  makeTriple,
  runTriple,
  spent,
  streamsOf,
  tripled,
  windowOf,
} from "../stream-world.ts";
import type { StreamWorld } from "../stream-world.ts";

describeStreams(() => Promise.resolve(REFERENCE_ENGINE));

describe("page i of x to page i of y, in other ways", () => {
  for (const shape of MORE_SHAPES) describeShape(() => REFERENCE_ENGINE, shape);
});

test("what is advised to stay in RAM goes through the window, by pieces that fit there", async () => {
  const m = makeStreamWorld(REFERENCE_ENGINE, { device: { window: windowOf(4 << 20), vram: 16 << 20 } });
  const bytes = 8 << 20;
  const triple = await makeTriple(m.process, bytes);
  await m.vm.attr(triple.x, bytes, { loc: "SYS" });
  const run = () => runTriple(m.vm, triple, bytes / PAGE_SIZE, { streams: streamsOf(triple) });
  expect(await spent(m.vm, run)).toEqual({ rounds: 1, passes: 3 });
  expect(m.vm.counters.toDevBytes).toBe(bytes);
  expect(firstDifference(await m.process.read(triple.y, bytes), tripled(triple.source, triple.per))).toBe(-1);
  await closeWorld(m);
});

test("of a stream that nothing could hold only so much is asked for", async () => {
  const m = makeStreamWorld(REFERENCE_ENGINE);
  const triple = await makeTriple(m.process, 1 << 20);
  const streams: KernelBuffer[] = [...streamsOf(triple), { at: 2 ** 45, bytes: 2 ** 46, access: "read" }];
  const dropped = () => m.vm.counters.hintDropped;
  const run = () => runTriple(m.vm, triple, 256, { streams });
  expect((await spent(m.vm, run)).passes).toBeLessThan(2);
  expect(dropped()).toBeLessThan(8);
  expect(firstDifference(await m.process.read(triple.y, 1 << 20), tripled(triple.source, triple.per))).toBe(-1);
  await closeWorld(m);
});

test("no policy reads ahead of what is brought ahead", async () => {
  const m = makeStreamWorld(REFERENCE_ENGINE, {
    config: { chunks: [65536, 4096], policy: { prefetch: "sequential" } },
    device: { vram: 16 << 20 },
  });
  const bytes = 4 << 20;
  const triple = await makeTriple(m.process, bytes);
  const prefetched = () => m.vm.stats.get("wgsvm_prefetched_pages");
  // The second half of each array is nobody's.
  const half = { ...triple, words: triple.words / 2 };
  await runTriple(m.vm, half, bytes / 2 / PAGE_SIZE, { streams: streamsOf(half) });
  expect(prefetched()).toBe(0);
  // The same by faults, elsewhere.
  const other = { ...(await makeTriple(m.process, bytes)), words: triple.words / 2 };
  await runTriple(m.vm, other, bytes / 2 / PAGE_SIZE);
  expect(prefetched()).toBeGreaterThan(0);
  await closeWorld(m);
});

test("the last item of a piece has also the page that its last byte, of a fraction, lies in", async () => {
  const m = makeStreamWorld(REFERENCE_ENGINE, {
    config: { chunks: [4096], migrate: false },
    device: { window: windowOf(1 << 20) },
  });
  // 127 items make a piece of 512 KiB, and half a byte more than 127 pages.
  const items = 8 * 127;
  const bytes = items * PAGE_SIZE + 4;
  const x = await m.process.mmap(bytes);
  const lastByte = (item: number) => Math.ceil(((item + 1) * bytes) / items) - 1;
  const run = () =>
    m.vm.kernel("", {
      items,
      streams: [{ at: x, bytes, access: "read" }],
      reference(item, c) {
        c.translate(x + Math.floor((item * bytes) / items), 0);
        c.translate(x + lastByte(item), 0);
      },
    });
  expect(await spent(m.vm, run)).toEqual({ rounds: 1, passes: 7 });
  await closeWorld(m);
});

test("no pass is on its way while another has the engine: its fault queue is not emptied", async () => {
  const m = setUp({ migrate: false });
  const [x, y] = [await makeArea(m, 1000), await makeArea(m, 0)];
  const passes = () => m.vm.stats.get("wgsvm_stream_pass_count");
  const engine = await m.vm.device.driver.engineLock.lock();
  const launch = copyFirst(m.vm, x, y, 5);
  for (let i = 0; i < 20; i++) await m.machine.sched.turn();
  expect([passes(), m.vm.counters.rounds]).toEqual([0, 0]);
  // What comes first has been brought all the same.
  expect(m.vm.svm.rangeAt(x)?.isBound).toBe(true);
  engine.release();
  await launch;
  expect([passes(), m.vm.counters.rounds]).toEqual([7, 1]);
  expect(await wordsOf(m, y, 1)).toEqual(range(1005));
  await closeWorld(m);
});

const SEEDS = Array.from({ length: 8 }, (_, i) => i + 1);
const KIB = 1 << 10;
/** Ranges of a race, so that it is quick. */
const RANGE = 64 * KIB;
const PAGES = 128;
const BYTES = PAGES * PAGE_SIZE;

const CONFIGS: readonly { readonly name: string; readonly config: Partial<VmConfig> }[] = [
  { name: "all moves", config: {} },
  { name: "what is written moves", config: { policy: { migrate: "write" } } },
  { name: "nothing moves", config: { migrate: false } },
];

/** A quarter of an array is a piece where something stays in place, and `ranges` are what the window holds. */
function setUp(config: Partial<VmConfig> = {}, ranges = BYTES / 4 / RANGE): StreamWorld {
  return makeStreamWorld(REFERENCE_ENGINE, {
    config: { chunks: [RANGE, 4096], checkPages: 0, ...config },
    device: { window: windowOf(ranges * RANGE) },
    ram: 32 * 1024 * KIB,
  });
}

/** An area, page p of which begins with `first + p`; all else is ones. */
async function makeArea({ process }: StreamWorld, first: number): Promise<number> {
  const a = await process.mmap(BYTES, { align: RANGE });
  const words = new Uint32Array(BYTES / 4).fill(0x01010101);
  for (let page = 0; page < PAGES; page++) words[page * 1024] = first + page;
  await process.write(a, words);
  return a;
}

/** Page p: word 1 of y becomes word 0 of x, and `add`. */
function copyFirst(vm: Vm, x: number, y: number, add: number, streams?: readonly KernelBuffer[]): Promise<unknown> {
  return vm.kernel("", {
    items: PAGES,
    streams: streams ?? [
      { at: x, bytes: BYTES, access: "read" },
      { at: y, bytes: BYTES, access: "write" },
    ],
    reference(item, c) {
      const from = c.translate(x + item * PAGE_SIZE, 0);
      const to = c.translate(y + item * PAGE_SIZE + 4, 1);
      if (!c.missed) c.store(to, c.load(from) + add);
    },
  });
}

/** Page p: its word 2 goes up by one, atomically. */
function countPages(vm: Vm, a: number): Promise<unknown> {
  return vm.kernel("", {
    items: PAGES,
    atomics: true,
    args: [lo32(a), hi32(a)],
    streams: [{ at: a, bytes: BYTES, access: "atomic" }],
    reference(item, c) {
      const at = c.translate(a + item * PAGE_SIZE + 8, 2);
      if (!c.missed) c.store(at, c.load(at) + 1);
    },
  });
}

/** Word `word` of every page. */
async function wordsOf({ process }: StreamWorld, a: number, word: number, pages = PAGES): Promise<number[]> {
  const found = new Uint32Array((await process.read(a, pages * PAGE_SIZE)).buffer);
  return Array.from({ length: pages }, (_, page) => found[page * 1024 + word]!);
}

const range = (first: number, step = 1): number[] => Array.from({ length: PAGES }, (_, i) => first + i * step);

async function delay({ machine }: StreamWorld, points: number): Promise<void> {
  for (let i = 0; i < points; i++) await machine.sched.point("delay");
}

describe.each(CONFIGS)("beside others, where $name", ({ config }) => {
  test.each(SEEDS)("the CPU's stores to the same pages, prefetches and their undoing (seed %i)", async (seed) => {
    const m = setUp(config);
    const [x, y] = [await makeArea(m, 1000), await makeArea(m, 0)];
    await m.machine.sched.race(seed, [
      () => copyFirst(m.vm, x, y, 5),
      async () => {
        for (let i = 0; i < 8; i++) {
          const page = (i * 17 + seed) % PAGES;
          await m.process.st(x + page * PAGE_SIZE + 12, i + 1);
          await m.process.st(y + page * PAGE_SIZE + 12, i + 1);
        }
      },
      async () => {
        for (let i = 0; i < 3; i++) {
          await m.vm.prefetch(x + ((seed + i) % 8) * RANGE, RANGE, "DEV");
          await m.vm.toSys(y + ((seed * 3 + i) % 8) * RANGE, RANGE);
        }
      },
    ]);
    expect(await wordsOf(m, y, 1)).toEqual(range(1005));
    expect(await wordsOf(m, x, 0)).toEqual(range(1000));
    const stored = new Map(Array.from({ length: 8 }, (_, i) => [(i * 17 + seed) % PAGES, i + 1]));
    const expected = range(0).map((page) => stored.get(page) ?? 0x01010101);
    expect(await wordsOf(m, x, 3)).toEqual(expected);
    expect(await wordsOf(m, y, 3)).toEqual(expected);
    await closeWorld(m);
  });

  test.each(SEEDS)("launches of the same and of another address space lose nothing (seed %i)", async (seed) => {
    // What each of them holds for its round fits beside what the others hold.
    const m = setUp(config, 12);
    const other = m.vm.device.vm(m.process);
    const [x, y, z] = [await makeArea(m, 1000), await makeArea(m, 0), await makeArea(m, 0)];
    await m.machine.sched.race(seed, [
      () => copyFirst(m.vm, x, y, 5),
      () => copyFirst(m.vm, x, z, 6, []),
      () => countPages(other, x),
      async () => {
        for (let page = 0; page < PAGES; page += 16) await m.process.inc(x + page * PAGE_SIZE + 8);
      },
    ]);
    expect(await wordsOf(m, y, 1)).toEqual(range(1005));
    expect(await wordsOf(m, z, 1)).toEqual(range(1006));
    expect(await wordsOf(m, x, 2)).toEqual(range(0).map((page) => 0x01010101 + (page % 16 === 0 ? 2 : 1)));
    await closeWorld(m);
  });

  test.each(SEEDS)("munmap and mmap, mprotect, dontneed: what nobody raced for is right (seed %i)", async (seed) => {
    const m = setUp(config);
    const [x, y] = [await makeArea(m, 1000), await makeArea(m, 0)];
    // In x a range and a half goes and comes back; in y some pages may be out of reach for a while.
    const [gone, fenced] = [40 + (seed % 16), 70 + (seed % 8)];
    const isRaced = (page: number) => (page >= gone && page < gone + 24) || (page >= fenced && page < fenced + 6);
    const [error] = await m.machine.sched.race<KernelError | null>(seed, [
      () =>
        copyFirst(m.vm, x, y, 5).then(
          () => null,
          (e: KernelError) => e,
        ),
      async () => {
        await delay(m, seed % 7);
        await m.process.munmap(x + gone * PAGE_SIZE, 24 * PAGE_SIZE);
        await delay(m, seed % 3);
        await m.process.mmap(24 * PAGE_SIZE, { at: x + gone * PAGE_SIZE });
        return null;
      },
      async () => {
        await delay(m, seed % 5);
        await m.process.mprotect(y + fenced * PAGE_SIZE, 3 * PAGE_SIZE, seed % 2 === 0 ? "NONE" : "R");
        await delay(m, seed % 4);
        await m.process.mprotect(y + fenced * PAGE_SIZE, 3 * PAGE_SIZE, "RW");
        await m.process.dontneed(y + (fenced + 3) * PAGE_SIZE, 3 * PAGE_SIZE);
        return null;
      },
    ]);
    if (error !== null) {
      expect(error).toBeInstanceOf(KernelError);
      expect(error!.code).toBe("GPUFAULT");
      const { addr } = error!.fault!;
      const page = Math.floor((addr - (addr >= y && addr < y + BYTES ? y : x)) / PAGE_SIZE);
      expect(isRaced(page)).toBe(true);
    }
    const found = await wordsOf(m, y, 1);
    // After a fault some items have not run; what has run is right.
    const wrong = range(0).filter((page) => {
      if (isRaced(page)) return false;
      return found[page] !== 1005 + page && (error === null || found[page] !== 0x01010101);
    });
    expect(wrong).toEqual([]);
    const rest = await wordsOf(m, y, 7);
    expect(range(0).filter((page) => !isRaced(page) && rest[page] !== 0x01010101)).toEqual([]);
    // The address space goes on, over the new memory too.
    await copyFirst(m.vm, x, y, 9);
    const again = await wordsOf(m, y, 1);
    expect(again).toEqual(range(1009).map((word, page) => (page >= gone && page < gone + 24 ? 9 : word)));
    await closeWorld(m);
  });
});

test.each(SEEDS)("two launches of two address spaces, each as large as VRAM, both end (seed %i)", async (seed) => {
  const m = makeStreamWorld(REFERENCE_ENGINE, { config: { chunks: [RANGE, 4096], checkPages: 0 } });
  const other = m.vm.device.vm(m.process);
  const bytes = 4 << 20;
  const a = await m.process.mmap(2 * bytes, { align: RANGE });
  await m.process.fill(a, 2 * bytes, 1);
  const items = bytes / RANGE;
  const sweep = (vm: Vm, from: number) =>
    vm.kernel("", {
      items,
      streams: [{ at: from, bytes, access: "write" }],
      reference(item, c) {
        const at = c.translate(from + item * RANGE + 4, 1);
        if (!c.missed) c.store(at, c.load(at) + item);
      },
    });
  await m.machine.sched.race(seed, [
    async () => void (await sweep(m.vm, a)),
    async () => void (await sweep(other, a + bytes)),
    async () => void (await m.process.read(a + bytes - RANGE, 2 * RANGE)),
  ]);
  for (let item = 0; item < 2 * items; item++) {
    expect(await m.process.ld(a + item * RANGE + 4)).toBe(0x01010101 + (item % items));
  }
  await closeWorld(m);
});

test.each(SEEDS)("closing the address space in the middle loses nothing that has run (seed %i)", async (seed) => {
  const m = setUp();
  const [x, y] = [await makeArea(m, 1000), await makeArea(m, 0)];
  await m.machine.sched.race(seed, [
    () => copyFirst(m.vm, x, y, 5).catch(() => undefined),
    async () => {
      await delay(m, seed * 2);
      await m.vm.close();
    },
  ]);
  const found = await wordsOf(m, y, 1);
  expect(found.filter((word, page) => word !== 1005 + page && word !== 0x01010101)).toEqual([]);
  expect(await wordsOf(m, x, 0)).toEqual(range(1000));
  await closeWorld(m);
});

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { PAGE_SIZE, hi32, lo32 } from "../src/base/addr.ts";
import { ConfigError } from "../src/base/errors.ts";
import type { ReferenceKernelContext } from "../src/hal/gpu.ts";
import type { Engine } from "../src/machine/machine.ts";
import type { KernelBuffer, KernelOptions } from "../src/machine/vm.ts";
import {
  CHUNK,
  FACTOR,
  addressOf,
  closeWorld,
  firstDifference,
  makeStreamWorld,
  makeTriple,
  pattern,
  runTriple,
  spent,
  streamsOf,
  tripled,
  windowOf,
} from "./stream-world.ts";
import type { StreamWorld, Triple, WorldShape } from "./stream-world.ts";

/** Launches whose memory is brought ahead of their items (src/driver/stream-ahead.ts), on any engine. */
const MIB = 1 << 20;

interface Shape extends WorldShape {
  readonly name: string;
  readonly bytes: number;
  /** As many passes as pieces, but for the last, whose items the round runs. */
  readonly pieces: number;
  /** Data need not move. */
  readonly isInPlace?: boolean;
}

const READS_IN_PLACE = { policy: { migrate: "write" } } as const;
const AHEAD = { policy: { prefetch: "sequential" } } as const;
const IN_PLACE = { migrate: false } as const;
const SMALL = { window: windowOf(CHUNK) };

const SHAPES: readonly Shape[] = [
  { name: "as by default, four times VRAM", bytes: 16 * MIB, pieces: 8 },
  { name: "as by default, one page more than a piece", bytes: CHUNK + PAGE_SIZE, pieces: 2 },
  {
    name: "reads in place, four times the window",
    config: READS_IN_PLACE,
    bytes: 16 * MIB,
    pieces: 8,
  },
  { name: "all in place, four times the window", config: IN_PLACE, bytes: 16 * MIB, pieces: 8, isInPlace: true },
  {
    name: "chunks of 64 KiB, reads in place",
    config: { chunks: [65536, 4096], ...READS_IN_PLACE },
    device: SMALL,
    bytes: 8 * MIB,
    pieces: 8,
  },
];

/** Much of the same, which the engine that takes no time sees to. */
export const MORE_SHAPES: readonly Shape[] = [
  { name: "room for a piece and a half", device: { vram: 6 * MIB, window: 0 }, bytes: 12 * MIB, pieces: 6 },
  {
    name: "a window for a piece and a half",
    config: IN_PLACE,
    device: { window: windowOf(6 * MIB) },
    bytes: 12 * MIB,
    pieces: 6,
    isInPlace: true,
  },
  {
    name: "all in place, all fits",
    config: IN_PLACE,
    device: { window: windowOf(8 * MIB) },
    bytes: 4 * MIB,
    pieces: 1,
    isInPlace: true,
  },
  {
    name: "pages only, in place",
    config: { chunks: [4096], ...IN_PLACE },
    device: SMALL,
    bytes: 8 * MIB,
    pieces: 8,
    isInPlace: true,
  },
  { name: "as by default, all fits", device: { vram: 16 * MIB }, bytes: 4 * MIB, pieces: 1 },
  {
    name: "reads in place, all fits",
    config: READS_IN_PLACE,
    device: { vram: 16 * MIB, window: windowOf(8 * MIB) },
    bytes: 4 * MIB,
    pieces: 1,
  },
  { name: "chunks of 64 KiB", config: { chunks: [65536, 4096] }, bytes: 16 * MIB, pieces: 8 },
  { name: "pages only", config: { chunks: [4096] }, bytes: 8 * MIB, pieces: 4 },
  { name: "on another tile, four times its VRAM", device: { tiles: 2 }, tile: 1, bytes: 16 * MIB, pieces: 8 },
  {
    name: "on another tile, all fits",
    device: { tiles: 2, vram: 16 * MIB },
    tile: 1,
    bytes: 4 * MIB,
    pieces: 1,
  },
];

/** A launch over pages of `shape`, with the streams that say all. */
export function describeShape(engine: () => Engine, { bytes, pieces, isInPlace = false, ...shape }: Shape): void {
  test(`${shape.name}: right to the byte in one round, and ${pieces - 1} passes`, async () => {
    const m = makeStreamWorld(engine(), shape);
    const triple = await makeTriple(m.process, bytes);
    const run = () => runTriple(m.vm, triple, bytes / PAGE_SIZE, { streams: streamsOf(triple) });
    expect(await spent(m.vm, run)).toEqual({ rounds: 1, passes: pieces - 1 });
    expect(firstDifference(await m.process.read(triple.y, bytes), tripled(triple.source, triple.per))).toBe(-1);
    expect(firstDifference(await m.process.read(triple.x, bytes), triple.source)).toBe(-1);
    if (isInPlace) expect(m.vm.counters.toDevBytes).toBe(0);
    else expect(m.vm.counters.toDevBytes).toBeGreaterThan(0);
    await closeWorld(m);
  });
}

/** Each item counts itself, and all together; item i of them reads page i of x first. */
const COUNT = `fn kernel(item: u32) {
    let far = (item & 1u) * arg(6u);
    _ = svm_read(addr_add(arg64(0u), item * 4096u + far));
    let own = svm_atomic(addr_add(arg64(1u), item * 4u));
    let all = svm_atomic(arg64(2u));
    if (svm_missed()) { return; }
    svm_atomic_add(own, 1u);
    svm_atomic_add(all, 1u);
  }`;
function countReference(item: number, c: ReferenceKernelContext): void {
  c.translate(addressOf(c, 0) + item * 4096 + (item & 1) * c.args[6]!, 0);
  const own = c.translate(addressOf(c, 1) + item * 4, 2);
  const all = c.translate(addressOf(c, 2), 2);
  if (c.missed) return;
  c.store(own, c.load(own) + 1);
  c.store(all, c.load(all) + 1);
}

/** What is promised on every engine. */
export function describeStreams(prepare: () => Promise<Engine>): void {
  let engine: Engine;
  beforeAll(async () => {
    engine = await prepare();
  });
  afterAll(() => engine.destroy());

  describe("page i of x to page i of y", () => {
    for (const shape of SHAPES) describeShape(() => engine, shape);

    test("the same without streams takes a round for every few pages", async () => {
      const m = makeStreamWorld(engine);
      const triple = await makeTriple(m.process, 8 * MIB);
      const { rounds, passes } = await spent(m.vm, () => runTriple(m.vm, triple, 2048));
      expect(rounds).toBeGreaterThan(1);
      expect(passes).toBe(0);
      expect(firstDifference(await m.process.read(triple.y, 8 * MIB), tripled(triple.source, 1024))).toBe(-1);
      await closeWorld(m);
    });

    test.each([{ streams: [] }, {}])("no streams to speak of (%j): no pass", async (options) => {
      const m = makeStreamWorld(engine);
      const triple = await makeTriple(m.process, 4 * PAGE_SIZE);
      expect(await spent(m.vm, () => runTriple(m.vm, triple, 4, options))).toMatchObject({ passes: 0 });
      await closeWorld(m);
    });

    test("again and again: what the CPU has stored before is seen, what the GPU has stored is read", async () => {
      const m = makeStreamWorld(engine, { config: READS_IN_PLACE });
      const bytes = 8 * MIB;
      const triple = await makeTriple(m.process, bytes);
      const source = triple.source;
      for (let pass = 1; pass <= 2; pass++) {
        // In every page a word of x, and one of y that the GPU must store over.
        for (let page = 0; page < bytes / PAGE_SIZE; page += 7) {
          source[page * 1024 + pass] = page * pass;
          await m.process.st(triple.x + page * PAGE_SIZE + pass * 4, page * pass);
          await m.process.st(triple.y + page * PAGE_SIZE + pass * 4, 0xdead);
        }
        const run = () => runTriple(m.vm, triple, bytes / PAGE_SIZE, { streams: streamsOf(triple) });
        expect(await spent(m.vm, run)).toEqual({ rounds: 1, passes: 3 });
        expect(firstDifference(await m.process.read(triple.y, bytes), tripled(source, 1024))).toBe(-1);
        expect(firstDifference(await m.process.read(triple.x, bytes), source)).toBe(-1);
      }
      await closeWorld(m);
    });

    test("in place: results that others gave way for are there, and a launch over them streams them on", async () => {
      const m = makeStreamWorld(engine, { config: IN_PLACE });
      const bytes = 8 * MIB;
      const triple = await makeTriple(m.process, bytes);
      const back = { ...triple, x: triple.y, y: triple.x };
      await runTriple(m.vm, triple, bytes / PAGE_SIZE, { streams: streamsOf(triple) });
      await runTriple(m.vm, back, bytes / PAGE_SIZE, { streams: streamsOf(back) });
      const twice = tripled(tripled(triple.source, 1024), 1024);
      expect(firstDifference(await m.process.read(triple.x, bytes), twice)).toBe(-1);
      await closeWorld(m);
    });
  });

  describe("with the policy for sequential access", () => {
    test.each([
      ["what is larger than VRAM is streamed when a round of faults has shown it", AHEAD, {}, { rounds: 2, passes: 3 }],
      [
        "what is larger than the window too, in place",
        { policy: { ...AHEAD.policy, migrate: "write" } },
        {},
        { rounds: 2, passes: 3 },
      ],
      ["nothing is that walks backwards", AHEAD, { isBackwards: true }, { passes: 0 }],
    ] as const)("%s", async (_, config, walk, expected) => {
      const m = makeStreamWorld(engine, { config });
      const triple = { ...(await makeTriple(m.process, 8 * MIB)), ...walk };
      const took = await spent(m.vm, () => runTriple(m.vm, triple, (8 * MIB) / PAGE_SIZE));
      expect(took).toMatchObject(expected);
      expect(firstDifference(await m.process.read(triple.y, 8 * MIB), tripled(triple.source, triple.per))).toBe(-1);
      await closeWorld(m);
    });

    test("what fits is not, and what is named counts", async () => {
      const m = makeStreamWorld(engine, { config: AHEAD });
      const small = await makeTriple(m.process, MIB);
      expect(await spent(m.vm, () => runTriple(m.vm, small, MIB / PAGE_SIZE))).toMatchObject({ passes: 0 });
      const triple = await makeTriple(m.process, 8 * MIB);
      const run = () => runTriple(m.vm, triple, (8 * MIB) / PAGE_SIZE, { streams: streamsOf(triple) });
      expect(await spent(m.vm, run)).toEqual({ rounds: 1, passes: 3 });
      expect(firstDifference(await m.process.read(triple.y, 8 * MIB), tripled(triple.source, triple.per))).toBe(-1);
      await closeWorld(m);
    });
  });

  describe("every item is done once", () => {
    test.each([
      { name: "all is streamed", far: 0, streamsCounts: true },
      { name: "half of the items read elsewhere", far: 8 * MIB, streamsCounts: true },
      { name: "what they count in is not streamed", far: 0, streamsCounts: false },
      { name: "neither", far: 8 * MIB, streamsCounts: false },
    ])("$name", async ({ far, streamsCounts }) => {
      const m = makeStreamWorld(engine);
      const items = (8 * MIB) / PAGE_SIZE;
      const x = await m.process.mmap(16 * MIB, { align: CHUNK });
      await m.process.fill(x, 16 * MIB, 1);
      const own = await m.process.mmap(items * 4, { align: 65536 });
      const all = await m.process.mmap(4, { align: 65536 });
      const streams: KernelBuffer[] = [{ at: x, bytes: 8 * MIB, access: "read" }];
      if (streamsCounts) {
        streams.push({ at: own, bytes: items * 4, access: "atomic" }, { at: all, bytes: 4, access: "atomic" });
      }
      const { passes } = await spent(m.vm, () =>
        m.vm.kernel(COUNT, {
          items,
          args: [...[x, own, all].flatMap((a) => [lo32(a), hi32(a)]), far],
          streams,
          reference: countReference,
        }),
      );
      expect(passes).toBeGreaterThan(0);
      expect(await m.process.ld(all)).toBe(items);
      expect(firstDifference(await m.process.read(own, items * 4), new Uint32Array(items).fill(1))).toBe(-1);
      await closeWorld(m);
    });
  });

  describe("streams that do not say what the kernel works on: right all the same", () => {
    test.each([
      { name: "what is written is not named", named: 1, isBackwards: false },
      { name: "what is read is not named", named: 2, isBackwards: false },
      { name: "the items walk backwards", named: 3, isBackwards: true },
    ])("$name", async ({ named, isBackwards }) => {
      const m = makeStreamWorld(engine);
      const bytes = 8 * MIB;
      const triple = { ...(await makeTriple(m.process, bytes)), isBackwards };
      const streams = streamsOf(triple).filter((_, i) => ((named >> i) & 1) === 1);
      const { rounds, passes } = await spent(m.vm, () => runTriple(m.vm, triple, bytes / PAGE_SIZE, { streams }));
      expect(rounds).toBeGreaterThan(1);
      // A real GPU is asked about a pass only while the next piece comes.
      expect(passes).toBeGreaterThanOrEqual(1);
      if (engine.name === "reference") expect(passes).toBe(1);
      expect(firstDifference(await m.process.read(triple.y, bytes), tripled(triple.source, 1024))).toBe(-1);
      await closeWorld(m);
    });

    test("they name also what nobody has mapped", async () => {
      const m = makeStreamWorld(engine);
      const triple = await makeTriple(m.process, 4 * MIB);
      const streams: KernelBuffer[] = [
        { at: 0, bytes: MIB, access: "write" },
        { at: 2 ** 46, bytes: 4 * MIB, access: "atomic" },
        ...streamsOf(triple),
      ];
      await runTriple(m.vm, triple, 1024, { streams });
      expect(firstDifference(await m.process.read(triple.y, 4 * MIB), tripled(triple.source, 1024))).toBe(-1);
      await closeWorld(m);
    });
  });

  describe("memory that cannot be had", () => {
    const bytes = 8 * MIB;
    /** From page 512 on, a page less than a chunk. */
    const GAP = { first: 1024 + 3, pages: 500 };
    const OBSTACLES = [
      { name: "a hole", make: (m: StreamWorld, a: number, l: number) => m.process.munmap(a, l) },
      { name: "no access", make: (m: StreamWorld, a: number, l: number) => m.process.mprotect(a, l, "NONE") },
    ];

    test.each(OBSTACLES)("$name: of no harm to a kernel that does not touch it", async ({ make }) => {
      const m = makeStreamWorld(engine);
      const triple = await makeTriple(m.process, bytes);
      const gap = triple.x + GAP.first * PAGE_SIZE;
      await make(m, gap, GAP.pages * PAGE_SIZE);
      const reads = `fn kernel(item: u32) {
        if (item >= ${GAP.first}u && item < ${GAP.first + GAP.pages}u) { return; }
        let x = svm_read(addr_add(arg64(0u), item * 4096u));
        let y = svm_write(addr_add(arg64(1u), item * 4096u));
        if (svm_missed()) { return; }
        svm_store(y, svm_load(x));
      }`;
      await m.vm.kernel(reads, {
        items: bytes / PAGE_SIZE,
        args: [lo32(triple.x), hi32(triple.x), lo32(triple.y), hi32(triple.y)],
        streams: streamsOf(triple),
        reference(item, c) {
          if (item >= GAP.first && item < GAP.first + GAP.pages) return;
          const [x, y] = [c.translate(addressOf(c, 0) + item * 4096, 0), c.translate(addressOf(c, 1) + item * 4096, 1)];
          if (!c.missed) c.store(y, c.load(x));
        },
      });
      const found = new Uint32Array((await m.process.read(triple.y, bytes)).buffer);
      const wrong = Array.from({ length: bytes / PAGE_SIZE }, (_, page) => page).filter((page) => {
        const isInGap = page >= GAP.first && page < GAP.first + GAP.pages;
        return found[page * 1024] !== (isInGap ? 0x01010101 : triple.source[page * 1024]);
      });
      expect(wrong).toEqual([]);
      await closeWorld(m);
    });

    test.each(OBSTACLES)("$name: a fault of the kernel that touches it, as without streams", async ({ make }) => {
      const m = makeStreamWorld(engine);
      const triple = await makeTriple(m.process, bytes);
      const gap = triple.x + GAP.first * PAGE_SIZE;
      await make(m, gap, GAP.pages * PAGE_SIZE);
      const errorOf = (options: Partial<KernelOptions>) =>
        runTriple(m.vm, triple, bytes / PAGE_SIZE, options).then(
          () => null,
          (error: { code: string; fault: object }) => ({ code: error.code, fault: error.fault }),
        );
      const error = await errorOf({ streams: streamsOf(triple) });
      expect(error).toMatchObject({ code: "GPUFAULT", fault: { addr: gap, access: "read" } });
      expect(await errorOf({})).toEqual(error);
      // And the address space goes on.
      expect(await m.vm.gld(triple.x)).toBe(triple.source[0]);
      await closeWorld(m);
    });

    test("a stream for writing over what may only be read", async () => {
      const m = makeStreamWorld(engine);
      const triple = await makeTriple(m.process, bytes);
      await m.process.mprotect(triple.y + 2 * CHUNK, PAGE_SIZE, "R");
      await expect(runTriple(m.vm, triple, bytes / PAGE_SIZE, { streams: streamsOf(triple) })).rejects.toMatchObject({
        code: "GPUFAULT",
        fault: { addr: triple.y + 2 * CHUNK, access: "write" },
      });
      await closeWorld(m);
    });
  });

  describe("odd shapes", () => {
    // What is read goes through the window, by pieces of half of it.
    const shape: WorldShape = {
      config: { chunks: [65536, 4096], ...READS_IN_PLACE },
      device: { window: windowOf(MIB) },
    };
    test.each([
      { name: "items do not divide the bytes", words: 399_999, per: 1000, offset: 0 },
      { name: "streams begin and end inside a page", words: 400_000, per: 1024, offset: 77 },
      { name: "items longer than a page, from inside one", words: 400_003, per: 5000, offset: 1023 },
      { name: "an item shorter than a page", words: 300_001, per: 93, offset: 511 },
      { name: "more items than words", words: 100, per: 1, items: 3000, offset: 5 },
      { name: "one item", words: 5000, per: 5000, offset: 1 },
      { name: "two items", words: 5001, per: 2501, offset: 1000 },
      { name: "one word", words: 1, per: 1, offset: 1023 },
    ])("$name", async ({ words, per, offset, items = Math.ceil(words / per) }) => {
      const m = makeStreamWorld(engine, shape);
      const all = Math.ceil((offset + words + 1) / 1024) * PAGE_SIZE;
      const made = await makeTriple(m.process, all);
      const triple = { x: made.x + offset * 4, y: made.y + offset * 4, words, per };
      await runTriple(m.vm, triple, items, { streams: streamsOf(triple) });
      const expected = new Uint32Array(all / 4).fill(0x01010101);
      expected.set(tripled(made.source.slice(offset, offset + words), per), offset);
      expect(firstDifference(await m.process.read(made.y, all), expected)).toBe(-1);
      expect(firstDifference(await m.process.read(made.x, all), made.source)).toBe(-1);
      await closeWorld(m);
    });

    test("pieces that begin and end inside pages take one round as well", async () => {
      const m = makeStreamWorld(engine, shape);
      const [words, per, offset] = [400_000, 1000, 77];
      const made = await makeTriple(m.process, Math.ceil((offset + words) / 1024) * PAGE_SIZE);
      const triple = { x: made.x + offset * 4, y: made.y + offset * 4, words, per };
      const run = () => runTriple(m.vm, triple, words / per, { streams: streamsOf(triple) });
      const { rounds, passes } = await spent(m.vm, run);
      expect(rounds).toBe(1);
      expect(passes).toBeGreaterThan(2);
      const found = await m.process.read(triple.y, words * 4);
      expect(firstDifference(found, tripled(made.source.slice(offset, offset + words), per))).toBe(-1);
      await closeWorld(m);
    });

    test("streams of unlike lengths, one shorter than the number of items", async () => {
      const m = makeStreamWorld(engine);
      const triple = await makeTriple(m.process, 8 * MIB);
      const few = await m.process.mmap(2 * PAGE_SIZE);
      const streams: KernelBuffer[] = [{ at: few + 4000, bytes: 200, access: "read" }, ...streamsOf(triple)];
      const run = () => runTriple(m.vm, triple, 2048, { streams });
      expect(await spent(m.vm, run)).toEqual({ rounds: 1, passes: 3 });
      expect(firstDifference(await m.process.read(triple.y, 8 * MIB), tripled(triple.source, 1024))).toBe(-1);
      await closeWorld(m);
    });

    test("items longer than a piece: one each", async () => {
      const m = makeStreamWorld(engine, shape);
      const triple = { ...(await makeTriple(m.process, 4 * MIB)), per: 262144 };
      await runTriple(m.vm, triple, 4, { streams: streamsOf(triple) });
      expect(firstDifference(await m.process.read(triple.y, 4 * MIB), tripled(triple.source, 262144))).toBe(-1);
      await closeWorld(m);
    });
  });

  describe("a kernel with named parameters", () => {
    const params = { x: "array<u32>", y: "array<u32, read_write>", by: "u32" } as const;
    const reference = (item: number, c: ReferenceKernelContext): void => {
      const [from, to] = [c.at(0, item * 4096), c.at(1, item * 4096)];
      if (c.missed) return;
      for (let i = 0; i < 1024; i++) c.store(to + i, c.load(from + i) + c.args[2]!);
    };
    const KERNELS = [
      {
        design: "item",
        wgsl: `fn kernel(item: u32) {
          let source = x_at(item * 1024u); let to = y_at(item * 1024u);
          if (svm_missed()) { return; }
          for (var i = 0u; i < 1024u; i++) { svm_store(to + i, svm_load(source + i) + by()); }
        }`,
      },
      {
        design: "workgroup",
        wgsl: `fn workgroup_kernel(item: u32, lane: u32) {
          let source = x_at(item * 1024u); let to = y_at(item * 1024u);
          if (svm_vote()) { return; }
          for (var i = lane; i < 1024u; i += SVM_WORKGROUP) { svm_store(to + i, svm_load(source + i) + by()); }
        }`,
      },
    ] as const;

    test.each(KERNELS)('design "$design": arrays twice as large as VRAM, and again', async (kernel) => {
      const m = makeStreamWorld(engine);
      const n = (8 * MIB) / 4;
      const [x, y] = [await m.process.alloc(Uint32Array, n), await m.process.alloc(Uint32Array, n)];
      const source = pattern(n);
      await x.write(source);
      const add = await m.vm.createKernel({ ...kernel, params, reference });
      for (const by of [5, 6]) {
        const run = () => add.run({ x, y, by }, { items: n / 1024, streams: ["x", "y"] });
        expect(await spent(m.vm, run)).toEqual({ rounds: 1, passes: 3 });
        const wrong = (await y.read()).findIndex((word, i) => word !== (source[i]! + by) >>> 0);
        expect(wrong).toBe(-1);
      }
      await closeWorld(m);
    });

    test("with the policy for sequential access: its arrays are taken for what it walks through", async () => {
      const m = makeStreamWorld(engine, { config: AHEAD });
      const n = (8 * MIB) / 4;
      const [x, y] = [await m.process.alloc(Uint32Array, n), await m.process.alloc(Uint32Array, n)];
      const source = pattern(n);
      await x.write(source);
      const add = await m.vm.createKernel({ ...KERNELS[0], params, reference });
      expect(await spent(m.vm, () => add.run({ x, y, by: 7 }, { items: n / 1024 }))).toEqual({ rounds: 2, passes: 3 });
      expect((await y.read()).findIndex((word, i) => word !== (source[i]! + 7) >>> 0)).toBe(-1);
      await closeWorld(m);
    });

    test("what the run says of itself: one round, and no fault", async () => {
      const m = makeStreamWorld(engine);
      const n = (4 * MIB) / 4;
      const [x, y] = [await m.process.alloc(Uint32Array, n), await m.process.alloc(Uint32Array, n)];
      const add = await m.vm.createKernel({ ...KERNELS[0], params, reference });
      const run = add.run({ x, y, by: 1 }, { items: n / 1024, streams: ["x", "y"] });
      expect(await run).toMatchObject({ rounds: 1, faults: 0 });
      await closeWorld(m);
    });

    test("a stream that is no array of it is refused by name", async () => {
      const m = makeStreamWorld(engine);
      const [x, y] = [await m.process.alloc(Uint32Array, 1024), await m.process.alloc(Uint32Array, 1024)];
      const add = await m.vm.createKernel({ ...KERNELS[0], params, reference });
      for (const name of ["by", "z", "toString"]) {
        const streams = [name] as unknown as ["x"];
        const error: unknown = await add.run({ x, y, by: 1 }, { items: 1, streams }).catch((e: unknown) => e);
        expect(error).toBeInstanceOf(ConfigError);
        expect(String(error)).toMatch(new RegExp(`kernel\\.streams.*x, y.*${name}`));
      }
      const none = await m.vm.createKernel({ wgsl: "fn kernel(i: u32) {}", reference: () => undefined });
      const streams = ["x"] as never[];
      await expect(none.run({}, { items: 1, streams })).rejects.toThrow("the kernel has no arrays");
      expect(await add.run({ x, y, by: 1 }, { items: 1, streams: ["x", "y"] })).toMatchObject({ rounds: 1 });
      expect(await y.get(1023)).toBe(1);
      await closeWorld(m);
    });
  });

  describe("bad input names its place, and the address space goes on", () => {
    let m: StreamWorld;
    let triple: Triple;
    beforeEach(async () => {
      m = makeStreamWorld(engine);
      triple = await makeTriple(m.process, 4 * PAGE_SIZE);
    });
    afterEach(() => closeWorld(m));

    async function expectRefusal(options: Partial<KernelOptions>, message: string): Promise<void> {
      const streams = streamsOf(triple);
      const error: unknown = await runTriple(m.vm, triple, 4, { streams, ...options }).catch((e: unknown) => e);
      expect(error).toBeInstanceOf(ConfigError);
      expect(String(error)).toContain(message);
      expect(m.vm.counters.rounds).toBe(0);
      expect(m.vm.stats.get("wgsvm_stream_pass_count")).toBe(0);
      const run = () => runTriple(m.vm, triple, 4, { streams });
      expect(await spent(m.vm, run)).toEqual({ rounds: 1, passes: 0 });
      expect(await m.process.ld(triple.y)).toBe(Math.imul(2654435761, FACTOR) >>> 0);
    }

    test.each(["idempotent", "prefault"] as const)('design "%s"', async (design) => {
      await expectRefusal({ design }, "kernel.streams:");
    });

    test.each([
      [{ bytes: 0 }, "kernel.streams[1].bytes"],
      [{ bytes: -4096 }, "kernel.streams[1].bytes"],
      [{ bytes: NaN }, "kernel.streams[1].bytes"],
      [{ bytes: 1.5 }, "kernel.streams[1].bytes"],
      [{ bytes: Infinity }, "kernel.streams[1].bytes"],
      [{ bytes: Number.MAX_SAFE_INTEGER }, "kernel.streams[1].bytes"],
      [{ bytes: undefined }, "kernel.streams[1].bytes"],
      [{ at: -4096 }, "kernel.streams[1].at"],
      [{ at: NaN }, "kernel.streams[1].at"],
      [{ at: 0.5 }, "kernel.streams[1].at"],
      [{ at: 2 ** 53 }, "kernel.streams[1].at"],
      [{ at: undefined }, "kernel.streams[1].at"],
      [{ access: "execute" }, "kernel.streams[1].access"],
      [{ access: undefined }, "kernel.streams[1].access"],
      [{ access: "toString" }, "kernel.streams[1].access"],
    ])("%o", async (wrong, message) => {
      const [x, y] = streamsOf(triple);
      await expectRefusal({ streams: [x!, { ...y!, ...(wrong as object) }] }, message);
    });
  });
}

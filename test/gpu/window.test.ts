import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { hi32, lo32 } from "../../src/base/addr.ts";
import { EBUSY, ENOMEM, isErr } from "../../src/base/errno.ts";
import { Random } from "../../src/base/random.ts";
import type { WebGpuEngine } from "../../src/device/index.ts";
import { DMA_BIDIRECTIONAL, DMA_TO_DEVICE } from "../../src/mm/dma.ts";
import { Machine } from "../../src/machine/machine.ts";
import { MIB, testEngine } from "./support.ts";
import { AREA_PAGES, PAGE, SLOTS, World } from "./window-world.ts";
import type { Access, Side, Space } from "./window-world.ts";

/**
 * The system window on real buffers (spec/device.md 4.7, X11): two devices with two address spaces each map pages of RAM in
 * place, their kernels and the CPU read and write them, and every value is that of a flat memory.
 */
let engine: WebGpuEngine;
let world: World;
beforeAll(async () => {
  engine = await testEngine();
});
beforeEach(() => {
  world = new World();
});
afterEach(() => world.close());
afterAll(() => engine.destroy());

/** One launch of one round. */
async function run(space: Space, accesses: readonly Access[]): Promise<number[]> {
  const launch = space.launch(accesses);
  const { done } = await space.submit(launch, accesses);
  expect((await done).remaining).toBe(0);
  const out = [...(await launch.readOut())];
  launch.end();
  return out;
}

const add = (page: number, value: number, word = 5): Access => ({ page, word, stores: true, add: value });
const look = (page: number, word = 5): Access => ({ page, word, stores: false, add: 0 });

describe("against a flat memory", () => {
  test.each([1, 2, 3, 4])("two devices, two address spaces each, a window of four pages, seed %i", async (seed) => {
    await world.open(engine, 2);
    const random = new Random(seed);
    const pick = <T>(from: readonly T[]): T => from[random.below(from.length)]!;
    const seen = { full: 0, shared: 0, reused: 0, rounds: 0, skipped: 0 };
    /** Frames that were freed once. */
    const frames = new Set<number>();
    /** Unmappings whose copies back nobody has waited for. */
    const leaving: Promise<void>[] = [];

    const steps: Record<string, () => Promise<void>> = {
      map: async () => {
        const space = pick(world.spaces);
        const page = random.below(AREA_PAGES);
        if (space.mapped.has(page)) return;
        const { live } = space.side;
        const got = space.map(page, world.pfn(page), pick([DMA_BIDIRECTIONAL, DMA_TO_DEVICE]));
        if (!isErr(got)) {
          const twin = space.side.spaces.find((other) => other !== space)!.mapped.get(page);
          if (twin !== undefined) {
            seen.shared += 1;
            expect(got).toBe(twin.addr);
          }
          return;
        }
        seen.full += 1;
        // Nothing is refused while there is a place, or while one is about to come free.
        expect(live.has(page)).toBe(false);
        if (got === ENOMEM) expect(live.size).toBe(SLOTS);
        else expect([got, leaving.length > 0]).toEqual([EBUSY, true]);
      },
      unmap: async () => {
        const space = pick(world.spaces);
        if (space.mapped.size === 0) return;
        leaving.push(space.unmap(pick([...space.mapped.keys()])));
        if (random.below(2) === 0) await Promise.all(leaving.splice(0));
      },
      launch: async () => {
        const space = pick(world.spaces);
        const accesses = [...space.mapped].flatMap(([page, { dir }]): Access[] => {
          if (random.below(3) === 0) return [];
          const stores = dir === DMA_BIDIRECTIONAL && random.below(3) !== 0;
          return [{ page, word: random.below(1024), stores, add: random.u32() }];
        });
        if (accesses.length === 0) return;
        seen.rounds += 1;
        const launch = space.launch(accesses);
        const { done } = await space.submit(launch, accesses);
        const wanted = world.apply(accesses);
        // The CPU comes while the GPU is at it.
        if (random.below(2) === 0) await steps["cpu"]!();
        expect((await done).remaining).toBe(0);
        expect([...(await launch.readOut())]).toEqual(wanted);
        launch.end();
      },
      cpu: async () => {
        const page = random.below(AREA_PAGES);
        if (random.below(2) === 0) await world.store(page, random.below(1024), random.u32());
        else await world.expectPage(page);
      },
      renew: async () => {
        // The content is being discarded everywhere, so nothing is copied back; the frame goes to whoever wants one next.
        const page = random.below(AREA_PAGES);
        await Promise.all(leaving.splice(0));
        const before = world.sides.map((side) => side.pagesOut);
        for (const space of world.spaces) {
          if (!space.mapped.has(page)) continue;
          seen.skipped += 1;
          await space.unmap(page, true);
        }
        expect(world.sides.map((side) => side.pagesOut)).toEqual(before);
        frames.add(world.pfn(page));
        await world.renew(page);
        if (frames.has(world.pfn(page))) seen.reused += 1;
      },
    };
    const dice = ["map", "map", "map", "unmap", "unmap", "launch", "launch", "launch", "cpu", "cpu", "renew"];
    for (let i = 0; i < 250; i++) {
      await steps[pick(dice)]!();
      for (const side of world.sides) {
        const free = side.window.available;
        if (leaving.length === 0) expect(free).toBe(SLOTS - side.live.size);
        else expect(free).toBeLessThanOrEqual(SLOTS - side.live.size);
      }
    }
    await Promise.all(leaving.splice(0));
    for (let page = 0; page < AREA_PAGES; page++) await world.expectPage(page);
    for (const space of world.spaces) for (const page of [...space.mapped.keys()]) await space.unmap(page);
    for (const side of world.sides) {
      expect(side.window.available).toBe(SLOTS);
      side.window.destroy();
    }
    for (let page = 0; page < AREA_PAGES; page++) await world.expectPage(page);
    for (const count of Object.values(seen)) expect(count).toBeGreaterThan(0);
  });
});

describe("one frame", () => {
  test("the table of the specification: two address spaces of one device and the CPU", async () => {
    await world.open(engine, 1);
    const [side] = world.sides as [Side];
    const [a, b] = side.spaces;
    const pfn = world.pfn(0);
    const cpu = (value: number) => world.store(0, 5, value);
    const read = () => world.mm.load32(world.at[0]! + 20);
    await cpu(1);
    const addr = a.map(0, pfn, DMA_BIDIRECTIONAL);
    // The kernel makes 3 * old + add of a word; so this adds one.
    const addOne = (old: number) => run(a, [add(0, 1 - 2 * old)]);
    expect(await addOne(1)).toEqual([1]);
    expect(b.map(0, pfn, DMA_TO_DEVICE)).toBe(addr);
    const copied = side.pagesIn;
    expect(await run(b, [look(0)])).toEqual([2]);
    expect(side.pagesIn).toBe(copied);
    expect(await read()).toBe(2);
    await cpu(7);
    expect(await run(b, [look(0)])).toEqual([7]);
    expect(await addOne(7)).toEqual([7]);
    await a.unmap(0);
    // The last that could write is gone, so the CPU need not wait.
    expect(read()).toBe(8);
    await b.unmap(0);
    const out = side.pagesOut;
    await cpu(9);
    expect(side.pagesOut).toBe(out);
    expect(a.map(0, pfn, DMA_TO_DEVICE)).toBe(addr);
    expect(await run(a, [look(0)])).toEqual([9]);
  });

  test("rounds of one launch between which the CPU reads and writes: both see all", async () => {
    await world.open(engine, 1);
    const [a] = world.sides[0]!.spaces;
    a.map(0, world.pfn(0), DMA_BIDIRECTIONAL);
    a.map(1, world.pfn(1), DMA_BIDIRECTIONAL);
    await world.store(0, 5, 10);
    await world.store(2, 5, 20);
    const accesses = [add(0, 1), add(1, 2), add(2, 3)];
    const launch = a.launch(accesses);
    const first = await (await a.submit(launch, accesses)).done;
    expect([first.remaining, first.count]).toEqual([1, 1]);
    world.apply(accesses.slice(0, 2));
    await world.expectWord(0, 5);
    // The service of the fault reads and writes frames; so does everybody else.
    await world.store(0, 6, 600);
    await world.store(2, 5, 21);
    a.map(2, world.pfn(2), DMA_BIDIRECTIONAL);
    const second = await (await a.submit(launch, accesses)).done;
    expect(second.remaining).toBe(0);
    expect([...(await launch.readOut())]).toEqual([10, 0, 21]);
    launch.end();
    world.apply(accesses.slice(2));
    for (const page of [0, 1, 2]) await world.expectPage(page);
  });

  test("SKIP_SYNC: what the GPU wrote is discarded without a copy, and the frame has its older bytes", async () => {
    await world.open(engine, 1);
    const [side] = world.sides as [Side];
    const [a] = side.spaces;
    await world.store(0, 5, 1);
    a.map(0, world.pfn(0), DMA_BIDIRECTIONAL);
    expect(await run(a, [add(0, 100)])).toEqual([1]);
    const out = side.pagesOut;
    await a.unmap(0, true);
    expect(side.pagesOut).toBe(out);
    expect(world.mm.load32(world.at[0]! + 20)).toBe(1);
    // The cached slot is not read again before it has the frame's bytes.
    a.map(0, world.pfn(0), DMA_TO_DEVICE);
    expect(await run(a, [look(0)])).toEqual([1]);
  });
});

test("a CPU store while a launch waits for its buffer is kept, and so is what the launch writes", async () => {
  const machine = new Machine({ engine, ram: 4 * MIB });
  const { device } = engine.acquired;
  const pop = device.popErrorScope.bind(device);
  try {
    const process = machine.createProcess();
    const vm = machine.createDevice({ vram: 4 * MIB, window: 64 * PAGE }).vm(process, { migrate: false });
    const a = await process.mmap(PAGE, { align: 65536 });
    await process.st(a, 1);
    const wgsl = `fn kernel(item: u32) {
      let at = svm_write(arg64(0u));
      if (!svm_missed()) { svm_store(at, svm_load(at) + 5u); }
    }`;
    const args = [lo32(a), hi32(a)];
    await vm.kernel(wgsl, { items: 1, args });
    // So many output words want a fresh buffer, which WebGPU has to admit; it takes its time.
    let admit = () => {};
    const admitted = new Promise<void>((resolve) => (admit = resolve));
    device.popErrorScope = async () => {
      const error = await pop();
      await admitted;
      return error;
    };
    const done = vm.kernel(wgsl, { items: 1, args, outWords: 100000 });
    for (let i = 0; i < 5; i++) await new Promise((resume) => void setTimeout(resume, 10));
    await process.st(a + 8, 7);
    admit();
    await done;
    expect([await process.ld(a), await process.ld(a + 8)]).toEqual([11, 7]);
  } finally {
    device.popErrorScope = pop;
    await machine.close();
  }
});

describe("exhaustion", () => {
  test("cached slots give way, the longest unmapped first, even under work that still reads them", async () => {
    await world.open(engine, 1);
    const [a] = world.sides[0]!.spaces;
    for (let page = 0; page < AREA_PAGES; page++) await world.store(page, 5, page + 50);
    const addr = [0, 1, 2, 3].map((page) => a.map(page, world.pfn(page), DMA_TO_DEVICE));
    const accesses = [0, 1, 2, 3].map((page) => look(page));
    const launch = a.launch(accesses);
    const { done } = await a.submit(launch, accesses);
    for (const page of [2, 0, 3]) void a.unmap(page);
    expect([4, 5, 6].map((page) => a.map(page, world.pfn(page), DMA_TO_DEVICE))).toEqual([addr[2], addr[0], addr[3]]);
    const next = run(a, [look(4), look(5), look(6), look(1)]);
    await done;
    expect([...(await launch.readOut())]).toEqual([50, 51, 52, 53]);
    expect(await next).toEqual([54, 55, 56, 51]);
    launch.end();
  });

  test("a slot whose last unmap still copies back: -EBUSY, and its place when it is done", async () => {
    await world.open(engine, 1);
    const [a, b] = world.sides[0]!.spaces;
    const addr = [0, 1, 2, 3].map((page) => a.map(page, world.pfn(page), DMA_BIDIRECTIONAL));
    await run(a, [add(1, 77)]);
    const left = a.unmap(1);
    expect(b.map(4, world.pfn(4), DMA_TO_DEVICE)).toBe(EBUSY);
    await left;
    expect(b.map(4, world.pfn(4), DMA_TO_DEVICE)).toBe(addr[1]);
    world.apply([add(1, 77)]);
    await world.expectPage(1);
  });

  test("live mappings hold the window: -ENOMEM, whoever asks; a mapped frame is had again all the same", async () => {
    await world.open(engine, 2);
    const [a, b] = world.sides[0]!.spaces;
    const addr = [0, 1, 2, 3].map((page) => a.map(page, world.pfn(page), DMA_TO_DEVICE));
    expect(a.map(4, world.pfn(4), DMA_TO_DEVICE)).toBe(ENOMEM);
    expect(b.map(5, world.pfn(5), DMA_BIDIRECTIONAL)).toBe(ENOMEM);
    expect(b.map(2, world.pfn(2), DMA_BIDIRECTIONAL)).toBe(addr[2]);
    // The other device has a window of its own.
    expect(world.sides[1]!.spaces[0].map(4, world.pfn(4), DMA_TO_DEVICE)).toBeGreaterThan(0);
  });
});

describe("the device goes", () => {
  test("WRITTEN and BACK frames keep their older bytes and are named; others lose nothing; the other device goes on", async () => {
    await world.open(engine, 2);
    const [victim, survivor] = world.sides as [Side, Side];
    const [a] = victim.spaces;
    for (const page of [0, 1, 2, 3]) {
      await world.store(page, 5, page + 50);
      a.map(page, world.pfn(page), DMA_BIDIRECTIONAL);
    }
    // 0 and 1 are written; 1 is on its way back; 2 is clean, and 3 is stale.
    await run(a, [add(0, 1), add(1, 1), look(2), look(3)]);
    await world.store(3, 5, 99);
    const waiting = world.mm.load32(world.at[1]! + 20);
    victim.gpu.destroy();
    victim.window.abandon();
    await waiting;
    for (const page of [0, 1, 2, 3]) await world.expectPage(page);
    expect(victim.lost.toSorted((x, y) => x - y)).toEqual([world.pfn(0), world.pfn(1)].toSorted((x, y) => x - y));

    const [other] = survivor.spaces;
    for (const page of [0, 1, 2, 3]) other.map(page, world.pfn(page), DMA_BIDIRECTIONAL);
    expect(
      await run(
        other,
        [0, 1, 2, 3].map((page) => add(page, page)),
      ),
    ).toEqual([50, 51, 52, 99]);
    world.apply([0, 1, 2, 3].map((page) => add(page, page)));
    for (const page of [0, 1, 2, 3]) await world.expectPage(page);
  });
});

import { describe, expect, test } from "vitest";
import { PAGE_SIZE } from "../../src/base/addr.ts";
import { KernelError } from "../../src/base/errors.ts";
import { Random } from "../../src/base/random.ts";
import type { KernelDesign, ReferenceKernelContext } from "../../src/hal/gpu.ts";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import type { Vm } from "../../src/machine/vm.ts";
import {
  RACES,
  TABLES,
  VRAM,
  WINDOW,
  add,
  describeLaunchTurns,
  expectAdded,
  nameOf,
  raceLaunches,
} from "../launch-turns-behaviour.ts";
import { CHUNK, closeWorld, makeStreamWorld, windowOf } from "../stream-world.ts";
import type { WorldShape } from "../stream-world.ts";

describeLaunchTurns(() => Promise.resolve(REFERENCE_ENGINE));

const SEEDS = Array.from({ length: 8 }, (_, i) => i + 2);

describe("in other orders", () => {
  const quick = RACES.filter(({ place }) => place !== TABLES);
  test.each(quick.map((race) => [nameOf(race), race] as const))("%s", { timeout: 30000 }, async (_, race) => {
    for (const seed of SEEDS) await raceLaunches(REFERENCE_ENGINE, race, seed);
  });
});

/** Pages that the items of one launch touch. */
interface Job {
  readonly design: KernelDesign;
  readonly sets: readonly (readonly number[])[];
  /** One page after the other, each when the one before is there. */
  readonly isChase: boolean;
}

const DESIGNS: readonly KernelDesign[] = ["item", "item", "workgroup", "idempotent", "prefault"];
const isWriting = ({ design }: Job): boolean => design === "item" || design === "workgroup";

/** Together for what must be there together, else for each item, up to `room` of `pages`. */
function drawJob(random: Random, room: number, pages: number): Job {
  const design = DESIGNS[random.below(DESIGNS.length)]!;
  const stretch = (length: number) => {
    const first = random.below(pages);
    return Array.from({ length }, (_, i) => (first + i) % pages);
  };
  const items = 1 + random.below(12);
  const shared = stretch(1 + random.below(room));
  const ofItem = () => stretch(1 + random.below(room));
  const isTogether = design === "prefault" || design === "workgroup";
  const sets = Array.from({ length: items }, (_, i) => (isTogether ? shared.slice(i % shared.length) : ofItem()));
  return { design, sets, isChase: random.below(2) === 0 };
}

function runJob(vm: Vm, job: Job, a: number, step: number): Promise<unknown> {
  const access = isWriting(job) ? 1 : 0;
  const reach = (item: number, c: ReferenceKernelContext): number[] => {
    const at: number[] = [];
    for (const page of job.sets[item]!) {
      at.push(c.translate(a + page * step, access));
      if (c.missed && job.isChase) break;
    }
    return at;
  };
  const source = {
    name: "job",
    wgsl: "",
    design: job.design,
    reference(item: number, c: ReferenceKernelContext) {
      const at = reach(item, c);
      if (!c.missed && access === 1) for (const word of at) c.store(word, c.load(word) + 1);
    },
    referencePrefault: (item: number, c: ReferenceKernelContext) => void reach(item, c),
  };
  return vm.run(source, { items: job.sets.length });
}

async function raceJobs(shape: WorldShape, room: number, step: number, seed: number, launches: number): Promise<void> {
  const random = new Random(seed);
  const pages = 3 * room;
  const m = makeStreamWorld(REFERENCE_ENGINE, shape);
  const vms = [m.vm, m.vm.device.vm(m.process)];
  const a = await m.process.mmap(pages * step, { align: CHUNK });
  const jobs = Array.from({ length: launches }, () => drawJob(random, room, pages));
  await m.machine.sched.race(
    seed,
    jobs.map((job, i) => () => runJob(vms[i % 2]!, job, a, step)),
  );
  const expected = new Array<number>(pages).fill(0);
  for (const job of jobs) if (isWriting(job)) for (const page of job.sets.flat()) expected[page]! += 1;
  for (let page = 0; page < pages; page++) expect(await m.process.ld(a + page * step)).toBe(expected[page]);
  await closeWorld(m);
}

describe("launches of all designs, whose items each fit alone, all end", () => {
  const inWindow = { config: WINDOW.config!, device: { window: windowOf(8 * PAGE_SIZE) } };
  const range = 65536;
  const inVram = { config: { chunks: [range, PAGE_SIZE], checkPages: 0 }, device: { vram: 2 * CHUNK, window: 0 } };
  test.each([
    ["window", 1, inWindow, 8, PAGE_SIZE],
    ["window", 3, inWindow, 8, PAGE_SIZE],
    ["VRAM", 1, inVram, 64, range],
    ["VRAM", 3, inVram, 64, range],
  ] as const)("%s, %i at a time", { timeout: 30000 }, async (_, launches, shape, room, step) => {
    for (let seed = 1; seed <= 8; seed++) await raceJobs(shape, room, step, seed, launches);
  });
});

test("items whose page tables exclude each other are done one by one, in few rounds", async () => {
  const m = makeStreamWorld(REFERENCE_ENGINE, TABLES);
  const a = await m.process.mmap(TABLES.places * CHUNK, { align: CHUNK });
  await add(m.vm, a, TABLES.places, 300, CHUNK);
  expect(m.vm.counters.rounds).toBeLessThan(100);
  await closeWorld(m);
});

describe("who waits, and for whom", () => {
  /** Reads page after page, which are as many as the window has. */
  const chase = (vm: Vm, a: number): Promise<unknown> =>
    vm.kernel("", {
      items: 1,
      reference(_item, c) {
        for (let i = 0; i < 16 && !c.missed; i++) c.translate(a + i * PAGE_SIZE, 0);
      },
    });
  /** Null, or why it failed. */
  const outcome = (launch: Promise<unknown>): Promise<unknown> =>
    launch.then(
      () => null,
      (error: unknown) => error,
    );

  test("the one that began first ends first", async () => {
    const m = makeStreamWorld(REFERENCE_ENGINE, WINDOW);
    const other = m.vm.device.vm(m.process);
    const a = await m.process.mmap(CHUNK, { align: CHUNK });
    const ended: string[] = [];
    const first = chase(m.vm, a).then(() => ended.push("first"));
    const second = chase(other, a + 16 * PAGE_SIZE).then(() => ended.push("second"));
    await Promise.all([first, second]);
    expect(ended).toEqual(["first", "second"]);
    const waits = [m.vm, other].map((vm) => vm.stats.get("wgsvm_turn_wait_count"));
    expect(waits[0]! + waits[1]!).toBeGreaterThan(0);
    const before = waits[0]!;
    await chase(m.vm, a);
    expect(m.vm.stats.get("wgsvm_turn_wait_count")).toBe(before);
    await closeWorld(m);
  });

  test("memory that somebody has pinned for good is not waited for", async () => {
    const m = makeStreamWorld(REFERENCE_ENGINE, WINDOW);
    const other = m.vm.device.vm(m.process);
    const a = await m.process.mmap(CHUNK, { align: CHUNK });
    await m.vm.gst(a + 40 * PAGE_SIZE, 1);
    const pinned = m.vm.svm.rangeAt(a + 40 * PAGE_SIZE)!;
    pinned.pin();
    const errors = await Promise.all([outcome(chase(m.vm, a)), outcome(chase(other, a + 16 * PAGE_SIZE))]);
    for (const error of errors) {
      expect(error).toBeInstanceOf(KernelError);
      expect((error as KernelError).message).toMatch(/ENOSPC/);
    }
    pinned.unpin();
    await Promise.all([chase(m.vm, a), chase(other, a + 16 * PAGE_SIZE)]);
    await closeWorld(m);
  });

  test.each(SEEDS)("one that is closed ends with an error, and the other goes on (seed %i)", async (seed) => {
    const m = makeStreamWorld(REFERENCE_ENGINE, WINDOW);
    const other = m.vm.device.vm(m.process);
    const a = await m.process.mmap(CHUNK, { align: CHUNK });
    const [, error] = await m.machine.sched.race<unknown>(seed, [
      () => chase(m.vm, a),
      () => outcome(chase(other, a + 16 * PAGE_SIZE)),
      async () => {
        for (let i = 0; i < 8 * seed; i++) await m.machine.sched.point("delay");
        await other.close();
      },
    ]);
    if (error !== null) expect(error).toBeInstanceOf(KernelError);
    await closeWorld(m);
  });
});

test.each(SEEDS)("beside a prefetch that fills VRAM a launch waits too (seed %i)", async (seed) => {
  const m = makeStreamWorld(REFERENCE_ENGINE, VRAM);
  const [a, b] = [await m.process.mmap(4 * CHUNK, { align: CHUNK }), await m.process.mmap(2 * CHUNK, { align: CHUNK })];
  const other = m.vm.device.vm(m.process);
  await m.process.fill(b, 2 * CHUNK, 7);
  await m.machine.sched.race<unknown>(seed, [
    () => add(m.vm, a, 4, 1, CHUNK),
    async () => {
      for (let i = 0; i < 4; i++) {
        await other.prefetch(b, 2 * CHUNK, "DEV");
        await other.prefetch(b, 2 * CHUNK, "SYS");
      }
    },
  ]);
  await expectAdded(m, a, VRAM, 1);
  await closeWorld(m);
});

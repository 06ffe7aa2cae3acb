/** Interleavings drawn from seeds: the races of the spec's catalogue that gpusvm and pagemap meet, invariants checked at every step. */
import { describe, expect, test } from "vitest";
import { EBUSY, EFAULT } from "../../src/base/errno.ts";
import { Random } from "../../src/base/random.ts";
import { checkInvariants } from "../../src/mm/invariants.ts";
import { drmPagemapEvictToRam } from "../../src/pagemap/evict-to-ram.ts";
import { Driver } from "./gpusvm-driver.ts";
import {
  KB64,
  type Machine,
  PAGE,
  expectBalanced,
  expectBytes,
  filled,
  kinds,
  machine,
  migrateIn,
  readOk,
} from "./pagemap-array-vram.ts";

const SEEDS = Array.from({ length: 25 }, (_, i) => i + 1);
const BASE = 0x40000000;

type Activity = (m: Machine, d: Driver) => Promise<void>;

interface World {
  m: Machine;
  d: Driver;
  bytes: Uint8Array;
}

async function world(migrates = true): Promise<World> {
  const m = machine(96, 128);
  const { bytes } = await filled(m.mm, KB64, BASE);
  const d = new Driver(m);
  d.migrates = migrates;
  return { m, d, bytes };
}

/** Runs the activities in the order that the seed says, checking after every step. */
async function race({ m, d }: World, seed: number, activities: readonly Activity[]): Promise<void> {
  const unwatch = m.phys.sched.watch(() => {
    checkInvariants(m.phys);
    d.checkInvariants();
  });
  try {
    await m.phys.sched.race(
      seed,
      activities.map((activity) => () => activity(m, d)),
    );
  } finally {
    unwatch();
  }
  await m.phys.sched.settle();
  d.checkInvariants();
}

async function end({ m, d }: World): Promise<void> {
  await d.close();
  await expectBalanced(m);
}

/** Evicts the first live buffer as a memory manager does. */
const evictOne: Activity = async (m) => {
  const [bo] = m.vram.live;
  if (bo === undefined) return;
  bo.refs += 1;
  const ret = await drmPagemapEvictToRam(bo);
  if (ret === 0) expect(bo.detached.isDone).toBe(true);
  else expect([EBUSY, EFAULT]).toContain(ret);
  bo.put();
};

describe.each(SEEDS)("seed %i", (seed) => {
  test("R5, R6, R7: GPU faults, CPU reads and evictions of the same memory: every byte survives", async () => {
    const w = await world();
    const gpu: Activity = async (_m, d) => {
      for (let p = 0; p < 16; p += 3) expect(await d.gpuRead(BASE + p * PAGE + 1)).toBe(w.bytes[p * PAGE + 1]);
    };
    const cpu: Activity = async (m) => {
      for (let p = 15; p >= 0; p -= 4)
        expect((await readOk(m.mm, BASE + p * PAGE + 1, 1))[0]).toBe(w.bytes[p * PAGE + 1]);
    };
    await race(w, seed, [gpu, cpu, evictOne, evictOne]);
    expectBytes(await readOk(w.m.mm, BASE, KB64), w.bytes);
    await end(w);
  });

  test("R1, R2: CPU writes and GPU writes to different bytes of the same pages, none is lost", async () => {
    const w = await world();
    await w.m.mm.dontneed(BASE, KB64);
    const expected = new Uint8Array(KB64);
    for (let p = 0; p < 16; p++) {
      expected[p * PAGE + 10] = p + 1;
      expected[p * PAGE + 20] = p + 101;
    }
    const cpu: Activity = async (m) => {
      for (let p = 0; p < 16; p++) await m.mm.write(BASE + p * PAGE + 10, Uint8Array.of(p + 1));
    };
    const gpu: Activity = async (_m, d) => {
      for (let p = 15; p >= 0; p--) await d.gpuWrite(BASE + p * PAGE + 20, p + 101);
    };
    await race(w, seed, [cpu, gpu, evictOne]);
    expectBytes(await readOk(w.m.mm, BASE, KB64), expected);
    await end(w);
  });

  test("R4, R8: munmap and DONTNEED under GPU faults and an eviction: the GPU never sees a stale page", async () => {
    const w = await world();
    const gpu: Activity = async (_m, d) => {
      for (let p = 8; p < 12; p++) {
        const byte = await d.gpuRead(BASE + p * PAGE + 1);
        expect([0, w.bytes[p * PAGE + 1]], "poison, or another's data").toContain(byte);
      }
    };
    const cpu: Activity = async (m) => {
      await m.mm.dontneed(BASE + 8 * PAGE, 4 * PAGE);
      await m.mm.munmap(BASE, 4 * PAGE);
    };
    await race(w, seed, [gpu, cpu, evictOne]);
    expect((await readOk(w.m.mm, BASE + 8 * PAGE, 4 * PAGE)).every((byte) => byte === 0)).toBe(true);
    expectBytes(await readOk(w.m.mm, BASE + 12 * PAGE, 4 * PAGE), w.bytes.subarray(12 * PAGE));
    await end(w);
  });

  test("R3: two GPUs over one process migrate the same memory: no deadlock, no lost byte", async () => {
    const w = await world();
    const second = new Driver(w.m);
    const touch =
      (d: Driver, from: number): Activity =>
      async () => {
        for (let p = from; p < 16; p += 5) expect(await d.gpuRead(BASE + p * PAGE + 1)).toBe(w.bytes[p * PAGE + 1]);
      };
    await race(w, seed, [touch(w.d, 0), touch(second, 1), touch(second, 2)]);
    second.checkInvariants();
    expectBytes(await readOk(w.m.mm, BASE, KB64), w.bytes);
    await second.close();
    await end(w);
  });

  test("a random program of everything", async () => {
    const w = await world(seed % 4 !== 0);
    w.d.dma.slowUnmap = async () => {
      await Promise.resolve(); // A point runs the checks, and unmapping must be through with its loop before.
      await w.m.phys.sched.point("test:unmap");
    };
    const random = new Random(seed * 7919);
    const page = () => BASE + Math.floor((random.u32() / 2 ** 32) * 16) * PAGE;
    const steps: (() => Activity)[] = [
      () => {
        const a = page();
        return async (_m, d) => void (await d.fault(a));
      },
      () => {
        const a = page();
        return async (m) => void (await m.mm.read(a, 1));
      },
      () => {
        const a = page();
        return async (m) => void (await m.mm.write(a, Uint8Array.of(1)));
      },
      () => {
        const a = page();
        return async (m) => void (await m.mm.munmap(a, PAGE));
      },
      () => {
        const a = page();
        return async (m) => void (await m.mm.dontneed(a, 2 * PAGE));
      },
      () => {
        const a = page();
        return async (m) => void (await m.mm.mprotect(a, PAGE, "R"));
      },
      () => evictOne,
    ];
    const activity = (): Activity => {
      const list = Array.from({ length: 4 }, () => steps[random.u32() % steps.length]());
      return async (m, d) => {
        for (const step of list) await step(m, d);
      };
    };
    await race(w, seed, [activity(), activity(), activity()]);
    await end(w);
  });
});

test("R5 closely: an eviction that finds all pages taken by a CPU fault still reports that the allocation is empty", async () => {
  const w = await world();
  await migrateIn(w.m, BASE, BASE + KB64);
  const outcomes = new Set<number>();
  for (const seed of [1, 2, 3, 4, 5, 6, 7, 8]) {
    await race(w, seed, [evictOne, async (m) => void (await readOk(m.mm, BASE, 1))]);
    outcomes.add(w.m.vram.releases);
    expect(kinds(w.m.mm, BASE, BASE + KB64)).toEqual({ present: 16 });
    await migrateIn(w.m, BASE, BASE + KB64);
  }
  expect([...outcomes]).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
  expectBytes(await readOk(w.m.mm, BASE, KB64), w.bytes);
  await end(w);
});

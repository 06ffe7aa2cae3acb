/**
 * The races of the spec's catalogue (4.10) one by one, at the instant that matters, and over seeds where fork and swap
 * come in. Races of several kinds at once: gpusvm-races.test.ts; R1, R2, R5, R10 to R13, R15, R16 of the migration alone:
 * pagemap-*.test.ts.
 */
import { describe, expect, test } from "vitest";
import { EAGAIN, EBUSY, EFAULT, isErr } from "../../src/base/errno.ts";
import { checkInvariants } from "../../src/mm/invariants.ts";
import type { Mm } from "../../src/mm/mm.ts";
import { MMU_NOTIFY_CLEAR } from "../../src/mm/types.ts";
import { drmPagemapEvictToRam } from "../../src/pagemap/evict-to-ram.ts";
import { drmPagemapPopulateMm } from "../../src/pagemap/pagemap.ts";
import { Driver, type DriverRange } from "./gpusvm-driver.ts";
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

const SEEDS = Array.from({ length: 20 }, (_, i) => i + 1);
const BASE = 0x40000000;

interface World {
  m: Machine;
  d: Driver;
  bytes: Uint8Array;
}

async function world(ctx: Partial<Driver["ctx"]> = {}): Promise<World> {
  const m = machine(128, 128);
  const { bytes } = await filled(m.mm, KB64, BASE);
  return { m, d: new Driver(m, ctx), bytes };
}

async function end({ m, d }: World): Promise<void> {
  await d.close();
  await expectBalanced(m);
}

/** As a memory manager evicts: with a reference of its own. */
async function evictAll(m: Machine): Promise<void> {
  for (const bo of [...m.vram.live]) {
    bo.refs += 1;
    const ret = await drmPagemapEvictToRam(bo);
    expect([0, EBUSY, EFAULT]).toContain(ret);
    bo.put();
  }
}

/** One pass of a fault up to where the test steps in; the driver's lock is held. */
async function rangeAt(d: Driver): Promise<DriverRange> {
  const range = await d.svm.rangeFindOrInsert(BASE, 0, 2 ** 47, d.ctx);
  if (isErr(range)) throw new Error(`no range: ${range}`);
  return range;
}

async function populate({ m, d }: World, range: DriverRange): Promise<number> {
  return drmPagemapPopulateMm(m.vram.dpagemap, range.start, range.end, m.mm, d.ctx.timesliceMs);
}

async function fork(mm: Mm): Promise<Mm> {
  const child = await mm.fork();
  if (isErr(child)) throw new Error(`fork: ${child}`);
  return child;
}

describe("R6: an eviction between migration and get_pages", () => {
  test("get_pages maps the system pages it finds", async () => {
    const w = await world();
    const guard = await w.d.lock.write();
    const range = await rangeAt(w.d);
    expect(await populate(w, range)).toBe(0);
    await evictAll(w.m);
    expect(await w.d.svm.rangeGetPages(range, w.d.ctx)).toBe(0);
    expect([range.hasDmaMapping, range.hasDevmemPages]).toEqual([true, false]);
    expect(await w.d.bind(range)).toBe(0);
    w.d.checkInvariants();
    guard.release();
    await end(w);
  });

  test("where only device memory will do it is -EFAULT, and the next attempt migrates again", async () => {
    const w = await world({ devmemOnly: true });
    const guard = await w.d.lock.write();
    const range = await rangeAt(w.d);
    await populate(w, range);
    await evictAll(w.m);
    expect(await w.d.svm.rangeGetPages(range, w.d.ctx)).toBe(EFAULT);
    expect([range.hasDmaMapping, w.d.dma.live.size]).toEqual([false, 0]);
    await populate(w, range);
    expect(await w.d.svm.rangeGetPages(range, w.d.ctx)).toBe(0);
    expect(range.hasDevmemPages).toBe(true);
    guard.release();
    await end(w);
  });
});

test("R7: an eviction between get_pages and bind invalidates, so bind refuses and the retry binds what is there now", async () => {
  const w = await world();
  const guard = await w.d.lock.write();
  const range = await rangeAt(w.d);
  await populate(w, range);
  expect(await w.d.svm.rangeGetPages(range, w.d.ctx)).toBe(0);
  w.d.invalidations = [];
  await evictAll(w.m);
  expect(w.d.invalidations.map((event) => event.event)).toContain(MMU_NOTIFY_CLEAR);
  expect(await w.d.bind(range)).toBe(EAGAIN);
  expect(w.d.gpuPt.size).toBe(0);
  guard.release();
  expect(await w.d.gpuRead(BASE + 1)).toBe(w.bytes[1]);
  w.d.checkInvariants();
  await end(w);
});

test("R8: DONTNEED of what the GPU maps takes its entries first, then frees the pages; the GPU then reads zeros", async () => {
  const w = await world();
  expect(await w.d.gpuRead(BASE + 1)).toBe(w.bytes[1]);
  const [bo] = w.m.vram.live;
  const pfn = w.m.mm.devicePfnAt(BASE);
  let atCallback: number[] = [];
  const unwatch = w.m.phys.sched.watch(() => {
    atCallback = [w.m.phys.refcount(pfn), w.d.gpuPt.size];
  });
  await w.m.mm.dontneed(BASE, KB64);
  unwatch();
  expect(atCallback, "in the callback the pages live and the entries are gone").toEqual([1, 0]);
  expect(bo.detached.isDone).toBe(true);
  expect(await w.d.gpuRead(BASE + 1)).toBe(0);
  await end(w);
});

describe("R9: fork over device memory", () => {
  test.each(["read", "write"] as const)("the child's %s brings the pages home for both", async (access) => {
    const w = await world();
    expect(await w.d.gpuRead(BASE + 1)).toBe(w.bytes[1]);
    const child = await fork(w.m.mm);
    expect(kinds(child, BASE, BASE + KB64)).toEqual({ "device-private": 16 });
    w.d.invalidations = [];
    if (access === "read") expectBytes(await readOk(child, BASE, KB64), w.bytes);
    else await child.write(BASE + 3 * PAGE, Uint8Array.of(77));
    expect(
      w.d.invalidations.some(({ event }) => event === MMU_NOTIFY_CLEAR),
      "the parent's mirror is told",
    ).toBe(true);
    expect(kinds(w.m.mm, BASE, BASE + KB64)).toEqual({ present: 16 });
    expect(kinds(child, BASE, BASE + KB64)).toEqual({ present: 16 });
    expect(w.m.vram.live.size).toBe(0);
    expectBytes(await readOk(w.m.mm, BASE, KB64), w.bytes);
    expect(await w.d.gpuRead(BASE + 3 * PAGE + 1)).toBe(w.bytes[3 * PAGE + 1]);
    await child.exit();
    await end(w);
  });

  test("the parent's GPU does not write into what the child still sees", async () => {
    const w = await world();
    await w.d.gpuWrite(BASE + 5, 1);
    w.bytes[5] = 1;
    const child = await fork(w.m.mm);
    await w.d.gpuWrite(BASE + 5, 2);
    expectBytes(await readOk(child, BASE, KB64), w.bytes);
    expect((await readOk(w.m.mm, BASE + 5, 1))[0]).toBe(2);
    w.d.checkInvariants();
    await child.exit();
    await end(w);
  });

  test("an eviction reaches what only the child still maps", async () => {
    const w = await world();
    expect(await migrateIn(w.m, BASE, BASE + KB64)).toBe(0);
    const child = await fork(w.m.mm);
    await w.m.mm.munmap(BASE, KB64);
    expect(kinds(child, BASE, BASE + KB64)).toEqual({ "device-private": 16 });
    await evictAll(w.m);
    expect(kinds(child, BASE, BASE + KB64)).toEqual({ present: 16 });
    expectBytes(await readOk(child, BASE, KB64), w.bytes);
    await child.exit();
    await end(w);
  });

  test.each(SEEDS)("GPU and CPU of the parent, the child and an eviction at once (seed %i)", async (seed) => {
    const w = await world();
    const { m, d, bytes } = w;
    expect(await d.gpuRead(BASE)).toBe(bytes[0]);
    const child = await fork(m.mm);
    const check = () => {
      checkInvariants(m.phys);
      d.checkInvariants();
    };
    const unwatch = m.phys.sched.watch(check);
    await m.phys.sched.race(seed, [
      async () => {
        for (let p = 0; p < 16; p += 5) await d.gpuWrite(BASE + p * PAGE + 9, 100 + p);
      },
      async () => {
        for (let p = 15; p >= 0; p -= 3) await m.mm.write(BASE + p * PAGE + 10, Uint8Array.of(200 + p));
      },
      async () => {
        for (let p = 0; p < 16; p += 4) await child.write(BASE + p * PAGE + 9, Uint8Array.of(50 + p));
      },
      () => evictAll(m),
    ]);
    unwatch();
    await m.phys.sched.settle();
    const ofChild = bytes.slice();
    for (let p = 0; p < 16; p += 5) bytes[p * PAGE + 9] = 100 + p;
    for (let p = 15; p >= 0; p -= 3) bytes[p * PAGE + 10] = 200 + p;
    for (let p = 0; p < 16; p += 4) ofChild[p * PAGE + 9] = 50 + p;
    expectBytes(await readOk(m.mm, BASE, KB64), bytes);
    expectBytes(await readOk(child, BASE, KB64), ofChild);
    await child.exit();
    await end(w);
  });
});

test("R10: a pinned page keeps the range in RAM, and the GPU maps it there", async () => {
  const w = await world();
  const { pfn } = w.m.mm.pageAt(BASE + 2 * PAGE);
  w.m.phys.getPage(pfn);
  expect(await w.d.gpuRead(BASE + 1)).toBe(w.bytes[1]);
  expect(w.d.rangeAt(BASE)!.hasDevmemPages).toBe(false);
  expect(w.m.vram.live.size).toBe(0);
  await w.d.gpuWrite(BASE + 2 * PAGE, 9);
  w.m.phys.putPage(pfn);
  expect((await readOk(w.m.mm, BASE + 2 * PAGE, 1))[0]).toBe(9);
  await end(w);
});

test("R11: a process that exits while the GPU has its pages mapped: the entries go, the allocation is released", async () => {
  const w = await world();
  expect(await w.d.gpuRead(BASE + 1)).toBe(w.bytes[1]);
  w.m.mm.mmgrab();
  const evicting = evictAll(w.m);
  await w.m.mm.exit();
  await evicting;
  await w.m.phys.sched.settle();
  expect([w.d.gpuPt.size, w.m.vram.live.size, w.m.vram.releases]).toEqual([0, 0, 1]);
  expect(await w.d.fault(BASE)).toBe(EFAULT);
  await w.d.close();
  w.m.mm.mmdrop();
  expect(w.m.phys.freePages).toBe(w.m.phys.ramPages - 2);
});

describe("R14: pages of the range are swapped out", () => {
  const swapOut = (m: Machine, start: number, length: number) => m.mm.madvise(start, length, "pageout");

  test("they are not collected, so the range stays in RAM; once swapped in again it migrates", async () => {
    const w = await world();
    expect(await swapOut(w.m, BASE + 4 * PAGE, 2 * PAGE)).toBe(0);
    expect(kinds(w.m.mm, BASE, BASE + KB64)["present"]).toBe(14);
    expect(await migrateIn(w.m, BASE, BASE + KB64)).toBe(EBUSY);
    expect(w.m.vram.live.size).toBe(0);
    expect((await readOk(w.m.mm, BASE + 4 * PAGE + 1, 1))[0]).toBe(w.bytes[4 * PAGE + 1]);
    expect((await readOk(w.m.mm, BASE + 5 * PAGE + 1, 1))[0]).toBe(w.bytes[5 * PAGE + 1]);
    expect(await migrateIn(w.m, BASE, BASE + KB64)).toBe(0);
    expectBytes(await readOk(w.m.mm, BASE, KB64), w.bytes);
    await end(w);
  });

  test("a GPU fault swaps them in and maps them in RAM", async () => {
    const w = await world({ checkPagesThreshold: 0 });
    await swapOut(w.m, BASE + 4 * PAGE, 2 * PAGE);
    expect(await w.d.gpuRead(BASE + 4 * PAGE + 1)).toBe(w.bytes[4 * PAGE + 1]);
    expect(kinds(w.m.mm, BASE, BASE + KB64)).toEqual({ present: 16 });
    w.d.checkInvariants();
    await end(w);
  });

  test.each(SEEDS)("swapping against GPU faults, CPU reads and an eviction loses nothing (seed %i)", async (seed) => {
    const w = await world();
    const { m, d, bytes } = w;
    const unwatch = m.phys.sched.watch(() => {
      checkInvariants(m.phys);
      d.checkInvariants();
    });
    await m.phys.sched.race(seed, [
      async () => {
        for (let p = 0; p < 16; p += 3) expect(await d.gpuRead(BASE + p * PAGE + 1)).toBe(bytes[p * PAGE + 1]);
      },
      async () => {
        for (let p = 0; p < 16; p += 4) await swapOut(m, BASE + p * PAGE, 3 * PAGE);
      },
      async () => {
        for (let p = 14; p >= 0; p -= 7) {
          expect((await readOk(m.mm, BASE + p * PAGE + 1, 1))[0]).toBe(bytes[p * PAGE + 1]);
        }
      },
      () => evictAll(m),
    ]);
    unwatch();
    await m.phys.sched.settle();
    expectBytes(await readOk(m.mm, BASE, KB64), bytes);
    await end(w);
  });
});

test("R15: while the CPU waits for the end of a time slice the GPU gets on with the pages", async () => {
  const w = await world({ timesliceMs: 20 });
  await w.d.gpuWrite(BASE, 1);
  const reading = readOk(w.m.mm, BASE, 1);
  const invalidations = w.d.invalidations.length;
  let writes = 0;
  while (w.m.clock.time < 15) {
    await w.d.gpuWrite(BASE, ++writes);
    await new Promise((resume) => setImmediate(resume));
  }
  expect(w.d.invalidations.length, "nothing was taken away from the GPU").toBe(invalidations);
  expect(writes).toBeGreaterThan(3);
  await reading;
  expect(w.m.clock.time).toBeGreaterThanOrEqual(20);
  await end(w);
});

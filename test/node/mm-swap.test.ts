import { describe, expect, test, vi } from "vitest";
import { assert } from "../../src/base/assert.ts";
import { DMA_BIDIRECTIONAL, type SlotRun, SystemWindow } from "../../src/mm/dma.ts";
import { checkQuiescent } from "../../src/mm/invariants.ts";
import { Mm } from "../../src/mm/mm.ts";
import { swapOut } from "../../src/mm/swap.ts";
import { PhysMemory } from "../../src/mm/phys-mem.ts";
import { SwapSpace } from "../../src/mm/swap-space.ts";
import { MIGRATE_VMA_SELECT_SYSTEM, MMU_NOTIFY_CLEAR } from "../../src/mm/types.ts";
import {
  FakeDevice,
  MB,
  PAGE,
  RecordingNotifier,
  expectBytes,
  migration,
  pattern,
  readOk,
  testPhys,
  testScheduler,
} from "./mm-fake-device.ts";

vi.setConfig({ testTimeout: 60_000 });

const BASE = 0x7f0000000000;

async function setUp(pages: number, phys = testPhys(2048)) {
  const mm = new Mm({ phys });
  await mm.mmap(pages * PAGE, { at: BASE });
  await mm.write(BASE, pattern(pages * PAGE));
  return { phys, mm };
}

async function swap(mm: Mm, start: number, end: number): Promise<number> {
  const guard = await mm.mmapLock.read();
  const gone = await swapOut(mm, start, end);
  guard.release();
  return gone;
}

async function forkOk(mm: Mm): Promise<Mm> {
  const child = await mm.fork();
  assert(child instanceof Mm, "fork failed");
  return child;
}

test("a slot is freed by its last user and then reused", () => {
  const space = new SwapSpace(2);
  const a = space.store(pattern(PAGE, 1));
  const b = space.store(pattern(PAGE, 2));
  expect([a, b, space.store(pattern(PAGE))]).toEqual([1, 2, 0]);
  space.get(a);
  space.put(a);
  expect([space.used, space.count(a)]).toEqual([2, 1]);
  expectBytes(space.read(a), pattern(PAGE, 1));
  space.put(a);
  expect(space.used).toBe(1);
  expect(() => space.read(a)).toThrow(/free/);
  expect(() => space.put(a)).toThrow(/free/);
  expect(() => space.get(a)).toThrow(/free/);
  expect(space.store(pattern(PAGE, 3))).toBe(a);
});

describe("out and in", () => {
  test("frames become free, CLEAR is told before, and an access brings the bytes back", async () => {
    const { phys, mm } = await setUp(8);
    const watcher = new RecordingNotifier(mm, BASE, BASE + 8 * PAGE);
    await mm.intervalNotifierInsert(watcher);
    watcher.check = () => expect(mm.pageAt(BASE + 2 * PAGE).kind).toBe("present");
    const free = phys.freePages;
    expect(await swap(mm, BASE + 2 * PAGE, BASE + 6 * PAGE)).toBe(4);
    expect(watcher.take()).toEqual([[MMU_NOTIFY_CLEAR, BASE + 2 * PAGE, BASE + 6 * PAGE]]);
    expect([mm.pageAt(BASE + 2 * PAGE).kind, phys.freePages, phys.swap.used]).toEqual(["swap", free + 4, 4]);
    checkQuiescent(phys);
    expectBytes(await readOk(mm, BASE, 8 * PAGE), pattern(8 * PAGE));
    expect([mm.pageAt(BASE + 2 * PAGE).writable, phys.freePages, phys.swap.used]).toEqual([true, free, 0]);
    expect(watcher.take()).toEqual([]);
    checkQuiescent(phys);
  });

  test("a store brings the page back too", async () => {
    const { phys, mm } = await setUp(2);
    await swap(mm, BASE, BASE + 2 * PAGE);
    await mm.write(BASE + 1, Uint8Array.of(0xaa));
    const bytes = pattern(2 * PAGE);
    bytes[1] = 0xaa;
    expectBytes(await readOk(mm, BASE, 2 * PAGE), bytes);
    checkQuiescent(phys);
  });

  test("protection is the area's when the page comes back", async () => {
    const { phys, mm } = await setUp(2);
    await swap(mm, BASE, BASE + 2 * PAGE);
    await mm.mprotect(BASE, PAGE, "R");
    await mm.mprotect(BASE + PAGE, PAGE, "NONE");
    expect(await mm.write(BASE, Uint8Array.of(1))).toMatchObject({ code: "SEGV" });
    expect(await mm.read(BASE + PAGE, 1)).toMatchObject({ code: "SEGV" });
    expectBytes(await readOk(mm, BASE, PAGE), pattern(PAGE));
    expect(mm.pageAt(BASE).writable).toBe(false);
    checkQuiescent(phys);
    await mm.mprotect(BASE, 2 * PAGE, "RW");
    expectBytes(await readOk(mm, BASE, 2 * PAGE), pattern(2 * PAGE));
    checkQuiescent(phys);
  });

  test("munmap and dontneed free the slots", async () => {
    const { phys, mm } = await setUp(4);
    await swap(mm, BASE, BASE + 4 * PAGE);
    await mm.munmap(BASE, PAGE);
    expect(phys.swap.used).toBe(3);
    await mm.dontneed(BASE + PAGE, PAGE);
    expect(phys.swap.used).toBe(2);
    expect(await mm.load32(BASE + PAGE)).toBe(0);
    await mm.exit();
    expect([phys.swap.used, phys.freePages]).toEqual([0, 2046]);
  });

  test("a page that forked processes share goes once, announced in both, and each gets its own back", async () => {
    const { phys, mm } = await setUp(2);
    const child = await forkOk(mm);
    const watchers = [mm, child].map((m) => new RecordingNotifier(m, BASE, BASE + 2 * PAGE));
    await mm.intervalNotifierInsert(watchers[0]!);
    await child.intervalNotifierInsert(watchers[1]!);
    const free = phys.freePages;
    expect(await swap(mm, BASE, BASE + 2 * PAGE)).toBe(2);
    for (const w of watchers) expect(w.take()).toEqual([[MMU_NOTIFY_CLEAR, BASE, BASE + 2 * PAGE]]);
    expect([phys.swap.used, phys.freePages, child.pageAt(BASE).kind]).toEqual([2, free + 2, "swap"]);
    checkQuiescent(phys);
    await child.write(BASE, Uint8Array.of(77));
    expectBytes(await readOk(mm, BASE, 2 * PAGE), pattern(2 * PAGE));
    expect((await readOk(child, BASE, 1))[0]).toBe(77);
    expectBytes(await readOk(child, BASE + PAGE, PAGE), pattern(2 * PAGE).subarray(PAGE));
    expect(phys.swap.used).toBe(0);
    checkQuiescent(phys);
  });

  test("fork with pages in swap: both name the slot", async () => {
    const { phys, mm } = await setUp(1);
    await swap(mm, BASE, BASE + PAGE);
    const child = await forkOk(mm);
    expect([phys.swap.used, phys.swap.count(mm.pageAt(BASE).pfn)]).toEqual([1, 2]);
    await mm.write(BASE, Uint8Array.of(1));
    expectBytes(await readOk(child, BASE, PAGE), pattern(PAGE));
    expect(phys.swap.used).toBe(0);
    checkQuiescent(phys);
  });

  test("a huge page goes page by page", async () => {
    const phys = testPhys(2048);
    const mm = new Mm({ phys });
    await mm.mmap(2 * MB, { at: BASE });
    await mm.madvise(BASE, 2 * MB, "hugepage");
    await mm.write(BASE, pattern(2 * MB));
    expect(mm.pageAt(BASE).huge).toBe(true);
    expect(await swap(mm, BASE + MB, BASE + 2 * MB)).toBe(256);
    expect([mm.pageAt(BASE).kind, mm.pageAt(BASE + MB).kind]).toEqual(["present", "swap"]);
    expectBytes(await readOk(mm, BASE, 2 * MB), pattern(2 * MB));
    checkQuiescent(phys);
  });

  test("what a device wrote through its window goes to swap, not what RAM held before", async () => {
    const { phys, mm } = await setUp(1);
    const port = {
      copyIn: () => {},
      copyOut: async (runs: readonly SlotRun[]) => {
        for (const { frame } of runs) phys.bytesOf(frame).fill(0x77);
      },
    };
    const window = new SystemWindow(phys, port, 8 * PAGE);
    const addr = Number(window.map(mm.pageAt(BASE).pfn, DMA_BIDIRECTIONAL));
    await window.submitWith([addr], () => {});
    const watcher = new RecordingNotifier(mm, BASE, BASE + PAGE);
    await mm.intervalNotifierInsert(watcher);
    // As a driver does: the mapping goes, the bytes follow.
    watcher.check = () => void window.unmap(addr, DMA_BIDIRECTIONAL);
    expect(await swap(mm, BASE, BASE + PAGE)).toBe(1);
    expectBytes(await readOk(mm, BASE, PAGE), new Uint8Array(PAGE).fill(0x77));
    window.destroy();
    checkQuiescent(phys);
  });

  test("running out of RAM at the way back is an out-of-memory error, and the slot stays", async () => {
    const { phys, mm } = await setUp(1);
    await swap(mm, BASE, BASE + PAGE);
    phys.failpoint = (site) => site === "frame-alloc";
    expect(await mm.read(BASE, 1)).toMatchObject({ code: "ENOMEM" });
    phys.failpoint = null;
    expectBytes(await readOk(mm, BASE, PAGE), pattern(PAGE));
  });
});

describe("what stays", () => {
  test.for([
    ["pinned", async (mm: Mm): Promise<void> => void (await mm.pin(BASE, 1, { write: false }))],
    ["held", (mm: Mm): void => void mm.phys.getPage(mm.pageAt(BASE).pfn)],
    ["locked by somebody", (mm: Mm): void => void mm.phys.tryLockPage(mm.pageAt(BASE).pfn)],
    ["of an area that mlock holds", async (mm: Mm): Promise<void> => void (await mm.mlock(BASE, PAGE))],
    [
      "in device memory",
      async (mm: Mm): Promise<void> => void (await new FakeDevice(mm.phys).migrate(mm, BASE, BASE + PAGE)),
    ],
    ["the zero page", async (mm: Mm): Promise<void> => void (await mm.dontneed(BASE, PAGE), await mm.load32(BASE))],
    ["without a free slot", (mm: Mm): void => void (mm.phys.failpoint = (site) => site === "swap-out")],
  ] as const)("%s", async ([, prepare]) => {
    const { phys, mm } = await setUp(2);
    await prepare(mm);
    const before = mm.pageAt(BASE);
    const out = phys.failpoint === null ? 1 : 0;
    expect(await swap(mm, BASE, BASE + 2 * PAGE)).toBe(out);
    expect([mm.pageAt(BASE), phys.swap.used]).toEqual([before, out]);
  });

  test("what swap has no room for", async () => {
    const phys = new PhysMemory({ ram: new Uint8Array(64 * PAGE), sched: testScheduler(), swapPages: 3 });
    const { mm } = await setUp(5, phys);
    expect(await swap(mm, BASE, BASE + 5 * PAGE)).toBe(3);
    expectBytes(await readOk(mm, BASE, 5 * PAGE), pattern(5 * PAGE));
    checkQuiescent(phys);
  });

  test("the pages of a file that is mapped", async () => {
    const phys = testPhys(64);
    const mm = new Mm({ phys });
    await mm.mmap(2 * PAGE, { at: BASE, shared: true });
    await mm.write(BASE, pattern(2 * PAGE));
    expect(await swap(mm, BASE, BASE + 2 * PAGE)).toBe(0);
    expect(mm.pageAt(BASE).kind).toBe("present");
  });
});

test("migration skips a page in swap", async () => {
  const { phys, mm } = await setUp(3);
  const device = new FakeDevice(phys);
  await swap(mm, BASE + PAGE, BASE + 2 * PAGE);
  const guard = await mm.mmapLock.read();
  const m = migration(mm, BASE, BASE + 3 * PAGE, MIGRATE_VMA_SELECT_SYSTEM, device);
  await mm.migrateVmaSetup(m);
  expect([m.cpages, m.src[1]]).toEqual([2, 0]);
  await mm.migrateVmaPages(m);
  mm.migrateVmaFinalize(m);
  guard.release();
  expectBytes(await readOk(mm, BASE, 3 * PAGE), pattern(3 * PAGE));
  checkQuiescent(phys);
});

test.for(Array.from({ length: 24 }, (_, seed) => [seed] as const))(
  "races with stores, migration, fork and munmap: no byte is lost (seed %i)",
  async ([seed]) => {
    const { phys, mm } = await setUp(8);
    const device = new FakeDevice(phys);
    const bytes = pattern(8 * PAGE);
    let child: Mm | null = null;
    await phys.sched.race(seed, [
      async () => void (await swap(mm, BASE, BASE + 8 * PAGE)),
      async () => {
        for (const page of [1, 3, 5]) {
          await mm.write(BASE + page * PAGE, Uint8Array.of(page));
          bytes[page * PAGE] = page;
        }
      },
      async () => void (await device.migrate(mm, BASE, BASE + 4 * PAGE)),
      async () => {
        child = await forkOk(mm);
        await child.munmap(BASE + 6 * PAGE, 2 * PAGE);
      },
      async () => void (await swap(mm, BASE + 2 * PAGE, BASE + 6 * PAGE)),
    ]);
    await phys.sched.settle();
    expectBytes(await readOk(mm, BASE, 8 * PAGE), bytes);
    expectBytes(await readOk(child!, BASE + 4 * PAGE, PAGE), pattern(8 * PAGE).subarray(4 * PAGE, 5 * PAGE));
    checkQuiescent(phys);
    await child!.exit();
    await mm.exit();
    expect([phys.freePages, phys.swap.used]).toEqual([2046, 0]);
  },
);

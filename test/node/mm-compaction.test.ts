import { describe, expect, test, vi } from "vitest";
import { assert } from "../../src/base/assert.ts";
import { compact } from "../../src/mm/compaction.ts";
import { checkQuiescent } from "../../src/mm/invariants.ts";
import { Mm } from "../../src/mm/mm.ts";
import { DMA_BIDIRECTIONAL, DMA_TO_DEVICE, SystemWindow } from "../../src/mm/dma.ts";
import { MMU_NOTIFY_CLEAR } from "../../src/mm/types.ts";
import { FakeDevice, MB, PAGE, RecordingNotifier, expectBytes, pattern, readOk, testPhys } from "./mm-fake-device.ts";

vi.setConfig({ testTimeout: 60_000 });

const BASE = 0x7f0000000000;

async function setUp(pages: number, ramPages = 2048) {
  const phys = testPhys(ramPages);
  const mm = new Mm({ phys });
  await mm.mmap(pages * PAGE, { at: BASE });
  await mm.write(BASE, pattern(pages * PAGE));
  return { phys, mm };
}

describe("compact", () => {
  test("moves low frames to high ones, told as CLEAR while the old mapping stands; bytes and permission stay", async () => {
    const { phys, mm } = await setUp(8);
    await mm.mprotect(BASE, PAGE, "R");
    const before = mm.pageAt(BASE + PAGE).pfn;
    const watcher = new RecordingNotifier(mm, BASE, BASE + 8 * PAGE);
    await mm.intervalNotifierInsert(watcher);
    watcher.check = () => expect(mm.pageAt(BASE + PAGE).pfn).toBe(before);
    const free = phys.freePages;
    expect(await compact(phys)).toBe(8);
    expect(watcher.take()).toEqual([[MMU_NOTIFY_CLEAR, BASE, BASE + 8 * PAGE]]);
    expect(Math.min(...Array.from({ length: 8 }, (_, i) => Number(mm.pageAt(BASE + i * PAGE).pfn)))).toBe(2040);
    expect([mm.pageAt(BASE).writable, mm.pageAt(BASE + PAGE).writable, phys.freePages]).toEqual([false, true, free]);
    expectBytes(await readOk(mm, BASE, 8 * PAGE), pattern(8 * PAGE));
    checkQuiescent(phys);
    expect(await compact(phys)).toBe(0);
    expect(watcher.take()).toEqual([]);
  });

  test("moves at most as many as asked", async () => {
    const { phys, mm } = await setUp(8);
    expect(await compact(phys, { maxPages: 3 })).toBe(3);
    expectBytes(await readOk(mm, BASE, 8 * PAGE), pattern(8 * PAGE));
    checkQuiescent(phys);
  });

  test("makes 2 MiB in a row out of scattered frames", async () => {
    const { phys, mm } = await setUp(1500);
    for (let page = 0; page < 1500; page += 4) await mm.munmap(BASE + page * PAGE, 3 * PAGE);
    const blocks = () => {
      const heads: number[] = [];
      for (let head = phys.allocHuge(); head > 0; head = phys.allocHuge()) heads.push(Number(head));
      for (const head of heads) phys.putPages(head, 512);
      return heads.length;
    };
    expect(blocks()).toBe(1);
    expect(await compact(phys)).toBeGreaterThan(0);
    expect(blocks()).toBe(2);
    const bytes = pattern(1500 * PAGE);
    for (let page = 3; page < 1500; page += 4) {
      expectBytes(await readOk(mm, BASE + page * PAGE, PAGE), bytes.subarray(page * PAGE, (page + 1) * PAGE));
    }
    checkQuiescent(phys);
  });

  test("a page that forked processes share moves once, announced in both", async () => {
    const { phys, mm } = await setUp(2);
    const child = await mm.fork();
    assert(child instanceof Mm, "fork failed");
    const watcher = new RecordingNotifier(child, BASE, BASE + 2 * PAGE);
    await child.intervalNotifierInsert(watcher);
    expect(await compact(phys)).toBe(2);
    expect(watcher.take()).toEqual([[MMU_NOTIFY_CLEAR, BASE, BASE + 2 * PAGE]]);
    expect(child.pageAt(BASE)).toEqual(mm.pageAt(BASE));
    await child.write(BASE, Uint8Array.of(1));
    expectBytes(await readOk(mm, BASE, 2 * PAGE), pattern(2 * PAGE));
    checkQuiescent(phys);
  });

  test.for([
    ["locked", (mm: Mm): void => void mm.phys.tryLockPage(mm.pageAt(BASE).pfn)],
    ["held", (mm: Mm) => mm.phys.getPage(mm.pageAt(BASE).pfn)],
    ["pinned", (mm: Mm) => mm.pin(BASE, 1, { write: true })],
    ["off the LRU", (mm: Mm): void => void (mm.phys.frames.flags[mm.pageAt(BASE).pfn]! &= ~(1 << 4))],
  ] as const)("a %s page stays", async ([, prepare]) => {
    const { phys, mm } = await setUp(2);
    await prepare(mm);
    const { pfn } = mm.pageAt(BASE);
    expect(await compact(phys)).toBe(1);
    expect(mm.pageAt(BASE)).toMatchObject({ pfn, kind: "present" });
  });

  test("large folios and file pages stay", async () => {
    const { phys, mm } = await setUp(1);
    await mm.mmap(2 * MB, { at: BASE + 2 * MB });
    await mm.madvise(BASE + 2 * MB, 2 * MB, "hugepage");
    await mm.write(BASE + 2 * MB, Uint8Array.of(1));
    await mm.mmap(PAGE, { at: BASE + 6 * MB, shared: true });
    await mm.write(BASE + 6 * MB, Uint8Array.of(1));
    expect(await compact(phys)).toBe(1);
    expect(mm.pageAt(BASE + 2 * MB).huge).toBe(true);
    checkQuiescent(phys);
  });

  test("what a device wrote through its window moves with the page", async () => {
    const { phys, mm } = await setUp(1);
    const { pfn } = mm.pageAt(BASE);
    const window = new SystemWindow(
      phys,
      {
        copyIn: () => {},
        copyOut: async (runs) => {
          for (const { frame } of runs) phys.bytesOf(frame).fill(0x77);
        },
      },
      8 * PAGE,
    );
    const addr = Number(window.map(pfn, DMA_BIDIRECTIONAL));
    await window.submitWith([addr], () => {});
    const watcher = new RecordingNotifier(mm, BASE, BASE + PAGE);
    await mm.intervalNotifierInsert(watcher);
    // As a driver does: the mapping goes, the bytes follow.
    watcher.check = () => void window.unmap(addr, DMA_BIDIRECTIONAL);
    expect(await compact(phys)).toBe(1);
    expectBytes(await readOk(mm, BASE, PAGE), new Uint8Array(PAGE).fill(0x77));
    const again = Number(window.map(mm.pageAt(BASE).pfn, DMA_TO_DEVICE));
    void window.unmap(again, DMA_TO_DEVICE);
    window.destroy();
    checkQuiescent(phys);
  });
});

test.for(Array.from({ length: 24 }, (_, seed) => [seed] as const))(
  "races with stores, migration, swap and munmap: no byte is lost (seed %i)",
  async ([seed]) => {
    const { phys, mm } = await setUp(8, 64);
    const device = new FakeDevice(phys);
    const bytes = pattern(8 * PAGE);
    await phys.sched.race(seed, [
      async () => void (await compact(phys)),
      async () => {
        for (const page of [0, 2, 5]) {
          await mm.write(BASE + page * PAGE, Uint8Array.of(page + 100));
          bytes[page * PAGE] = page + 100;
        }
      },
      async () => void (await device.migrate(mm, BASE, BASE + 3 * PAGE)),
      async () => void (await mm.madvise(BASE + 2 * PAGE, 4 * PAGE, "pageout")),
      async () => void (await mm.munmap(BASE + 7 * PAGE, PAGE)),
      async () => void (await compact(phys, { maxPages: 4 })),
    ]);
    expectBytes(await readOk(mm, BASE, 7 * PAGE), bytes.subarray(0, 7 * PAGE));
    checkQuiescent(phys);
    await mm.exit();
    expect([phys.freePages, phys.swap.used]).toEqual([62, 0]);
  },
);

import { describe, expect, test } from "vitest";
import { EFAULT, ETIME, isErr } from "../../src/base/errno.ts";
import { RwSemaphore } from "../../src/base/locks.ts";
import { gpuSvmCtx } from "../../src/gpusvm/ctx.ts";
import { GpuSvm } from "../../src/gpusvm/gpusvm.ts";
import { GpuSvmNotifier } from "../../src/gpusvm/notifier.ts";
import { GpuSvmPages } from "../../src/gpusvm/pages.ts";
import { GpuSvmRange } from "../../src/gpusvm/range.ts";
import {
  DRM_GPUSVM_SCAN_EQUAL,
  DRM_GPUSVM_SCAN_MIXED,
  DRM_GPUSVM_SCAN_MIXED_DEVICE,
  DRM_GPUSVM_SCAN_OTHER,
  DRM_GPUSVM_SCAN_SYSTEM,
  DRM_GPUSVM_SCAN_UNPOPULATED,
} from "../../src/gpusvm/scan-mm.ts";
import { MMU_NOTIFY_CLEAR, MMU_NOTIFY_UNMAP } from "../../src/mm/types.ts";
import { ModelProcess, OWN, type PageRun, neverWaits, now } from "../vectors/gpusvm-process.ts";
import { Driver, type DriverRange } from "./gpusvm-driver.ts";
import {
  ArrayVram,
  KB64,
  MB2,
  PAGE,
  expectBalanced,
  expectBytes,
  filled,
  kinds,
  machine,
  migrateIn,
  readOk,
} from "./pagemap-array-vram.ts";

const WHOLE = [0, 2 ** 47] as const;
const dma = { dmaMapPage: (pfn: number) => pfn * PAGE, dmaUnmapPage: () => undefined };

/** 4 KiB ranges only, and notifiers of 64 KiB, over 1 MiB at 0x100000. */
function small(ops: Partial<ConstructorParameters<typeof GpuSvm>[0]["ops"]> = {}): {
  svm: GpuSvm;
  process: ModelProcess;
} {
  const process = new ModelProcess([["0x100000", "0x200000", "rw"]], []);
  const svm = new GpuSvm({
    name: "small",
    drm: dma,
    mm: process,
    mmStart: 0,
    mmRange: 2 ** 47,
    notifierSize: KB64,
    chunkSizes: [PAGE],
    ops: { invalidate: () => undefined, ...ops },
    scheduler: neverWaits,
  });
  return { svm, process };
}

function insert(svm: GpuSvm, addr: number): GpuSvmRange {
  const range = now(svm.rangeFindOrInsert(addr, ...WHOLE, gpuSvmCtx()));
  if (isErr(range)) throw new Error(String(range));
  return range;
}

describe("look-ups", () => {
  const { svm } = small();
  for (const addr of [0x105000, 0x101000, 0x122000, 0x103000, 0x141000]) insert(svm, addr);
  const starts = (ranges: Iterable<{ start: number }>) => [...ranges].map((r) => r.start);

  test("notifiers are visited by address, those that intersect only", () => {
    expect(starts(svm.forEachNotifier(0, 2 ** 47))).toEqual([0x100000, 0x120000, 0x140000]);
    expect(starts(svm.forEachNotifier(0x10ffff, 0x120000))).toEqual([0x100000]);
    expect(starts(svm.forEachNotifier(0x110000, 0x120001))).toEqual([0x120000]);
    expect(starts(svm.forEachNotifier(0x110000, 0x120000))).toEqual([]);
    expect(svm.notifierFind(0x110000, 0x120000)).toBeNull();
  });

  test("ranges of a notifier are visited by address, from a given one on if there is one", () => {
    const notifier = svm.notifierFind(0x100000, 0x110000)!;
    expect(starts(notifier.forEachRange(0, 2 ** 47))).toEqual([0x101000, 0x103000, 0x105000]);
    expect(starts(notifier.forEachRange(0x101fff, 0x105000))).toEqual([0x101000, 0x103000]);
    expect(starts(notifier.forEachRange(0, 2 ** 47, notifier.rangeFind(0x103000, 0x104000)))).toEqual([
      0x103000, 0x105000,
    ]);
    expect(notifier.rangeFind(0x102000, 0x103000)).toBeNull();
  });

  test("has_mapping is about ranges, byte by byte, in any notifier", () => {
    expect(svm.hasMapping(0x105fff, 0x106000)).toBe(true);
    expect(svm.hasMapping(0x106000, 0x122000)).toBe(false);
    expect(svm.hasMapping(0x106000, 0x122001)).toBe(true);
  });

  test("find_vma_start gives the area's start, even below the interval, and null where there is none", () => {
    expect(svm.findVmaStart(0x180000, 0x181000)).toBe(0x100000);
    expect(svm.findVmaStart(0x1fffff, 0x300000)).toBe(0x100000);
    expect(svm.findVmaStart(0x200000, 0x300000)).toBeNull();
  });

  test("the safe forms tolerate that what they gave is removed", () => {
    const s = small().svm;
    for (const addr of [0x101000, 0x103000, 0x122000]) insert(s, addr);
    const seen: number[] = [];
    for (const notifier of s.forEachNotifierSafe(0, 2 ** 47)) {
      for (const range of notifier.forEachRangeSafe(0, 2 ** 47)) {
        seen.push(range.start);
        now(s.rangeRemove(range));
      }
    }
    expect(seen).toEqual([0x101000, 0x103000, 0x122000]);
    expect(s.notifierCount).toBe(0);
  });
});

describe("the life of notifiers and ranges", () => {
  test("a notifier is made by the first fault of its window and goes with its last range", () => {
    const freed: number[] = [];
    const { svm, process } = small({ notifierFree: (notifier) => void freed.push(notifier.start) });
    const a = insert(svm, 0x101000);
    const b = insert(svm, 0x102000);
    expect([svm.notifierCount, process.notifierCount]).toEqual([1, 1]);
    expect(a.notifier).toBe(b.notifier);
    now(svm.rangeRemove(a));
    expect([svm.notifierCount, process.notifierCount, freed]).toEqual([1, 1, []]);
    now(svm.rangeRemove(b));
    expect([svm.notifierCount, process.notifierCount, freed]).toEqual([0, 0, [0x100000]]);
  });

  test("I12: every address of a range finds that range", () => {
    const m = machine();
    const d = new Driver(m);
    return (async () => {
      const a = (await m.mm.mmap(MB2, { align: MB2 })) as number;
      const guard = d.lock.tryWrite()!;
      const first = await d.svm.rangeFindOrInsert(a + 12345, ...WHOLE, d.ctx);
      for (const at of [a, a + PAGE, a + MB2 - 1])
        expect(await d.svm.rangeFindOrInsert(at, ...WHOLE, d.ctx)).toBe(first);
      guard.release();
      await d.close();
      await expectBalanced(m);
    })();
  });

  test("the driver's own notifier and range objects are used, and freed with the last reference", () => {
    class MyRange extends GpuSvmRange {}
    class MyNotifier extends GpuSvmNotifier {}
    const freed: GpuSvmRange[] = [];
    const { svm } = small({
      rangeAlloc: (gpusvm) => new MyRange(gpusvm),
      rangeFree: (range) => void freed.push(range),
      notifierAlloc: (gpusvm) => new MyNotifier(gpusvm),
    });
    const range = insert(svm, 0x101000);
    expect(range).toBeInstanceOf(MyRange);
    expect(range.notifier).toBeInstanceOf(MyNotifier);
    svm.rangeGet(range);
    now(svm.rangeRemove(range));
    expect(freed).toEqual([]);
    expect([range.start, range.end]).toEqual([0x101000, 0x102000]);
    svm.rangePut(range);
    expect(freed).toEqual([range]);
    expect(() => svm.rangePut(range)).toThrow(/references/);
    expect(() => svm.rangeGet(range)).toThrow(/gone/);
  });

  test("removing a range twice is a bug", () => {
    const { svm } = small();
    const range = insert(svm, 0x101000);
    insert(svm, 0x102000);
    now(svm.rangeRemove(range));
    expect(() => svm.rangeRemove(range)).toThrow(/twice/);
  });

  test("the driver's lock must be held for write, once it is named", () => {
    const { svm } = small();
    const lock = new RwSemaphore("driver", "driverVm");
    svm.driverSetLock(lock);
    expect(() => svm.driverSetLock(lock)).toThrow(/twice/);
    expect(() => insert(svm, 0x101000)).toThrow(/driver's lock/);
    const reader = lock.tryRead()!;
    expect(() => insert(svm, 0x101000)).toThrow(/driver's lock/);
    reader.release();
    const guard = lock.tryWrite()!;
    const range = insert(svm, 0x101000);
    guard.release();
    expect(() => svm.rangeRemove(range)).toThrow(/driver's lock/);
  });

  test("a non-blockable event is refused, and no sequence changes", () => {
    let calls = 0;
    const { svm, process } = small({ invalidate: () => void (calls += 1) });
    const { notifier } = insert(svm, 0x101000).notifier!;
    const seq = notifier.invalidateSeq;
    const event = { start: 0x101000, end: 0x102000, event: MMU_NOTIFY_CLEAR, owner: null };
    expect(process.invalidate({ ...event, blockable: false }).refused).toBe(1);
    expect([calls, notifier.invalidateSeq]).toEqual([0, seq]);
    expect(process.invalidate({ ...event, blockable: true }).refused).toBe(0);
    expect(calls).toBe(1);
    expect(notifier.invalidateSeq).toBeGreaterThan(seq);
  });

  test("I4: the sequence is set before the driver is called, though no range is hit", () => {
    let during = -1;
    const { svm, process } = small({ invalidate: (_svm, notifier) => void (during = notifier.notifier.invalidateSeq) });
    const { notifier } = insert(svm, 0x101000).notifier!;
    const before = notifier.invalidateSeq;
    process.invalidate({ start: 0x108000, end: 0x109000, event: MMU_NOTIFY_CLEAR, blockable: true, owner: null });
    expect(during).toBeGreaterThan(before);
    expect(during).toBe(notifier.invalidateSeq);
  });

  test("I10: unmapped and partial_unmap are set by what the event covers, and stay", () => {
    const marks: GpuSvmPages[] = [new GpuSvmPages(dma)];
    const { svm, process } = small({
      invalidate: (gpusvm, notifier, mmuRange) => {
        for (const range of notifier.forEachRange(mmuRange.start, mmuRange.end))
          gpusvm.rangeSetUnmapped(range, mmuRange, marks);
      },
    });
    const unmap = (start: number, end: number) =>
      process.invalidate({ start, end, event: MMU_NOTIFY_UNMAP, blockable: true, owner: null });
    const whole = insert(svm, 0x101000);
    const part = insert(svm, 0x102000);
    unmap(0x101000, 0x102000);
    expect([whole.unmapped, whole.partialUnmap, marks[0].flags]).toEqual([true, false, 2]);
    unmap(0x102800, 0x104000);
    expect([part.unmapped, part.partialUnmap]).toEqual([true, true]);
    unmap(0x100000, 0x110000);
    expect([part.unmapped, part.partialUnmap]).toEqual([true, true]);
    expect(part.pages.flags, "pages made later know it too").toBe(2);
    expect(() => svm.rangeSetUnmapped(part, { start: 0, end: 1, event: 0, blockable: true, owner: null })).toThrow(
      /notifier lock/,
    );
  });

  test("fini unregisters everything, mapped or not, and leaves no DMA mapping (I16, I32)", async () => {
    const m = machine();
    const { start } = await filled(m.mm, MB2, 0x40000000);
    const d = new Driver(m);
    d.migrates = false;
    await d.gpuRead(start);
    await d.gpuRead(start + KB64);
    expect(d.dma.live.size).toBe(512);
    await d.close();
    expect(d.dma.maps).toBe(d.dma.unmaps);
    await expectBalanced(m);
  });
});

describe("range_evict", () => {
  test("brings the device pages of the range home", async () => {
    const m = machine();
    const { start, bytes } = await filled(m.mm, KB64, 0x40000000);
    const d = new Driver(m);
    await d.gpuRead(start);
    expect(kinds(m.mm, start, start + KB64)).toEqual({ "device-private": 16 });
    expect(await d.svm.rangeEvict(d.rangeAt(start)!)).toBe(0);
    expect(kinds(m.mm, start, start + KB64)).toEqual({ present: 16 });
    expect(d.gpuPt.size).toBe(0);
    expectBytes(await readOk(m.mm, start, KB64), bytes);
    await d.close();
    await expectBalanced(m);
  });

  test("stops with -EFAULT at an address without an area", async () => {
    const m = machine();
    const { start } = await filled(m.mm, KB64, 0x40000000);
    const d = new Driver(m);
    await d.gpuRead(start);
    const range = d.rangeAt(start)!;
    await m.mm.munmap(start, PAGE);
    expect(await d.svm.rangeEvict(range)).toBe(EFAULT);
    await d.close();
    await expectBalanced(m);
  });

  test("of a process that is gone is -EFAULT", async () => {
    const m = machine();
    const { start } = await filled(m.mm, KB64, 0x40000000);
    const d = new Driver(m);
    await d.gpuRead(start);
    const range = d.rangeAt(start)!;
    await m.mm.exit();
    expect(await d.svm.rangeEvict(range)).toBe(EFAULT);
    await d.close();
  });

  test("gives up with -ETIME after a second of invalidations", async () => {
    const m = machine();
    const { start } = await filled(m.mm, KB64, 0x40000000);
    const d = new Driver(m);
    await d.gpuRead(start);
    const range = d.rangeAt(start)!;
    const { mm } = m;
    mm.hmmRangeFault = () => {
      m.clock.time += 300;
      return -16 as never;
    };
    expect(await d.svm.rangeEvict(range)).toBe(ETIME);
    await d.close();
    await expectBalanced(m);
  });

  test("waits for a time slice, and lets others run meanwhile", async () => {
    const m = machine();
    const { start } = await filled(m.mm, KB64, 0x40000000);
    const d = new Driver(m, { timesliceMs: 7 });
    await d.gpuRead(start);
    expect(await d.svm.rangeEvict(d.rangeAt(start)!)).toBe(0);
    expect(m.clock.time).toBeGreaterThanOrEqual(7);
    expect(kinds(m.mm, start, start + KB64)).toEqual({ present: 16 });
    await d.close();
    await expectBalanced(m);
  });
});

describe("scan_mm", () => {
  const runOf = (from: number, to: number, type: "sys" | "priv", pagemap = -1): PageRun => [
    `0x${(0x100000 + from * PAGE).toString(16)}`,
    `0x${(0x100000 + to * PAGE).toString(16)}`,
    type,
    0,
    1,
    "0x200",
    pagemap,
    pagemap,
  ];
  test.each([
    ["nothing present", [], DRM_GPUSVM_SCAN_UNPOPULATED],
    ["one page missing", [runOf(0, 15, "sys")], DRM_GPUSVM_SCAN_UNPOPULATED],
    ["system pages", [runOf(0, 16, "sys")], DRM_GPUSVM_SCAN_SYSTEM],
    ["all in the page map", [runOf(0, 16, "priv", 1)], DRM_GPUSVM_SCAN_EQUAL],
    ["all in another one", [runOf(0, 16, "priv", 2)], DRM_GPUSVM_SCAN_OTHER],
    ["in two others", [runOf(0, 8, "priv", 2), runOf(8, 16, "priv", 0)], DRM_GPUSVM_SCAN_MIXED_DEVICE],
    ["in it and another one", [runOf(0, 8, "priv", 1), runOf(8, 16, "priv", 2)], DRM_GPUSVM_SCAN_MIXED_DEVICE],
    ["in it and RAM", [runOf(0, 8, "priv", 1), runOf(8, 16, "sys")], DRM_GPUSVM_SCAN_MIXED],
    ["in RAM and it", [runOf(0, 8, "sys"), runOf(8, 16, "priv", 1)], DRM_GPUSVM_SCAN_MIXED],
    [
      "in two devices and RAM",
      [runOf(0, 4, "priv", 1), runOf(4, 8, "priv", 2), runOf(8, 16, "sys")],
      DRM_GPUSVM_SCAN_MIXED,
    ],
    ["in somebody else's device", [runOf(0, 16, "priv", 3)], DRM_GPUSVM_SCAN_UNPOPULATED],
  ] as const)("%s", (_name, pages, result) => {
    const process = new ModelProcess([["0x100000", "0x110000", "rw"]], [...pages]);
    const svm = new GpuSvm({
      name: "scan",
      drm: dma,
      mm: process,
      mmStart: 0,
      mmRange: 2 ** 47,
      notifierSize: MB2,
      chunkSizes: [KB64, PAGE],
      ops: { invalidate: () => undefined },
      scheduler: neverWaits,
    });
    const range = insert(svm, 0x100000);
    expect(range.size).toBe(KB64);
    const pagemap = process.pagemap(1);
    expect(now(svm.scanMm(range, OWN, pagemap))).toBe(result);
  });

  test("with no page map asked for, system pages are equal", () => {
    const process = new ModelProcess([["0x100000", "0x110000", "rw"]], [runOf(0, 16, "sys")]);
    const svm = new GpuSvm({
      name: "scan",
      drm: dma,
      mm: process,
      mmStart: 0,
      mmRange: 2 ** 47,
      notifierSize: MB2,
      chunkSizes: [KB64, PAGE],
      ops: { invalidate: () => undefined },
      scheduler: neverWaits,
    });
    expect(now(svm.scanMm(insert(svm, 0x100000), OWN, null))).toBe(DRM_GPUSVM_SCAN_EQUAL);
  });

  test("on the real mm it faults nothing in and keeps no reference", async () => {
    const m = machine();
    const { start } = await filled(m.mm, KB64, 0x40000000);
    const d = new Driver(m);
    const guard = d.lock.tryWrite()!;
    const range = (await d.svm.rangeFindOrInsert(start, ...WHOLE, d.ctx)) as DriverRange;
    guard.release();
    const { owner } = m.vram.pagemap;
    const scan = () => d.svm.scanMm(range, owner, m.vram.pagemap);
    expect(await scan()).toBe(DRM_GPUSVM_SCAN_SYSTEM);
    await migrateIn(m, start, start + KB64);
    expect(await scan()).toBe(DRM_GPUSVM_SCAN_EQUAL);
    const other = new ArrayVram(m.phys);
    expect(await d.svm.scanMm(range, owner, other.pagemap)).toBe(DRM_GPUSVM_SCAN_OTHER);
    await m.mm.dontneed(start, PAGE);
    expect(await scan()).toBe(DRM_GPUSVM_SCAN_UNPOPULATED);
    expect(kinds(m.mm, start, start + KB64)).toEqual({ none: 1, "device-private": 15 });
    await d.close();
    await expectBalanced(m);
  });
});

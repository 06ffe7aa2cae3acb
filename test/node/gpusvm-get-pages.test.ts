import { describe, expect, test } from "vitest";
import { EBUSY, EFAULT, EOPNOTSUPP, EPERM, isErr } from "../../src/base/errno.ts";
import { gpuSvmCtx } from "../../src/gpusvm/ctx.ts";
import { HAS_DEVMEM_PAGES, HAS_DMA_MAPPING, UNMAPPED } from "../../src/gpusvm/flags.ts";
import { GpuSvm } from "../../src/gpusvm/gpusvm.ts";
import { GpuSvmPages } from "../../src/gpusvm/pages.ts";
import {
  MMU_NOTIFY_CLEAR,
  MMU_NOTIFY_UNMAP,
  type MmuIntervalNotifier,
  type MmuNotifierRange,
} from "../../src/mm/types.ts";
import { IntervalTreeNode } from "../../src/base/interval-tree.ts";
import { DMA_BIDIRECTIONAL, DMA_TO_DEVICE } from "../../src/pagemap/pagemap-addr.ts";
import { PTE_WRITE } from "../../src/mm/page-table.ts";
import type { Mm } from "../../src/mm/mm.ts";
import { Driver, type DriverRange, TestDma } from "./gpusvm-driver.ts";
import { KB64, type Machine, PAGE, expectBalanced, filled, kinds, machine, migrateIn } from "./pagemap-array-vram.ts";

const turn = () => new Promise<void>((resume) => setImmediate(resume));

interface Case {
  m: Machine;
  d: Driver;
  range: DriverRange;
  start: number;
}

/** A 64 KiB range over 16 written pages; nothing is mapped yet. */
async function ready(): Promise<Case> {
  const m = machine();
  const { start } = await filled(m.mm, KB64, 0x40000000);
  const d = new Driver(m);
  const guard = d.lock.tryWrite()!;
  const range = await d.svm.rangeFindOrInsert(start, 0, 2 ** 47, d.ctx);
  guard.release();
  if (isErr(range)) throw new Error(String(range));
  expect(range.size).toBe(KB64);
  return { m, d, range, start };
}

async function finish({ m, d }: Case): Promise<void> {
  await d.close();
  await expectBalanced(m);
}

describe("get_pages", () => {
  test("maps system pages, once; a second call finds them valid and looks nothing up", async () => {
    const c = await ready();
    expect(c.d.svm.rangeGetPages(c.range, c.d.ctx), "it does not wait when nothing has to").toBe(0);
    expect(c.range.allFlags & (HAS_DMA_MAPPING | HAS_DEVMEM_PAGES)).toBe(HAS_DMA_MAPPING);
    expect(c.d.svm.rangeGetPages(c.range, c.d.ctx)).toBe(0);
    expect(c.d.dma.maps).toBe(16);
    c.d.checkInvariants();
    await finish(c);
    expect(c.d.dma.unmaps).toBe(16);
  });

  test("maps device pages and keeps the page map while they are mapped", async () => {
    const c = await ready();
    await migrateIn(c.m, c.start, c.start + KB64);
    const refs = c.m.vram.dpagemap.refcount;
    expect(await c.d.svm.rangeGetPages(c.range, c.d.ctx)).toBe(0);
    expect(c.range.hasDevmemPages && c.range.hasDmaMapping).toBe(true);
    expect(c.m.vram.dpagemap.refcount).toBe(refs + 1);
    c.d.checkInvariants();
    await c.d.svm.rangeUnmapPages(c.range, c.d.ctx);
    expect(c.m.vram.dpagemap.refcount).toBe(refs);
    expect(c.range.hasDevmemPages || c.range.hasDmaMapping).toBe(false);
    await finish(c);
  });

  test.each([
    [true, DMA_TO_DEVICE],
    [false, DMA_BIDIRECTIONAL],
  ])("readOnly %s maps in direction %i", async (readOnly, dir) => {
    const c = await ready();
    expect(await c.d.svm.rangeGetPages(c.range, gpuSvmCtx({ ...c.d.ctx, readOnly }))).toBe(0);
    expect(new Set(c.d.dma.dirs)).toEqual(new Set([dir]));
    await finish(c);
  });

  test("faults holes in: with zero pages for a reader, with pages of their own for a writer", async () => {
    const c = await ready();
    await c.m.mm.dontneed(c.start, KB64);
    expect(kinds(c.m.mm, c.start, c.start + KB64)).toEqual({ none: 16 });
    expect(await c.d.svm.rangeGetPages(c.range, c.d.ctx)).toBe(0);
    expect(kinds(c.m.mm, c.start, c.start + KB64)).toEqual({ present: 16 });
    expect(c.d.dma.live.size, "16 pages, all different").toBe(16);
    c.d.checkInvariants();
    await finish(c);
  });

  test.each(["system first", "device first"] as const)(
    "refuses a mix with the %s, and undoes what it mapped",
    async (order) => {
      const c = await ready();
      const half = c.start + KB64 / 2;
      await migrateIn(
        c.m,
        ...(order === "device first" ? ([c.start, half] as const) : ([half, c.start + KB64] as const)),
      );
      // For reading, or the look-up brings the device pages beside a fault home.
      const ctx = gpuSvmCtx({ ...c.d.ctx, readOnly: true });
      expect(await c.d.svm.rangeGetPages(c.range, ctx)).toBe(EOPNOTSUPP);
      expect(c.range.allFlags & (HAS_DMA_MAPPING | HAS_DEVMEM_PAGES)).toBe(0);
      expect(c.d.dma.live.size).toBe(0);
      c.d.checkInvariants();
      expect(
        await c.d.svm.rangeGetPages(c.range, gpuSvmCtx({ ...ctx, allowMixed: true })),
        "unless it is allowed",
      ).toBe(0);
      expect(c.range.hasDevmemPages).toBe(true);
      c.d.checkInvariants();
      await finish(c);
    },
  );

  test("refuses pages of two migrations, unless a mix is allowed", async () => {
    const c = await ready();
    await migrateIn(c.m, c.start, c.start + KB64 / 2);
    await migrateIn(c.m, c.start + KB64 / 2, c.start + KB64);
    expect(await c.d.svm.rangeGetPages(c.range, c.d.ctx)).toBe(EOPNOTSUPP);
    expect(await c.d.svm.rangeGetPages(c.range, gpuSvmCtx({ ...c.d.ctx, allowMixed: true }))).toBe(0);
    await finish(c);
  });

  test("devmemOnly fails on the first system page", async () => {
    const c = await ready();
    expect(await c.d.svm.rangeGetPages(c.range, gpuSvmCtx({ ...c.d.ctx, devmemOnly: true }))).toBe(EFAULT);
    expect(c.d.dma.maps).toBe(0);
    await finish(c);
  });

  test("a device page without write permission is not mapped for a GPU that writes", async () => {
    const c = await ready();
    await migrateIn(c.m, c.start, c.start + KB64);
    // As a fork leaves it: the entry is read-only although the area is writable.
    const { tables } = c.m.mm;
    tables.write(c.start / PAGE, tables.read(c.start / PAGE) & ~PTE_WRITE);
    expect(c.m.mm.pageAt(c.start)).toMatchObject({ kind: "device-private", writable: false });
    expect(await c.d.svm.rangeGetPages(c.range, c.d.ctx)).toBe(EOPNOTSUPP);
    expect(await c.d.svm.rangeGetPages(c.range, gpuSvmCtx({ ...c.d.ctx, readOnly: true }))).toBe(0);
    await finish(c);
  });

  test.each([1, 2, 16])("mapping %i failing is -EFAULT, and the ones before are undone (I16)", async (n) => {
    const c = await ready();
    c.d.dma.failMap = n;
    expect(await c.d.svm.rangeGetPages(c.range, c.d.ctx)).toBe(EFAULT);
    expect([c.d.dma.maps, c.d.dma.unmaps, c.d.dma.live.size]).toEqual([n, n - 1, 0]);
    expect(c.range.hasDmaMapping).toBe(false);
    c.d.dma.failMap = 0;
    expect(await c.d.svm.rangeGetPages(c.range, c.d.ctx)).toBe(0);
    c.d.checkInvariants();
    await finish(c);
  });

  test("a read-only area is -EPERM for a writer, and no area -EFAULT", async () => {
    const c = await ready();
    await c.m.mm.mprotect(c.start, KB64, "R");
    expect(await c.d.svm.rangeGetPages(c.range, c.d.ctx)).toBe(EPERM);
    await c.m.mm.munmap(c.start + 15 * PAGE, PAGE);
    expect(await c.d.svm.rangeGetPages(c.range, gpuSvmCtx({ ...c.d.ctx, readOnly: true }))).toBe(EFAULT);
    await finish(c);
  });

  test("an address space that is gone is -EFAULT", async () => {
    const c = await ready();
    await c.m.mm.exit();
    expect(await c.d.svm.rangeGetPages(c.range, c.d.ctx)).toBe(EFAULT);
    await c.d.close();
  });

  test("an unmap of the range during the look-up is -EFAULT; it is never mapped again", async () => {
    const c = await ready();
    onceAfterLookup(c, MMU_NOTIFY_UNMAP, c.start, c.start + PAGE);
    expect(await c.d.svm.rangeGetPages(c.range, c.d.ctx)).toBe(EFAULT);
    expect(c.range.unmapped && c.range.partialUnmap).toBe(true);
    expect(c.range.pages.flags & UNMAPPED).toBe(UNMAPPED);
    expect(await c.d.svm.rangeGetPages(c.range, c.d.ctx)).toBe(EFAULT);
    expect(c.d.dma.live.size).toBe(0);
    await finish(c);
  });

  test.each([
    ["on the range", 0],
    ["elsewhere in the notifier's window", 1 << 20],
  ])("any other event %s during the look-up is a new round", async (_name, offset) => {
    const c = await ready();
    let lookups = 0;
    const { mm } = c.m;
    const original = mm.hmmRangeFault.bind(mm);
    mm.hmmRangeFault = (range) => {
      lookups += 1;
      return original(range);
    };
    onceAfterLookup(c, MMU_NOTIFY_CLEAR, c.start + offset, c.start + offset + PAGE);
    expect(await c.d.svm.rangeGetPages(c.range, c.d.ctx)).toBe(0);
    expect(lookups).toBe(2);
    c.d.checkInvariants();
    await finish(c);
  });

  test("invalidations for more than a second end it with -EBUSY; under 6.18 it goes on", async () => {
    const c = await ready();
    const { mm } = c.m;
    const original = mm.hmmRangeFault.bind(mm);
    let storm = 30;
    mm.hmmRangeFault = async (range) => {
      const ret = await original(range);
      c.m.clock.time += 100;
      if (storm-- > 0) await event(mm, MMU_NOTIFY_CLEAR, c.start, c.start + PAGE);
      return ret;
    };
    expect(await c.d.svm.rangeGetPages(c.range, c.d.ctx)).toBe(EBUSY);
    expect(c.m.clock.time).toBeLessThan(1300);
    storm = 30;
    const patient = new Driver(c.m, {}, "6.18");
    const guard = patient.lock.tryWrite()!;
    const range = (await patient.svm.rangeFindOrInsert(c.start, 0, 2 ** 47, patient.ctx)) as DriverRange;
    guard.release();
    expect(await patient.svm.rangeGetPages(range, patient.ctx)).toBe(0);
    await patient.close();
    await finish(c);
  });

  /** Maps the pages and begins to unmap them; the device's writes reach RAM some turns later. */
  async function slowlyUnmapped(c: Case): Promise<{ unmapped: Promise<void>; isWritten: () => boolean }> {
    expect(await c.d.svm.rangeGetPages(c.range, c.d.ctx)).toBe(0);
    let pending = 0;
    c.d.dma.slowUnmap = async () => {
      pending += 1;
      for (let i = 0; i < 5; i++) await turn();
      expect(c.d.dma.maps, "nothing is mapped again before").toBe(16);
      pending -= 1;
    };
    const unmapped = c.d.svm.rangeUnmapPages(c.range, c.d.ctx);
    c.d.dma.slowUnmap = null;
    expect(c.range.hasDmaMapping, "it counts as unmapped at once").toBe(false);
    expect(pending).toBe(16);
    return { unmapped: Promise.resolve(unmapped), isWritten: () => pending === 0 };
  }

  test("unmapping ends only when the device's writes are in RAM", async () => {
    const c = await ready();
    const { unmapped, isWritten } = await slowlyUnmapped(c);
    await unmapped;
    expect(isWritten()).toBe(true);
    expect(c.range.pages.unmapping).toBeNull();
    await finish(c);
  });

  test("a change of the CPU mapping waits for those writes, though nothing is mapped any more", async () => {
    const c = await ready();
    const { isWritten } = await slowlyUnmapped(c);
    await event(c.m.mm, MMU_NOTIFY_CLEAR, c.start, c.start + PAGE);
    expect(isWritten()).toBe(true);
    await finish(c);
  });

  test("mapping again waits for them, or the device would get what was there before", async () => {
    const c = await ready();
    const { isWritten } = await slowlyUnmapped(c);
    expect(await c.d.svm.rangeGetPages(c.range, c.d.ctx)).toBe(0);
    expect(isWritten()).toBe(true);
    c.d.checkInvariants();
    await finish(c);
  });

  test("a failure midway ends only when what it undid is in RAM", async () => {
    const c = await ready();
    c.d.dma.failMap = 9;
    let pending = 0;
    c.d.dma.slowUnmap = async () => {
      pending += 1;
      await turn();
      pending -= 1;
    };
    expect(await c.d.svm.rangeGetPages(c.range, c.d.ctx)).toBe(EFAULT);
    expect([c.d.dma.unmaps, pending]).toEqual([8, 0]);
    c.d.dma.slowUnmap = null;
    await finish(c);
  });

  test("a range is not taken out of the tree before its writes are in RAM", async () => {
    const c = await ready();
    expect(await c.d.svm.rangeGetPages(c.range, c.d.ctx)).toBe(0);
    c.d.dma.slowUnmap = turn;
    const guard = c.d.lock.tryWrite()!;
    const removing = c.d.svm.rangeRemove(c.range);
    expect(c.d.rangeAt(c.start)).toBe(c.range);
    await removing;
    guard.release();
    expect(c.d.rangeAt(c.start)).toBeNull();
    c.d.dma.slowUnmap = null;
    await finish(c);
  });
});

describe("pages without a range (userptr)", () => {
  class Userptr extends IntervalTreeNode implements MmuIntervalNotifier {
    invalidateSeq = 0;
    readonly svm: GpuSvm;
    readonly mm: Mm;
    readonly pages: GpuSvmPages;
    constructor(svm: GpuSvm, mm: Mm, dma: TestDma, start: number, end: number) {
      super(start, end - 1);
      this.svm = svm;
      this.mm = mm;
      this.pages = new GpuSvmPages(dma);
    }
    async invalidate(range: MmuNotifierRange, curSeq: number): Promise<boolean> {
      if (!range.blockable) return false;
      const guard = await this.svm.notifierLock.write();
      this.mm.setSeq(this, curSeq);
      await this.svm.unmapPages(this.pages, gpuSvmCtx({ inNotifier: true }));
      guard.release();
      return true;
    }
  }

  test("are mapped, invalidated by the driver's own interval, mapped again and freed", async () => {
    const m = machine();
    const { start } = await filled(m.mm, KB64);
    const dma = new TestDma();
    const svm = new GpuSvm({ name: "userptr", drm: dma, mm: null, scheduler: m.phys.sched });
    const user = new Userptr(svm, m.mm, dma, start, start + KB64);
    await m.mm.intervalNotifierInsert(user);
    const get = () => svm.getPages(user.pages, m.mm, user, start, start + KB64, gpuSvmCtx());
    expect(await get()).toBe(0);
    expect(dma.live.size).toBe(16);
    expect(m.mm.readRetry(user, user.pages.notifierSeq)).toBe(false);
    await m.mm.dontneed(start, PAGE);
    expect(dma.live.size).toBe(0);
    expect(m.mm.readRetry(user, user.pages.notifierSeq), "the driver's commit check sees it").toBe(true);
    expect(await get()).toBe(0);
    expect(m.mm.readRetry(user, user.pages.notifierSeq)).toBe(false);
    await svm.freePages(user.pages);
    expect(user.pages.dmaAddr).toBeNull();
    await m.mm.intervalNotifierRemove(user);
    await svm.fini();
    expect(dma.live.size).toBe(0);
    await expectBalanced(m);
  });
});

async function event(mm: Mm, kind: number, start: number, end: number): Promise<void> {
  expect(await mm.notifiers.start({ start, end, event: kind, blockable: true, owner: null })).toBe(0);
  mm.notifiers.end();
}

/** Announces a change right after the next look-up has succeeded. */
function onceAfterLookup({ m: { mm } }: Case, kind: number, start: number, end: number): void {
  const original = mm.hmmRangeFault.bind(mm);
  const before = mm.hmmRangeFault;
  mm.hmmRangeFault = async (range) => {
    mm.hmmRangeFault = before;
    const ret = await original(range);
    expect(ret).toBe(0);
    await event(mm, kind, start, end);
    return ret;
  };
}

import { describe, expect, test } from "vitest";
import { EFAULT, EOPNOTSUPP, isErr } from "../../src/base/errno.ts";
import { type MaybePromise } from "../../src/base/maybe-promise.ts";
import { dropAddrs, takeAddrs } from "../../src/gpusvm/addr-arrays.ts";
import { gpuSvmCtx } from "../../src/gpusvm/ctx.ts";
import { HmmLookup } from "../../src/gpusvm/hmm-lookup.ts";
import type { GpuSvmDevice } from "../../src/gpusvm/ops.ts";
import { IntervalTreeNode } from "../../src/base/interval-tree.ts";
import { DMA_BIDIRECTIONAL, DRM_INTERCONNECT_SYSTEM, PagemapAddrArray } from "../../src/pagemap/pagemap-addr.ts";
import { Driver, type DriverRange, type TestDma } from "./gpusvm-driver.ts";
import { KB64, PAGE, expectBalanced, filled, machine, migrateIn } from "./pagemap-array-vram.ts";

/** Calls that the device got, "map 0+16". */
function takesRuns(dma: TestDma): string[] {
  const calls: string[] = [];
  const device: GpuSvmDevice = {
    dmaMaxOrder: 0,
    dmaMapPage: (pfn, order, dir) => dma.dmaMapPage(pfn, order, dir),
    dmaUnmapPage: (addr) => dma.dmaUnmapPage(addr),
    dmaMapPages(pfns, first, count, dir, out) {
      calls.push(`map ${first}+${count}`);
      for (let i = 0; i < count; i++) {
        const addr = dma.dmaMapPage(pfns[first + i]!, 0, dir);
        if (isErr(addr)) return i;
        out.push(addr, DRM_INTERCONNECT_SYSTEM, 0, dir);
      }
      return count;
    },
    dmaUnmapPages(addrs, first, count): MaybePromise<void> {
      calls.push(`unmap ${first}+${count}`);
      let done: MaybePromise<void> = undefined;
      for (let i = first; i < first + count; i++) done = dma.dmaUnmapPage(addrs[i]!) ?? done;
      return done;
    },
  };
  Object.assign(dma, { dmaMaxOrder: 0, dmaMapPages: device.dmaMapPages, dmaUnmapPages: device.dmaUnmapPages });
  return calls;
}

/** A 64 KiB range over 16 written pages, on a device that takes runs; nothing is mapped yet. */
async function ready() {
  const m = machine();
  const { start } = await filled(m.mm, KB64, 0x40000000);
  const d = new Driver(m);
  const calls = takesRuns(d.dma);
  const guard = d.lock.tryWrite()!;
  const range = await d.svm.rangeFindOrInsert(start, 0, 2 ** 47, d.ctx);
  guard.release();
  if (isErr(range)) throw new Error(String(range));
  const finish = async () => {
    await d.close();
    await expectBalanced(m);
  };
  return { m, d, range, start, calls, finish };
}

function entriesOf({ pages: { dmaAddr } }: DriverRange) {
  return Array.from({ length: dmaAddr!.count }, (_, j) => dmaAddr!.entry(j));
}

describe("a device that maps many pages at a time", () => {
  test("is asked once for a range, and once to undo it; the entries are those of page by page", async () => {
    const c = await ready();
    expect(c.d.svm.rangeGetPages(c.range, c.d.ctx)).toBe(0);
    expect([c.calls, c.d.dma.maps]).toEqual([["map 0+16"], 16]);
    c.d.checkInvariants();
    const frames = Array.from({ length: 16 }, (_, i) => c.m.mm.pageAt(c.start + i * PAGE).pfn);
    const expected = frames.map((pfn) => ({
      addr: BigInt(pfn * PAGE),
      proto: BigInt(DRM_INTERCONNECT_SYSTEM),
      order: 0,
      dir: DMA_BIDIRECTIONAL,
    }));
    expect(entriesOf(c.range)).toEqual(expected);
    await c.d.svm.rangeUnmapPages(c.range, c.d.ctx);
    expect([c.calls[1], c.d.dma.unmaps, c.d.dma.live.size]).toEqual(["unmap 0+16", 16, 0]);
    await c.finish();
  });

  test.each([1, 9, 16])("a mapping that fails (number %i) undoes those before it", async (failing) => {
    const c = await ready();
    c.d.dma.failMap = failing;
    expect(await c.d.svm.rangeGetPages(c.range, c.d.ctx)).toBe(EFAULT);
    expect([c.d.dma.maps, c.d.dma.unmaps, c.d.dma.live.size]).toEqual([failing, failing - 1, 0]);
    expect(c.range.hasDmaMapping).toBe(false);
    c.d.checkInvariants();
    await c.finish();
  });

  test("in a mix, runs end at device pages; a mix that is not allowed is refused and undone", async () => {
    const c = await ready();
    await migrateIn(c.m, c.start + 4 * PAGE, c.start + 8 * PAGE);
    const ctx = gpuSvmCtx({ ...c.d.ctx, readOnly: true });
    expect(await c.d.svm.rangeGetPages(c.range, ctx)).toBe(EOPNOTSUPP);
    expect([c.calls.splice(0), c.d.dma.live.size]).toEqual([["map 0+4", "unmap 0+4"], 0]);
    expect(await c.d.svm.rangeGetPages(c.range, gpuSvmCtx({ ...ctx, allowMixed: true }))).toBe(0);
    expect(c.calls.splice(0)).toEqual(["map 0+4", "map 8+8"]);
    c.d.checkInvariants();
    const { ops } = c.m.vram.dpagemap;
    ops.deviceUnmap = (_dpagemap, _device, _addrs, index) => c.calls.push(`device ${index}`);
    await c.d.svm.rangeUnmapPages(c.range, c.d.ctx);
    const device = [4, 5, 6, 7].map((index) => `device ${index}`);
    expect([c.calls, c.d.dma.live.size]).toEqual([["unmap 0+4", ...device, "unmap 8+8"], 0]);
    await c.finish();
  });

  test("a range that must be in device memory is refused before anything is mapped", async () => {
    const c = await ready();
    expect(await c.d.svm.rangeGetPages(c.range, gpuSvmCtx({ ...c.d.ctx, devmemOnly: true }))).toBe(EFAULT);
    expect(c.calls).toEqual([]);
    await c.finish();
  });

  test("what it still writes back when it unmaps is waited for", async () => {
    const c = await ready();
    await c.d.svm.rangeGetPages(c.range, c.d.ctx);
    let release = (): void => undefined;
    const home = new Promise<void>((resolve) => (release = resolve));
    c.d.dma.slowUnmap = () => home;
    let isOver = false;
    const unmapped = Promise.resolve(c.d.svm.rangeUnmapPages(c.range, c.d.ctx)).then(() => (isOver = true));
    for (let i = 0; i < 10; i++) await Promise.resolve();
    expect([isOver, c.range.pages.unmapping === null]).toEqual([false, false]);
    release();
    await unmapped;
    c.d.dma.slowUnmap = null;
    await c.finish();
  });
});

describe("arrays that serve again", () => {
  test("what was dropped is taken empty, by one, and for as many pages only", async () => {
    const c = await ready();
    const { pages } = c.range;
    pages.dmaAddr = new PagemapAddrArray(48);
    const dropped = pages.dmaAddr;
    dropped.push(4096, 0, 0, DMA_BIDIRECTIONAL);
    dropAddrs(pages);
    expect(pages.dmaAddr).toBeNull();
    const [other, again, fresh] = [takeAddrs(47), takeAddrs(48), takeAddrs(48)];
    expect([other === dropped, again === dropped, fresh === dropped]).toEqual([false, true, false]);
    expect([other, again, fresh].map(({ capacity, count }) => [capacity, count])).toEqual([
      [47, 0],
      [48, 0],
      [48, 0],
    ]);
    await c.finish();
  });

  test("a look-up finds nothing of the one before", () => {
    const notifier = Object.assign(new IntervalTreeNode(0, 48 * PAGE - 1), {
      invalidateSeq: 0,
      invalidate: () => true,
    });
    const lookUp = () => new HmmLookup(notifier, 0, 48 * PAGE, 0, null);
    const over = lookUp();
    const { pfns, flags, orders } = over;
    for (const slots of [pfns, flags, orders]) slots.fill(7);
    over.release();
    const [next, other] = [lookUp(), lookUp()];
    expect([next.pfns === pfns, other.pfns === pfns]).toEqual([true, false]);
    for (const slots of [next.pfns, next.flags, next.orders])
      expect([slots.length, slots.every((x) => x === 0)]).toEqual([48, true]);
  });
});

describe("the address array", () => {
  test("takes pages at a time: entries as by push, with room for no more than its pages", () => {
    const [one, many] = [new PagemapAddrArray(40), new PagemapAddrArray(40)];
    const addrs = Float64Array.from({ length: 39 }, (_, i) => 4096 * (i + 1));
    for (const array of [one, many]) array.push(0x7000, 1, 9, DMA_BIDIRECTIONAL);
    for (const addr of addrs) one.push(2 ** 40 + addr, 5, 0, 1);
    many.pushPages(addrs, 39, 2 ** 40, 5, 1);
    const all = (array: PagemapAddrArray) => Array.from({ length: array.count }, (_, j) => array.entry(j));
    expect(all(many)).toEqual(all(one));
    expect(() => many.pushPages(addrs, 1, 0, 0, 0)).toThrow(/too many entries/);
  });

  test("tells how many single pages of one kind follow each other", () => {
    const array = new PagemapAddrArray(8);
    for (const [proto, order, dir] of [
      [0, 0, 0],
      [0, 0, 0],
      [0, 0, 1],
      [1, 0, 1],
      [1, 0, 1],
      [0, 9, 0],
      [0, 0, 0],
    ] as const)
      array.push(4096, proto, order, dir);
    expect(Array.from({ length: array.count }, (_, j) => array.pageRun(j))).toEqual([2, 1, 1, 2, 1, 0, 1]);
  });
});

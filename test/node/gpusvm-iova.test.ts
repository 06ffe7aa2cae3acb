/** Devices that map the system pages of a range in one run of addresses. */
import { describe, expect, test } from "vitest";
import { EFAULT, EIO, type Errno } from "../../src/base/errno.ts";
import type { DmaIova } from "../../src/gpusvm/ops.ts";
import { Driver, IN_NOTIFIER } from "./gpusvm-driver.ts";
import { KB64, PAGE, expectBalanced, filled, machine, migrateIn } from "./pagemap-array-vram.ts";

const BASE = 0x40000000;
const FIRST_RUN = 0x100000;

/** Runs of addresses, each for one pages object, and what is linked in them. */
class TestIova implements DmaIova {
  readonly runs = new Map<number, number>();
  readonly linked = new Map<number, number>();
  readonly synced: [number, number][] = [];
  allocations = 0;
  /** No run is left. */
  full = false;
  /** The link with this number fails; 0 none. */
  failLink = 0;
  failSync: Errno | 0 = 0;
  #links = 0;

  tryAlloc(npages: number): number {
    if (this.full) return 0;
    const addr = FIRST_RUN * (this.allocations + 1);
    this.allocations += 1;
    this.runs.set(addr, npages);
    return addr;
  }
  link(addr: number, pfn: number, order: number): 0 | Errno {
    this.#links += 1;
    if (this.#links === this.failLink) return EIO;
    for (let k = 0; k < 2 ** order; k++) this.linked.set(addr + k * PAGE, pfn + k);
    return 0;
  }
  sync(addr: number, npages: number): 0 | Errno {
    this.synced.push([addr, npages]);
    return this.failSync;
  }
  destroy(addr: number, npages: number, linked: number): void {
    expect(this.runs.get(addr)).toBe(npages);
    this.runs.delete(addr);
    for (let k = 0; k < linked; k++) expect(this.linked.delete(addr + k * PAGE)).toBe(true);
  }
}

async function world() {
  const m = machine();
  const { bytes } = await filled(m.mm, KB64, BASE);
  const d = new Driver(m);
  d.migrates = false;
  const iova = new TestIova();
  Object.assign(d.dma, { iova });
  const guard = await d.lock.write();
  const range = await d.svm.rangeFindOrInsert(BASE, 0, 2 ** 47, d.ctx);
  if (typeof range === "number") throw new Error(`no range: ${range}`);
  const end = async () => {
    guard.release();
    await d.close();
    expect([iova.runs.size, iova.linked.size], "addresses are left").toEqual([0, 0]);
    await expectBalanced(m);
  };
  return { m, d, iova, range, bytes, end };
}

describe("system pages in one run of addresses", () => {
  test("each page is linked behind the one before, the run is flushed once and given back in one go", async () => {
    const { m, d, iova, range, end } = await world();
    expect(await d.svm.rangeGetPages(range, d.ctx)).toBe(0);
    const addrs = range.pages.dmaAddr!;
    expect(addrs.count).toBe(16);
    for (let j = 0; j < 16; j++) {
      expect(addrs.addr[j]).toBe(FIRST_RUN + j * PAGE);
      expect(iova.linked.get(addrs.addr[j])).toBe(m.mm.pageAt(BASE + j * PAGE).pfn);
    }
    expect(iova.synced).toEqual([[FIRST_RUN, 16]]);
    expect([range.pages.state, range.pages.stateOffset]).toEqual([FIRST_RUN, KB64]);
    expect(d.dma.maps).toBe(0);
    await d.svm.rangeUnmapPages(range, d.ctx);
    expect([iova.runs.size, iova.linked.size, d.dma.unmaps]).toEqual([0, 0, 0]);
    expect([range.pages.state, range.pages.stateOffset]).toEqual([0, 0]);
    await d.svm.rangeUnmapPages(range, d.ctx);
    await end();
  });

  test("a change of the CPU mapping gives the run back before it happens; the next look-up gets a new one", async () => {
    const { m, d, iova, range, end } = await world();
    await d.svm.rangeGetPages(range, d.ctx);
    await m.mm.dontneed(BASE, PAGE);
    expect(iova.runs.size).toBe(0);
    expect(await d.svm.rangeGetPages(range, d.ctx)).toBe(0);
    expect(range.pages.state).toBe(2 * FIRST_RUN);
    await end();
  });

  test("without a run left each page gets an address of its own", async () => {
    const { d, iova, range, end } = await world();
    iova.full = true;
    expect(await d.svm.rangeGetPages(range, d.ctx)).toBe(0);
    expect([d.dma.maps, range.pages.state]).toEqual([16, 0]);
    await d.svm.rangeUnmapPages(range, d.ctx);
    expect(d.dma.unmaps).toBe(16);
    await end();
  });

  test("a range in device memory takes no run", async () => {
    const { m, d, iova, range, end } = await world();
    expect(await migrateIn(m, BASE, BASE + KB64)).toBe(0);
    expect(await d.svm.rangeGetPages(range, d.ctx)).toBe(0);
    expect([iova.allocations, range.hasDevmemPages]).toEqual([0, true]);
    await end();
  });

  test.each([
    ["the first link", { failLink: 1 }, EFAULT],
    ["a later link", { failLink: 9 }, EFAULT],
    ["the flush", { failSync: EIO }, EIO],
  ] as const)("when %s fails everything is undone, and the next call works", async (_name, failure, err) => {
    const { d, iova, range, end } = await world();
    Object.assign(iova, failure);
    expect(await d.svm.rangeGetPages(range, d.ctx)).toBe(err);
    expect([iova.runs.size, iova.linked.size, range.hasDmaMapping, range.pages.state]).toEqual([0, 0, false, 0]);
    Object.assign(iova, { failLink: 0, failSync: 0 });
    expect(await d.svm.rangeGetPages(range, d.ctx)).toBe(0);
    expect(iova.linked.size).toBe(16);
    await end();
  });

  test("in a mixed range the device pages behind are unmapped one by one", async () => {
    const { m, d, iova, range, end } = await world();
    expect(await migrateIn(m, BASE + 8 * PAGE, BASE + KB64)).toBe(0);
    expect(await d.svm.rangeGetPages(range, { ...d.ctx, allowMixed: true })).toBe(0);
    expect([iova.linked.size, range.hasDevmemPages]).toEqual([8, true]);
    const guard = await d.svm.notifierLock.write();
    await d.svm.rangeUnmapPages(range, IN_NOTIFIER);
    guard.release();
    expect([iova.runs.size, iova.linked.size, range.hasDevmemPages]).toEqual([0, 0, false]);
    await end();
  });
});

/** Folios of 2 MiB on their way to device memory and back. */
import { describe, expect, test } from "vitest";
import { EIO } from "../../src/base/errno.ts";
import { checkInvariants, checkQuiescent } from "../../src/mm/invariants.ts";
import { drmPagemapEvictToRam } from "../../src/pagemap/evict-to-ram.ts";
import { pageZoneDeviceData } from "../../src/pagemap/zdd.ts";
import { Driver } from "./gpusvm-driver.ts";
import {
  MB2,
  type Machine,
  PAGE,
  expectBalanced,
  expectBytes,
  kinds,
  machine,
  migrateIn,
  readOk,
} from "./pagemap-array-vram.ts";

const BASE = 0x40000000;

/** A huge page of RAM at the start of an area at BASE, with bytes that differ from page to page. */
async function hugeFilled(m: Machine, length = MB2): Promise<Uint8Array> {
  expect(await m.mm.mmap(length, { at: BASE })).toBe(BASE);
  expect(await m.mm.madvise(BASE, length, "hugepage")).toBe(0);
  const bytes = new Uint8Array(MB2);
  for (let p = 0; p < MB2; p += PAGE) bytes.fill(1 + ((p / PAGE) % 251), p, p + 64);
  await m.mm.write(BASE, bytes);
  expect(isHuge(m), "one write made one huge page").toBe(true);
  return bytes;
}

const isHuge = ({ mm }: Machine) => mm.tables.isHuge(BASE / MB2);
const zddAt = (m: Machine, addr: number) => pageZoneDeviceData(m.phys, m.mm.devicePfnAt(addr))!;

describe("a huge page to device memory", () => {
  test("is one folio there, one entry, one reference of its migration, and comes back as one", async () => {
    const m = machine();
    const bytes = await hugeFilled(m);
    expect(await migrateIn(m, BASE, BASE + MB2)).toBe(0);
    checkInvariants(m.phys);
    expect(isHuge(m)).toBe(true);
    expect(kinds(m.mm, BASE, BASE + MB2)).toEqual({ "device-private": 512 });
    expect(zddAt(m, BASE).refcount).toBe(1);
    for (const p of [0, 1, 511]) {
      const page = m.vram.bytesOf(m.mm.devicePfnAt(BASE + p * PAGE));
      expectBytes(page, bytes.subarray(p * PAGE, (p + 1) * PAGE));
    }
    expectBytes(await readOk(m.mm, BASE, MB2), bytes);
    expect(isHuge(m)).toBe(true);
    expect([m.vram.copiesOut, m.vram.releases, m.vram.live.size]).toEqual([1, 1, 0]);
    await expectBalanced(m);
  });

  test("2 MiB that nobody touched are one hole and become one folio of zeros", async () => {
    const m = machine();
    expect(await m.mm.mmap(MB2, { at: BASE })).toBe(BASE);
    expect(await migrateIn(m, BASE, BASE + MB2)).toBe(0);
    expect(isHuge(m)).toBe(true);
    expect(zddAt(m, BASE).refcount).toBe(1);
    expectBytes(await readOk(m.mm, BASE, MB2), new Uint8Array(MB2));
    await expectBalanced(m);
  });

  test("an allocation that does not begin at 2 MiB takes it as single pages", async () => {
    const m = machine();
    m.vram.unaligned = true;
    const bytes = await hugeFilled(m);
    expect(await migrateIn(m, BASE, BASE + MB2)).toBe(0);
    checkInvariants(m.phys);
    expect(isHuge(m)).toBe(false);
    expect(zddAt(m, BASE).refcount).toBe(512);
    expectBytes(await readOk(m.mm, BASE, MB2), bytes);
    await expectBalanced(m);
  });

  test("so does an unaligned allocation for 2 MiB that nobody touched", async () => {
    const m = machine();
    m.vram.unaligned = true;
    expect(await m.mm.mmap(MB2, { at: BASE })).toBe(BASE);
    expect(await migrateIn(m, BASE, BASE + MB2)).toBe(0);
    expect(kinds(m.mm, BASE, BASE + MB2)).toEqual({ "device-private": 512 });
    expectBytes(await readOk(m.mm, BASE, MB2), new Uint8Array(MB2));
    await expectBalanced(m);
  });

  test("a copy that fails leaves the huge page in RAM as it was", async () => {
    const m = machine();
    const bytes = await hugeFilled(m);
    m.vram.failCopyToDevmem = EIO;
    expect(await migrateIn(m, BASE, BASE + MB2)).toBe(EIO);
    expect(kinds(m.mm, BASE, BASE + MB2)).toEqual({ present: 512 });
    expect(m.vram.live.size).toBe(0);
    expectBytes(await readOk(m.mm, BASE, MB2), bytes);
    checkQuiescent(m.phys);
    await expectBalanced(m);
  });

  test("a folio beside single pages: both move, counted page by page", async () => {
    const m = machine();
    const bytes = await hugeFilled(m, 2 * MB2);
    const more = bytes.slice();
    m.phys.failpoint = (site) => site === "huge-alloc";
    await m.mm.write(BASE + MB2, more);
    m.phys.failpoint = null;
    await m.mm.dontneed(BASE + MB2 + PAGE, PAGE);
    more.fill(0, PAGE, 2 * PAGE);
    expect(await migrateIn(m, BASE, BASE + 2 * MB2)).toBe(0);
    expect(kinds(m.mm, BASE, BASE + 2 * MB2)).toEqual({ "device-private": 1024 });
    expectBytes(await readOk(m.mm, BASE, MB2), bytes);
    expectBytes(await readOk(m.mm, BASE + MB2, MB2), more);
    await expectBalanced(m);
  });
});

describe("a folio in device memory", () => {
  test("comes home as single pages when RAM has no 2 MiB in a row", async () => {
    const m = machine();
    const bytes = await hugeFilled(m);
    await migrateIn(m, BASE, BASE + MB2);
    m.phys.failpoint = (site) => site === "huge-alloc";
    expectBytes(await readOk(m.mm, BASE, MB2), bytes);
    m.phys.failpoint = null;
    checkInvariants(m.phys);
    expect(kinds(m.mm, BASE, BASE + MB2)).toEqual({ present: 512 });
    expect(m.vram.releases).toBe(1);
    await expectBalanced(m);
  });

  test.each([
    ["as one", false],
    ["as single pages", true],
  ])("is evicted %s", async (_name, noHuge) => {
    const m = machine();
    const bytes = await hugeFilled(m);
    await migrateIn(m, BASE, BASE + MB2);
    const [bo] = m.vram.live;
    bo.refs += 1;
    if (noHuge) m.phys.failpoint = (site) => site === "huge-alloc";
    expect(await drmPagemapEvictToRam(bo)).toBe(0);
    m.phys.failpoint = null;
    bo.put();
    expect(isHuge(m)).toBe(!noHuge);
    expect(m.vram.copiesOut).toBe(1);
    expectBytes(await readOk(m.mm, BASE, MB2), bytes);
    await expectBalanced(m);
  });

  test("that is unmapped in part splits: the allocation lives until its last page is gone", async () => {
    const m = machine();
    const bytes = await hugeFilled(m);
    await migrateIn(m, BASE, BASE + MB2);
    await m.mm.munmap(BASE + MB2 / 2, MB2 / 2);
    expect(m.vram.releases).toBe(0);
    expect(kinds(m.mm, BASE, BASE + MB2 / 2)).toEqual({ "device-private": 256 });
    expectBytes(await readOk(m.mm, BASE, MB2 / 2), bytes.subarray(0, MB2 / 2));
    expect([m.vram.releases, m.vram.live.size]).toEqual([1, 0]);
    await expectBalanced(m);
  });

  test("of which a part is gone is evicted with what is left", async () => {
    const m = machine();
    const bytes = await hugeFilled(m);
    await migrateIn(m, BASE, BASE + MB2);
    await m.mm.munmap(BASE, 3 * PAGE);
    await m.mm.munmap(BASE + 400 * PAGE, 112 * PAGE);
    const [bo] = m.vram.live;
    bo.refs += 1;
    expect(await drmPagemapEvictToRam(bo)).toBe(0);
    bo.put();
    checkInvariants(m.phys);
    expectBytes(await readOk(m.mm, BASE + 3 * PAGE, 397 * PAGE), bytes.subarray(3 * PAGE, 400 * PAGE));
    await expectBalanced(m);
  });

  test("of which one page is discarded reads zero there and nowhere else", async () => {
    const m = machine();
    const bytes = await hugeFilled(m);
    await migrateIn(m, BASE, BASE + MB2);
    await m.mm.dontneed(BASE + 7 * PAGE, PAGE);
    checkInvariants(m.phys);
    bytes.fill(0, 7 * PAGE, 8 * PAGE);
    expectBytes(await readOk(m.mm, BASE, MB2), bytes);
    expect([m.vram.releases, m.vram.live.size]).toEqual([1, 0]);
    await expectBalanced(m);
  });

  test("is one entry of order 9 in the addresses of a range", async () => {
    const m = machine();
    await hugeFilled(m);
    const d = new Driver(m);
    expect(await d.fault(BASE)).toBe(0);
    const range = d.rangeAt(BASE)!;
    expect(range.size).toBe(MB2);
    expect([range.pages.dmaAddr!.count, range.pages.dmaAddr!.order(0)]).toEqual([1, 9]);
    d.checkInvariants();
    expect(await d.gpuRead(BASE + 300 * PAGE)).toBe(1 + (300 % 251));
    await d.close();
    await expectBalanced(m);
  });
});

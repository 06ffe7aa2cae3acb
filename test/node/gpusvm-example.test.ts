/** The example in the header of src/gpusvm/gpusvm.ts (gpusvm-driver.ts is its code) and the scenario of the spec's 9.4. */
import { describe, expect, test } from "vitest";
import { ENOENT } from "../../src/base/errno.ts";
import { MMU_NOTIFY_CLEAR, MMU_NOTIFY_MIGRATE, MMU_NOTIFY_UNMAP } from "../../src/mm/types.ts";
import { drmPagemapEvictToRam } from "../../src/pagemap/evict-to-ram.ts";
import type { Zdd } from "../../src/pagemap/zdd.ts";
import { Driver } from "./gpusvm-driver.ts";
import { KB64, MB2, PAGE, expectBalanced, kinds, machine } from "./pagemap-array-vram.ts";

describe("the example driver", () => {
  test("shares a pointer: what the CPU writes the GPU reads, and the other way round", async () => {
    const m = machine();
    const d = new Driver(m);
    const a = (await m.mm.mmap(MB2)) as number;
    await m.mm.write(a + 100, Uint8Array.of(42));
    expect(await d.gpuRead(a + 100)).toBe(42);
    await d.gpuWrite(a + 5 * PAGE, 43);
    d.checkInvariants();
    expect(await m.mm.read(a + 5 * PAGE, 1)).toEqual(Uint8Array.of(43));
    expect(await d.gpuRead(a + 5 * PAGE)).toBe(43);
    d.checkInvariants();
    await d.close();
    await expectBalanced(m);
  });

  test("shares system memory without migrating, where it is told to", async () => {
    const m = machine();
    const d = new Driver(m);
    d.migrates = false;
    const a = (await m.mm.mmap(KB64)) as number;
    await d.gpuWrite(a, 9);
    expect(await m.mm.read(a, 1)).toEqual(Uint8Array.of(9));
    await m.mm.write(a, Uint8Array.of(10));
    expect(d.rounds, "a resident page is written by the CPU without disturbing the GPU").toBe(1);
    expect(await d.gpuRead(a)).toBe(10);
    await d.close();
    await expectBalanced(m);
  });
});

test("9.4: fault, migrate, CPU touch, evict, partial unmap", async () => {
  const m = machine(4096, 8192);
  const d = new Driver(m);
  const base = 0x40000000;
  expect(await m.mm.mmap(2 * MB2, { at: base })).toBe(base);
  await m.mm.fill(base, PAGE, 5);

  // 2: the GPU writes; a 2M range is made, one page copied, 511 holes zeroed, all of it device pages of one migration.
  await d.gpuWrite(base + 0x123, 77);
  const range = d.rangeAt(base)!;
  expect([range.start, range.end, range.migrateDevmem]).toEqual([base, base + MB2, true]);
  expect([range.notifier!.start, range.notifier!.end]).toEqual([base, 0x60000000]);
  expect(kinds(m.mm, base, base + MB2)).toEqual({ "device-private": 512 });
  expect((m.phys.zoneDeviceData(m.mm.devicePfnAt(base)) as Zdd).refcount).toBe(512);
  expect(d.invalidations.map((r) => r.event)).toEqual([MMU_NOTIFY_MIGRATE, MMU_NOTIFY_MIGRATE]);
  expect(await d.gpuRead(base + 0x124)).toBe(5);
  d.checkInvariants();

  // 3: the CPU reads a page that nobody wrote: the whole 2M comes home, the GPU has lost its entries.
  expect(await m.mm.read(base + PAGE, 1)).toEqual(Uint8Array.of(0));
  expect(kinds(m.mm, base, base + MB2)).toEqual({ present: 512 });
  expect(d.gpuPt.size).toBe(0);
  expect([range.hasDmaMapping, range.bound]).toEqual([false, false]);
  expect(m.vram.live.size).toBe(0);
  expect(await m.mm.read(base + 0x123, 1)).toEqual(Uint8Array.of(77));

  // 4: the GPU reads again: the same range, a fresh buffer.
  expect(await d.gpuRead(base + 0x123)).toBe(77);
  expect(d.rangeAt(base)).toBe(range);
  expect(kinds(m.mm, base, base + MB2)).toEqual({ "device-private": 512 });
  d.checkInvariants();

  // 5: memory pressure.
  d.invalidations = [];
  const bo = [...m.vram.live][0];
  bo.refs += 1;
  expect(await drmPagemapEvictToRam(bo)).toBe(0);
  bo.put();
  expect(new Set(d.invalidations.map((r) => r.event))).toEqual(new Set([MMU_NOTIFY_CLEAR]));
  expect(range.hasDmaMapping).toBe(false);
  expect(bo.detached.isDone).toBe(true);

  // 6: the upper half of the range is unmapped; what is left gets a range that fits.
  d.invalidations = [];
  expect(await m.mm.munmap(base + MB2 / 2, MB2 / 2)).toBe(0);
  expect(d.invalidations.map((r) => r.event)).toEqual([MMU_NOTIFY_UNMAP]);
  expect([range.unmapped, range.partialUnmap]).toEqual([true, true]);
  expect(d.garbage.has(range)).toBe(true);
  expect(await d.gpuRead(base + 0x123)).toBe(77);
  expect(range.refcount).toBe(0);
  const fresh = d.rangeAt(base)!;
  expect([fresh.start, fresh.end]).toEqual([base, base + KB64]);
  expect(await d.fault(base + MB2 - PAGE)).toBe(ENOENT);
  d.checkInvariants();

  await d.close();
  await expectBalanced(m);
});

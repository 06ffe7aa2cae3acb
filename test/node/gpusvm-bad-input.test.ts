/** What cannot work is refused at once, by the name of what is wrong. Init parameters: gpusvm-init.test.ts. */
import { describe, expect, test } from "vitest";
import { InvariantError } from "../../src/base/assert.ts";
import { EINVAL } from "../../src/base/errno.ts";
import { ConfigError } from "../../src/base/errors.ts";
import { GpuSvm } from "../../src/gpusvm/gpusvm.ts";
import type { GpuSvmInit } from "../../src/gpusvm/init.ts";
import { MMU_NOTIFY_UNMAP } from "../../src/mm/types.ts";
import { DrmPagemapDevmem, type DrmPagemapDevmemInit } from "../../src/pagemap/devmem.ts";
import { drmPagemapMigrateToDevmem } from "../../src/pagemap/migrate-to-devmem.ts";
import { DrmPagemap, type DrmPagemapInit } from "../../src/pagemap/pagemap.ts";
import { ModelProcess, neverWaits } from "../vectors/gpusvm-process.ts";
import { Driver, type DriverRange, IN_NOTIFIER } from "./gpusvm-driver.ts";
import { KB64, PAGE, filled, machine } from "./pagemap-array-vram.ts";

const BASE = 0x40000000;

/** The parameter that is refused. */
function refused(f: () => unknown): string | null {
  try {
    f();
    return null;
  } catch (error) {
    expect(error).toBeInstanceOf(ConfigError);
    return (error as ConfigError).path;
  }
}

describe("operations tables", () => {
  const svm = (changes: Partial<GpuSvmInit>) => () =>
    new GpuSvm({
      name: "test",
      drm: null,
      mm: new ModelProcess([], []),
      mmRange: 2 ** 47,
      notifierSize: 512 << 20,
      chunkSizes: [PAGE],
      ops: { invalidate: () => undefined },
      scheduler: neverWaits,
      ...changes,
    });
  const invalidate = () => undefined;

  test.each([
    ["no table", { ops: undefined }, "gpusvm.ops"],
    ["no invalidate", { ops: {} }, "gpusvm.ops.invalidate"],
    ["an invalidate that is no function", { ops: { invalidate: 1 } }, "gpusvm.ops.invalidate"],
    ["a range_alloc that is no function", { ops: { invalidate, rangeAlloc: {} } }, "gpusvm.ops.rangeAlloc"],
    ["a notifier_free that is no function", { ops: { invalidate, notifierFree: null } }, "gpusvm.ops.notifierFree"],
    ["a device that cannot map", { drm: { dmaUnmapPage: invalidate } }, "gpusvm.drm.dmaMapPage"],
    ["a device that cannot unmap", { drm: { dmaMapPage: invalidate } }, "gpusvm.drm.dmaUnmapPage"],
  ])("of a gpusvm: %s", (_name, changes, path) => {
    expect(refused(svm(changes as unknown as Partial<GpuSvmInit>))).toBe(path);
  });

  test("of a gpusvm: invalidate alone will do", () => {
    expect(refused(svm({}))).toBeNull();
  });

  test.each(["deviceMap", "populateMm"] as const)("of a page map: no %s", (name) => {
    const { vram, phys } = machine();
    const { ops, pagemap } = vram.dpagemap;
    const init = { pagemap, drm: null, ops: { ...ops, [name]: undefined }, scheduler: phys.sched };
    expect(refused(() => new DrmPagemap(init as unknown as DrmPagemapInit))).toBe(`pagemap.ops.${name}`);
  });

  test.each(["folioFree", "migrateToRam"] as const)("of the frames of a page map: no %s", (name) => {
    const { vram, phys } = machine();
    const { ops } = vram.dpagemap;
    const pagemap = { ...vram.pagemap, ops: { ...vram.pagemap.ops, [name]: undefined } };
    const init = { pagemap, drm: null, ops, scheduler: phys.sched };
    expect(refused(() => new DrmPagemap(init as unknown as DrmPagemapInit))).toBe(`pagemap.pagemap.ops.${name}`);
  });

  test.each(["populateDevmemPfn", "copyToDevmem", "copyToRam"] as const)("of an allocation: no %s", (name) => {
    const { mm, vram } = machine();
    const init = { mm, ops: { ...vram.ops, [name]: undefined }, dpagemap: vram.dpagemap, size: KB64 };
    expect(refused(() => new DrmPagemapDevmem(init as unknown as DrmPagemapDevmemInit))).toBe(`devmem.ops.${name}`);
  });
});

test.each([0, -KB64, 3 * PAGE, 2048, Number.NaN])("an allocation of %d bytes", (size) => {
  const { mm, vram } = machine();
  const init = { mm, ops: vram.ops, dpagemap: vram.dpagemap, size };
  expect(refused(() => new DrmPagemapDevmem(init))).toBe("devmem.size");
});

test.each([4096, 65536])("an allocation of %d bytes is good", (size) => {
  const { mm, vram } = machine();
  expect(new DrmPagemapDevmem({ mm, ops: vram.ops, dpagemap: vram.dpagemap, size }).size).toBe(size);
});

test.each([Number.NaN, -1, 2 ** 47, Infinity])("a fault at %d is outside of the mirror window", async (addr) => {
  const m = machine();
  const d = new Driver(m);
  const guard = await d.lock.write();
  expect(d.svm.rangeFindOrInsert(addr, 0, 2 ** 47, d.ctx)).toBe(EINVAL);
  expect(d.svm.notifierCount).toBe(0);
  guard.release();
  await d.close();
});

describe("calls without the lock that they want", () => {
  interface Call {
    d: Driver;
    range: DriverRange;
  }
  const calls: [string, RegExp, (call: Call) => unknown][] = [
    ["range_find_or_insert", /driver's lock/, ({ d }) => d.svm.rangeFindOrInsert(BASE, 0, 2 ** 47, d.ctx)],
    ["range_remove", /driver's lock/, ({ d, range }) => d.svm.rangeRemove(range)],
    ["fini", /driver's lock/, ({ d }) => d.svm.fini()],
    ["range_pages_valid", /notifier lock/, ({ d, range }) => d.svm.rangePagesValid(range)],
    ["pages_valid", /notifier lock/, ({ d, range }) => d.svm.pagesValid(range.pages)],
    [
      "range_set_unmapped",
      /notifier lock/,
      ({ d, range }) => {
        const { start, end } = range;
        d.svm.rangeSetUnmapped(range, { start, end, event: MMU_NOTIFY_UNMAP, blockable: true, owner: null });
      },
    ],
    ["unmap_pages in a notifier", /notifier lock/, ({ d, range }) => d.svm.unmapPages(range.pages, IN_NOTIFIER)],
    [
      "migrate_to_devmem",
      /mmap lock/,
      ({ d, range }) => {
        const { mm, vram } = d.machine;
        const devmem = new DrmPagemapDevmem({ mm, ops: vram.ops, dpagemap: vram.dpagemap, size: KB64 });
        return drmPagemapMigrateToDevmem(devmem, mm, range.start, range.end, { timesliceMs: 0 });
      },
    ],
  ];

  test.each(calls)("%s", async (_name, message, call) => {
    const m = machine();
    await filled(m.mm, KB64, BASE);
    const d = new Driver(m);
    expect(await d.fault(BASE)).toBe(0);
    const range = d.rangeAt(BASE)!;
    const outcome = async () => await call({ d, range });
    await expect(outcome()).rejects.toThrow(message);
    await expect(outcome()).rejects.toThrow(InvariantError);
    expect(d.rangeAt(BASE) === range, "nothing has happened").toBe(true);
    d.checkInvariants();
    await d.close();
  });

  test("the driver's lock held for read is not enough", async () => {
    const m = machine();
    const d = new Driver(m);
    const guard = await d.lock.read();
    expect(() => d.svm.rangeFindOrInsert(BASE, 0, 2 ** 47, d.ctx)).toThrow(/held for write/);
    guard.release();
    await d.close();
  });

  test("the notifier lock held for read is not enough to mark a range dead", async () => {
    const m = machine();
    await filled(m.mm, KB64, BASE);
    const d = new Driver(m);
    await d.fault(BASE);
    const range = d.rangeAt(BASE)!;
    const guard = await d.svm.notifierLock.read();
    const { start, end } = range;
    const unmap = { start, end, event: MMU_NOTIFY_UNMAP, blockable: true, owner: null };
    expect(() => d.svm.rangeSetUnmapped(range, unmap)).toThrow(/notifier lock/);
    expect(range.unmapped).toBe(false);
    guard.release();
    await d.close();
  });

  test("a driver lock can be set once", () => {
    const d = new Driver(machine());
    expect(() => d.svm.driverSetLock(d.lock)).toThrow(/twice/);
  });

  test("without a driver lock set nothing is checked", () => {
    const svm = new GpuSvm({
      name: "unchecked",
      drm: null,
      mm: new ModelProcess([["0x200000", "0x400000", "rw"]], []),
      mmRange: 2 ** 47,
      notifierSize: 512 << 20,
      chunkSizes: [PAGE],
      ops: { invalidate: () => undefined },
      scheduler: neverWaits,
    });
    expect(svm.rangeFindOrInsert(0x200000, 0, 2 ** 47, IN_NOTIFIER)).toMatchObject({ start: 0x200000 });
  });
});

/** The first generation's names, with the contracts of that time. */
import { describe, expect, test } from "vitest";
import { EBUSY, EINVAL, ENOENT } from "../../src/base/errno.ts";
import {
  drmGpusvmDevmemInit,
  drmGpusvmEvictToRam,
  drmGpusvmFree,
  drmGpusvmMigrateToDevmem,
  drmGpusvmPagemapOpsGet,
} from "../../src/gpusvm/v1.ts";
import { Driver, type DriverRange } from "./gpusvm-driver.ts";
import {
  type Bo,
  KB64,
  type Machine,
  PAGE,
  expectBalanced,
  expectBytes,
  filled,
  kinds,
  machine,
  readOk,
} from "./pagemap-array-vram.ts";

const BASE = 0x40000000;

interface World {
  m: Machine;
  d: Driver;
  range: DriverRange;
  bytes: Uint8Array;
  end: () => Promise<void>;
}

async function world(devmemPossible = true): Promise<World> {
  const m = machine();
  const { bytes } = await filled(m.mm, KB64, BASE);
  const d = new Driver(m, { devmemPossible });
  const guard = await d.lock.write();
  const range = await d.svm.rangeFindOrInsert(BASE, 0, 2 ** 47, d.ctx);
  if (typeof range === "number") throw new Error(`no range: ${range}`);
  const end = async () => {
    guard.release();
    await d.close();
    await expectBalanced(m);
  };
  return { m, d, range, bytes, end };
}

async function migrate({ m, d, range }: World, bo: Bo, timesliceMs = 0): Promise<number> {
  const guard = await m.mm.mmapLock.read();
  try {
    return await drmGpusvmMigrateToDevmem(d.svm, range, bo, { ...d.ctx, timesliceMs });
  } finally {
    guard.release();
  }
}

describe("drm_gpusvm_migrate_to_devmem", () => {
  test("moves the range for the ctx's time slice, and takes over the reference", async () => {
    const w = await world();
    const bo = w.m.vram.alloc(w.m.mm, KB64);
    expect(await migrate(w, bo, 7)).toBe(0);
    expect(kinds(w.m.mm, BASE, BASE + KB64)).toEqual({ "device-private": 16 });
    expect(bo.timesliceExpiration).toBe(w.m.clock.time + 7);
    expect([bo.refs, w.m.vram.releases]).toEqual([1, 0]);
    expectBytes(await readOk(w.m.mm, BASE, KB64), w.bytes);
    expect(w.m.vram.releases).toBe(1);
    await w.end();
  });

  test("a range that was not made to migrate is -EINVAL", async () => {
    const w = await world(false);
    const bo = w.m.vram.alloc(w.m.mm, KB64);
    expect(await migrate(w, bo)).toBe(EINVAL);
    expect([bo.refs, w.m.vram.releases]).toEqual([1, 0]);
    bo.put();
    await w.end();
  });

  test("on an error the caller keeps its reference, and the allocation can be used again", async () => {
    const w = await world();
    const bo = w.m.vram.alloc(w.m.mm, KB64);
    const { pfn } = w.m.mm.pageAt(BASE + PAGE);
    w.m.phys.getPage(pfn);
    expect(await migrate(w, bo)).toBe(EBUSY);
    w.m.phys.putPage(pfn);
    expect([bo.refs, w.m.vram.releases, bo.detached.isDone]).toEqual([1, 0, false]);
    expect(await migrate(w, bo)).toBe(0);
    expectBytes(await readOk(w.m.mm, BASE, KB64), w.bytes);
    await w.end();
  });

  test("so it does on an error before anything was collected", async () => {
    const w = await world();
    const bo = w.m.vram.alloc(w.m.mm, KB64);
    await w.m.mm.munmap(BASE, KB64);
    expect(await migrate(w, bo)).toBe(ENOENT);
    expect([bo.refs, w.m.vram.releases]).toEqual([1, 0]);
    bo.put();
    await w.end();
  });

  test("a CPU fault that wins a hole is a success that leaves a mix", async () => {
    const w = await world();
    await w.m.mm.dontneed(BASE + PAGE, PAGE);
    const bo = w.m.vram.alloc(w.m.mm, KB64);
    w.m.vram.duringCopyToDevmem = async () => void (await w.m.mm.write(BASE + PAGE, Uint8Array.of(5)));
    expect(await migrate(w, bo)).toBe(0);
    w.m.vram.duringCopyToDevmem = null;
    expect(kinds(w.m.mm, BASE, BASE + KB64)).toEqual({ "device-private": 15, present: 1 });
    expect(w.m.vram.releases).toBe(0);
    expect((await readOk(w.m.mm, BASE + PAGE, 1))[0]).toBe(5);
    await w.end();
  });

  test("an allocation of another process is a bug", async () => {
    const w = await world();
    const other = machine();
    const bo = other.vram.alloc(other.mm, KB64);
    await expect(migrate(w, bo)).rejects.toThrow(/another process/);
    bo.put();
    await w.end();
  });
});

test("drm_gpusvm_evict_to_ram brings it home", async () => {
  const w = await world();
  const bo = w.m.vram.alloc(w.m.mm, KB64);
  await migrate(w, bo);
  bo.refs += 1;
  expect(await drmGpusvmEvictToRam(bo)).toBe(0);
  bo.put();
  expect(kinds(w.m.mm, BASE, BASE + KB64)).toEqual({ present: 16 });
  expectBytes(await readOk(w.m.mm, BASE, KB64), w.bytes);
  await w.end();
});

test("drm_gpusvm_devmem_init makes an allocation that waits for nothing", () => {
  const m = machine();
  const devmem = drmGpusvmDevmemInit(m.mm, m.vram.ops, m.vram.dpagemap, KB64);
  expect([devmem.size, devmem.preMigrateFence, devmem.timesliceExpiration]).toEqual([KB64, null, 0]);
  expect(devmem.dev === m.vram && devmem.mm === m.mm).toBe(true);
  expect(devmem.detached.isDone).toBe(false);
});

test("drm_gpusvm_pagemap_ops_get gives the operations of device frames", () => {
  expect(Object.keys(drmGpusvmPagemapOpsGet(machine().phys)).toSorted()).toEqual([
    "folioFree",
    "folioSplit",
    "migrateToRam",
  ]);
});

test("drm_gpusvm_free is not to be called", () => {
  expect(() => drmGpusvmFree()).toThrow(/reserved/);
});

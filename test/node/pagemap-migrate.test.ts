import { describe, expect, test } from "vitest";
import { EBUSY, EFAULT, EINVAL, EIO, ENODEV, ENOENT, EOPNOTSUPP } from "../../src/base/errno.ts";
import { checkQuiescent } from "../../src/mm/invariants.ts";
import type { DrmPagemapDevmemOps } from "../../src/pagemap/devmem.ts";
import { DrmPagemapDevmem } from "../../src/pagemap/devmem.ts";
import { drmPagemapMigrateToDevmem } from "../../src/pagemap/migrate-to-devmem.ts";
import { drmPagemapPageToDpagemap, drmPagemapPopulateMm } from "../../src/pagemap/pagemap.ts";
import type { Zdd } from "../../src/pagemap/zdd.ts";
import {
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

describe("migration to device memory", () => {
  test("moves every byte there, and a CPU access brings every byte back", async () => {
    const m = machine();
    const { start, bytes } = await filled(m.mm, MB2);
    expect(await migrateIn(m, start, start + MB2)).toBe(0);
    expect(kinds(m.mm, start, start + MB2)).toEqual({ "device-private": 512 });
    const first = m.mm.devicePfnAt(start);
    expectBytes(m.vram.bytesOf(first), bytes.subarray(0, PAGE));
    expect(m.phys.freePages, "the RAM pages are free while the data is in device memory").toBe(m.phys.ramPages - 2);
    expectBytes(await readOk(m.mm, start, MB2), bytes);
    expect(kinds(m.mm, start, start + MB2)).toEqual({ present: 512 });
    expect(m.vram.releases).toBe(1);
    await expectBalanced(m);
  });

  test("runs through without waiting when nothing has to wait", async () => {
    const m = machine();
    const { start } = await filled(m.mm, KB64);
    const guard = m.mm.mmapLock.tryRead()!;
    expect(m.vram.migrate(m.mm, start, start + KB64)).toBe(0);
    guard.release();
    await expectBalanced(m);
  });

  test("pages never touched become device pages that read zero, whatever the memory held before", async () => {
    const m = machine();
    const start = (await m.mm.mmap(MB2)) as number;
    await m.mm.write(start + 5 * PAGE, Uint8Array.of(7));
    expect(await migrateIn(m, start, start + MB2)).toBe(0);
    expect(kinds(m.mm, start, start + MB2)).toEqual({ "device-private": 512 });
    const expected = new Uint8Array(MB2);
    expected[5 * PAGE] = 7;
    expectBytes(await readOk(m.mm, start, MB2), expected);
    await expectBalanced(m);
  });

  test("the copy sees the holes of the process, and only those, as pages without a source", async () => {
    const m = machine();
    const start = (await m.mm.mmap(4 * PAGE)) as number;
    await m.mm.write(start + PAGE, Uint8Array.of(1));
    await m.mm.read(start + 2 * PAGE, 1); // The zero page: a hole too.
    let seen: boolean[] = [];
    const { copyToDevmem } = m.vram.ops;
    const ops: DrmPagemapDevmemOps = {
      ...m.vram.ops,
      copyToDevmem: (devmem, pages, addrs, npages, fence, protos) => {
        expect([...pages.subarray(0, npages)].every((pfn) => pfn >= m.vram.pagemap.firstPfn)).toBe(true);
        seen = [...addrs.subarray(0, npages)].map((addr) => addr === 0);
        return copyToDevmem(devmem, pages, addrs, npages, fence, protos);
      },
    };
    const bo = m.vram.alloc(m.mm, 4 * PAGE);
    Object.assign(bo, { ops });
    const guard = m.mm.mmapLock.tryRead()!;
    expect(await drmPagemapMigrateToDevmem(bo, m.mm, start, start + 4 * PAGE, { timesliceMs: 0 })).toBe(0);
    guard.release();
    expect(seen).toEqual([true, false, true, true]);
    await expectBalanced(m);
  });

  test("each live device page holds one reference of the migration, and the page map is found from it", async () => {
    const m = machine();
    const { start } = await filled(m.mm, MB2);
    await migrateIn(m, start, start + MB2);
    const pfn = m.mm.devicePfnAt(start);
    const zdd = m.phys.zoneDeviceData(pfn) as Zdd;
    expect(zdd.refcount).toBe(512);
    expect(drmPagemapPageToDpagemap(m.phys, pfn)).toBe(m.vram.dpagemap);
    expect(m.vram.dpagemap.refcount).toBe(2);
    await m.mm.dontneed(start, 500 * PAGE);
    expect(zdd.refcount).toBe(12);
    expect(m.vram.releases).toBe(0);
    await m.mm.munmap(start, MB2);
    expect(zdd.refcount).toBe(0);
    expect(m.vram.releases).toBe(1);
    await expectBalanced(m);
  });

  test("an allocation waits for its fence once: the first copy gets it", async () => {
    const m = machine();
    const { start } = await filled(m.mm, KB64);
    const fence = Promise.resolve();
    const bo = m.vram.alloc(m.mm, KB64);
    bo.preMigrateFence = fence;
    let got: unknown;
    const ops: DrmPagemapDevmemOps = {
      ...m.vram.ops,
      copyToDevmem: (devmem, pages, addrs, npages, given, protos) => {
        got = given;
        return m.vram.ops.copyToDevmem(devmem, pages, addrs, npages, given, protos);
      },
    };
    Object.assign(bo, { ops });
    const guard = m.mm.mmapLock.tryRead()!;
    await drmPagemapMigrateToDevmem(bo, m.mm, start, start + KB64, { timesliceMs: 0 });
    guard.release();
    expect(got).toBe(fence);
    expect(bo.preMigrateFence).toBeNull();
    await expectBalanced(m);
  });

  test("populate_mm takes the mmap lock around the driver's operation and gives it back", async () => {
    const m = machine();
    const { start, bytes } = await filled(m.mm, KB64);
    expect(await drmPagemapPopulateMm(m.vram.dpagemap, start, start + KB64, m.mm, 0)).toBe(0);
    expect(m.mm.mmapLock.isHeld).toBe(false);
    expect(kinds(m.mm, start, start + KB64)).toEqual({ "device-private": 16 });
    expectBytes(await readOk(m.mm, start, KB64), bytes);
    await expectBalanced(m);
  });

  test("populate_mm of a process that is gone is -EFAULT", async () => {
    const m = machine();
    m.mm.mmgrab();
    await m.mm.exit();
    expect(await drmPagemapPopulateMm(m.vram.dpagemap, 0x100000, 0x101000, m.mm, 0)).toBe(EFAULT);
    m.mm.mmdrop();
  });
});

describe("a migration that cannot be done", () => {
  test.each([
    ["no area at the start", ENOENT, 0, KB64, 4 * KB64],
    ["the end beyond the area", EINVAL, KB64, 3 * KB64, KB64],
    ["an empty interval", EINVAL, KB64, KB64, KB64],
  ])("%s", async (_name, code, from, to, at) => {
    const m = machine();
    const base = (await m.mm.mmap(8 * KB64, { align: 8 * KB64 })) as number;
    await m.mm.munmap(base, KB64);
    await m.mm.munmap(base + 2 * KB64, 6 * KB64);
    const guard = m.mm.mmapLock.tryRead()!;
    expect(await m.vram.migrate(m.mm, base + from, base + to, 0, at)).toBe(code);
    guard.release();
    expect(m.vram.releases, "the reference is consumed by an early error too").toBe(1);
    await expectBalanced(m);
  });

  test("an allocation without its mandatory operations is -EOPNOTSUPP, and stays the caller's", async () => {
    const m = machine();
    const { start } = await filled(m.mm, KB64);
    for (const missing of ["populateDevmemPfn", "copyToDevmem", "copyToRam"]) {
      const devmem = new DrmPagemapDevmem({ mm: m.mm, ops: m.vram.ops, dpagemap: m.vram.dpagemap, size: KB64 });
      // Init refuses such a table; this one has lost the entry since, as when a device goes.
      Object.assign(devmem, { ops: { ...m.vram.ops, [missing]: undefined } });
      const guard = m.mm.mmapLock.tryRead()!;
      expect(drmPagemapMigrateToDevmem(devmem, m.mm, start, start + KB64, { timesliceMs: 0 })).toBe(EOPNOTSUPP);
      guard.release();
      expect(devmem.detached.isDone).toBe(false);
    }
    expect(m.vram.releases).toBe(0);
    await expectBalanced(m);
  });

  test("an area that is not anonymous is -EBUSY", async () => {
    const m = machine();
    const { start } = await filled(m.mm, KB64);
    const { mm } = m;
    const fileBacked = Object.create(mm, {
      vmaLookup: { value: (addr: number) => ({ ...mm.vmaLookup(addr), start, end: start + KB64, anonymous: false }) },
      mmapLock: { value: mm.mmapLock },
    }) as typeof mm;
    const guard = mm.mmapLock.tryRead()!;
    const devmem = m.vram.alloc(mm, KB64);
    expect(drmPagemapMigrateToDevmem(devmem, fileBacked, start, start + KB64, { timesliceMs: 0 })).toBe(EBUSY);
    guard.release();
    expect(m.vram.releases).toBe(1);
    await expectBalanced(m);
  });

  test("without the mmap lock it is a bug", async () => {
    const m = machine();
    const { start } = await filled(m.mm, KB64);
    const bo = m.vram.alloc(m.mm, KB64);
    expect(() => drmPagemapMigrateToDevmem(bo, m.mm, start, start + KB64, { timesliceMs: 0 })).toThrow(/mmap lock/);
    bo.put();
  });

  test("R10: one page that somebody holds keeps the whole interval in RAM", async () => {
    const m = machine();
    const { start, bytes } = await filled(m.mm, KB64);
    const { pfn } = m.mm.pageAt(start + 3 * PAGE);
    m.phys.getPage(pfn);
    expect(await migrateIn(m, start, start + KB64)).toBe(EBUSY);
    expect(kinds(m.mm, start, start + KB64)).toEqual({ present: 16 });
    m.phys.putPage(pfn);
    expectBytes(await readOk(m.mm, start, KB64), bytes);
    expect(m.vram.releases).toBe(1);
    await expectBalanced(m);
  });

  test("one page that somebody has locked keeps the whole interval in RAM", async () => {
    const m = machine();
    const { start, bytes } = await filled(m.mm, KB64);
    const { pfn } = m.mm.pageAt(start);
    expect(m.phys.tryLockPage(pfn)).toBe(true);
    expect(await migrateIn(m, start, start + KB64)).toBe(EBUSY);
    m.phys.unlockPage(pfn);
    expectBytes(await readOk(m.mm, start, KB64), bytes);
    await expectBalanced(m);
  });

  test("R16: a second migration of what is all there already is 0 without a copy, and gives its allocation back", async () => {
    const m = machine();
    const { start, bytes } = await filled(m.mm, KB64);
    await migrateIn(m, start, start + KB64);
    const { copiesIn } = m.vram;
    expect(await migrateIn(m, start, start + KB64)).toBe(0);
    expect(m.vram.copiesIn).toBe(copiesIn);
    expect(m.vram.releases).toBe(1);
    expect(m.vram.live.size).toBe(1);
    expect(kinds(m.mm, start, start + KB64)).toEqual({ "device-private": 16 });
    expectBytes(await readOk(m.mm, start, KB64), bytes);
    await expectBalanced(m);
  });

  test("an interval that is partly there already is -EBUSY and stays as it is", async () => {
    const m = machine();
    const { start, bytes } = await filled(m.mm, KB64);
    await migrateIn(m, start, start + 4 * PAGE);
    expect(await migrateIn(m, start, start + KB64)).toBe(EBUSY);
    expect(kinds(m.mm, start, start + KB64)).toEqual({ "device-private": 4, present: 12 });
    expectBytes(await readOk(m.mm, start, KB64), bytes);
    await expectBalanced(m);
  });

  test("the driver's error while populating is handed on, and nothing has moved", async () => {
    const m = machine();
    const { start, bytes } = await filled(m.mm, KB64);
    m.vram.failPopulate = ENODEV;
    expect(await migrateIn(m, start, start + KB64)).toBe(ENODEV);
    expect(kinds(m.mm, start, start + KB64)).toEqual({ present: 16 });
    expectBytes(await readOk(m.mm, start, KB64), bytes);
    expect(m.vram.releases).toBe(1);
    await expectBalanced(m);
  });

  test("R12: a copy that fails leaves the CPU's pages untouched and writable, and frees the device's", async () => {
    const m = machine();
    const { start, bytes } = await filled(m.mm, KB64);
    m.vram.failCopyToDevmem = EIO;
    expect(await migrateIn(m, start, start + KB64)).toBe(EIO);
    expect(m.vram.releases).toBe(1);
    expect(m.vram.live.size).toBe(0);
    expect(kinds(m.mm, start, start + KB64)).toEqual({ present: 16 });
    expect(m.mm.pageAt(start).writable).toBe(true);
    expectBytes(await readOk(m.mm, start, KB64), bytes);
    checkQuiescent(m.phys);
    await expectBalanced(m);
  });

  test("R1: a CPU fault on a hole during the copy keeps its page; -EBUSY, the others have moved, no byte is lost", async () => {
    const m = machine();
    const start = (await m.mm.mmap(4 * PAGE)) as number;
    await m.mm.write(start, Uint8Array.of(11));
    m.vram.duringCopyToDevmem = async () => {
      // The copy holds the mmap lock for read, as the fault does: they meet.
      await m.mm.write(start + 2 * PAGE, Uint8Array.of(22));
    };
    expect(await migrateIn(m, start, start + 4 * PAGE)).toBe(EBUSY);
    m.vram.duringCopyToDevmem = null;
    expect(kinds(m.mm, start, start + 4 * PAGE)).toEqual({ "device-private": 3, present: 1 });
    const zdd = m.phys.zoneDeviceData(m.mm.devicePfnAt(start)) as Zdd;
    expect(zdd.refcount, "the device page of the lost hole is free").toBe(3);
    const bytes = await readOk(m.mm, start, 4 * PAGE);
    expect([bytes[0], bytes[2 * PAGE], bytes[3 * PAGE]]).toEqual([11, 22, 0]);
    await expectBalanced(m);
  });

  test("R2: a CPU access during the copy waits, and then reads the migrated page", async () => {
    const m = machine();
    const { start, bytes } = await filled(m.mm, KB64);
    let reading: Promise<Uint8Array> | null = null;
    let answered = false;
    m.vram.duringCopyToDevmem = async () => {
      reading = readOk(m.mm, start, KB64).finally(() => {
        answered = true;
      });
      await new Promise((resume) => setImmediate(resume));
      expect(answered).toBe(false);
    };
    expect(await migrateIn(m, start, start + KB64)).toBe(0);
    expectBytes(await reading!, bytes);
    await expectBalanced(m);
  });
});

import { describe, expect, test } from "vitest";
import { assert } from "../../src/base/assert.ts";
import { checkQuiescent } from "../../src/mm/invariants.ts";
import { Mm } from "../../src/mm/mm.ts";
import { Pin } from "../../src/mm/pin.ts";
import {
  type DevPagemap,
  MIGRATE_PFN_MIGRATE,
  MIGRATE_VMA_SELECT_DEVICE_COHERENT,
  MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
  MIGRATE_VMA_SELECT_SYSTEM,
  migratePfn,
} from "../../src/mm/types.ts";
import { PAGE, expectBytes, migration, pattern, readOk, testPhys } from "./mm-fake-device.ts";

const BASE = 0x7f0000000000;

/** A process with `pages` written pages, and memory that the CPU shares with a device. */
async function setUp(pages = 4) {
  const phys = testPhys(2048);
  const mm = new Mm({ phys });
  await mm.mmap(pages * PAGE, { at: BASE });
  await mm.write(BASE, pattern(pages * PAGE));
  const freed: number[] = [];
  const pgmap: DevPagemap = {
    type: "coherent",
    firstPfn: 0,
    npages: 512,
    owner: freed,
    ops: {
      folioFree: (pfn) => void freed.push(pfn),
      migrateToRam: () => expect.fail("the CPU reaches coherent memory without a fault"),
    },
  };
  phys.addPagemap(pgmap);
  return { phys, mm, pgmap, freed };
}

/** Moves `[start, end)` with `flags` to the frames that `next` gives; how many moved. */
async function migrate(mm: Mm, pages: number, flags: number, owner: unknown, next: () => number): Promise<number> {
  const { phys } = mm;
  const guard = await mm.mmapLock.read();
  const m = migration(mm, BASE, BASE + pages * PAGE, flags, owner);
  await mm.migrateVmaSetup(m);
  for (let i = 0; i < pages; i++) {
    if ((m.src[i]! & MIGRATE_PFN_MIGRATE) === 0) continue;
    const pfn = next();
    phys.copyPage(pfn, m.src[i]! >>> 6);
    m.dst[i] = migratePfn(pfn);
  }
  await mm.migrateVmaPages(m);
  const moved = m.src.filter((word) => (word & MIGRATE_PFN_MIGRATE) !== 0).length;
  mm.migrateVmaFinalize(m);
  guard.release();
  return moved;
}

function toDevice(mm: Mm, pages: number, pgmap: DevPagemap): Promise<number> {
  let pfn = pgmap.firstPfn;
  return migrate(mm, pages, MIGRATE_VMA_SELECT_SYSTEM, pgmap.owner, () => {
    mm.phys.zoneDevicePageInit(pfn, pgmap);
    return pfn++;
  });
}

describe("device-coherent memory", () => {
  test("is read and written in place by the CPU, without a fault", async () => {
    const { phys, mm, pgmap } = await setUp();
    expect(await toDevice(mm, 4, pgmap)).toBe(4);
    expect(mm.pageAt(BASE)).toEqual({ kind: "present", pfn: pgmap.firstPfn, writable: true, huge: false });
    await mm.write(BASE + 3, Uint8Array.of(200));
    expect(phys.bytesOf(pgmap.firstPfn)[3]).toBe(200);
    const bytes = pattern(4 * PAGE);
    bytes[3] = 200;
    expectBytes(await readOk(mm, BASE, 4 * PAGE), bytes);
    expect(mm.deviceFaults).toBe(0);
    checkQuiescent(phys);
  });

  test("is collected only where it is selected and the owner is right, and goes home by the CPU's copy", async () => {
    const { phys, mm, pgmap, freed } = await setUp();
    await toDevice(mm, 4, pgmap);
    const toRam = (flags: number, owner: unknown) =>
      migrate(mm, 4, flags, owner, () => {
        const pfn = Number(phys.allocPage());
        phys.tryLockPage(pfn);
        return pfn;
      });
    const coherent = MIGRATE_VMA_SELECT_DEVICE_COHERENT;
    expect(await toRam(coherent, "somebody else")).toBe(0);
    expect(await toRam(MIGRATE_VMA_SELECT_SYSTEM | MIGRATE_VMA_SELECT_DEVICE_PRIVATE, pgmap.owner)).toBe(0);
    expect(await toRam(coherent, pgmap.owner)).toBe(4);
    expect(freed).toEqual([0, 1, 2, 3].map((i) => pgmap.firstPfn + i));
    expectBytes(await readOk(mm, BASE, 4 * PAGE), pattern(4 * PAGE));
    checkQuiescent(phys);
  });

  test("is told of the last unmapping, shared by fork copy-on-write, and copied to RAM", async () => {
    const { phys, mm, pgmap, freed } = await setUp(1);
    await toDevice(mm, 1, pgmap);
    const child = await mm.fork();
    assert(child instanceof Mm, "fork failed");
    await child.write(BASE, Uint8Array.of(1));
    expect([phys.isZoneDevice(child.pageAt(BASE).pfn), freed]).toEqual([false, []]);
    expectBytes(await readOk(mm, BASE, PAGE), pattern(PAGE));
    await mm.munmap(BASE, PAGE);
    expect(freed).toEqual([pgmap.firstPfn]);
    checkQuiescent(phys);
  });

  test("cannot be held for long: a pin moves it to RAM", async () => {
    const { phys, mm, pgmap, freed } = await setUp(2);
    await toDevice(mm, 2, pgmap);
    const pin = await mm.pin(BASE, 2 * PAGE, { write: false });
    assert(pin instanceof Pin, "not pinned");
    expect([...pin.pfns].map((pfn) => phys.isZoneDevice(pfn))).toEqual([false, false]);
    expect(freed).toHaveLength(2);
    expectBytes(await readOk(mm, BASE, 2 * PAGE), pattern(2 * PAGE));
    pin.release();
    checkQuiescent(phys);
  });

  test("goes neither to swap nor to other frames", async () => {
    const { phys, mm, pgmap } = await setUp(1);
    await toDevice(mm, 1, pgmap);
    await mm.madvise(BASE, PAGE, "pageout");
    expect([mm.pageAt(BASE).pfn, phys.swap.used]).toEqual([pgmap.firstPfn, 0]);
  });
});

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { InvariantError } from "../../src/base/assert.ts";
import { FrameAllocator } from "../../src/mm/frame-allocator.ts";
import { PG_LOCKED } from "../../src/mm/frame-table.ts";
import { Mm } from "../../src/mm/mm.ts";
import { PTE_DEVICE_PRIVATE, PTE_NONE, PTE_PRESENT, PTE_SHIFT } from "../../src/mm/page-table.ts";
import { PhysMemory } from "../../src/mm/phys-mem.ts";
import type { DevPagemap } from "../../src/mm/types.ts";
import { MB, PAGE, testPhys, testScheduler } from "./mm-fake-device.ts";

/** What is done to many pages at once comes to the same as page by page. */
const BASE = 0x7f0000000000;

function pagemap(npages: number): DevPagemap & { freed: number[] } {
  const freed: number[] = [];
  const ops = { folioFree: (pfn: number) => void freed.push(pfn), migrateToRam: () => 0 as const };
  return { type: "private", firstPfn: 0, npages, owner: null, freed, ops };
}

function machine(poisonFreed: boolean): PhysMemory {
  return new PhysMemory({ ram: new Uint8Array(128 * PAGE), sched: testScheduler(), poisonFreed });
}

describe("frames in a row", () => {
  test("are freed as one by one, wherever they begin and end (model)", () => {
    const runs = fc.array(fc.tuple(fc.integer({ min: 2, max: 1999 }), fc.integer({ min: 1, max: 700 })), {
      maxLength: 12,
    });
    fc.assert(
      fc.property(runs, (list) => {
        const [a, b] = [new FrameAllocator(2, 2000), new FrameAllocator(2, 2000)];
        for (const allocator of [a, b]) while (allocator.alloc() !== 0);
        for (const [first, most] of list) {
          let count = 0;
          while (count < most && first + count < 2000 && !a.isFree(first + count)) count += 1;
          if (count === 0) continue;
          a.freeRun(first, count);
          for (let pfn = first; pfn < first + count; pfn++) b.free(pfn);
        }
        expect(a.freeFrames).toBe(b.freeFrames);
        for (let pfn = 2; pfn < 2000; pfn++) expect(a.isFree(pfn)).toBe(b.isFree(pfn));
        // The counts per block decide where allocation goes on.
        while (b.freeFrames > 0) expect(a.alloc()).toBe(b.alloc());
      }),
      { numRuns: 60 },
    );
  });

  test.each([100, 131, 132, 163])("one of them free already (%i) is an error of the caller", (pfn) => {
    const a = new FrameAllocator(2, 512);
    while (a.alloc() !== 0);
    a.free(pfn);
    expect(() => a.freeRun(100, 64)).toThrow(InvariantError);
  });

  test("lose a reference each; those that had one alone are free (model)", () => {
    const counts = fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 1, maxLength: 80 });
    fc.assert(
      fc.property(counts, fc.boolean(), (references, poisonFreed) => {
        const [together, alone] = [0, 1].map(() => machine(poisonFreed)) as [PhysMemory, PhysMemory];
        for (const phys of [together, alone]) {
          const first = [...references].map(() => phys.allocPage())[0]!;
          for (const [k, count] of references.entries()) {
            for (let i = 1; i < count; i++) phys.getPage(first + k);
          }
          if (phys === together) phys.putPages(first, references.length);
          else for (let k = 0; k < references.length; k++) phys.putPage(first + k);
        }
        expect(together.frames.refcount).toEqual(alone.frames.refcount);
        expect(together.freePages).toBe(alone.freePages);
        for (let pfn = 2; pfn < 128; pfn++) expect(together.ram[pfn * PAGE + 9]).toBe(alone.ram[pfn * PAGE + 9]);
      }),
      { numRuns: 60 },
    );
  });

  test("get a reference each, but none that is free", () => {
    const phys = testPhys(256);
    const first = phys.allocPage();
    phys.allocPage();
    phys.getPages(first, 2);
    expect([phys.refcount(first), phys.refcount(first + 1), phys.liveFrames(first, 4)]).toEqual([2, 2, 2]);
    expect(() => phys.getPages(first, 3)).toThrow(/reference to free page/);
  });

  test.each([
    ["locked", "locked"],
    ["mapped", "mapped"],
    ["pinned", "pinned"],
  ])("are not freed while one is %s", (how, message) => {
    const phys = testPhys(256);
    const first = phys.allocPage();
    for (let i = 1; i < 8; i++) phys.allocPage();
    if (how === "locked") phys.tryLockPage(first + 5);
    if (how === "mapped") phys.frames.mapcount[first + 5] = 1;
    if (how === "pinned") phys.frames.pins[first + 5] = 1;
    expect(() => phys.putPages(first, 8)).toThrow(message);
  });

  test("their owner hears of device folios once each, and of single pages one by one", () => {
    const phys = testPhys(256);
    const pgmap = pagemap(2048);
    phys.addPagemap(pgmap);
    const head = pgmap.firstPfn;
    const data = {};
    for (const folio of [head, head + 512]) phys.zoneDevicePageInit(folio, data, 9);
    for (let k = 0; k < 3; k++) phys.zoneDevicePageInit(head + 1024 + k, data);
    expect(phys.zoneDeviceRun(head, 2048)).toBe(1027);
    phys.locks.unlockRun(head, 1027);
    phys.putPages(head, 1024);
    expect(pgmap.freed).toEqual([head, head + 512]);
    phys.putPages(head + 1024, 3);
    expect(pgmap.freed.slice(2)).toEqual([head + 1024, head + 1025, head + 1026]);
    expect(phys.zoneDeviceData(head + 1023)).toBeNull();
  });

  test("a device folio of which a part is free already is told of with the last of the rest", () => {
    const phys = testPhys(256);
    const pgmap = pagemap(512);
    phys.addPagemap(pgmap);
    const head = pgmap.firstPfn;
    phys.zoneDevicePageInit(head, {}, 9);
    phys.locks.unlockRun(head, 512);
    phys.putPages(head, 100);
    phys.putPages(head + 300, 212);
    expect(pgmap.freed).toEqual([]);
    phys.putPages(head + 100, 200);
    expect(pgmap.freed).toEqual([head]);
  });

  test("are unlocked together, and whoever waits for one of them gets it", async () => {
    const phys = testPhys(256);
    const { locks } = phys;
    expect(locks.tryLockRun(10, 4)).toBe(true);
    const granted = locks.lock(12);
    locks.unlockRun(10, 4);
    await granted;
    expect([10, 11, 12, 13].map((pfn) => locks.isLocked(pfn))).toEqual([false, false, true, false]);
    locks.unlock(12);
    expect(phys.frames.flags[12]! & PG_LOCKED).toBe(0);
    expect(() => locks.unlockRun(10, 4)).toThrow(/unlocked but not locked/);
  });
});

describe("device pages of an interval", () => {
  /** Three tables and a gap: per page nothing, RAM, or a device frame, mostly the one behind that of the page before. */
  function layOut(kinds: readonly number[]) {
    const phys = testPhys(256);
    const pgmap = pagemap(4096);
    phys.addPagemap(pgmap);
    const mm = new Mm({ phys });
    let pfn = pgmap.firstPfn;
    let data = {};
    for (const [i, kind] of kinds.entries()) {
      const addr = BASE + (i < 700 ? i : i + 1024) * PAGE;
      const table = mm.tables.make(addr);
      let word = kind === 0 ? PTE_NONE : (7 << PTE_SHIFT) | PTE_PRESENT;
      if (kind >= 2) {
        if (kind === 2) pfn += 3;
        if (kind <= 3) data = {};
        pfn += 1;
        phys.zoneDevicePageInit(pfn, data);
        word = (pfn << PTE_SHIFT) | PTE_DEVICE_PRIVATE;
      }
      table[(addr / PAGE) % 512] = word;
    }
    return { phys, mm };
  }
  const kind = fc.oneof(
    { weight: 1, arbitrary: fc.integer({ min: 0, max: 3 }) },
    { weight: 6, arbitrary: fc.constant(4) },
    { weight: 3, arbitrary: fc.constant(0) },
  );
  const end = BASE + 2000 * PAGE;

  test("are found, and how far they go on in one allocation, as by looking at each page (model)", () => {
    const from = fc.array(fc.integer({ min: 0, max: 1999 }), { maxLength: 40 });
    fc.assert(
      fc.property(fc.array(kind, { minLength: 800, maxLength: 900 }), from, (kinds, starts) => {
        const { phys, mm } = layOut(kinds);
        for (const at of starts.map((page) => BASE + page * PAGE)) {
          let next = at;
          while (next < end && mm.devicePfnAt(next) < 0) next += PAGE;
          expect(mm.nextDevicePage(at, end)).toBe(next);
          if (next === end) continue;
          const first = mm.devicePfnAt(next);
          const data = phys.zoneDeviceData(first);
          const limit = Math.min(end, Math.floor(next / (2 * MB) + 1) * 2 * MB);
          let pages = 1;
          while (next + pages * PAGE < limit && mm.devicePfnAt(next + pages * PAGE) === first + pages) {
            if (phys.zoneDeviceData(first + pages) !== data) break;
            pages += 1;
          }
          expect(mm.deviceRunLength(next, end)).toBe(pages);
          expect(mm.deviceRunLength(next, next + PAGE)).toBe(1);
        }
      }),
      { numRuns: 30 },
    );
  });

  test("of a huge entry all are one run, from wherever in it", () => {
    const phys = testPhys(256);
    const pgmap = pagemap(512);
    phys.addPagemap(pgmap);
    const mm = new Mm({ phys });
    phys.zoneDevicePageInit(pgmap.firstPfn, {}, 9);
    mm.tables.setPmd(BASE / (2 * MB), (pgmap.firstPfn << PTE_SHIFT) | PTE_DEVICE_PRIVATE);
    expect(mm.nextDevicePage(BASE - 2 * MB, BASE + 2 * MB)).toBe(BASE);
    expect(mm.nextDevicePage(BASE + 5 * PAGE, BASE + 2 * MB)).toBe(BASE + 5 * PAGE);
    expect(mm.deviceRunLength(BASE, BASE + 4 * MB)).toBe(512);
    expect(mm.deviceRunLength(BASE + 500 * PAGE, BASE + 4 * MB)).toBe(12);
    expect(mm.deviceRunLength(BASE + 5 * PAGE, BASE + 8 * PAGE)).toBe(3);
    // RAM in a huge entry is passed over as a whole.
    mm.tables.setPmd(BASE / (2 * MB), (512 << PTE_SHIFT) | PTE_PRESENT);
    expect(mm.nextDevicePage(BASE, BASE + 2 * MB)).toBe(BASE + 2 * MB);
  });
});

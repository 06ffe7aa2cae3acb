import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { InvariantError } from "../../src/base/assert.ts";
import { ENOMEM } from "../../src/base/errno.ts";
import { FrameAllocator } from "../../src/mm/frame-allocator.ts";
import { FrameTable } from "../../src/mm/frame-table.ts";
import { Rmap } from "../../src/mm/rmap.ts";
import type { DevPagemap } from "../../src/mm/types.ts";
import { PAGE, testPhys } from "./mm-fake-device.ts";

function pagemap(npages: number, type: DevPagemap["type"] = "private"): DevPagemap & { freed: number[] } {
  const freed: number[] = [];
  return {
    type,
    firstPfn: 0,
    npages,
    owner: null,
    freed,
    ops: { folioFree: (pfn) => void freed.push(pfn), migrateToRam: () => 0 },
  };
}

describe("frame allocator", () => {
  test("hands out ascending frames across blocks", () => {
    const a = new FrameAllocator(2, 2048);
    for (let pfn = 2; pfn < 2048; pfn++) expect(a.alloc()).toBe(pfn);
    expect(a.alloc()).toBe(0);
    expect(a.freeFrames).toBe(0);
  });

  test("a large folio is a block of which nothing is in use, the last one", () => {
    const a = new FrameAllocator(2, 4 * 512);
    expect([a.allocBlock(), a.freeFrames]).toEqual([3 * 512, 3 * 512 - 2]);
    expect(a.allocBlock()).toBe(2 * 512);
    for (let i = 0; i < 511; i++) a.alloc();
    // Block 1 has one frame in use, block 0 the machine's own.
    expect(a.allocBlock()).toBe(0);
    a.free(512);
    expect(a.allocBlock()).toBe(512);
    expect([a.alloc(), a.freeFrames]).toEqual([0, 0]);
  });

  test("a run of any length begins a block, as high as can be", () => {
    const a = new FrameAllocator(2, 4 * 512);
    expect([a.allocRun(600), a.allocRun(600), a.freeFrames]).toEqual([2 * 512, 0, 4 * 512 - 602]);
    expect([a.allocRun(512), a.isFree(2 * 512 + 599), a.isFree(2 * 512 + 600)]).toEqual([512, false, true]);
  });

  test("the highest free frame above a floor, never the floor or below", () => {
    const a = new FrameAllocator(2, 1000);
    expect([a.allocHighest(0), a.allocHighest(0), a.allocHighest(997)]).toEqual([999, 998, 0]);
    expect(a.allocHighest(996)).toBe(997);
    a.free(998);
    expect([a.allocHighest(3), a.freeFrames]).toEqual([998, 995]);
  });

  test("a run that the current block cannot hold begins in an untouched one", () => {
    const a = new FrameAllocator(2, 4096);
    for (let pfn = 2; pfn < 4096; pfn++) a.alloc();
    for (let pfn = 1000; pfn < 1020; pfn++) a.free(pfn);
    expect(a.alloc()).toBe(1000);
    for (let pfn = 2048; pfn < 2560; pfn++) a.free(pfn);
    a.wantRun(16);
    expect(a.alloc()).toBe(1001);
    a.wantRun(512);
    for (let i = 0; i < 512; i++) expect(a.alloc()).toBe(2048 + i);
  });

  test("with no untouched block left, a run takes what there is", () => {
    const a = new FrameAllocator(2, 512);
    a.alloc();
    a.wantRun(512);
    expect(a.alloc()).toBe(3);
  });

  test("prefers the emptiest block over frames freed here and there", () => {
    const a = new FrameAllocator(2, 2048);
    for (let pfn = 2; pfn < 2048; pfn++) a.alloc();
    for (let pfn = 10; pfn < 1000; pfn += 10) a.free(pfn);
    for (let pfn = 1024; pfn < 1224; pfn++) a.free(pfn);
    for (let i = 0; i < 200; i++) expect(a.alloc()).toBe(1024 + i);
  });

  test("never gives a frame twice, and all that are free (model)", () => {
    fc.assert(
      fc.property(fc.array(fc.nat(20), { maxLength: 400 }), (steps) => {
        const a = new FrameAllocator(2, 40);
        const taken: number[] = [];
        for (const step of steps) {
          if (step < 13) {
            const pfn = a.alloc();
            expect(pfn === 0).toBe(taken.length === 38);
            expect(taken).not.toContain(pfn);
            if (pfn !== 0) taken.push(pfn);
          } else if (taken.length > 0) {
            a.free(taken.splice(step % taken.length, 1)[0]!);
          }
          expect(a.freeFrames).toBe(38 - taken.length);
        }
      }),
    );
  });

  test("freeing a free frame is an error of the caller", () => {
    expect(() => new FrameAllocator(2, 40).free(3)).toThrow(InvariantError);
  });
});

describe("RAM frames", () => {
  test("the budget ends in -ENOMEM, all or none for several", () => {
    const phys = testPhys(16);
    const out = new Uint32Array(16);
    expect(phys.allocPages(out, 15)).toBe(ENOMEM);
    expect(phys.freePages).toBe(14);
    expect(phys.allocPages(out, 14)).toBe(0);
    expect(phys.allocPage()).toBe(ENOMEM);
    phys.putPage(out[3]!);
    expect(phys.allocPage()).toBe(out[3]);
  });

  test("frame 0 and the zero frame are never handed out", () => {
    const phys = testPhys(8);
    const frames = Array.from({ length: 6 }, () => phys.allocPage());
    expect(frames).toEqual([2, 3, 4, 5, 6, 7]);
  });

  test("a freed frame is poisoned when the machine says so, and zeroed before it is seen again", () => {
    const phys = testPhys(4);
    const pfn = phys.allocPage();
    phys.ram.fill(1, pfn * PAGE, (pfn + 1) * PAGE);
    phys.putPage(pfn);
    expect(phys.ram[pfn * PAGE + 17]).toBe(0xfd);
    phys.allocPage();
    expect(phys.allocZeroedPage()).toBe(pfn);
    expect(phys.ram.subarray(pfn * PAGE, (pfn + 1) * PAGE).every((b) => b === 0)).toBe(true);
  });

  test("one put too many, and freeing what is locked or mapped, are errors of the caller", () => {
    const phys = testPhys(8);
    const pfn = phys.allocPage();
    phys.tryLockPage(pfn);
    expect(() => phys.putPage(pfn)).toThrow(/locked/);
    const other = phys.allocPage();
    phys.putPage(other);
    expect(() => phys.putPage(other)).toThrow(InvariantError);
    expect(() => phys.getPage(other)).toThrow(/free page/);
  });

  test("error injection reaches every allocation, and leaks nothing", () => {
    const phys = testPhys(16);
    let calls = 0;
    phys.failpoint = (site) => site === "frame-alloc" && ++calls === 4;
    expect(phys.allocPages(new Uint32Array(8), 8)).toBe(ENOMEM);
    expect(phys.freePages).toBe(14);
  });
});

describe("device frames", () => {
  test("lie above RAM at a multiple of 512, run after run", () => {
    const phys = testPhys(600);
    const [a, b] = [pagemap(100), pagemap(600)];
    phys.addPagemap(a);
    phys.addPagemap(b);
    expect([a.firstPfn, b.firstPfn]).toEqual([1024, 1536]);
    expect([phys.isDevicePrivate(1024), phys.isDeviceCoherent(1024), phys.isZoneDevice(1024)]).toEqual([
      true,
      false,
      true,
    ]);
    expect([phys.isDevicePrivate(1536), phys.isDeviceCoherent(1536), phys.isZoneDevice(1536)]).toEqual([
      true,
      false,
      true,
    ]);
    expect(phys.isZoneDevice(599)).toBe(false);
    expect(phys.isZoneDevice(1124)).toBe(false);
    expect(phys.pgmapOf(2135)).toBe(b);
  });

  test("coherent ones are carved out of RAM, from its end, and given back", () => {
    const phys = testPhys(2048);
    const map = pagemap(600, "coherent");
    phys.addPagemap(map);
    expect([map.firstPfn, phys.freePages]).toEqual([1024, 2046 - 600]);
    expect([phys.isDevicePrivate(1024), phys.isDeviceCoherent(1024), phys.isZoneDevice(1623)]).toEqual([
      false,
      true,
      true,
    ]);
    expect([phys.isZoneDevice(1624), phys.pgmapOf(1623)]).toEqual([false, map]);
    expect(() => phys.addPagemap(pagemap(1024, "coherent"))).toThrow(/1024 frames in a row/);
    phys.zoneDevicePageInit(1024, {});
    phys.unlockPage(1024);
    phys.putPage(1024);
    // Free, but the device's: nobody else gets it.
    expect(phys.freePages).toBe(2046 - 600);
    phys.removePagemap(map);
    expect([phys.freePages, phys.isZoneDevice(1024)]).toEqual([2046, false]);
  });

  test("a run that was removed leaves its frame numbers to the next", () => {
    const phys = testPhys(16);
    const [a, b, c] = [pagemap(512), pagemap(512), pagemap(300)];
    phys.addPagemap(a);
    phys.addPagemap(b);
    phys.removePagemap(a);
    phys.addPagemap(c);
    expect([b.firstPfn, c.firstPfn]).toEqual([1024, 512]);
    expect(phys.pgmapOf(512)).toBe(c);
  });

  test("initialised: one reference, locked, with its data; the last put tells the owner while the data is still there", () => {
    const phys = testPhys(16);
    const map = pagemap(4);
    const seen: unknown[] = [];
    phys.addPagemap({ ...map, ops: { ...map.ops, folioFree: (pfn) => void seen.push(phys.zoneDeviceData(pfn)) } });
    const data = {};
    phys.zoneDevicePageInit(513, data);
    expect([phys.refcount(513), phys.isLockedPage(513), phys.zoneDeviceData(513)]).toEqual([1, true, data]);
    expect(() => phys.zoneDevicePageInit(513, data)).toThrow(/in use/);
    phys.unlockPage(513);
    phys.putPage(513);
    expect(seen).toEqual([data]);
    expect(phys.zoneDeviceData(513)).toBe(null);
  });

  test("a run with frames in use cannot be removed", () => {
    const phys = testPhys(16);
    const map = pagemap(4);
    phys.addPagemap(map);
    phys.zoneDevicePageInit(514, null);
    expect(() => phys.removePagemap(map)).toThrow(/in use/);
  });
});

describe("page lock", () => {
  test("is handed over in the order of asking, and those who only watch are told at the first unlock", async () => {
    const phys = testPhys(8);
    const pfn = phys.allocPage();
    expect(phys.lockPage(pfn)).toBeUndefined();
    const order: string[] = [];
    const first = Promise.resolve(phys.lockPage(pfn)).then(() => order.push("first"));
    const second = Promise.resolve(phys.lockPage(pfn)).then(() => order.push("second"));
    const watcher = Promise.resolve(phys.locks.waitUnlocked(pfn)).then(() => order.push("watcher"));
    phys.unlockPage(pfn);
    await Promise.all([first, watcher]);
    expect(order.toSorted()).toEqual(["first", "watcher"]);
    expect(phys.tryLockPage(pfn)).toBe(false);
    phys.unlockPage(pfn);
    await second;
    phys.unlockPage(pfn);
    expect(phys.isLockedPage(pfn)).toBe(false);
    expect(phys.locks.waitUnlocked(pfn)).toBeUndefined();
    expect(() => phys.unlockPage(pfn)).toThrow(InvariantError);
  });
});

describe("reverse map", () => {
  test("a page of several address spaces: every mapping is found, removal in any order (model)", () => {
    const mapping = fc.record({
      mm: fc.integer({ min: 1, max: 3 }),
      vpn: fc.integer({ min: 2 ** 34, max: 2 ** 34 + 3 }),
    });
    fc.assert(
      fc.property(fc.array(mapping, { maxLength: 40 }), (steps) => {
        const frames = new FrameTable();
        frames.grow(8);
        const rmap = new Rmap(frames);
        const model = new Map<string, { mm: number; vpn: number }>();
        for (const m of steps) {
          const key = `${m.mm}:${m.vpn}`;
          if (model.delete(key)) {
            rmap.remove(5, m.mm, m.vpn);
          } else {
            model.set(key, m);
            rmap.add(5, m.mm, m.vpn);
          }
          const byKey = (x: { mm: number; vpn: number }) => x.mm * 2 ** 40 + x.vpn;
          expect(rmap.list(5).sort((x, y) => byKey(x) - byKey(y))).toEqual(
            [...model.values()].sort((x, y) => byKey(x) - byKey(y)),
          );
        }
        expect(frames.flags[5]! !== 0).toBe(model.size > 1);
      }),
    );
  });

  test("removing a mapping that is not there is an error of the caller", () => {
    const frames = new FrameTable();
    frames.grow(8);
    const rmap = new Rmap(frames);
    rmap.add(5, 1, 10);
    expect(() => rmap.remove(5, 1, 11)).toThrow(InvariantError);
  });
});

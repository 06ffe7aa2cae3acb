import { describe, expect, test } from "vitest";
import { EACCES, EINVAL, ENOMEM, EPERM } from "../../src/base/errno.ts";
import { DMA_BIDIRECTIONAL, SystemWindow } from "../../src/mm/dma.ts";
import { MemFile } from "../../src/mm/file.ts";
import { checkInvariants, checkQuiescent } from "../../src/mm/invariants.ts";
import { Mm } from "../../src/mm/mm.ts";
import type { PhysMemory } from "../../src/mm/phys-mem.ts";
import { MMU_NOTIFY_CLEAR } from "../../src/mm/types.ts";
import { PAGE, RecordingNotifier, expectBytes, mmapOk, pattern, readOk, testPhys } from "./mm-fake-device.ts";

const BASE = 0x7f0000000000;
const ALL = 2046;

/** A file of `pages` whole pages with a pattern in it, and two address spaces. */
async function setUp(pages = 4) {
  const phys = testPhys();
  const file = new MemFile(phys, { size: 0, name: "data" });
  const bytes = pattern(pages * PAGE);
  expect(await file.write(0, bytes)).toBe(bytes.length);
  return { phys, file, bytes, a: new Mm({ phys }), b: new Mm({ phys }) };
}

function watch(mm: Mm, pages = 8): RecordingNotifier {
  const watcher = new RecordingNotifier(mm, BASE, BASE + pages * PAGE);
  void mm.intervalNotifierInsert(watcher);
  return watcher;
}

async function fileBytes(file: MemFile): Promise<Uint8Array> {
  return (await file.read(0, file.size)) as Uint8Array;
}

/** A device that maps `pfn` and has stored `byte` all over it; the bytes come home when somebody asks for them. */
function writtenByDevice(phys: PhysMemory, pfn: number, byte: number): void {
  const port = {
    copyIn: () => {},
    copyOut: async () => void phys.ram.fill(byte, pfn * PAGE, (pfn + 1) * PAGE),
  };
  const window = new SystemWindow(phys, port, 16 * PAGE);
  const addr = window.map(pfn, DMA_BIDIRECTIONAL);
  void window.submitWith([addr], () => {});
}

describe("reading and writing", () => {
  test("what was never written reads as zeros and takes no frame", async () => {
    const phys = testPhys();
    const file = new MemFile(phys, { size: 5 * PAGE + 7 });
    expectBytes(await file.read(3, 6 * PAGE), new Uint8Array(5 * PAGE + 4));
    expect([file.cachedPages, phys.freePages]).toEqual([0, ALL]);
  });

  test("a write grows the file, and what it skips is zeros", async () => {
    const phys = testPhys();
    const file = new MemFile(phys, { size: 10 });
    expect(await file.write(PAGE + 5, Uint8Array.of(1, 2, 3))).toBe(3);
    expect(file.size).toBe(PAGE + 8);
    const expected = new Uint8Array(PAGE + 8);
    expected.set([1, 2, 3], PAGE + 5);
    expectBytes(await file.read(0, 100 * PAGE), expected);
    checkQuiescent(phys);
  });

  test("never shows what was in a frame before", async () => {
    const phys = testPhys(8);
    const mm = new Mm({ phys });
    await mm.mmap(6 * PAGE, { at: BASE });
    await mm.fill(BASE, 6 * PAGE, 255);
    await mm.munmap(BASE, 6 * PAGE);
    const file = new MemFile(phys, { size: 4 * PAGE });
    await file.write(8, Uint8Array.of(1));
    await file.write(2 * PAGE - 8, new Uint8Array(16).fill(2));
    await mm.mmap(2 * PAGE, { at: BASE, file, offset: 2 * PAGE });
    await mm.load32(BASE);
    await mm.store32(BASE + PAGE, 0);
    const expected = new Uint8Array(4 * PAGE).fill(2, 2 * PAGE - 8, 2 * PAGE + 8);
    expected[8] = 1;
    expectBytes(await fileBytes(file), expected);
    expectBytes(await readOk(mm, BASE, 2 * PAGE), expected.subarray(2 * PAGE));
    checkQuiescent(phys);
  });

  test("reading at and beyond the end gives nothing", async () => {
    const { file } = await setUp(1);
    expectBytes(await file.read(PAGE, 5), new Uint8Array(0));
    expectBytes(await file.read(9 * PAGE, 5), new Uint8Array(0));
  });

  test("without RAM for all of it a write stores nothing", async () => {
    const phys = testPhys(6);
    const file = new MemFile(phys, { size: PAGE });
    await file.write(0, Uint8Array.of(9));
    expect(await file.write(0, new Uint8Array(5 * PAGE).fill(1))).toBe(ENOMEM);
    expect([file.size, file.cachedPages, phys.freePages]).toEqual([PAGE, 1, 3]);
    expect(((await file.read(0, 1)) as Uint8Array)[0]).toBe(9);
  });

  test.each([
    ["a negative offset", -1, 4],
    ["a fractional offset", 0.5, 4],
    ["an end that is not exact", Number.MAX_SAFE_INTEGER, 4],
  ])("%s: -EINVAL", async (_, offset, length) => {
    const { file } = await setUp(1);
    expect(await file.write(offset, new Uint8Array(length))).toBe(EINVAL);
    if (offset < 1) expect(await file.read(offset, length)).toBe(EINVAL);
    expect(await file.truncate(-1)).toBe(EINVAL);
    expect(await file.punchHole(offset, length)).toBe(EINVAL);
    expect(await file.punchHole(0, 0)).toBe(EINVAL);
  });

  test("a read-only file refuses every change", async () => {
    const phys = testPhys();
    const file = new MemFile(phys, { size: PAGE, readOnly: true });
    expect(await file.write(0, Uint8Array.of(1))).toBe(EPERM);
    expect(await file.truncate(0)).toBe(EPERM);
    expect(await file.punchHole(0, PAGE)).toBe(EPERM);
    expect(file.size).toBe(PAGE);
  });

  test("bytes that a device stored to a mapped page are the file's", async () => {
    const { phys, file, a } = await setUp(2);
    await a.mmap(2 * PAGE, { at: BASE, file, shared: true, populate: true });
    writtenByDevice(phys, a.pageAt(BASE + PAGE).pfn, 77);
    expectBytes(await file.read(PAGE, PAGE), new Uint8Array(PAGE).fill(77));
  });

  test("what is written, zeroed or punched out reaches a device that maps the page with its next submission", async () => {
    const { phys, file, a } = await setUp(1);
    await a.mmap(PAGE, { at: BASE, file, shared: true, populate: true });
    let copies = 0;
    const window = new SystemWindow(phys, { copyIn: () => void copies++, copyOut: async () => {} }, 16 * PAGE);
    window.map(a.pageAt(BASE).pfn, DMA_BIDIRECTIONAL);
    const submitted = () => {
      void window.submitWith([], () => {});
      return copies;
    };
    expect([submitted(), submitted()]).toEqual([1, 1]);
    await file.write(5, Uint8Array.of(1));
    expect([submitted(), submitted()]).toEqual([2, 2]);
    await file.punchHole(5, 1);
    expect(submitted()).toBe(3);
    await file.truncate(100);
    expect(submitted()).toBe(4);
  });

  test("a write does not lose what a device stored beside it", async () => {
    const { phys, file, a } = await setUp(1);
    await a.mmap(PAGE, { at: BASE, file, shared: true, populate: true });
    writtenByDevice(phys, a.pageAt(BASE).pfn, 77);
    expect(await file.write(8, Uint8Array.of(1, 1))).toBe(2);
    expectBytes(await file.read(0, PAGE), new Uint8Array(PAGE).fill(77).fill(1, 8, 10));
  });
});

describe("a shared mapping", () => {
  test("is the file: stores reach it and everybody who maps it, from any offset", async () => {
    const { phys, file, bytes, a, b } = await setUp();
    await a.mmap(4 * PAGE, { at: BASE, file, shared: true });
    await b.mmap(2 * PAGE, { at: BASE + 8 * PAGE, file, shared: true, offset: 2 * PAGE });
    expectBytes(await readOk(a, BASE, 4 * PAGE), bytes);
    await a.store32(BASE + 3 * PAGE + 8, 0x01020304);
    expect(await b.load32(BASE + 9 * PAGE + 8)).toBe(0x01020304);
    await b.store32(BASE + 8 * PAGE, 5);
    expect(await a.load32(BASE + 2 * PAGE)).toBe(5);
    await file.write(4, Uint8Array.of(8, 0, 0, 0));
    expect(await a.load32(BASE + 4)).toBe(8);
    expect(a.pageAt(BASE + 2 * PAGE).pfn).toBe(b.pageAt(BASE + 8 * PAGE).pfn);
    expect(file.mapped).toBe(2);
    checkQuiescent(phys);
  });

  test("a read maps the page writable at once, so that the first store is no event", async () => {
    const { file, a } = await setUp();
    await a.mmap(PAGE, { at: BASE, file, shared: true });
    await a.load32(BASE);
    const watcher = watch(a);
    expect(a.pageAt(BASE).writable).toBe(true);
    await a.store32(BASE, 1);
    expect(watcher.events).toEqual([]);
  });

  test("protection is the mapping's own, and comes back with the bytes", async () => {
    const { phys, file, a, b } = await setUp();
    await a.mmap(PAGE, { at: BASE, file, shared: true, prot: "R" });
    await b.mmap(PAGE, { at: BASE, file, shared: true });
    expect(await a.store32(BASE, 1)).toMatchObject({ code: "SEGV" });
    await b.store32(BASE, 2);
    expect(await a.load32(BASE)).toBe(2);
    await b.mprotect(BASE, PAGE, "R");
    expect(b.pageAt(BASE).writable).toBe(false);
    expect(await b.store32(BASE, 1)).toMatchObject({ code: "SEGV" });
    await b.mprotect(BASE, PAGE, "RW");
    expect(b.pageAt(BASE).writable).toBe(true);
    await b.store32(BASE, 3);
    expect(await a.load32(BASE)).toBe(3);
    checkQuiescent(phys);
  });

  test("munmap and dontneed keep the bytes", async () => {
    const { file, bytes, a } = await setUp();
    await a.mmap(4 * PAGE, { at: BASE, file, shared: true });
    await a.store32(BASE, 7);
    await a.dontneed(BASE, 4 * PAGE);
    expect(a.pageAt(BASE).kind).toBe("none");
    expect(await a.load32(BASE)).toBe(7);
    await a.munmap(BASE, 4 * PAGE);
    const expected = bytes.slice();
    expected.set([7, 0, 0, 0]);
    expectBytes(await fileBytes(file), expected);
  });

  test("of a read-only file cannot be writable, and cannot become so", async () => {
    const phys = testPhys();
    const mm = new Mm({ phys });
    const file = new MemFile(phys, { size: PAGE, readOnly: true });
    expect(await mm.mmap(PAGE, { at: BASE, file, shared: true })).toBe(EACCES);
    expect(mm.vmas.all()).toEqual([]);
    expect(await mm.mmap(PAGE, { at: BASE, file, shared: true, prot: "R" })).toBe(BASE);
    expect(await mm.mprotect(BASE, PAGE, "RW")).toBe(EACCES);
    expect(mm.vmas.all().map((v) => v.prot)).toEqual(["R"]);
    expect(await mm.mmap(PAGE, { at: BASE + PAGE, file })).toBe(BASE + PAGE);
    expect(await mm.store32(BASE + PAGE, 1)).toBeUndefined();
  });
});

describe("a private mapping", () => {
  test("reads the file and copies a page when it stores to it", async () => {
    const { phys, file, bytes, a, b } = await setUp();
    await a.mmap(4 * PAGE, { at: BASE, file });
    await b.mmap(4 * PAGE, { at: BASE, file, shared: true });
    const watcher = watch(a);
    expectBytes(await readOk(a, BASE, 4 * PAGE), bytes);
    expect(a.pageAt(BASE).writable).toBe(false);
    await a.store32(BASE + PAGE, 1);
    expect(watcher.take()).toEqual([[MMU_NOTIFY_CLEAR, BASE + PAGE, BASE + 2 * PAGE]]);
    expectBytes(await fileBytes(file), bytes);
    // What is stored to the file later is seen where there is no copy yet.
    await b.store32(BASE + PAGE, 2);
    await b.store32(BASE + 2 * PAGE, 3);
    expect([await a.load32(BASE + PAGE), await a.load32(BASE + 2 * PAGE)]).toEqual([1, 3]);
    checkQuiescent(phys);
  });

  test("a first store copies without an event, whether or not the file has a frame", async () => {
    const phys = testPhys();
    const mm = new Mm({ phys });
    const file = new MemFile(phys, { size: 2 * PAGE });
    await file.write(8, Uint8Array.of(4));
    await mm.mmap(2 * PAGE, { at: BASE, file });
    const watcher = watch(mm);
    await mm.store32(BASE, 1);
    await mm.store32(BASE + PAGE, 2);
    expect([await mm.load32(BASE + 8), await mm.load32(BASE + PAGE + 8)]).toEqual([4, 0]);
    expect(watcher.events).toEqual([]);
    expect(file.cachedPages).toBe(1);
    checkQuiescent(phys);
  });

  test("dontneed drops the copies: the file shows again", async () => {
    const { file, bytes, a } = await setUp();
    await a.mmap(4 * PAGE, { at: BASE, file });
    await a.fill(BASE, 4 * PAGE, 1);
    await a.dontneed(BASE + PAGE, PAGE);
    expectBytes(await readOk(a, BASE + PAGE, PAGE), bytes.subarray(PAGE, 2 * PAGE));
    expectBytes(await readOk(a, BASE, PAGE), new Uint8Array(PAGE).fill(1));
  });

  test.each(["before", "after"])(
    "a copy has what a device stored to the file's page, read %s the store",
    async (when) => {
      const { phys, file, a, b } = await setUp(1);
      await a.mmap(PAGE, { at: BASE, file, shared: true, populate: true });
      await b.mmap(PAGE, { at: BASE, file });
      if (when === "before") await b.load32(BASE);
      writtenByDevice(phys, a.pageAt(BASE).pfn, 77);
      await b.store32(BASE, 1);
      expect(await b.load32(BASE + 8)).toBe(0x4d4d4d4d);
    },
  );

  test("is not anonymous: its holes are no place for device pages", async () => {
    const { file, a } = await setUp();
    await a.mmap(4 * PAGE, { at: BASE, file });
    expect(a.vmaLookup(BASE)).toMatchObject({ anonymous: false, hugetlb: false, special: false });
  });
});

describe("the end of the file", () => {
  test("the rest of its last page reads as zeros, a whole page beyond is a bus error, for loads and stores", async () => {
    const phys = testPhys();
    const mm = new Mm({ phys });
    const file = new MemFile(phys, { size: PAGE + 4 });
    await file.write(PAGE, Uint8Array.of(1, 1, 1, 1));
    for (const shared of [true, false]) {
      await mm.mmap(4 * PAGE, { at: BASE, file, shared });
      expect([await mm.load32(BASE + PAGE), await mm.load32(BASE + PAGE + 4)]).toEqual([0x01010101, 0]);
      expect(await mm.load32(BASE + 2 * PAGE)).toMatchObject({ code: "BUS", addr: BASE + 2 * PAGE });
      expect(await mm.store32(BASE + 3 * PAGE, 1)).toMatchObject({ code: "BUS", addr: BASE + 3 * PAGE });
    }
    checkQuiescent(phys);
  });

  test("a file that grows makes what was beyond it accessible", async () => {
    const { file, a } = await setUp(1);
    await a.mmap(2 * PAGE, { at: BASE, file, shared: true });
    expect(await a.load32(BASE + PAGE)).toMatchObject({ code: "BUS" });
    expect(await file.truncate(2 * PAGE)).toBe(0);
    expect(await a.load32(BASE + PAGE)).toBe(0);
  });

  test("what was stored behind the end of the last page is not in the file when it grows", async () => {
    for (const grow of ["truncate", "write"] as const) {
      const phys = testPhys();
      const mm = new Mm({ phys });
      const file = new MemFile(phys, { size: 100 });
      await mm.mmap(PAGE, { at: BASE, file, shared: true });
      await mm.fill(BASE, PAGE, 9);
      if (grow === "truncate") await file.truncate(200);
      else await file.write(200, Uint8Array.of(5));
      expectBytes(await file.read(0, 200), new Uint8Array(200).fill(9, 0, 100));
    }
  });
});

describe("truncate", () => {
  test("takes the pages from everybody, private copies too, announced as CLEAR before", async () => {
    const { phys, file, bytes, a, b } = await setUp();
    await a.mmap(4 * PAGE, { at: BASE, file, shared: true, populate: true });
    await b.mmap(3 * PAGE, { at: BASE, file, offset: PAGE, populate: true });
    const [inA, inB] = [watch(a), watch(b)];
    const kinds: string[] = [];
    inA.check = () => void kinds.push(a.pageAt(BASE + 2 * PAGE).kind);
    expect(await file.truncate(PAGE + 12)).toBe(0);
    expect(inA.take()).toEqual([[MMU_NOTIFY_CLEAR, BASE + 2 * PAGE, BASE + 4 * PAGE]]);
    expect(inB.take()).toEqual([[MMU_NOTIFY_CLEAR, BASE + PAGE, BASE + 3 * PAGE]]);
    expect(kinds).toEqual(["present"]);
    expect(await a.load32(BASE + 2 * PAGE)).toMatchObject({ code: "BUS" });
    expect(await b.load32(BASE + PAGE)).toMatchObject({ code: "BUS" });
    // b's copy of the file's second page, which is still in the file, is its own.
    expectBytes(await readOk(b, BASE, PAGE), bytes.subarray(PAGE, 2 * PAGE));
    const expected = bytes.slice(0, 2 * PAGE).fill(0, PAGE + 12);
    expectBytes(await readOk(a, BASE, 2 * PAGE), expected);
    expect(file.cachedPages).toBe(2);
    checkQuiescent(phys);
  });

  test("and growing again shows zeros", async () => {
    const { file, bytes } = await setUp();
    await file.truncate(PAGE + 1);
    await file.truncate(3 * PAGE);
    const expected = new Uint8Array(3 * PAGE);
    expected.set(bytes.subarray(0, PAGE + 1));
    expectBytes(await fileBytes(file), expected);
  });

  test("of a file that nobody maps raises nothing and frees the frames", async () => {
    const { phys, file, a } = await setUp();
    const watcher = watch(a);
    expect(await file.truncate(0)).toBe(0);
    expect([watcher.events.length, file.cachedPages, phys.freePages]).toEqual([0, 0, ALL]);
  });

  test("does not touch what has taken the file's place meanwhile", async () => {
    const { phys, file, a } = await setUp();
    await a.mmap(4 * PAGE, { at: BASE, file, shared: true, populate: true });
    const watcher = watch(a);
    let proceed = () => {};
    watcher.check = () => new Promise((resolve) => (proceed = resolve));
    const truncated = file.truncate(0);
    await new Promise((turn) => setImmediate(turn));
    watcher.check = null;
    await a.mmap(4 * PAGE, { at: BASE });
    await a.fill(BASE, 4 * PAGE, 9);
    proceed();
    expect(await truncated).toBe(0);
    expectBytes(await readOk(a, BASE, 4 * PAGE), new Uint8Array(4 * PAGE).fill(9));
    checkQuiescent(phys);
  });

  test("against faults, moves and unmappings leaves no page beyond the end, in every order that 64 seeds draw", async () => {
    for (let seed = 1; seed <= 64; seed++) {
      const { phys, file, bytes, a, b } = await setUp();
      await a.mmap(4 * PAGE, { at: BASE, file, shared: true, populate: true });
      await b.mmap(4 * PAGE, { at: BASE, file });
      await readOk(b, BASE, 4 * PAGE);
      for (const mm of [a, b]) {
        const watcher = watch(mm, 64);
        watcher.check = async () => void (await phys.sched.point("callback"));
      }
      await phys.sched.race<unknown>(seed, [
        async () => file.truncate(PAGE),
        async () => a.mremap(BASE, 4 * PAGE, 4 * PAGE, { to: BASE + 16 * PAGE }),
        async () => b.store32(BASE + 2 * PAGE, 1),
        async () => a.load32(BASE + 18 * PAGE),
        async () => b.munmap(BASE + 3 * PAGE, PAGE),
      ]);
      checkQuiescent(phys);
      expect(file.cachedPages).toBe(1);
      expect(await a.load32(BASE + 18 * PAGE)).toMatchObject({ code: "BUS" });
      expect(await b.load32(BASE + 2 * PAGE)).toMatchObject({ code: "BUS" });
      expectBytes(await readOk(a, BASE + 16 * PAGE, PAGE), bytes.subarray(0, PAGE));
      await a.exit();
      await b.exit();
      file.close();
      expect(phys.freePages).toBe(ALL);
    }
  });
});

describe("a punched hole", () => {
  test("takes whole pages from everybody who maps the file, leaves private copies, zeroes the edges", async () => {
    const { phys, file, bytes, a, b } = await setUp();
    await a.mmap(4 * PAGE, { at: BASE, file, shared: true, populate: true });
    await b.mmap(4 * PAGE, { at: BASE, file });
    await b.store32(BASE + PAGE, 1);
    await b.load32(BASE + 2 * PAGE);
    const [inA, inB] = [watch(a), watch(b)];
    expect(await file.punchHole(PAGE - 8, 2 * PAGE + 16)).toBe(0);
    expect(inA.take()).toEqual([[MMU_NOTIFY_CLEAR, BASE + PAGE, BASE + 3 * PAGE]]);
    expect(inB.take()).toEqual([[MMU_NOTIFY_CLEAR, BASE + PAGE, BASE + 3 * PAGE]]);
    expect(file.size).toBe(4 * PAGE);
    const expected = bytes.slice().fill(0, PAGE - 8, 3 * PAGE + 8);
    expectBytes(await readOk(a, BASE, 4 * PAGE), expected);
    expect([await b.load32(BASE + PAGE), await b.load32(BASE + 2 * PAGE)]).toEqual([1, 0]);
    checkQuiescent(phys);
  });

  test("inside one page zeroes it in place and tells nobody", async () => {
    const { file, bytes, a } = await setUp();
    await a.mmap(4 * PAGE, { at: BASE, file, shared: true, populate: true });
    const watcher = watch(a);
    expect(await file.punchHole(PAGE + 100, 200)).toBe(0);
    expect(watcher.events).toEqual([]);
    expectBytes(await readOk(a, BASE, 4 * PAGE), bytes.slice().fill(0, PAGE + 100, PAGE + 300));
  });

  test("against an access that brings the page back ends with one page for all, in every order that 32 seeds draw", async () => {
    for (let seed = 1; seed <= 32; seed++) {
      const { phys, file, a, b } = await setUp();
      await a.mmap(4 * PAGE, { at: BASE, file, shared: true, populate: true });
      await b.mmap(4 * PAGE, { at: BASE, file, shared: true, populate: true });
      for (const mm of [a, b]) watch(mm).check = async () => void (await phys.sched.point("callback"));
      await phys.sched.race<unknown>(seed, [
        async () => file.punchHole(PAGE, PAGE),
        async () => a.store32(BASE + PAGE, 1),
        async () => b.load32(BASE + PAGE),
      ]);
      checkQuiescent(phys);
      const value = await a.load32(BASE + PAGE);
      expect([0, 1]).toContain(value);
      expect(await b.load32(BASE + PAGE)).toBe(value);
      expect(a.pageAt(BASE + PAGE).pfn).toBe(b.pageAt(BASE + PAGE).pfn);
    }
  });

  test("madvise remove punches it where a shared mapping says", async () => {
    const { phys, file, bytes, a } = await setUp();
    await a.mmap(3 * PAGE, { at: BASE, file, shared: true, offset: PAGE, populate: true });
    const watcher = watch(a);
    expect(await a.madvise(BASE + PAGE, PAGE, "remove")).toBe(0);
    expect(watcher.take()).toEqual([[MMU_NOTIFY_CLEAR, BASE + PAGE, BASE + 2 * PAGE]]);
    expectBytes(await fileBytes(file), bytes.slice().fill(0, 2 * PAGE, 3 * PAGE));
    expect(file.cachedPages).toBe(3);
    checkQuiescent(phys);
  });
});

describe("shared anonymous memory", () => {
  test("is zeros, not anonymous to the migration, and goes with its last area", async () => {
    const phys = testPhys();
    const a = new Mm({ phys });
    const at = await mmapOk(a, 3 * PAGE, { shared: true });
    expectBytes(await readOk(a, at, 3 * PAGE), new Uint8Array(3 * PAGE));
    await a.store32(at + PAGE, 1);
    expect(a.vmaLookup(at)).toMatchObject({ anonymous: false, shared: true });
    expect(phys.freePages).toBe(ALL - 3);
    await a.munmap(at, PAGE);
    await a.dontneed(at + PAGE, PAGE);
    expect(await a.load32(at + PAGE)).toBe(1);
    checkQuiescent(phys);
    await a.munmap(at + PAGE, 2 * PAGE);
    expect(phys.freePages).toBe(ALL);
    checkQuiescent(phys);
  });

  test("two mappings of it have nothing in common, even side by side", async () => {
    const mm = new Mm({ phys: testPhys() });
    await mm.mmap(PAGE, { at: BASE, shared: true });
    await mm.mmap(PAGE, { at: BASE + PAGE, shared: true });
    expect(mm.vmas.all().length).toBe(2);
  });
});

describe("a file's frames", () => {
  test("stay while it is open or mapped, and no longer", async () => {
    const { phys, file, a } = await setUp();
    await a.mmap(4 * PAGE, { at: BASE, file, shared: true, populate: true });
    await a.munmap(BASE, 2 * PAGE);
    expect(file.mapped).toBe(1);
    file.close();
    expect(phys.freePages).toBe(ALL - 4);
    expect(await a.mmap(PAGE, { file, shared: true })).toBe(EINVAL);
    await a.exit();
    expect([file.mapped, phys.freePages]).toEqual([0, ALL]);
  });

  test("a store that needs a page when RAM is used up fails", async () => {
    const phys = testPhys(4);
    const mm = new Mm({ phys });
    const file = new MemFile(phys, { size: 4 * PAGE });
    await mm.mmap(4 * PAGE, { at: BASE, file, shared: true });
    await mm.store32(BASE, 1);
    await mm.store32(BASE + PAGE, 1);
    expect(await mm.store32(BASE + 2 * PAGE, 1)).toMatchObject({ code: "ENOMEM" });
    checkInvariants(phys);
  });
});

describe("the areas of a file", () => {
  test("are one where both memory and file go on, and split with the right offsets", async () => {
    const { file, bytes, a } = await setUp();
    await a.mmap(PAGE, { at: BASE, file, shared: true });
    await a.mmap(PAGE, { at: BASE + PAGE, file, shared: true, offset: PAGE });
    await a.mmap(PAGE, { at: BASE + 2 * PAGE, file, shared: true, offset: 3 * PAGE });
    await a.mmap(PAGE, { at: BASE + 3 * PAGE, file, offset: 2 * PAGE });
    expect(a.vmas.all().map((v) => [(v.start - BASE) / PAGE, (v.end - BASE) / PAGE, v.offset / PAGE])).toEqual([
      [0, 2, 0],
      [2, 3, 3],
      [3, 4, 2],
    ]);
    await a.mprotect(BASE + PAGE, PAGE, "R");
    expect(a.vmas.lookup(BASE + PAGE)!.offset).toBe(PAGE);
    await a.mprotect(BASE + PAGE, PAGE, "RW");
    expect(a.vmas.all().length).toBe(3);
    expect(file.mapped).toBe(3);
    expectBytes(await readOk(a, BASE + PAGE, PAGE), bytes.subarray(PAGE, 2 * PAGE));
    expectBytes(await readOk(a, BASE + 3 * PAGE, PAGE), bytes.subarray(2 * PAGE, 3 * PAGE));
  });
});

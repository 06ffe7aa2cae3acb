import { describe, expect, test } from "vitest";
import { EEXIST, EINVAL, ENOMEM, EOVERFLOW } from "../../src/base/errno.ts";
import { MemFile } from "../../src/mm/file.ts";
import { checkQuiescent } from "../../src/mm/invariants.ts";
import { Mm } from "../../src/mm/mm.ts";
import type { MmapOptions } from "../../src/mm/mmap.ts";
import { MMU_NOTIFY_PROTECTION_VMA, MMU_NOTIFY_SOFT_DIRTY, MMU_NOTIFY_UNMAP } from "../../src/mm/types.ts";
import { MMAP_BASE, TASK_SIZE } from "../../src/mm/vma.ts";
import { MB, PAGE, RecordingNotifier, expectBytes, mmapOk, pattern, readOk, testPhys } from "./mm-fake-device.ts";

const BASE = 0x7f0000000000;

function setUp(ramPages = 4096) {
  const phys = testPhys(ramPages);
  return { phys, mm: new Mm({ phys }) };
}

function watch(mm: Mm): RecordingNotifier {
  const watcher = new RecordingNotifier(mm, BASE, BASE + 64 * MB);
  void mm.intervalNotifierInsert(watcher);
  return watcher;
}

describe("a fixed address that must not replace", () => {
  test("is had when it is free, and refused when a byte of it is not", async () => {
    const { mm } = setUp();
    expect(await mm.mmap(2 * PAGE, { at: BASE, noReplace: true })).toBe(BASE);
    await mm.store32(BASE + PAGE, 1);
    const watcher = watch(mm);
    expect(await mm.mmap(2 * PAGE, { at: BASE + PAGE, noReplace: true })).toBe(EEXIST);
    expect(watcher.events).toEqual([]);
    expect(await mm.load32(BASE + PAGE)).toBe(1);
    expect(mm.vmas.all().map((v) => v.end)).toEqual([BASE + 2 * PAGE]);
    expect(await mm.mmap(PAGE, { at: BASE + 2 * PAGE, noReplace: true })).toBe(BASE + 2 * PAGE);
  });
});

describe("a hint", () => {
  test("is followed where it is free, rounded up to pages", async () => {
    const { mm } = setUp();
    expect(await mm.mmap(PAGE, { hint: BASE + 1 })).toBe(BASE + PAGE);
    expect(await mm.mmap(2 * PAGE, { hint: BASE })).toBe(MMAP_BASE);
    expect(await mm.mmap(PAGE, { hint: BASE })).toBe(BASE);
  });

  test("without the alignment wanted, or at the end of the address space, is passed over", async () => {
    const { mm } = setUp();
    expect(await mm.mmap(PAGE, { hint: BASE + PAGE, align: 2 * MB })).toBe(MMAP_BASE);
    expect(await mm.mmap(2 * PAGE, { hint: TASK_SIZE - PAGE })).toBe(MMAP_BASE + PAGE);
    expect(await mm.mmap(PAGE, { hint: BASE, align: 2 * MB })).toBe(BASE);
  });
});

describe("guards", () => {
  test("keep chosen addresses away on both sides, and are no memory", async () => {
    const { mm } = setUp();
    const a = await mmapOk(mm, PAGE);
    const b = await mmapOk(mm, PAGE, { guard: 4 * PAGE });
    const c = await mmapOk(mm, PAGE);
    const d = await mmapOk(mm, 2 * PAGE, { guard: PAGE });
    expect([a, b, c, d].map((x) => (x - MMAP_BASE) / PAGE)).toEqual([0, 5, 10, 12]);
    expect(await mm.load32(b - 4)).toMatchObject({ code: "SEGV" });
    expect(await mm.load32(b + PAGE)).toMatchObject({ code: "SEGV" });
    // The first gap that leaves both guards alone.
    expect(await mm.mmap(PAGE)).toBe(MMAP_BASE + 15 * PAGE);
  });

  test("a hint inside one is passed over, a fixed address is not", async () => {
    const { mm } = setUp();
    await mm.mmap(PAGE, { at: BASE, guard: 2 * PAGE });
    expect(await mm.mmap(PAGE, { hint: BASE + PAGE })).toBe(MMAP_BASE);
    expect(await mm.mmap(PAGE, { hint: BASE + 3 * PAGE })).toBe(BASE + 3 * PAGE);
    expect(await mm.mmap(PAGE, { at: BASE + PAGE })).toBe(BASE + PAGE);
    expect(mm.vmas.within(BASE, BASE + 8 * PAGE).length).toBe(3);
  });
});

describe("areas", () => {
  test("that differ in one trait are not one, and those that agree in all are", async () => {
    const { phys, mm } = setUp();
    const file = new MemFile(phys, { size: 64 * PAGE });
    const kinds: MmapOptions[] = [
      {},
      { prot: "R" },
      { shared: true },
      { file },
      { guard: PAGE },
      { file, shared: true },
    ];
    for (const [i, kind] of kinds.entries()) {
      await mm.mmap(PAGE, { ...kind, at: BASE + 2 * i * PAGE, offset: 2 * i * PAGE });
      await mm.mmap(PAGE, { ...kind, at: BASE + (2 * i + 1) * PAGE, offset: (2 * i + 1) * PAGE });
    }
    // Two objects of shared anonymous memory stay two.
    expect(mm.vmas.all().map((v) => (v.end - v.start) / PAGE)).toEqual([2, 2, 1, 1, 2, 2, 2]);
  });
});

describe("hugetlb", () => {
  test("rounds up to 2 MiB, is aligned, and one access maps a whole huge page of zeros", async () => {
    const { phys, mm } = setUp();
    const at = await mmapOk(mm, 2 * MB + 1, { hugetlb: true });
    expect(at % (2 * MB)).toBe(0);
    expect(mm.vmaLookup(at)).toMatchObject({ end: at + 4 * MB, hugetlb: true, anonymous: false });
    expect(await mm.load32(at + MB)).toBe(0);
    expect(mm.tables.hugeCount).toBe(1);
    expectBytes(await readOk(mm, at, 2 * MB), new Uint8Array(2 * MB));
    checkQuiescent(phys);
  });

  test("is cut at 2 MiB only: other borders are refused, with nothing changed", async () => {
    const { phys, mm } = setUp();
    await mm.mmap(4 * MB, { at: BASE, hugetlb: true });
    const bytes = pattern(4 * MB);
    await mm.write(BASE, bytes);
    const watcher = watch(mm);
    expect(await mm.munmap(BASE, MB)).toBe(EINVAL);
    expect(await mm.munmap(BASE + MB, 8 * MB)).toBe(EINVAL);
    expect(await mm.mprotect(BASE, PAGE, "R")).toBe(EINVAL);
    expect(await mm.madvise(BASE + PAGE, PAGE, "dontneed")).toBe(EINVAL);
    expect(await mm.mmap(PAGE, { at: BASE + PAGE })).toBe(EINVAL);
    expect(watcher.events).toEqual([]);
    expectBytes(await readOk(mm, BASE, 4 * MB), bytes);
    expect(await mm.mprotect(BASE, 2 * MB, "R")).toBe(0);
    expect(await mm.munmap(BASE + 2 * MB, 2 * MB)).toBe(0);
    expect(watcher.take()).toEqual([
      [MMU_NOTIFY_PROTECTION_VMA, BASE, BASE + 2 * MB],
      [MMU_NOTIFY_UNMAP, BASE + 2 * MB, BASE + 4 * MB],
    ]);
    expect(mm.tables.hugeCount).toBe(1);
    expect(await mm.store32(BASE, 1)).toMatchObject({ code: "SEGV" });
    await mm.mprotect(BASE, 2 * MB, "RW");
    await mm.store32(BASE, 1);
    expect(mm.tables.hugeCount).toBe(1);
    checkQuiescent(phys);
  });

  test("without a free huge page an access is a bus error", async () => {
    const { mm } = setUp(600);
    await mm.mmap(2 * MB, { at: BASE, hugetlb: true });
    expect(await mm.store32(BASE, 1)).toMatchObject({ code: "BUS" });
  });
});

describe("transparent huge pages", () => {
  test("unmapping or protecting a part splits, with the bytes kept and 2 MiB announced as CLEAR", async () => {
    for (const call of ["munmap", "mprotect"] as const) {
      const { phys, mm } = setUp();
      await mm.mmap(2 * MB, { at: BASE });
      await mm.madvise(BASE, 2 * MB, "hugepage");
      const bytes = pattern(2 * MB);
      await mm.write(BASE, bytes);
      expect(mm.tables.hugeCount).toBe(1);
      const watcher = watch(mm);
      await (call === "munmap" ? mm.munmap(BASE, PAGE) : mm.mprotect(BASE, PAGE, "R"));
      expect(watcher.take().map((e) => e.slice(1))).toEqual([
        [BASE, BASE + 2 * MB],
        [BASE, BASE + PAGE],
      ]);
      expect(mm.tables.hugeCount).toBe(0);
      expectBytes(await readOk(mm, BASE + PAGE, 2 * MB - PAGE), bytes.subarray(PAGE));
      checkQuiescent(phys);
    }
  });

  test("protecting the whole keeps it whole", async () => {
    const { phys, mm } = setUp();
    await mm.mmap(2 * MB, { at: BASE });
    await mm.madvise(BASE, 2 * MB, "hugepage");
    await mm.store32(BASE, 1);
    await mm.mprotect(BASE, 2 * MB, "R");
    expect(await mm.store32(BASE + MB, 1)).toMatchObject({ code: "SEGV" });
    await mm.mprotect(BASE, 2 * MB, "RW");
    const watcher = watch(mm);
    await mm.store32(BASE + MB, 1);
    expect(mm.tables.hugeCount).toBe(1);
    expect(watcher.events).toEqual([]);
    checkQuiescent(phys);
  });
});

describe("populate", () => {
  test("fills each kind of memory with what a first access would", async () => {
    const { phys, mm } = setUp();
    const file = new MemFile(phys, { size: PAGE });
    await file.write(0, Uint8Array.of(7));
    const kinds: [MmapOptions, boolean][] = [
      [{}, true],
      [{ prot: "R" }, false],
      [{ shared: true }, true],
      [{ file }, true],
      [{ file, prot: "R" }, false],
      [{ file, shared: true }, true],
    ];
    for (const [kind, writable] of kinds) {
      const at = await mmapOk(mm, PAGE, { ...kind, populate: true });
      expect(mm.pageAt(at)).toMatchObject({ kind: "present", writable });
      expect(await mm.load32(at)).toBe(kind.file === undefined ? 0 : 7);
    }
    const hidden = await mmapOk(mm, PAGE, { prot: "NONE", populate: true });
    expect(mm.pageAt(hidden).kind).toBe("none");
    checkQuiescent(phys);
  });

  test("beyond the end of a file maps all the same", async () => {
    const { phys, mm } = setUp();
    const file = new MemFile(phys, { size: PAGE });
    const at = await mmapOk(mm, 3 * PAGE, { file, shared: true, populate: true });
    expect([mm.pageAt(at).kind, mm.pageAt(at + PAGE).kind]).toEqual(["present", "none"]);
  });
});

describe("refused, with nothing changed", () => {
  const phys = testPhys();
  const file = new MemFile(phys, { size: PAGE });
  const closed = new MemFile(phys, { size: PAGE });
  closed.close();
  const refusals: readonly [string, number, MmapOptions, number][] = [
    ["noReplace without an address", PAGE, { noReplace: true }, EINVAL],
    ["a negative hint", PAGE, { hint: -1 }, EINVAL],
    ["a guard that is no whole page", PAGE, { guard: 100 }, EINVAL],
    ["an offset that is no whole page", PAGE, { file, offset: 512 }, EINVAL],
    ["a negative offset", PAGE, { file, offset: -PAGE }, EINVAL],
    ["an offset whose end is not exact", 2 * PAGE, { file, offset: Number.MAX_SAFE_INTEGER + 1 - PAGE }, EOVERFLOW],
    ["a closed file", PAGE, { file: closed }, EINVAL],
    ["hugetlb of a file", 2 * MB, { hugetlb: true, file }, EINVAL],
    ["shared hugetlb", 2 * MB, { hugetlb: true, shared: true }, EINVAL],
    ["hugetlb at an address that is not 2 MiB's", 2 * MB, { hugetlb: true, at: BASE + PAGE }, EINVAL],
    ["a guard that leaves no room", PAGE, { guard: 2 ** 47 }, ENOMEM],
  ];
  test.each(refusals)("%s", async (_, length, options, errno) => {
    const mm = new Mm({ phys });
    expect(await mm.mmap(length, options)).toBe(errno);
    expect(mm.vmas.all()).toEqual([]);
    expect(file.mapped).toBe(0);
  });

  test("a mapping that would end behind the last offset of a file", async () => {
    const mm = new Mm({ phys });
    const offset = Number.MAX_SAFE_INTEGER + 1 - 2 * PAGE;
    expect(await mm.mmap(2 * PAGE, { file, offset })).toBe(EOVERFLOW);
    expect(await mm.mmap(PAGE, { file, offset })).toBeGreaterThan(0);
    await mm.exit();
  });
});

describe("clearing the soft-dirty state", () => {
  test("announces SOFT_DIRTY over everything before, and the next store to each page faults, without a copy or an event", async () => {
    const { phys, mm } = setUp();
    await mm.mmap(2 * MB, { at: BASE });
    await mm.madvise(BASE, 2 * MB, "hugepage");
    await mm.mmap(PAGE, { at: BASE + 2 * MB });
    await mm.mmap(PAGE, { at: BASE + 4 * MB, shared: true });
    const places = [BASE, BASE + 2 * MB, BASE + 4 * MB];
    for (const at of places) await mm.store32(at, 7);
    const watcher = watch(mm);
    const writable: boolean[] = [];
    watcher.check = () => void writable.push(mm.pageAt(BASE).writable);
    await mm.clearSoftDirty();
    expect(watcher.take()).toEqual([[MMU_NOTIFY_SOFT_DIRTY, 0, Number.MAX_SAFE_INTEGER]]);
    expect(writable).toEqual([true]);
    const frames = places.map((at) => mm.pageAt(at).pfn);
    expect(places.map((at) => mm.pageAt(at).writable)).toEqual([false, false, false]);
    for (const at of places) expect(await mm.store32(at + 4, 8)).toBeUndefined();
    expect(places.map((at) => mm.pageAt(at).pfn)).toEqual(frames);
    expect(await mm.load32(BASE)).toBe(7);
    expect(watcher.events).toEqual([]);
    expect(mm.tables.hugeCount).toBe(1);
    checkQuiescent(phys);
  });
});

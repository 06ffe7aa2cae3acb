import { describe, expect, test } from "vitest";
import { EFAULT, EINVAL, ENOMEM, EOVERFLOW } from "../../src/base/errno.ts";
import { MemFile } from "../../src/mm/file.ts";
import { checkQuiescent } from "../../src/mm/invariants.ts";
import { Mm } from "../../src/mm/mm.ts";
import type { MremapOptions } from "../../src/mm/mremap.ts";
import { MMU_NOTIFY_CLEAR, MMU_NOTIFY_UNMAP } from "../../src/mm/types.ts";
import { TASK_SIZE } from "../../src/mm/vma.ts";
import { FakeDevice, MB, PAGE, RecordingNotifier, expectBytes, pattern, readOk, testPhys } from "./mm-fake-device.ts";

const BASE = 0x7f0000000000;
const TO = BASE + 64 * MB;

async function setUp(pages = 4, ramPages = 4096) {
  const phys = testPhys(ramPages);
  const mm = new Mm({ phys });
  const free = phys.freePages;
  await mm.mmap(pages * PAGE, { at: BASE });
  const bytes = pattern(pages * PAGE);
  await mm.write(BASE, bytes);
  return { phys, mm, bytes, free };
}

function watch(mm: Mm, start = BASE, length = 128 * MB): RecordingNotifier {
  const watcher = new RecordingNotifier(mm, start, start + length);
  void mm.intervalNotifierInsert(watcher);
  return watcher;
}

/** Areas as `[first page, end page]` counted from BASE. */
function areas(mm: Mm): [number, number][] {
  return mm.vmas.all().map((v) => [(v.start - BASE) / PAGE, (v.end - BASE) / PAGE]);
}

describe("in place", () => {
  test("the same length changes nothing and gives the address", async () => {
    const { mm } = await setUp();
    const watcher = watch(mm);
    expect(await mm.mremap(BASE, 4 * PAGE, 4 * PAGE)).toBe(BASE);
    expect(await mm.mremap(BASE + PAGE, PAGE, PAGE, { mayMove: true })).toBe(BASE + PAGE);
    expect(watcher.events).toEqual([]);
    expect(areas(mm)).toEqual([[0, 4]]);
  });

  test("shrinking unmaps the tail, announced as UNMAP", async () => {
    const { phys, mm, bytes } = await setUp();
    const watcher = watch(mm);
    expect(await mm.mremap(BASE, 4 * PAGE, PAGE + 1)).toBe(BASE);
    expect(watcher.take()).toEqual([[MMU_NOTIFY_UNMAP, BASE + 2 * PAGE, BASE + 4 * PAGE]]);
    expect(areas(mm)).toEqual([[0, 2]]);
    expectBytes(await readOk(mm, BASE, 2 * PAGE), bytes.subarray(0, 2 * PAGE));
    checkQuiescent(phys);
  });

  test("shrinking a part in the middle leaves what follows", async () => {
    const { mm, bytes } = await setUp();
    expect(await mm.mremap(BASE + PAGE, 2 * PAGE, PAGE)).toBe(BASE + PAGE);
    expect(areas(mm)).toEqual([
      [0, 2],
      [3, 4],
    ]);
    expectBytes(await readOk(mm, BASE + 3 * PAGE, PAGE), bytes.subarray(3 * PAGE));
  });

  test("growing into free space is one area and no event; the new pages are zeros", async () => {
    const { mm, bytes } = await setUp();
    const watcher = watch(mm);
    expect(await mm.mremap(BASE + 2 * PAGE, 2 * PAGE, 4 * PAGE)).toBe(BASE + 2 * PAGE);
    expect(areas(mm)).toEqual([[0, 6]]);
    expect(watcher.events).toEqual([]);
    const expected = new Uint8Array(6 * PAGE);
    expected.set(bytes);
    expectBytes(await readOk(mm, BASE, 6 * PAGE), expected);
  });

  test("a file's mapping that grows shows more of the file, as far as it reaches", async () => {
    const { phys, mm } = await setUp();
    const file = new MemFile(phys, { size: 0 });
    const bytes = pattern(3 * PAGE, 2);
    await file.write(0, bytes);
    await mm.mmap(PAGE, { at: TO, file, offset: PAGE, shared: true });
    expect(await mm.mremap(TO, PAGE, 3 * PAGE)).toBe(TO);
    expectBytes(await readOk(mm, TO, 2 * PAGE), bytes.subarray(PAGE));
    expect(await mm.load32(TO + 2 * PAGE)).toMatchObject({ code: "BUS" });
    checkQuiescent(phys);
  });

  test("locked memory that grows is filled", async () => {
    const { mm } = await setUp();
    await mm.mlock(BASE, 4 * PAGE);
    await mm.mremap(BASE, 4 * PAGE, 6 * PAGE);
    expect(mm.pageAt(BASE + 5 * PAGE).kind).toBe("present");
    expect(mm.vmas.all().map((v) => v.locked)).toEqual([true]);
  });
});

describe("moving", () => {
  test("takes the frames along; UNMAP for the old place before, nothing for the new one", async () => {
    const { phys, mm, bytes } = await setUp();
    await mm.mprotect(BASE + 3 * PAGE, PAGE, "R");
    await mm.mprotect(BASE + 3 * PAGE, PAGE, "RW");
    const watcher = watch(mm);
    const { pfn } = mm.pageAt(BASE + PAGE);
    const kinds: string[] = [];
    watcher.check = () => void kinds.push(mm.pageAt(BASE).kind, mm.pageAt(TO).kind);
    expect(await mm.mremap(BASE, 4 * PAGE, 4 * PAGE, { to: TO })).toBe(TO);
    expect(watcher.take()).toEqual([[MMU_NOTIFY_UNMAP, BASE, BASE + 4 * PAGE]]);
    expect(kinds).toEqual(["present", "none"]);
    expect(mm.pageAt(TO + PAGE)).toMatchObject({ kind: "present", pfn, writable: true });
    expect(await mm.load32(BASE)).toMatchObject({ code: "SEGV" });
    expectBytes(await readOk(mm, TO, 4 * PAGE), bytes);
    await mm.store32(TO, 1);
    checkQuiescent(phys);
  });

  test("when it cannot grow where it is", async () => {
    const { phys, mm, bytes } = await setUp();
    await mm.mmap(PAGE, { at: BASE + 4 * PAGE, prot: "R" });
    expect(await mm.mremap(BASE, 4 * PAGE, 8 * PAGE)).toBe(ENOMEM);
    expect(areas(mm)).toEqual([
      [0, 4],
      [4, 5],
    ]);
    const to = (await mm.mremap(BASE, 4 * PAGE, 8 * PAGE, { mayMove: true })) as number;
    expect(to).toBe(2 ** 32);
    const expected = new Uint8Array(8 * PAGE);
    expected.set(bytes);
    expectBytes(await readOk(mm, to, 8 * PAGE), expected);
    expect(mm.vmaLookup(BASE)).toBeNull();
    checkQuiescent(phys);
  });

  test("a part that is not the area's end grows by moving, and leaves the rest", async () => {
    const { mm, bytes } = await setUp();
    const to = (await mm.mremap(BASE + PAGE, PAGE, 2 * PAGE, { mayMove: true })) as number;
    expect(areas(mm).slice(1)).toEqual([
      [0, 1],
      [2, 4],
    ]);
    expectBytes(await readOk(mm, to, PAGE), bytes.subarray(PAGE, 2 * PAGE));
    expectBytes(await readOk(mm, to + PAGE, PAGE), new Uint8Array(PAGE));
  });

  test("to a fixed place replaces what is there, and can shrink on the way", async () => {
    const { phys, mm, bytes } = await setUp();
    await mm.mmap(4 * PAGE, { at: TO });
    await mm.fill(TO, 4 * PAGE, 9);
    const watcher = watch(mm);
    expect(await mm.mremap(BASE, 4 * PAGE, 2 * PAGE, { to: TO + PAGE })).toBe(TO + PAGE);
    expect(watcher.take()).toEqual([
      [MMU_NOTIFY_UNMAP, TO + PAGE, TO + 3 * PAGE],
      [MMU_NOTIFY_UNMAP, BASE + 2 * PAGE, BASE + 4 * PAGE],
      [MMU_NOTIFY_UNMAP, BASE, BASE + 2 * PAGE],
    ]);
    const expected = new Uint8Array(4 * PAGE).fill(9);
    expected.set(bytes.subarray(0, 2 * PAGE), PAGE);
    expectBytes(await readOk(mm, TO, 4 * PAGE), expected);
    expect(mm.vmas.all().length).toBe(1);
    checkQuiescent(phys);
  });

  test("across borders of page tables, by any distance (each page has its own)", async () => {
    const pages = 700;
    for (const shift of [PAGE, 511 * PAGE, 2 * MB, 2 * MB + 3 * PAGE]) {
      const { phys, mm, bytes } = await setUp(pages);
      const to = TO + shift;
      await mm.mremap(BASE, pages * PAGE, pages * PAGE, { to });
      expectBytes(await readOk(mm, to, pages * PAGE), bytes);
      expect(mm.tables.find(BASE)).toBeNull();
      checkQuiescent(phys);
      await mm.munmap(to, pages * PAGE);
      expect(mm.tables.tableCount).toBe(0);
    }
  });

  test("a file's area keeps its offsets, and a store reaches the file", async () => {
    const { phys, mm } = await setUp();
    const file = new MemFile(phys, { size: 4 * PAGE });
    await mm.mmap(4 * PAGE, { at: TO, file, shared: true });
    await mm.store32(TO + 2 * PAGE, 3);
    await mm.mremap(TO + 2 * PAGE, PAGE, PAGE, { to: BASE + 16 * PAGE });
    expect(await mm.load32(BASE + 16 * PAGE)).toBe(3);
    expect(mm.vmas.lookup(BASE + 16 * PAGE)!.offset).toBe(2 * PAGE);
    await mm.dontneed(BASE + 16 * PAGE, PAGE);
    await mm.store32(BASE + 16 * PAGE, 4);
    expect([...((await file.read(2 * PAGE, 1)) as Uint8Array)]).toEqual([4]);
    expect(file.mapped).toBe(3);
    checkQuiescent(phys);
  });
});

test("locked memory that grows by moving is filled", async () => {
  const { phys, mm } = await setUp();
  await mm.mmap(PAGE, { at: BASE + 4 * PAGE, prot: "R" });
  await mm.mlock(BASE, 4 * PAGE);
  const to = (await mm.mremap(BASE, 4 * PAGE, 6 * PAGE, { mayMove: true })) as number;
  expect([mm.pageAt(to + 4 * PAGE).kind, mm.pageAt(to + 5 * PAGE).kind]).toEqual(["present", "present"]);
  checkQuiescent(phys);
});

describe("dontunmap", () => {
  test("leaves the old area without its pages", async () => {
    const { phys, mm, bytes } = await setUp();
    await mm.mlock(BASE, 4 * PAGE);
    const watcher = watch(mm);
    expect(await mm.mremap(BASE, 4 * PAGE, 4 * PAGE, { to: TO, dontunmap: true })).toBe(TO);
    expect(watcher.take()).toEqual([[MMU_NOTIFY_UNMAP, BASE, BASE + 4 * PAGE]]);
    expect(mm.vmas.all().map((v) => [v.start, v.locked])).toEqual([
      [BASE, false],
      [TO, true],
    ]);
    expectBytes(await readOk(mm, TO, 4 * PAGE), bytes);
    expectBytes(await readOk(mm, BASE, 4 * PAGE), new Uint8Array(4 * PAGE));
    await mm.store32(BASE, 1);
    expectBytes(await readOk(mm, TO, 4 * PAGE), bytes);
    checkQuiescent(phys);
  });

  test("chooses an address if none is given", async () => {
    const { mm, bytes } = await setUp();
    const to = (await mm.mremap(BASE, 4 * PAGE, 4 * PAGE, { dontunmap: true })) as number;
    expect(to).toBe(2 ** 32);
    expectBytes(await readOk(mm, to, 4 * PAGE), bytes);
    expect(await mm.load32(BASE)).toBe(0);
  });

  test("of a part splits nothing that can stay one area", async () => {
    const { mm } = await setUp();
    await mm.mremap(BASE + PAGE, PAGE, PAGE, { dontunmap: true });
    expect(areas(mm).at(-1)).toEqual([0, 4]);
    expect(await mm.load32(BASE + PAGE)).toBe(0);
  });
});

describe("whatever the entries are", () => {
  test("device pages move without coming home, and come home to the new place", async () => {
    const { phys, mm, bytes } = await setUp();
    const device = new FakeDevice(phys);
    await device.migrate(mm, BASE, BASE + 4 * PAGE);
    await mm.mremap(BASE, 4 * PAGE, 4 * PAGE, { to: TO + 3 * PAGE });
    expect(mm.pageAt(TO + 3 * PAGE).kind).toBe("device-private");
    checkQuiescent(phys);
    expectBytes(await readOk(mm, TO + 3 * PAGE, 4 * PAGE), bytes);
    expect(device.freePages).toBe(1024);
    checkQuiescent(phys);
  });

  test("pages in swap, of zeros and without access", async () => {
    const { phys, mm, bytes } = await setUp();
    await mm.madvise(BASE, PAGE, "pageout");
    await mm.dontneed(BASE + PAGE, PAGE);
    await mm.load32(BASE + PAGE);
    await mm.mprotect(BASE, 4 * PAGE, "NONE");
    await mm.mremap(BASE, 4 * PAGE, 4 * PAGE, { to: TO });
    checkQuiescent(phys);
    expect(await mm.load32(TO)).toMatchObject({ code: "SEGV" });
    await mm.mprotect(TO, 4 * PAGE, "RW");
    expectBytes(await readOk(mm, TO, 4 * PAGE), bytes.slice().fill(0, PAGE, 2 * PAGE));
    checkQuiescent(phys);
  });

  test("pages that a forked child shares", async () => {
    const { phys, mm, bytes } = await setUp();
    const child = (await mm.fork()) as Mm;
    await mm.mremap(BASE, 4 * PAGE, 4 * PAGE, { to: TO });
    checkQuiescent(phys);
    await mm.store32(TO, 0);
    expectBytes(await readOk(child, BASE, 4 * PAGE), bytes);
    checkQuiescent(phys);
  });

  test("pages under eviction, in every order that 64 seeds draw: the bytes arrive", async () => {
    for (let seed = 1; seed <= 64; seed++) {
      const { phys, mm, bytes, free } = await setUp(4, 128);
      const device = new FakeDevice(phys, 16);
      await device.migrate(mm, BASE, BASE + 4 * PAGE);
      watch(mm).check = async () => void (await phys.sched.point("callback"));
      const pfns = [0, 1, 2, 3].map((i) => mm.pageAt(BASE + i * PAGE).pfn);
      await phys.sched.race<unknown>(seed, [
        () => device.evict(pfns),
        async () => mm.mremap(BASE, 4 * PAGE, 4 * PAGE, { to: TO + PAGE }),
        async () => mm.load32(BASE + PAGE),
        async () => mm.load32(TO + 2 * PAGE),
      ]);
      checkQuiescent(phys);
      expectBytes(await readOk(mm, TO + PAGE, 4 * PAGE), bytes);
      await mm.exit();
      expect([phys.freePages, device.freePages]).toEqual([free, 16]);
    }
  });
});

describe("huge pages", () => {
  async function huge(options: { hugetlb?: boolean } = {}) {
    const phys = testPhys(4096);
    const mm = new Mm({ phys });
    await mm.mmap(4 * MB, { at: BASE, ...options });
    if (options.hugetlb !== true) await mm.madvise(BASE, 4 * MB, "hugepage");
    const bytes = pattern(4 * MB);
    await mm.write(BASE, bytes);
    expect(mm.tables.hugeCount).toBe(2);
    return { phys, mm, bytes };
  }

  test("move whole between aligned places", async () => {
    const { phys, mm, bytes } = await huge();
    const watcher = watch(mm);
    await mm.mremap(BASE, 4 * MB, 4 * MB, { to: TO });
    expect(watcher.take()).toEqual([[MMU_NOTIFY_UNMAP, BASE, BASE + 4 * MB]]);
    expect(mm.tables.hugeCount).toBe(2);
    expectBytes(await readOk(mm, TO, 4 * MB), bytes);
    checkQuiescent(phys);
  });

  test("are split where only a part moves", async () => {
    const { phys, mm, bytes } = await huge();
    const watcher = watch(mm);
    await mm.mremap(BASE + MB, 3 * MB, 3 * MB, { to: TO + MB });
    expect(watcher.take()).toEqual([
      [MMU_NOTIFY_CLEAR, BASE, BASE + 2 * MB],
      [MMU_NOTIFY_UNMAP, BASE + MB, BASE + 4 * MB],
    ]);
    expect(mm.tables.hugeCount).toBe(1);
    expectBytes(await readOk(mm, BASE, MB), bytes.subarray(0, MB));
    expectBytes(await readOk(mm, TO + MB, 3 * MB), bytes.subarray(MB));
    checkQuiescent(phys);
  });

  test("are split where the new place is aligned otherwise", async () => {
    const { phys, mm, bytes } = await huge();
    await mm.mremap(BASE, 4 * MB, 4 * MB, { to: TO + PAGE });
    expect(mm.tables.hugeCount).toBe(0);
    expectBytes(await readOk(mm, TO + PAGE, 4 * MB), bytes);
    checkQuiescent(phys);
  });

  test("of hugetlb move and shrink in whole pages; other pieces, and growing, are refused", async () => {
    const { phys, mm, bytes } = await huge({ hugetlb: true });
    expect(await mm.mremap(BASE, 4 * MB, 4 * MB, { to: TO + MB })).toBe(EINVAL);
    expect(await mm.mremap(BASE + MB, 2 * MB, 2 * MB, { to: TO })).toBe(EINVAL);
    expect(await mm.mremap(BASE, 4 * MB, 6 * MB, { mayMove: true })).toBe(EINVAL);
    expect(await mm.mremap(BASE, 4 * MB, 3 * MB)).toBe(EINVAL);
    expect(await mm.mremap(BASE, 4 * MB, 2 * MB, { to: TO })).toBe(TO);
    expect(mm.tables.hugeCount).toBe(1);
    expectBytes(await readOk(mm, TO, 2 * MB), bytes.subarray(0, 2 * MB));
    expect(mm.vmas.all().length).toBe(1);
    checkQuiescent(phys);
  });
});

describe("an old length of 0", () => {
  test("maps shared memory a second time", async () => {
    const { phys, mm } = await setUp();
    await mm.mmap(2 * PAGE, { at: TO, shared: true });
    await mm.store32(TO + PAGE, 5);
    const again = (await mm.mremap(TO + PAGE, 0, PAGE, { mayMove: true })) as number;
    expect(await mm.load32(again)).toBe(5);
    await mm.store32(again, 6);
    expect(await mm.load32(TO + PAGE)).toBe(6);
    checkQuiescent(phys);
  });

  test("is refused for private memory", async () => {
    const { mm } = await setUp();
    expect(await mm.mremap(BASE, 0, PAGE, { mayMove: true })).toBe(EINVAL);
  });
});

describe("refused, with nothing changed and nobody told", () => {
  const refusals: readonly [string, number, number, number, MremapOptions, number][] = [
    ["an unaligned address", BASE + 1, PAGE, PAGE, {}, EINVAL],
    ["an unaligned target", BASE, PAGE, PAGE, { to: TO + 8 }, EINVAL],
    ["a new length of 0", BASE, PAGE, 0, {}, EINVAL],
    ["a negative length", BASE, -PAGE, PAGE, {}, EINVAL],
    ["a length that wraps", BASE, 2 ** 53, PAGE, {}, EINVAL],
    ["a new length beyond the address space", BASE, PAGE, 2 ** 47, { mayMove: true }, EINVAL],
    ["a target at the end of the address space", BASE, PAGE, 2 * PAGE, { to: TASK_SIZE - PAGE }, EINVAL],
    ["a target over the old place", BASE, 4 * PAGE, 4 * PAGE, { to: BASE + 3 * PAGE }, EINVAL],
    ["an old place over the target", BASE + 3 * PAGE, PAGE, 4 * PAGE, { to: BASE }, EINVAL],
    ["a target without leave to move", BASE, PAGE, PAGE, { to: TO, mayMove: false }, EINVAL],
    ["dontunmap without leave to move", BASE, PAGE, PAGE, { dontunmap: true, mayMove: false }, EINVAL],
    ["dontunmap with another length", BASE, 2 * PAGE, PAGE, { to: TO, dontunmap: true }, EINVAL],
    ["nothing mapped", BASE + 8 * PAGE, PAGE, PAGE, {}, EFAULT],
    ["more than the area", BASE, 6 * PAGE, 6 * PAGE, { to: TO }, EFAULT],
    ["an interval over two areas", BASE + 3 * PAGE, 2 * PAGE, 4 * PAGE, { mayMove: true }, EFAULT],
    ["growing over the next area", BASE, 4 * PAGE, 5 * PAGE, {}, ENOMEM],
  ];
  test.each(refusals)("%s", async (_, start, oldLength, newLength, options, errno) => {
    const { mm, bytes } = await setUp();
    await mm.mmap(PAGE, { at: BASE + 4 * PAGE, prot: "R" });
    const watcher = watch(mm);
    expect(await mm.mremap(start, oldLength, newLength, options)).toBe(errno);
    expect(watcher.events).toEqual([]);
    expect(areas(mm)).toEqual([
      [0, 4],
      [4, 5],
    ]);
    expectBytes(await readOk(mm, BASE, 4 * PAGE), bytes);
  });

  test("offsets in the file that are not exact", async () => {
    const { phys, mm } = await setUp();
    const file = new MemFile(phys, { size: PAGE });
    const offset = Number.MAX_SAFE_INTEGER + 1 - 4 * PAGE;
    await mm.mmap(PAGE, { at: TO, file, offset });
    expect(await mm.mremap(TO, PAGE, 8 * PAGE)).toBe(EOVERFLOW);
  });

  test("a target that cuts a huge page which cannot be split", async () => {
    const { mm } = await setUp();
    await mm.mmap(2 * MB, { at: TO, hugetlb: true });
    expect(await mm.mremap(BASE, PAGE, PAGE, { to: TO + PAGE })).toBe(EINVAL);
    expect(mm.vmas.all().length).toBe(2);
  });
});

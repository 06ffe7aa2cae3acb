import { describe, expect, test } from "vitest";
import { EACCES, EAGAIN, EFAULT, EINVAL, ENOMEM } from "../../src/base/errno.ts";
import { MemFile } from "../../src/mm/file.ts";
import { checkQuiescent } from "../../src/mm/invariants.ts";
import type { Advice } from "../../src/mm/madvise.ts";
import { Mm } from "../../src/mm/mm.ts";
import { MMU_NOTIFY_CLEAR } from "../../src/mm/types.ts";
import { TASK_SIZE } from "../../src/mm/vma.ts";
import { FakeDevice, MB, PAGE, RecordingNotifier, expectBytes, pattern, readOk, testPhys } from "./mm-fake-device.ts";

const BASE = 0x7f0000000000;
const ALL: readonly Advice[] = [
  "dontneed",
  "free",
  "remove",
  "populate-read",
  "populate-write",
  "hugepage",
  "nohugepage",
  "collapse",
  "pageout",
  "cold",
];

async function setUp(pages = 4, ramPages = 4096) {
  const phys = testPhys(ramPages);
  const mm = new Mm({ phys });
  await mm.mmap(pages * PAGE, { at: BASE });
  return { phys, mm, free: phys.freePages };
}

function watch(mm: Mm, bytes = 4 * MB): RecordingNotifier {
  const watcher = new RecordingNotifier(mm, BASE, BASE + bytes);
  void mm.intervalNotifierInsert(watcher);
  return watcher;
}

describe.each(["dontneed", "free"] as const)("%s", (advice) => {
  test("drops the pages and keeps the area; CLEAR is told before", async () => {
    const { phys, mm, free } = await setUp();
    await mm.fill(BASE, 4 * PAGE, 9);
    const watcher = watch(mm);
    const kinds: string[] = [];
    watcher.check = (range) => void kinds.push(mm.pageAt(range.start).kind);
    expect(await mm.madvise(BASE + PAGE, 2 * PAGE, advice)).toBe(0);
    expect(watcher.take()).toEqual([[MMU_NOTIFY_CLEAR, BASE + PAGE, BASE + 3 * PAGE]]);
    expect(kinds).toEqual(["present"]);
    expect(phys.freePages).toBe(free - 2);
    expectBytes(await readOk(mm, BASE, 4 * PAGE), new Uint8Array(4 * PAGE).fill(9).fill(0, PAGE, 3 * PAGE));
    checkQuiescent(phys);
  });

  test("frees device pages and swap slots", async () => {
    const { phys, mm } = await setUp();
    await mm.fill(BASE, 4 * PAGE, 9);
    const device = new FakeDevice(phys);
    await device.migrate(mm, BASE, BASE + 2 * PAGE);
    await mm.madvise(BASE + 2 * PAGE, 2 * PAGE, "pageout");
    expect([device.freePages, phys.swap.used]).toEqual([1022, 2]);
    await mm.madvise(BASE, 4 * PAGE, advice);
    expect([device.freePages, phys.swap.used]).toEqual([1024, 0]);
    expectBytes(await readOk(mm, BASE, 4 * PAGE), new Uint8Array(4 * PAGE));
    checkQuiescent(phys);
  });

  test("a part of a huge page splits it first", async () => {
    const { phys, mm } = await setUp(512);
    await mm.madvise(BASE, 2 * MB, "hugepage");
    await mm.fill(BASE, 2 * MB, 9);
    const watcher = watch(mm);
    await mm.madvise(BASE + PAGE, PAGE, advice);
    expect(watcher.take()).toEqual([
      [MMU_NOTIFY_CLEAR, BASE, BASE + 2 * MB],
      [MMU_NOTIFY_CLEAR, BASE + PAGE, BASE + 2 * PAGE],
    ]);
    expectBytes(await readOk(mm, BASE, 2 * MB), new Uint8Array(2 * MB).fill(9).fill(0, PAGE, 2 * PAGE));
    checkQuiescent(phys);
  });

  test("in locked memory is refused", async () => {
    const { mm } = await setUp();
    await mm.store32(BASE, 1);
    await mm.mlock(BASE + PAGE, PAGE);
    expect(await mm.madvise(BASE, 4 * PAGE, advice)).toBe(EINVAL);
    expect(await mm.load32(BASE)).toBe(1);
    await mm.munlock(BASE + PAGE, PAGE);
    expect(await mm.madvise(BASE, 4 * PAGE, advice)).toBe(0);
    expect(await mm.load32(BASE)).toBe(0);
  });
});

test("free is for private anonymous memory alone", async () => {
  const { phys, mm } = await setUp();
  const file = new MemFile(phys, { size: PAGE });
  await mm.mmap(PAGE, { at: BASE + PAGE, file });
  expect(await mm.madvise(BASE, 2 * PAGE, "free")).toBe(EINVAL);
  await mm.mmap(PAGE, { at: BASE + PAGE, shared: true });
  expect(await mm.madvise(BASE, 2 * PAGE, "free")).toBe(EINVAL);
});

describe("populating", () => {
  test("for reading maps zeros, for writing makes pages; neither is an event", async () => {
    const { phys, mm, free } = await setUp();
    const watcher = watch(mm);
    expect(await mm.madvise(BASE, 2 * PAGE, "populate-read")).toBe(0);
    expect([phys.freePages, mm.pageAt(BASE)]).toMatchObject([free, { kind: "present", writable: false }]);
    expect(await mm.madvise(BASE + 2 * PAGE, 2 * PAGE, "populate-write")).toBe(0);
    expect([phys.freePages, mm.pageAt(BASE + 3 * PAGE)]).toMatchObject([free - 2, { kind: "present", writable: true }]);
    expect(watcher.events).toEqual([]);
    expect(await mm.madvise(BASE, PAGE, "populate-write")).toBe(0);
    expect(watcher.take()).toEqual([[MMU_NOTIFY_CLEAR, BASE, BASE + PAGE]]);
    checkQuiescent(phys);
  });

  test("brings device pages and swapped pages home, with their bytes", async () => {
    const { phys, mm } = await setUp();
    const bytes = pattern(4 * PAGE);
    await mm.write(BASE, bytes);
    const device = new FakeDevice(phys);
    await device.migrate(mm, BASE, BASE + 2 * PAGE);
    await mm.madvise(BASE + 2 * PAGE, 2 * PAGE, "pageout");
    expect(await mm.madvise(BASE, 4 * PAGE, "populate-read")).toBe(0);
    for (let i = 0; i < 4; i++) expect(mm.pageAt(BASE + i * PAGE).kind).toBe("present");
    expectBytes(await readOk(mm, BASE, 4 * PAGE), bytes);
    checkQuiescent(phys);
  });

  test("memory that forbids the access is refused before anything is filled", async () => {
    const { mm } = await setUp();
    await mm.mprotect(BASE + PAGE, PAGE, "R");
    expect(await mm.madvise(BASE, 2 * PAGE, "populate-write")).toBe(EINVAL);
    expect(mm.pageAt(BASE).kind).toBe("none");
    await mm.mprotect(BASE + PAGE, PAGE, "NONE");
    expect(await mm.madvise(BASE, 2 * PAGE, "populate-read")).toBe(EINVAL);
    expect(mm.pageAt(BASE).kind).toBe("none");
  });

  test("ends with -ENOMEM when RAM is used up and -EFAULT beyond the end of a file; what is filled stays", async () => {
    const { phys, mm } = await setUp(8, 6);
    expect(await mm.madvise(BASE, 8 * PAGE, "populate-write")).toBe(ENOMEM);
    expect([phys.freePages, mm.pageAt(BASE + 3 * PAGE).kind]).toEqual([0, "present"]);
    await mm.dontneed(BASE, 8 * PAGE);
    const file = new MemFile(phys, { size: PAGE });
    await mm.mmap(2 * PAGE, { at: BASE, file, shared: true });
    expect(await mm.madvise(BASE, 2 * PAGE, "populate-read")).toBe(EFAULT);
    expect(mm.pageAt(BASE).kind).toBe("present");
  });
});

describe("huge pages", () => {
  test("hugepage and nohugepage split and merge areas; first stores follow them", async () => {
    const { phys, mm } = await setUp(1024);
    expect(await mm.madvise(BASE, 2 * MB, "hugepage")).toBe(0);
    expect(mm.vmas.all().map((v) => v.thp)).toEqual(["always", "default"]);
    await mm.store32(BASE, 1);
    await mm.store32(BASE + 2 * MB, 1);
    expect(mm.tables.hugeCount).toBe(1);
    expect(await mm.madvise(BASE, 4 * MB, "nohugepage")).toBe(0);
    expect(mm.vmas.all().map((v) => v.thp)).toEqual(["never"]);
    expect(await mm.madvise(BASE, 4 * MB, "hugepage")).toBe(0);
    expect(mm.vmas.all().length).toBe(1);
    checkQuiescent(phys);
  });

  test("collapse makes one of small pages, holes and swapped pages, and of nothing that it covers in part", async () => {
    const { phys, mm } = await setUp(1024);
    const bytes = new Uint8Array(4 * MB);
    bytes.set(pattern(8 * PAGE));
    await mm.write(BASE, bytes.subarray(0, 8 * PAGE));
    await mm.madvise(BASE, 4 * PAGE, "pageout");
    const watcher = watch(mm);
    expect(await mm.madvise(BASE, 3 * MB, "collapse")).toBe(0);
    expect(watcher.take()).toEqual([[MMU_NOTIFY_CLEAR, BASE, BASE + 2 * MB]]);
    expect([mm.tables.isHuge(BASE / 2 / MB), mm.tables.hugeCount]).toEqual([true, 1]);
    expectBytes(await readOk(mm, BASE, 4 * MB), bytes);
    checkQuiescent(phys);
  });

  test("collapse says why something stayed small, after doing the rest", async () => {
    const { phys, mm } = await setUp(1024);
    await mm.store32(BASE, 1);
    await mm.store32(BASE + 2 * MB, 2);
    const device = new FakeDevice(phys);
    await device.migrate(mm, BASE, BASE + PAGE);
    expect(await mm.madvise(BASE, 4 * MB, "collapse")).toBe(EINVAL);
    expect(mm.tables.isHuge(BASE / 2 / MB + 1)).toBe(true);
    checkQuiescent(phys);
  });

  test("are not to be had where the area does not want them, nor for files", async () => {
    const { phys, mm } = await setUp(1024);
    await mm.madvise(BASE, 2 * MB, "nohugepage");
    expect(await mm.madvise(BASE, 4 * MB, "collapse")).toBe(EINVAL);
    expect(mm.tables.hugeCount).toBe(0);
    const file = new MemFile(phys, { size: 2 * MB });
    await mm.mmap(2 * MB, { at: BASE, file });
    expect(await mm.madvise(BASE, 2 * MB, "collapse")).toBe(EINVAL);
  });

  test.each(["hugepage", "nohugepage", "collapse", "pageout", "cold", "free"] as const)(
    "%s is refused for hugetlb",
    async (advice) => {
      const { mm } = await setUp(512);
      await mm.mmap(2 * MB, { at: BASE + 2 * MB, hugetlb: true });
      expect(await mm.madvise(BASE, 4 * MB, advice)).toBe(EINVAL);
      expect(mm.vmas.all().map((v) => v.thp)).toEqual(["default", "default"]);
    },
  );
});

describe("pageout", () => {
  test("puts private pages into swap, announced as CLEAR; an access brings them back", async () => {
    const { phys, mm, free } = await setUp();
    const bytes = pattern(4 * PAGE);
    await mm.write(BASE, bytes);
    const watcher = watch(mm);
    expect(await mm.madvise(BASE + PAGE, 2 * PAGE, "pageout")).toBe(0);
    expect(watcher.take()).toEqual([[MMU_NOTIFY_CLEAR, BASE + PAGE, BASE + 3 * PAGE]]);
    expect([phys.freePages, phys.swap.used]).toEqual([free - 2, 2]);
    expectBytes(await readOk(mm, BASE, 4 * PAGE), bytes);
    checkQuiescent(phys);
  });

  test.each(["pageout", "cold"] as const)("%s of locked memory is refused", async (advice) => {
    const { phys, mm } = await setUp();
    await mm.mlock(BASE, PAGE);
    expect(await mm.madvise(BASE, 4 * PAGE, advice)).toBe(EINVAL);
    expect(phys.swap.used).toBe(0);
  });

  test("leaves the pages of files", async () => {
    const { phys, mm } = await setUp();
    await mm.mmap(PAGE, { at: BASE, shared: true });
    await mm.store32(BASE, 5);
    expect(await mm.madvise(BASE, PAGE, "pageout")).toBe(0);
    expect([phys.swap.used, await mm.load32(BASE)]).toEqual([0, 5]);
  });
});

test("a part of a huge page of hugetlb can be populated, not dropped", async () => {
  const { phys, mm } = await setUp();
  await mm.mmap(2 * MB, { at: BASE, hugetlb: true });
  expect(await mm.madvise(BASE + PAGE, PAGE, "populate-read")).toBe(0);
  expect(mm.tables.hugeCount).toBe(1);
  expect(await mm.madvise(BASE + PAGE, PAGE, "dontneed")).toBe(EINVAL);
  expect(await mm.madvise(BASE, 2 * MB, "dontneed")).toBe(0);
  expect([mm.tables.hugeCount, mm.pageAt(BASE).kind]).toEqual([0, "none"]);
  checkQuiescent(phys);
});

test("cold changes nothing that can be seen", async () => {
  const { mm } = await setUp();
  const bytes = pattern(4 * PAGE);
  await mm.write(BASE, bytes);
  const watcher = watch(mm);
  expect(await mm.madvise(BASE, 4 * PAGE, "cold")).toBe(0);
  expect(watcher.events).toEqual([]);
  expectBytes(await readOk(mm, BASE, 4 * PAGE), bytes);
});

describe("remove", () => {
  test("needs a shared mapping of a file that can be stored to and is not locked", async () => {
    const { phys, mm } = await setUp();
    const file = new MemFile(phys, { size: PAGE });
    expect(await mm.madvise(BASE, PAGE, "remove")).toBe(EINVAL);
    await mm.mmap(PAGE, { at: BASE, file });
    expect(await mm.madvise(BASE, PAGE, "remove")).toBe(EACCES);
    await mm.mmap(PAGE, { at: BASE, file, shared: true, prot: "R" });
    expect(await mm.madvise(BASE, PAGE, "remove")).toBe(EACCES);
    await mm.mmap(PAGE, { at: BASE, file, shared: true });
    await mm.mlock(BASE, PAGE);
    expect(await mm.madvise(BASE, PAGE, "remove")).toBe(EINVAL);
    await mm.munlock(BASE, PAGE);
    expect(await mm.madvise(BASE, PAGE, "remove")).toBe(0);
    expect(file.cachedPages).toBe(0);
  });

  test("of shared anonymous memory that is unmapped meanwhile frees the frames all the same", async () => {
    for (let seed = 1; seed <= 32; seed++) {
      const { phys, mm, free } = await setUp(4, 64);
      await mm.mmap(4 * PAGE, { at: BASE, shared: true, populate: true });
      watch(mm).check = async () => void (await phys.sched.point("callback"));
      await phys.sched.race<unknown>(seed, [
        async () => mm.madvise(BASE, 2 * PAGE, "remove"),
        async () => mm.munmap(BASE, 4 * PAGE),
      ]);
      checkQuiescent(phys);
      expect(phys.freePages).toBe(free);
    }
  });
});

describe.each(ALL)("%s", (advice) => {
  test("of bad intervals is refused, with nobody told", async () => {
    const { mm } = await setUp();
    await mm.fill(BASE, 4 * PAGE, 7);
    const watcher = watch(mm);
    expect(await mm.madvise(BASE + 1, PAGE, advice)).toBe(EINVAL);
    expect(await mm.madvise(-PAGE, PAGE, advice)).toBe(EINVAL);
    expect(await mm.madvise(BASE, -1, advice)).toBe(EINVAL);
    expect(await mm.madvise(BASE, 2 ** 53, advice)).toBe(EINVAL);
    expect(await mm.madvise(TASK_SIZE - PAGE, 2 * PAGE, advice)).toBe(EINVAL);
    expect(await mm.madvise(BASE + PAGE, 4 * PAGE, advice)).toBe(ENOMEM);
    expect(await mm.madvise(BASE, 0, advice)).toBe(0);
    expect(watcher.events).toEqual([]);
    expectBytes(await readOk(mm, BASE, 4 * PAGE), new Uint8Array(4 * PAGE).fill(7));
    expect(mm.vmas.all().map((v) => v.thp)).toEqual(["default"]);
  });
});

describe("mlock", () => {
  test("takes whole pages in, makes them present and marks the areas; munlock undoes the mark alone", async () => {
    const { phys, mm } = await setUp();
    expect(await mm.mlock(BASE + PAGE + 1, PAGE)).toBe(0);
    expect(mm.vmas.all().map((v) => v.locked)).toEqual([false, true, false]);
    expect([0, 1, 2, 3].map((i) => mm.pageAt(BASE + i * PAGE).kind)).toEqual(["none", "present", "present", "none"]);
    expect(await mm.munlock(BASE, 4 * PAGE)).toBe(0);
    expect(mm.vmas.all().map((v) => v.locked)).toEqual([false]);
    expect(mm.pageAt(BASE + PAGE).kind).toBe("present");
    checkQuiescent(phys);
  });

  test("brings swapped and device pages home and keeps them from swap", async () => {
    const { phys, mm } = await setUp();
    const bytes = pattern(4 * PAGE);
    await mm.write(BASE, bytes);
    await mm.madvise(BASE, 2 * PAGE, "pageout");
    const device = new FakeDevice(phys);
    await device.migrate(mm, BASE + 2 * PAGE, BASE + 4 * PAGE);
    expect(await mm.mlock(BASE, 4 * PAGE)).toBe(0);
    for (let i = 0; i < 4; i++) expect(mm.pageAt(BASE + i * PAGE).kind).toBe("present");
    expectBytes(await readOk(mm, BASE, 4 * PAGE), bytes);
    // A device may have it again.
    expect(await device.migrate(mm, BASE, BASE + PAGE)).toBe(1);
    checkQuiescent(phys);
  });

  test.each([
    ["a hole", BASE + 2 * PAGE, 4 * PAGE, ENOMEM],
    ["nothing mapped", BASE + 8 * PAGE, PAGE, ENOMEM],
    ["the end of the address space", TASK_SIZE - PAGE, 2 * PAGE, ENOMEM],
    ["a length that wraps", BASE, 2 ** 53, EINVAL],
    ["a negative length", BASE, -1, EINVAL],
    ["a negative address", -1, PAGE, EINVAL],
  ])("of %s is refused and locks nothing", async (_, at, length, errno) => {
    const { mm } = await setUp();
    expect(await mm.mlock(at, length)).toBe(errno);
    expect(await mm.munlock(at, length)).toBe(errno);
    expect(mm.vmas.all().map((v) => v.locked)).toEqual([false]);
    expect(mm.pageAt(BASE).kind).toBe("none");
  });

  test("of memory without access, or beyond the end of a file: -ENOMEM; more than RAM: -EAGAIN; nothing is locked", async () => {
    const { phys, mm } = await setUp(8, 6);
    expect(await mm.mlock(BASE, 8 * PAGE)).toBe(EAGAIN);
    await mm.dontneed(BASE, 8 * PAGE);
    await mm.mprotect(BASE + PAGE, PAGE, "NONE");
    expect(await mm.mlock(BASE, 2 * PAGE)).toBe(ENOMEM);
    const file = new MemFile(phys, { size: PAGE });
    await mm.mmap(2 * PAGE, { at: BASE + 8 * PAGE, file });
    expect(await mm.mlock(BASE + 8 * PAGE, 2 * PAGE)).toBe(ENOMEM);
    expect(mm.vmas.all().some((v) => v.locked)).toBe(false);
  });

  test("leaves hugetlb unmarked, which is never swapped, but fills it", async () => {
    const { phys, mm } = await setUp();
    await mm.mmap(2 * MB, { at: BASE, hugetlb: true });
    expect(await mm.mlock(BASE + PAGE, PAGE)).toBe(0);
    expect(mm.vmas.all().map((v) => [v.locked, v.end])).toEqual([[false, BASE + 2 * MB]]);
    expect(mm.tables.hugeCount).toBe(1);
    checkQuiescent(phys);
  });

  test("of length 0 does nothing", async () => {
    const { mm } = await setUp();
    expect([await mm.mlock(BASE + 1, 0), await mm.munlock(BASE + 8 * PAGE, 0)]).toEqual([0, 0]);
  });
});

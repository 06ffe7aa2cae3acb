import { describe, expect, test } from "vitest";
import { EAGAIN, EINVAL, ENOMEM } from "../../src/base/errno.ts";
import { splitFolio } from "../../src/mm/folio.ts";
import { PG_COMPOUND } from "../../src/mm/frame-table.ts";
import { collapseHuge } from "../../src/mm/collapse.ts";
import { splitHuge, splitHugeRange } from "../../src/mm/huge.ts";
import { checkQuiescent } from "../../src/mm/invariants.ts";
import { Mm } from "../../src/mm/mm.ts";
import { PhysMemory } from "../../src/mm/phys-mem.ts";
import { run } from "../../src/mm/steps.ts";
import { MMU_NOTIFY_CLEAR, MMU_NOTIFY_UNMAP } from "../../src/mm/types.ts";
import {
  FakeDevice,
  MB,
  PAGE,
  RecordingNotifier,
  expectBytes,
  mmapOk,
  pattern,
  readOk,
  testPhys,
  testScheduler,
} from "./mm-fake-device.ts";

const BASE = 0x7f0000000000;
const INDEX = BASE / (2 * MB);

/** RAM whose free frames are full of what others left there. */
function usedPhys(ramPages: number): PhysMemory {
  const phys = testPhys(ramPages);
  phys.ram.fill(0xee, 2 * PAGE);
  return phys;
}

/** A process with `mb` MiB at BASE that ask for huge pages. */
async function setUp(mb = 4, ramPages = 4096) {
  const phys = usedPhys(ramPages);
  const mm = new Mm({ phys });
  await mm.mmap(mb * MB, { at: BASE });
  expect(await mm.madvise(BASE, mb * MB, "hugepage")).toBe(0);
  return { phys, mm };
}

async function watch(mm: Mm, mb = 4) {
  const watcher = new RecordingNotifier(mm, BASE, BASE + mb * MB);
  await mm.intervalNotifierInsert(watcher);
  return watcher;
}

const split = (mm: Mm, index = INDEX) => run(splitHuge(mm, index));

async function collapse(mm: Mm, start = BASE) {
  const guard = await mm.mmapLock.write();
  const result = await run(collapseHuge(mm, start));
  guard.release();
  return result;
}

describe("first write", () => {
  test("maps 2 MiB of zeros in one entry, of frames that ascend from a multiple of 512, without an event", async () => {
    const { phys, mm } = await setUp();
    const watcher = await watch(mm);
    const free = phys.freePages;
    await mm.write(BASE + MB + 5, Uint8Array.of(7));
    const head = mm.pageAt(BASE).pfn;
    expect(head % 512).toBe(0);
    expect(mm.pageAt(BASE + 511 * PAGE)).toEqual({ kind: "present", pfn: head + 511, writable: true, huge: true });
    expect([phys.freePages, mm.tables.hugeCount]).toEqual([free - 512, 1]);
    expect(watcher.take()).toEqual([]);
    const bytes = new Uint8Array(2 * MB);
    bytes[MB + 5] = 7;
    expectBytes(await readOk(mm, BASE, 2 * MB), bytes);
    checkQuiescent(phys);
    await mm.exit();
    expect([phys.freePages, mm.tables.hugeCount]).toEqual([phys.ramPages - 2, 0]);
  });

  test("a store over all of it, and over a piece, leaves nothing of what the frames held", async () => {
    const { phys, mm } = await setUp();
    await mm.write(BASE, pattern(2 * MB + 3 * PAGE));
    expect(mm.tables.hugeCount).toBe(2);
    const rest = await readOk(mm, BASE + 2 * MB + 3 * PAGE, 2 * MB - 3 * PAGE);
    expectBytes(rest, new Uint8Array(rest.length));
    expectBytes(await readOk(mm, BASE, 2 * MB + 3 * PAGE), pattern(2 * MB + 3 * PAGE));
    checkQuiescent(phys);
  });

  test.for([
    ["area did not ask", async (mm: Mm): Promise<void> => void (await mm.madvise(BASE, 4 * MB, "nohugepage")), 0],
    ["machine says never", (mm: Mm): void => void (mm.phys.hugePages = "never"), 0],
    ["page was there before", async (mm: Mm): Promise<void> => void (await mm.load32(BASE + 5 * PAGE)), 0],
    ["2 MiB cross the end of the area", async (mm: Mm): Promise<void> => void (await mm.munmap(BASE + MB, PAGE)), 0],
    ["no large folio can be had", (mm: Mm): void => void (mm.phys.failpoint = (site) => site === "huge-alloc"), 0],
    ["control", () => {}, 1],
  ] as const)("stays small: %s", async ([, prepare, huge]) => {
    const { phys, mm } = await setUp();
    await prepare(mm);
    await mm.write(BASE, Uint8Array.of(1));
    expect([mm.tables.hugeCount, mm.pageAt(BASE).kind]).toEqual([huge, "present"]);
    checkQuiescent(phys);
  });

  test("the policy `always` needs no advice", async () => {
    const phys = new PhysMemory({ ram: new Uint8Array(8 * MB), sched: testScheduler(), hugePages: "always" });
    const mm = new Mm({ phys });
    const at = await mmapOk(mm, 2 * MB, { align: 2 * MB, populate: true });
    expect(mm.pageAt(at).huge).toBe(true);
  });

  test("RAM without a free 2 MiB in a row serves single pages until it is used up", async () => {
    const { phys, mm } = await setUp(4, 1024);
    await mm.fill(BASE, 2 * MB, 1);
    expect(mm.tables.hugeCount).toBe(1);
    await mm.write(BASE + 2 * MB, Uint8Array.of(1));
    expect(mm.tables.hugeCount).toBe(1);
    expect(await mm.fill(BASE + 2 * MB, 2 * MB, 1)).toMatchObject({ code: "ENOMEM" });
    checkQuiescent(phys);
  });
});

describe("split", () => {
  test("announces CLEAR over the 2 MiB before the entry changes, and moves nothing", async () => {
    const { phys, mm } = await setUp();
    await mm.write(BASE, pattern(2 * MB));
    const before = mm.pageAt(BASE + 9 * PAGE).pfn;
    const watcher = await watch(mm);
    watcher.check = () => expect(mm.pageAt(BASE).huge).toBe(true);
    expect(await split(mm)).toBe(true);
    expect(watcher.take()).toEqual([[MMU_NOTIFY_CLEAR, BASE, BASE + 2 * MB]]);
    expect(mm.pageAt(BASE + 9 * PAGE)).toEqual({ kind: "present", pfn: before, writable: true, huge: false });
    expectBytes(await readOk(mm, BASE, 2 * MB), pattern(2 * MB));
    checkQuiescent(phys);
    expect(await split(mm)).toBe(true);
    expect(watcher.take()).toEqual([]);
  });

  test("splitHugeRange splits what the interval covers in part", async () => {
    const { mm } = await setUp(6);
    await mm.fill(BASE, 6 * MB, 1);
    await run(splitHugeRange(mm, BASE + PAGE, BASE + 4 * MB));
    const huge = (mb: number) => mm.pageAt(BASE + mb * MB).huge;
    expect([huge(0), huge(2), huge(4)]).toEqual([false, true, true]);
    await run(splitHugeRange(mm, BASE + 2 * MB, BASE + 6 * MB - PAGE));
    expect([huge(2), huge(4)]).toEqual([true, false]);
  });

  test("a part that is unmapped is free at once; the rest stays", async () => {
    const { phys, mm } = await setUp();
    await mm.write(BASE, pattern(2 * MB));
    const free = phys.freePages;
    const watcher = await watch(mm);
    await mm.munmap(BASE + MB, 16 * PAGE);
    expect(phys.freePages).toBe(free + 16);
    expect(watcher.take()).toEqual([
      [MMU_NOTIFY_CLEAR, BASE, BASE + 2 * MB],
      [MMU_NOTIFY_UNMAP, BASE + MB, BASE + MB + 16 * PAGE],
    ]);
    expectBytes(await readOk(mm, BASE, MB), pattern(2 * MB).subarray(0, MB));
    checkQuiescent(phys);
  });

  test("a whole 2 MiB goes without a split", async () => {
    const { phys, mm } = await setUp();
    await mm.fill(BASE, 4 * MB, 1);
    const watcher = await watch(mm);
    expect(await mm.madvise(BASE, 2 * MB, "dontneed")).toBe(0);
    expect(watcher.take()).toEqual([[MMU_NOTIFY_CLEAR, BASE, BASE + 2 * MB]]);
    expect(mm.tables.hugeCount).toBe(1);
    expect(await mm.load32(BASE)).toBe(0);
    checkQuiescent(phys);
  });

  test("a fault that makes a huge page while an unmapping of its part is announced: the other part keeps its bytes", async () => {
    const { phys, mm } = await setUp();
    const watcher = await watch(mm);
    let announced!: () => void;
    watcher.check = () => new Promise((resume) => (announced = resume));
    const dropped = mm.madvise(BASE, PAGE, "dontneed");
    await mm.write(BASE + MB, Uint8Array.of(9));
    expect(mm.pageAt(BASE).huge).toBe(true);
    announced();
    await dropped;
    expect(mm.pageAt(BASE).kind).toBe("none");
    expect(mm.pageAt(BASE + MB)).toMatchObject({ kind: "present", huge: false });
    expect(await mm.load32(BASE + MB)).toBe(9);
    checkQuiescent(phys);
  });

  test("the folio becomes single pages unless somebody holds one of them", async () => {
    const { phys, mm } = await setUp();
    await mm.write(BASE, pattern(2 * MB));
    const { pfn } = mm.pageAt(BASE);
    const isLarge = () => (phys.frames.flags[pfn + 511]! & PG_COMPOUND) !== 0;
    phys.getPage(pfn + 100);
    expect(await run(splitFolio(phys, pfn, -1))).toBe(false);
    expect([isLarge(), mm.pageAt(BASE).huge]).toEqual([true, true]);
    phys.putPage(pfn + 100);
    phys.tryLockPage(pfn + 3);
    expect(await run(splitFolio(phys, pfn, -1))).toBe(false);
    phys.unlockPage(pfn + 3);
    expect(await run(splitFolio(phys, pfn + 7, -1))).toBe(true);
    expect([isLarge(), mm.pageAt(BASE).huge]).toEqual([false, false]);
    checkQuiescent(phys);
  });
});

describe("protection and fork", () => {
  test("a write to a huge page that became writable again sets all of it, without an event", async () => {
    const { phys, mm } = await setUp();
    await mm.fill(BASE, 2 * MB, 1);
    await mm.mprotect(BASE, 4 * MB, "R");
    expect(mm.pageAt(BASE)).toMatchObject({ writable: false, huge: true });
    expect(await mm.write(BASE, Uint8Array.of(1))).toMatchObject({ code: "SEGV" });
    await mm.mprotect(BASE, 4 * MB, "RW");
    expect(await mm.write(BASE + PAGE, Uint8Array.of(2))).toBeUndefined();
    expect(mm.pageAt(BASE + 511 * PAGE)).toMatchObject({ writable: true, huge: true });
    checkQuiescent(phys);
  });

  test("shared by fork, a store splits the writer's entry and copies one page", async () => {
    const { phys, mm } = await setUp();
    await mm.write(BASE, pattern(2 * MB));
    const child = await mm.fork();
    if (!(child instanceof Mm)) throw new Error("fork failed");
    const free = phys.freePages;
    const watcher = await watch(mm);
    await mm.write(BASE + 5 * PAGE, Uint8Array.of(99));
    expect(phys.freePages).toBe(free - 1);
    expect(watcher.take()).toEqual([
      [MMU_NOTIFY_CLEAR, BASE, BASE + 2 * MB],
      [MMU_NOTIFY_CLEAR, BASE + 5 * PAGE, BASE + 6 * PAGE],
    ]);
    expectBytes(await readOk(child, BASE, 2 * MB), pattern(2 * MB));
    checkQuiescent(phys);
    await child.exit();
    await mm.exit();
    expect(phys.freePages).toBe(phys.ramPages - 2);
  });
});

describe("collapse", () => {
  /** 2 MiB of small pages: some written, some holes, some zero pages. */
  async function scattered(prepare?: (mm: Mm) => unknown) {
    const { phys, mm } = await setUp();
    await mm.madvise(BASE, 4 * MB, "nohugepage");
    for (let page = 0; page < 512; page += 3) await mm.write(BASE + page * PAGE, pattern(PAGE, page));
    for (let page = 1; page < 512; page += 30) await mm.load32(BASE + page * PAGE);
    await prepare?.(mm);
    const watcher = await watch(mm);
    return { phys, mm, watcher, bytes: await readOk(mm, BASE, 2 * MB) };
  }

  test("makes one huge page of small ones, announced over the 2 MiB; holes become zeros", async () => {
    const { phys, mm, watcher, bytes } = await scattered();
    watcher.check = () => expect(mm.pageAt(BASE).huge).toBe(false);
    expect(await collapse(mm)).toBe(0);
    expect(watcher.take()).toEqual([[MMU_NOTIFY_CLEAR, BASE, BASE + 2 * MB]]);
    expect(mm.pageAt(BASE)).toMatchObject({ huge: true, writable: true });
    expectBytes(await readOk(mm, BASE, 2 * MB), bytes);
    checkQuiescent(phys);
    expect(await collapse(mm)).toBe(0);
    expect(watcher.take()).toEqual([]);
  });

  test("swapped pages come back for it", async () => {
    const { phys, mm, bytes } = await scattered((m) => m.madvise(BASE, MB, "pageout"));
    await mm.madvise(BASE, MB, "pageout");
    expect(phys.swap.used).toBeGreaterThan(0);
    expect(await collapse(mm)).toBe(0);
    expect(phys.swap.used).toBe(0);
    expectBytes(await readOk(mm, BASE, 2 * MB), bytes);
    checkQuiescent(phys);
  });

  test.for([
    ["a pinned page", EAGAIN, (mm: Mm): void => void mm.pin(BASE + 3 * PAGE, 1, { write: true })],
    ["a locked page", EAGAIN, (mm: Mm): void => void mm.phys.tryLockPage(mm.pageAt(BASE).pfn)],
    ["a page shared with a child", EAGAIN, async (mm: Mm): Promise<void> => void (await mm.fork())],
    ["a page in device memory", EINVAL, (mm: Mm) => new FakeDevice(mm.phys).migrate(mm, BASE, BASE + PAGE)],
    ["no large folio", ENOMEM, (mm: Mm): void => void (mm.phys.failpoint = (site) => site === "huge-alloc")],
    ["2 MiB of two areas", EINVAL, (mm: Mm) => mm.mprotect(BASE + MB, PAGE, "R")],
  ] as const)("is refused for %s, and nothing has changed", async ([, error, prepare]) => {
    const { mm, watcher } = await scattered();
    await prepare(mm);
    watcher.take();
    const free = mm.phys.freePages;
    const { pfn } = mm.pageAt(BASE + 6 * PAGE);
    expect(await collapse(mm)).toBe(error);
    expect(watcher.take()).toEqual([]);
    expect([mm.pageAt(BASE + 6 * PAGE).pfn, mm.phys.freePages, mm.tables.hugeCount]).toEqual([pfn, free, 0]);
  });

  test("an unaligned start and a hole are refused", async () => {
    const { mm } = await setUp();
    expect(await collapse(mm, BASE + PAGE)).toBe(EINVAL);
    expect(await collapse(mm, BASE + 4 * MB)).toBe(EINVAL);
  });

  test("a page that is pinned while the change is announced stays", async () => {
    const { phys, mm, watcher, bytes } = await scattered();
    const { pfn } = mm.pageAt(BASE + 3 * PAGE);
    watcher.check = () => phys.getPage(pfn);
    const free = phys.freePages;
    expect(await collapse(mm)).toBe(EAGAIN);
    phys.putPage(pfn);
    expect([mm.tables.hugeCount, phys.freePages]).toEqual([0, free]);
    expectBytes(await readOk(mm, BASE, 2 * MB), bytes);
    checkQuiescent(phys);
  });
});

describe("hugetlb", () => {
  const hugetlb = { at: BASE, hugetlb: true };

  test("has 2 MiB pages from the first access on, also a read, and they are never split", async () => {
    const phys = usedPhys(4096);
    const mm = new Mm({ phys });
    await mmapOk(mm, 2 * MB, hugetlb);
    expect(await mm.load32(BASE + MB)).toBe(0);
    expect(mm.pageAt(BASE)).toMatchObject({ kind: "present", huge: true, writable: true });
    expect(await split(mm)).toBe(false);
    expect(mm.pageAt(BASE).huge).toBe(true);
    expect(await collapse(mm)).toBe(EINVAL);
    checkQuiescent(phys);
  });

  test("a store to a page that is shared by fork copies the 2 MiB", async () => {
    const phys = usedPhys(4096);
    const mm = new Mm({ phys });
    await mmapOk(mm, 2 * MB, hugetlb);
    await mm.write(BASE, pattern(2 * MB));
    const child = await mm.fork();
    if (!(child instanceof Mm)) throw new Error("fork failed");
    const watcher = await watch(mm, 2);
    const free = phys.freePages;
    await mm.write(BASE, Uint8Array.of(200));
    expect(watcher.take()).toEqual([[MMU_NOTIFY_CLEAR, BASE, BASE + 2 * MB]]);
    expect([phys.freePages, mm.pageAt(BASE).huge, child.pageAt(BASE).huge]).toEqual([free - 512, true, true]);
    expectBytes(await readOk(child, BASE, 2 * MB), pattern(2 * MB));
    checkQuiescent(phys);
  });

  test("without a free 2 MiB in a row the access is a bus error", async () => {
    const phys = testPhys(512);
    const mm = new Mm({ phys });
    await mmapOk(mm, 2 * MB, hugetlb);
    expect(await mm.write(BASE, Uint8Array.of(1))).toMatchObject({ code: "BUS" });
  });
});

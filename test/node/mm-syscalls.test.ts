import { describe, expect, test } from "vitest";
import { EINVAL, ENOMEM } from "../../src/base/errno.ts";
import { checkQuiescent } from "../../src/mm/invariants.ts";
import { Mm } from "../../src/mm/mm.ts";
import { MMU_NOTIFY_CLEAR, MMU_NOTIFY_PROTECTION_VMA, MMU_NOTIFY_UNMAP } from "../../src/mm/types.ts";
import { TASK_SIZE } from "../../src/mm/vma.ts";
import { MB, PAGE, RecordingNotifier, expectBytes, mmapOk, pattern, readOk, testPhys } from "./mm-fake-device.ts";

const BASE = 0x7f0000000000;

function setUp() {
  const phys = testPhys();
  const mm = new Mm({ phys });
  return { phys, mm };
}

/** Areas as `[first page, end page, protection]` counted from BASE. */
function areas(mm: Mm): [number, number, string][] {
  return mm.vmas.all().map((v) => [(v.start - BASE) / PAGE, (v.end - BASE) / PAGE, v.prot]);
}

describe("mmap", () => {
  test("chooses ascending addresses from 4 GiB up, each with its alignment", async () => {
    const { mm } = setUp();
    const a = await mmapOk(mm, PAGE);
    const b = await mmapOk(mm, PAGE, { align: 2 * MB });
    const c = await mmapOk(mm, 3 * PAGE);
    expect([a, b, c]).toEqual([2 ** 32, 2 ** 32 + 2 * MB, 2 ** 32 + PAGE]);
  });

  test("uses the lowest gap that is large enough", async () => {
    const { mm } = setUp();
    const a = await mmapOk(mm, 8 * PAGE);
    await mm.munmap(a + PAGE, 2 * PAGE);
    await mm.munmap(a + 4 * PAGE, 3 * PAGE);
    expect(await mm.mmap(3 * PAGE)).toBe(a + 4 * PAGE);
    expect(await mm.mmap(2 * PAGE)).toBe(a + PAGE);
    expect(await mm.mmap(PAGE)).toBe(a + 8 * PAGE);
  });

  test("rounds the length up to pages", async () => {
    const { mm } = setUp();
    const a = await mmapOk(mm, PAGE + 1);
    expect(await mm.store32(a + 2 * PAGE - 4, 1)).toBeUndefined();
    expect(await mm.store32(a + 2 * PAGE, 1)).toMatchObject({ code: "SEGV" });
  });

  test("at a fixed address replaces what is there: its bytes are gone, its neighbours stay", async () => {
    const { phys, mm } = setUp();
    await mm.mmap(4 * PAGE, { at: BASE });
    await mm.fill(BASE, 4 * PAGE, 7);
    const watcher = new RecordingNotifier(mm, BASE, BASE + 4 * PAGE);
    mm.intervalNotifierInsert(watcher);
    expect(await mm.mmap(2 * PAGE, { at: BASE + PAGE, prot: "R" })).toBe(BASE + PAGE);
    expect(watcher.take()).toEqual([[MMU_NOTIFY_UNMAP, BASE + PAGE, BASE + 3 * PAGE]]);
    expect(areas(mm)).toEqual([
      [0, 1, "RW"],
      [1, 3, "R"],
      [3, 4, "RW"],
    ]);
    const expected = new Uint8Array(4 * PAGE).fill(7).fill(0, PAGE, 3 * PAGE);
    expectBytes(await readOk(mm, BASE, 4 * PAGE), expected);
    checkQuiescent(phys);
  });

  test("into a hole raises no event", async () => {
    const { mm } = setUp();
    const watcher = new RecordingNotifier(mm, BASE, BASE + 4 * PAGE);
    mm.intervalNotifierInsert(watcher);
    await mm.mmap(2 * PAGE, { at: BASE });
    await mm.fill(BASE, 2 * PAGE, 1);
    expect(watcher.events).toEqual([]);
  });

  test("neighbours of one protection are one area, others are not", async () => {
    const { mm } = setUp();
    await mm.mmap(PAGE, { at: BASE });
    await mm.mmap(PAGE, { at: BASE + 2 * PAGE });
    await mm.mmap(PAGE, { at: BASE + 3 * PAGE, prot: "R" });
    await mm.mmap(PAGE, { at: BASE + PAGE });
    expect(areas(mm)).toEqual([
      [0, 3, "RW"],
      [3, 4, "R"],
    ]);
  });

  test("populate fills every page at once, in one run", async () => {
    const { phys, mm } = setUp();
    const a = await mmapOk(mm, 2 * MB, { align: 2 * MB, populate: true });
    const first = mm.pageAt(a).pfn;
    for (let i = 0; i < 512; i++)
      expect(mm.pageAt(a + i * PAGE)).toEqual({ kind: "present", pfn: first + i, writable: true, huge: false });
    expectBytes(await readOk(mm, a, 2 * MB), new Uint8Array(2 * MB));
    checkQuiescent(phys);
  });

  test("populate beyond RAM maps all the same and fills what it can", async () => {
    const mm = new Mm({ phys: testPhys(8) });
    const a = await mmapOk(mm, 16 * PAGE, { populate: true });
    expect(mm.pageAt(a + 5 * PAGE).kind).toBe("present");
    expect(mm.pageAt(a + 6 * PAGE).kind).toBe("none");
  });

  test.each([
    ["length 0", 0, {}, EINVAL],
    ["negative length", -PAGE, {}, EINVAL],
    ["fractional length", 0.5, {}, EINVAL],
    ["unaligned address", PAGE, { at: BASE + 1 }, EINVAL],
    ["negative address", PAGE, { at: -PAGE }, EINVAL],
    ["alignment that is no power of two", PAGE, { align: 3 * PAGE }, EINVAL],
    ["alignment below a page", PAGE, { align: 2048 }, EINVAL],
    ["address without the alignment wanted", PAGE, { at: BASE + PAGE, align: 2 * MB }, EINVAL],
    ["end beyond the address space", 2 * PAGE, { at: TASK_SIZE - PAGE }, ENOMEM],
    ["length beyond the address space", 2 ** 47, {}, ENOMEM],
  ] as const)("%s is refused and changes nothing", async (_, length, options, errno) => {
    const { mm } = setUp();
    expect(await mm.mmap(length, options)).toBe(errno);
    expect(mm.vmas.all()).toEqual([]);
  });

  test("the last page of the address space can be mapped", async () => {
    const { mm } = setUp();
    expect(await mm.mmap(PAGE, { at: TASK_SIZE - PAGE })).toBe(TASK_SIZE - PAGE);
    expect(await mm.store32(TASK_SIZE - 4, 9)).toBeUndefined();
    expect(await mm.load32(TASK_SIZE - 4)).toBe(9);
  });
});

describe("munmap", () => {
  test.each([
    ["the first page", 0, 1, [[1, 6, "RW"]]],
    ["the last page", 5, 1, [[0, 5, "RW"]]],
    [
      "a piece in the middle",
      2,
      2,
      [
        [0, 2, "RW"],
        [4, 6, "RW"],
      ],
    ],
    ["everything", 0, 6, []],
    ["more than there is", -2, 10, []],
  ] as const)("of %s leaves the rest with its bytes", async (_, first, count, left) => {
    const { phys, mm } = setUp();
    await mm.mmap(6 * PAGE, { at: BASE });
    const bytes = pattern(6 * PAGE);
    await mm.write(BASE, bytes);
    expect(await mm.munmap(BASE + first * PAGE, count * PAGE)).toBe(0);
    expect(areas(mm)).toEqual(left);
    for (const [from, to] of left) {
      expectBytes(await readOk(mm, BASE + from * PAGE, (to - from) * PAGE), bytes.subarray(from * PAGE, to * PAGE));
    }
    checkQuiescent(phys);
  });

  test("over holes announces one UNMAP per run of areas, each before its pages go", async () => {
    const { phys, mm } = setUp();
    await mm.mmap(2 * PAGE, { at: BASE });
    await mm.mmap(PAGE, { at: BASE + 2 * PAGE, prot: "R" });
    await mm.mmap(2 * PAGE, { at: BASE + 5 * PAGE });
    await mm.fill(BASE, 2 * PAGE, 1);
    await mm.fill(BASE + 5 * PAGE, 2 * PAGE, 1);
    const watcher = new RecordingNotifier(mm, BASE, BASE + 16 * PAGE);
    mm.intervalNotifierInsert(watcher);
    const present: boolean[] = [];
    watcher.check = (range) => void present.push(mm.pageAt(range.start).kind === "present");
    const free = phys.freePages;
    expect(await mm.munmap(BASE + PAGE, 5 * PAGE)).toBe(0);
    expect(watcher.take()).toEqual([
      [MMU_NOTIFY_UNMAP, BASE + PAGE, BASE + 3 * PAGE],
      [MMU_NOTIFY_UNMAP, BASE + 5 * PAGE, BASE + 6 * PAGE],
    ]);
    expect(present).toEqual([true, true]);
    expect(phys.freePages).toBe(free + 2);
  });

  test("does not change anything before a callback that waits has resolved", async () => {
    const { mm } = setUp();
    await mm.mmap(PAGE, { at: BASE });
    await mm.store32(BASE, 5);
    const watcher = new RecordingNotifier(mm, BASE, BASE + PAGE);
    let proceed = () => {};
    watcher.check = () => new Promise((resolve) => (proceed = resolve));
    mm.intervalNotifierInsert(watcher);
    const unmapped = mm.munmap(BASE, PAGE);
    await new Promise((turn) => setImmediate(turn));
    expect(mm.pageAt(BASE).kind).toBe("present");
    expect(mm.notifiers.active).toBe(1);
    proceed();
    expect(await unmapped).toBe(0);
    expect(mm.pageAt(BASE).kind).toBe("none");
    expect(mm.notifiers.active).toBe(0);
  });

  test("of nothing succeeds without an event", async () => {
    const { mm } = setUp();
    const watcher = new RecordingNotifier(mm, BASE, BASE + PAGE);
    mm.intervalNotifierInsert(watcher);
    expect(await mm.munmap(BASE, PAGE)).toBe(0);
    expect(watcher.events).toEqual([]);
  });

  test("frees the page tables that nothing else needs, and only those", async () => {
    const { mm } = setUp();
    await mm.mmap(6 * MB, { at: BASE, populate: true });
    expect(mm.tables.tableCount).toBe(3);
    await mm.munmap(BASE + MB, 4 * MB);
    expect(mm.tables.tableCount).toBe(2);
    await mm.munmap(BASE, MB);
    expect(mm.tables.tableCount).toBe(1);
    await mm.munmap(BASE + 5 * MB, MB);
    expect(mm.tables.tableCount).toBe(0);
  });

  test.each([
    ["length 0", BASE, 0],
    ["unaligned address", BASE + 8, PAGE],
    ["negative address", -PAGE, PAGE],
    ["end beyond the address space", TASK_SIZE - PAGE, 2 * PAGE],
    ["length that wraps", BASE, 2 ** 53],
  ])("%s: -EINVAL, nothing changed", async (_, at, length) => {
    const { mm } = setUp();
    await mm.mmap(PAGE, { at: BASE });
    expect(await mm.munmap(at, length)).toBe(EINVAL);
    expect(areas(mm)).toEqual([[0, 1, "RW"]]);
  });
});

describe("mprotect", () => {
  test("splits the area, and joins it again when the protection comes back", async () => {
    const { mm } = setUp();
    await mm.mmap(4 * PAGE, { at: BASE });
    await mm.mprotect(BASE + PAGE, 2 * PAGE, "R");
    expect(areas(mm)).toEqual([
      [0, 1, "RW"],
      [1, 3, "R"],
      [3, 4, "RW"],
    ]);
    await mm.mprotect(BASE + PAGE, 2 * PAGE, "RW");
    expect(areas(mm)).toEqual([[0, 4, "RW"]]);
  });

  test("takes write from resident pages at once, keeps the bytes, and gives it back", async () => {
    const { phys, mm } = setUp();
    await mm.mmap(2 * PAGE, { at: BASE });
    const bytes = pattern(2 * PAGE);
    await mm.write(BASE, bytes);
    const { pfn } = mm.pageAt(BASE);
    await mm.mprotect(BASE, 2 * PAGE, "R");
    expect(mm.pageAt(BASE)).toEqual({ kind: "present", pfn, writable: false, huge: false });
    expect(await mm.store32(BASE, 1)).toMatchObject({ code: "SEGV" });
    await mm.mprotect(BASE, 2 * PAGE, "RW");
    expectBytes(await readOk(mm, BASE, 2 * PAGE), bytes);
    await mm.store32(BASE, 1);
    expect(mm.pageAt(BASE).pfn).toBe(pfn);
    checkQuiescent(phys);
  });

  test("announces PROTECTION_VMA for what changes, before it does, and nothing for what has the protection", async () => {
    const { mm } = setUp();
    await mm.mmap(6 * PAGE, { at: BASE });
    await mm.mprotect(BASE + 2 * PAGE, PAGE, "R");
    await mm.store32(BASE, 1);
    const watcher = new RecordingNotifier(mm, BASE, BASE + 6 * PAGE);
    mm.intervalNotifierInsert(watcher);
    const writable: boolean[] = [];
    watcher.check = (range) => void writable.push(mm.vmaLookup(range.start)!.writable);
    await mm.mprotect(BASE, 5 * PAGE, "R");
    expect(watcher.take()).toEqual([
      [MMU_NOTIFY_PROTECTION_VMA, BASE, BASE + 2 * PAGE],
      [MMU_NOTIFY_PROTECTION_VMA, BASE + 3 * PAGE, BASE + 5 * PAGE],
    ]);
    expect(writable).toEqual([true, true]);
  });

  test.each([
    ["a hole at the end", BASE + PAGE, 2 * PAGE, ENOMEM],
    ["a hole in the middle", BASE, 6 * PAGE, ENOMEM],
    ["nothing mapped", BASE + 2 * PAGE, PAGE, ENOMEM],
    ["an unaligned address", BASE + 1, PAGE, EINVAL],
    ["a negative length", BASE, -1, EINVAL],
  ])("%s is refused and changes nothing", async (_, at, length, errno) => {
    const { mm } = setUp();
    await mm.mmap(2 * PAGE, { at: BASE });
    await mm.mmap(2 * PAGE, { at: BASE + 4 * PAGE });
    const watcher = new RecordingNotifier(mm, BASE, BASE + 8 * PAGE);
    mm.intervalNotifierInsert(watcher);
    expect(await mm.mprotect(at, length, "R")).toBe(errno);
    expect(areas(mm)).toEqual([
      [0, 2, "RW"],
      [4, 6, "RW"],
    ]);
    expect(watcher.events).toEqual([]);
  });

  test("of length 0 does nothing and succeeds", async () => {
    const { mm } = setUp();
    expect(await mm.mprotect(BASE, 0, "R")).toBe(0);
    expect(await mm.dontneed(BASE, 0)).toBe(0);
  });
});

describe("dontneed", () => {
  test("drops the bytes, keeps the area, and announces CLEAR before", async () => {
    const { phys, mm } = setUp();
    await mm.mmap(4 * PAGE, { at: BASE });
    await mm.fill(BASE, 4 * PAGE, 9);
    const watcher = new RecordingNotifier(mm, BASE, BASE + 4 * PAGE);
    mm.intervalNotifierInsert(watcher);
    const present: string[] = [];
    watcher.check = (range) => void present.push(mm.pageAt(range.start).kind);
    expect(await mm.dontneed(BASE + PAGE, 2 * PAGE)).toBe(0);
    expect(watcher.take()).toEqual([[MMU_NOTIFY_CLEAR, BASE + PAGE, BASE + 3 * PAGE]]);
    expect(present).toEqual(["present"]);
    expect(mm.pageAt(BASE + PAGE).kind).toBe("none");
    expect(areas(mm)).toEqual([[0, 4, "RW"]]);
    const expected = new Uint8Array(4 * PAGE).fill(9).fill(0, PAGE, 3 * PAGE);
    expectBytes(await readOk(mm, BASE, 4 * PAGE), expected);
    checkQuiescent(phys);
  });

  test.each([
    ["a hole", BASE, 4 * PAGE, ENOMEM],
    ["an unaligned address", BASE + 1, PAGE, EINVAL],
  ])("%s is refused and drops nothing", async (_, at, length, errno) => {
    const { mm } = setUp();
    await mm.mmap(2 * PAGE, { at: BASE });
    await mm.fill(BASE, 2 * PAGE, 3);
    expect(await mm.dontneed(at, length)).toBe(errno);
    expectBytes(await readOk(mm, BASE, 2 * PAGE), new Uint8Array(2 * PAGE).fill(3));
  });
});

describe("events of CPU faults", () => {
  test("the first write to a page that maps the zero frame announces CLEAR for that page, before", async () => {
    const { mm } = setUp();
    await mm.mmap(4 * PAGE, { at: BASE });
    await readOk(mm, BASE, 4 * PAGE);
    const watcher = new RecordingNotifier(mm, BASE, BASE + 4 * PAGE);
    mm.intervalNotifierInsert(watcher);
    const writable: boolean[] = [];
    watcher.check = (range) => void writable.push(mm.pageAt(range.start).writable);
    await mm.store32(BASE + PAGE + 12, 1);
    expect(watcher.take()).toEqual([[MMU_NOTIFY_CLEAR, BASE + PAGE, BASE + 2 * PAGE]]);
    expect(writable).toEqual([false]);
  });

  test("filling a hole and writing an exclusive page again announce nothing", async () => {
    const { mm } = setUp();
    await mm.mmap(4 * PAGE, { at: BASE });
    await mm.mprotect(BASE, PAGE, "R");
    const watcher = new RecordingNotifier(mm, BASE, BASE + 4 * PAGE);
    mm.intervalNotifierInsert(watcher);
    await mm.store32(BASE + PAGE, 1);
    await readOk(mm, BASE + 2 * PAGE, 1);
    expect(watcher.events).toEqual([]);
  });

  test("two writers of one zero-mapped page share the page that the first one made", async () => {
    const { phys, mm } = setUp();
    await mm.mmap(PAGE, { at: BASE });
    await readOk(mm, BASE, PAGE);
    const watcher = new RecordingNotifier(mm, BASE, BASE + PAGE);
    watcher.check = () => new Promise((turn) => setImmediate(turn));
    mm.intervalNotifierInsert(watcher);
    await Promise.all([mm.store32(BASE, 1), mm.store32(BASE + 4, 2)]);
    expect(await mm.load32(BASE)).toBe(1);
    expect(await mm.load32(BASE + 4)).toBe(2);
    checkQuiescent(phys);
  });
});

import { describe, expect, test } from "vitest";
import { EINVAL, ENOMEM } from "../../src/base/errno.ts";
import { makeDeviceExclusive } from "../../src/mm/exclusive.ts";
import { MemFile } from "../../src/mm/file.ts";
import { checkInvariants, checkQuiescent } from "../../src/mm/invariants.ts";
import { Mm } from "../../src/mm/mm.ts";
import { PTE_EXCLUSIVE } from "../../src/mm/page-table.ts";
import { Pin } from "../../src/mm/pin.ts";
import {
  MMU_NOTIFY_CLEAR,
  MMU_NOTIFY_PROTECTION_PAGE,
  MMU_NOTIFY_RELEASE,
  MMU_NOTIFY_UNMAP,
} from "../../src/mm/types.ts";
import { FakeDevice, MB, PAGE, RecordingNotifier, expectBytes, pattern, readOk, testPhys } from "./mm-fake-device.ts";

const BASE = 0x7f0000000000;
const PAGES = 4;
const BYTES = PAGES * PAGE;

function setUp(ramPages = 4096) {
  const phys = testPhys(ramPages);
  return { phys, mm: new Mm({ phys }), free: phys.freePages };
}

async function forkOk(mm: Mm): Promise<Mm> {
  const child = await mm.fork();
  if (!(child instanceof Mm)) throw new Error(`fork: ${child}`);
  return child;
}

function watch(mm: Mm, bytes = BYTES): RecordingNotifier {
  const watcher = new RecordingNotifier(mm, BASE, BASE + bytes);
  void mm.intervalNotifierInsert(watcher);
  return watcher;
}

async function withBytes(mm: Mm, bytes = pattern(BYTES)): Promise<Uint8Array> {
  await mm.mmap(bytes.length, { at: BASE });
  await mm.write(BASE, bytes);
  return bytes;
}

describe("private memory", () => {
  test("has the same bytes in the same frames, read-only in both, announced as PROTECTION_PAGE before", async () => {
    const { phys, mm } = setUp();
    const bytes = await withBytes(mm);
    const watcher = watch(mm);
    const writable: boolean[] = [];
    watcher.check = () => void writable.push(mm.pageAt(BASE).writable);
    const child = await forkOk(mm);
    expect(watcher.take()).toEqual([[MMU_NOTIFY_PROTECTION_PAGE, BASE, BASE + BYTES]]);
    expect(writable).toEqual([true]);
    expect(child.pageAt(BASE)).toEqual(mm.pageAt(BASE));
    expect(mm.pageAt(BASE).writable).toBe(false);
    expectBytes(await readOk(child, BASE, BYTES), bytes);
    expect(child.notifiers.intervals()).toEqual([]);
    checkQuiescent(phys);
  });

  test.each(["parent", "child"])("a store of the %s is its own", async (who) => {
    const { phys, mm } = setUp();
    const bytes = await withBytes(mm);
    const child = await forkOk(mm);
    const [writer, other] = who === "parent" ? [mm, child] : [child, mm];
    const watcher = watch(writer);
    await writer.store32(BASE + PAGE, 0xffffffff);
    expect(watcher.take()).toEqual([[MMU_NOTIFY_CLEAR, BASE + PAGE, BASE + 2 * PAGE]]);
    expectBytes(await readOk(other, BASE, BYTES), bytes);
    expectBytes(await readOk(writer, BASE, BYTES), bytes.slice().fill(255, PAGE, PAGE + 4));
    checkQuiescent(phys);
  });

  test("one event per private area, none for shared ones", async () => {
    const { mm } = setUp();
    await mm.mmap(PAGE, { at: BASE });
    await mm.mmap(PAGE, { at: BASE + PAGE, prot: "R" });
    await mm.mmap(PAGE, { at: BASE + 2 * PAGE, shared: true, populate: true });
    const watcher = watch(mm);
    await forkOk(mm);
    expect(watcher.take()).toEqual([
      [MMU_NOTIFY_PROTECTION_PAGE, BASE, BASE + PAGE],
      [MMU_NOTIFY_PROTECTION_PAGE, BASE + PAGE, BASE + 2 * PAGE],
    ]);
  });

  test("pages that were only read, holes and memory without access are the same in the child", async () => {
    const { phys, mm } = setUp();
    await mm.mmap(3 * PAGE, { at: BASE });
    await mm.load32(BASE);
    await mm.store32(BASE + PAGE, 5);
    await mm.mprotect(BASE + PAGE, PAGE, "NONE");
    const child = await forkOk(mm);
    expect([await child.load32(BASE), await child.load32(BASE + 2 * PAGE)]).toEqual([0, 0]);
    expect(await child.load32(BASE + PAGE)).toMatchObject({ code: "SEGV" });
    await child.mprotect(BASE + PAGE, PAGE, "RW");
    expect(await child.load32(BASE + PAGE)).toBe(5);
    await child.store32(BASE + PAGE, 6);
    await mm.mprotect(BASE + PAGE, PAGE, "RW");
    expect(await mm.load32(BASE + PAGE)).toBe(5);
    checkQuiescent(phys);
  });

  test("a grandchild and the end of everybody: no frame is lost, none kept", async () => {
    const { phys, mm, free } = setUp();
    const bytes = await withBytes(mm);
    const child = await forkOk(mm);
    await child.store32(BASE, 1);
    const grandchild = await forkOk(child);
    await grandchild.store32(BASE + PAGE, 2);
    await mm.exit();
    expect([await child.load32(BASE), await grandchild.load32(BASE)]).toEqual([1, 1]);
    await child.exit();
    expectBytes(await readOk(grandchild, BASE + 2 * PAGE, 2 * PAGE), bytes.subarray(2 * PAGE));
    checkQuiescent(phys);
    await grandchild.exit();
    expect(phys.freePages).toBe(free);
  });

  test("what is left alone with a page stores to it without a copy and without an event", async () => {
    const { phys, mm } = setUp();
    await withBytes(mm);
    const child = await forkOk(mm);
    await child.exit();
    const watcher = watch(mm);
    const { pfn } = mm.pageAt(BASE);
    await mm.store32(BASE, 1);
    expect(mm.pageAt(BASE)).toMatchObject({ kind: "present", pfn, writable: true });
    expect(watcher.events).toEqual([]);
    checkQuiescent(phys);
  });

  test("areas, their protection, advice and holes are the child's; a lock is not", async () => {
    const { mm } = setUp();
    await mm.mmap(8 * PAGE, { at: BASE, guard: 4 * PAGE });
    await mm.mprotect(BASE + PAGE, PAGE, "R");
    await mm.munmap(BASE + 5 * PAGE, PAGE);
    await mm.madvise(BASE + 6 * PAGE, PAGE, "nohugepage");
    const areas = (of: Mm) => of.vmas.all().map((v) => ({ ...v.traits, start: v.start, end: v.end }));
    const expected = areas(mm);
    await mm.mlock(BASE, PAGE);
    expect(areas(await forkOk(mm))).toEqual(expected);
  });
});

describe("shared memory", () => {
  test("is common: stores of either are seen by the other, before and after they touched it", async () => {
    const { phys, mm, free } = setUp();
    await mm.mmap(BYTES, { at: BASE, shared: true });
    await mm.store32(BASE, 1);
    const child = await forkOk(mm);
    expect(await child.load32(BASE)).toBe(1);
    await child.store32(BASE, 2);
    await child.store32(BASE + PAGE, 3);
    expect([await mm.load32(BASE), await mm.load32(BASE + PAGE)]).toEqual([2, 3]);
    expect(child.pageAt(BASE).pfn).toBe(mm.pageAt(BASE).pfn);
    checkQuiescent(phys);
    await mm.exit();
    expect(await child.load32(BASE + PAGE)).toBe(3);
    await child.exit();
    expect(phys.freePages).toBe(free);
  });

  test("a private mapping of a file: copies made before are common until stored to, the rest is the file", async () => {
    const { phys, mm } = setUp();
    const file = new MemFile(phys, { size: BYTES });
    await mm.mmap(BYTES, { at: BASE, file });
    await mm.store32(BASE, 1);
    await mm.load32(BASE + PAGE);
    const child = await forkOk(mm);
    await child.store32(BASE, 2);
    await child.store32(BASE + PAGE, 3);
    expect([await mm.load32(BASE), await mm.load32(BASE + PAGE)]).toEqual([1, 0]);
    await file.write(2 * PAGE, Uint8Array.of(7));
    expect(await child.load32(BASE + 2 * PAGE)).toBe(7);
    checkQuiescent(phys);
  });
});

describe("pages that are not plainly in RAM", () => {
  test("device pages are common and come home for both; a store then is its own", async () => {
    const { phys, mm } = setUp();
    const bytes = await withBytes(mm);
    const device = new FakeDevice(phys);
    expect(await device.migrate(mm, BASE, BASE + BYTES)).toBe(PAGES);
    const child = await forkOk(mm);
    expect(child.pageAt(BASE)).toEqual(mm.pageAt(BASE));
    expect(child.pageAt(BASE)).toMatchObject({ kind: "device-private", writable: false });
    checkQuiescent(phys);
    await child.store32(BASE, 0xffffffff);
    expectBytes(await readOk(mm, BASE, BYTES), bytes);
    expectBytes(await readOk(child, BASE, BYTES), bytes.slice().fill(255, 0, 4));
    expect(device.freePages).toBe(1024);
    checkQuiescent(phys);
  });

  test("pages in swap come back for each on its own", async () => {
    const { phys, mm } = setUp();
    const bytes = await withBytes(mm);
    expect(await mm.madvise(BASE, BYTES, "pageout")).toBe(0);
    expect(phys.swap.used).toBe(PAGES);
    const child = await forkOk(mm);
    checkQuiescent(phys);
    expect(mm.tables.read(BASE / PAGE)).toBe(child.tables.read(BASE / PAGE));
    expect(mm.tables.read(BASE / PAGE) & PTE_EXCLUSIVE).toBe(0);
    await child.store32(BASE, 0xffffffff);
    expectBytes(await readOk(mm, BASE, BYTES), bytes);
    expectBytes(await readOk(child, BASE, BYTES), bytes.slice().fill(255, 0, 4));
    expect(phys.swap.used).toBe(0);
    checkQuiescent(phys);
  });

  test("a page that a device has for itself is given back and shared", async () => {
    const { phys, mm } = setUp();
    const bytes = await withBytes(mm);
    const pfn = await makeDeviceExclusive(mm, BASE, "device");
    expect(pfn).toBeGreaterThan(0);
    phys.unlockPage(pfn);
    phys.putPage(pfn);
    const child = await forkOk(mm);
    expect(child.pageAt(BASE)).toMatchObject({ kind: "present", pfn, writable: false });
    expectBytes(await readOk(child, BASE, BYTES), bytes);
    checkQuiescent(phys);
  });

  test("a pinned page stays the parent's, writable and in place; the child has a copy", async () => {
    const { phys, mm } = setUp();
    const bytes = await withBytes(mm);
    const pin = await mm.pin(BASE + PAGE, PAGE, { write: true });
    if (!(pin instanceof Pin)) throw new Error(`pin: ${pin}`);
    const child = await forkOk(mm);
    expect(mm.pageAt(BASE + PAGE)).toMatchObject({ kind: "present", pfn: pin.pfns[0], writable: true });
    expect(child.pageAt(BASE + PAGE).pfn).not.toBe(pin.pfns[0]);
    await mm.store32(BASE + PAGE, 1);
    expectBytes(await readOk(child, BASE, BYTES), bytes);
    pin.release();
    checkQuiescent(phys);
  });

  test("a migration that is under way ends in both, wherever the pages then are", async () => {
    for (let seed = 1; seed <= 48; seed++) {
      const { phys, mm } = setUp(256);
      const bytes = await withBytes(mm);
      const device = new FakeDevice(phys, 16);
      await device.migrate(mm, BASE, BASE + BYTES);
      const watcher = watch(mm);
      watcher.check = async () => void (await phys.sched.point("callback"));
      const pfns = [0, 1, 2, 3].map((i) => mm.pageAt(BASE + i * PAGE).pfn);
      const [child] = await phys.sched.race<unknown>(seed, [
        () => forkOk(mm),
        () => device.evict(pfns),
        async () => mm.store32(BASE, 0xffffffff),
      ]);
      checkQuiescent(phys);
      const later = bytes.slice().fill(255, 0, 4);
      expectBytes(await readOk(mm, BASE, BYTES), later);
      // The store came before the fork or after it.
      const seen = await readOk(child as Mm, BASE, BYTES);
      expectBytes(seen, seen[0] === 255 ? later : bytes);
      await mm.exit();
      await (child as Mm).exit();
      expect([phys.freePages, device.freePages]).toEqual([254, 16]);
    }
  });
});

describe("huge pages", () => {
  async function huge(options: { hugetlb?: boolean }) {
    const { phys, mm, free } = setUp();
    await mm.mmap(2 * MB, { at: BASE, ...options });
    if (options.hugetlb !== true) await mm.madvise(BASE, 2 * MB, "hugepage");
    const bytes = pattern(2 * MB);
    await mm.write(BASE, bytes);
    expect(mm.tables.isHuge(BASE / (2 * MB))).toBe(true);
    return { phys, mm, free, bytes };
  }

  test("a transparent one is shared whole; a store splits the writer's and copies one page", async () => {
    const { phys, mm, bytes, free } = await huge({});
    const child = await forkOk(mm);
    expect([mm.tables.hugeCount, child.tables.hugeCount]).toEqual([1, 1]);
    checkQuiescent(phys);
    await child.store32(BASE + MB, 0xffffffff);
    expect([mm.tables.hugeCount, child.tables.hugeCount]).toEqual([1, 0]);
    expectBytes(await readOk(mm, BASE, 2 * MB), bytes);
    expectBytes(await readOk(child, BASE, 2 * MB), bytes.slice().fill(255, MB, MB + 4));
    checkQuiescent(phys);
    await child.exit();
    await mm.exit();
    expect(phys.freePages).toBe(free);
  });

  test("one of hugetlb is shared whole, and a store copies it whole", async () => {
    const { phys, mm, bytes, free } = await huge({ hugetlb: true });
    const child = await forkOk(mm);
    await child.store32(BASE + MB, 0xffffffff);
    expect([mm.tables.hugeCount, child.tables.hugeCount]).toEqual([1, 1]);
    expectBytes(await readOk(mm, BASE, 2 * MB), bytes);
    expectBytes(await readOk(child, BASE, 2 * MB), bytes.slice().fill(255, MB, MB + 4));
    checkQuiescent(phys);
    await child.exit();
    await mm.exit();
    expect(phys.freePages).toBe(free);
  });

  test.each([false, true])("one that nobody else has any more is stored to as it is (hugetlb: %s)", async (hugetlb) => {
    const { phys, mm } = await huge({ hugetlb });
    const { pfn } = mm.pageAt(BASE);
    await (await forkOk(mm)).exit();
    const watcher = watch(mm, 2 * MB);
    await mm.store32(BASE + MB, 1);
    expect(watcher.events).toEqual([]);
    expect([mm.pageAt(BASE).pfn, mm.tables.hugeCount]).toEqual([pfn, 1]);
    checkQuiescent(phys);
  });

  test.each([false, true])("one with a pinned page stays the parent's (hugetlb: %s)", async (hugetlb) => {
    const { phys, mm, bytes } = await huge({ hugetlb });
    const pin = await mm.pin(BASE + 5 * PAGE, PAGE, { write: true });
    if (!(pin instanceof Pin)) throw new Error(`pin: ${pin}`);
    const child = await forkOk(mm);
    expect(mm.pageAt(BASE + 5 * PAGE)).toMatchObject({ pfn: pin.pfns[0], writable: true });
    await mm.store32(BASE + 5 * PAGE, 1);
    expectBytes(await readOk(child, BASE, 2 * MB), bytes);
    expect(child.tables.hugeCount).toBe(hugetlb ? 1 : 0);
    pin.release();
    checkQuiescent(phys);
  });
});

describe("a fork that fails", () => {
  test("for want of RAM for pinned pages leaves the parent as it was and no child", async () => {
    const { phys, mm } = setUp(2 + PAGES + 1);
    const bytes = await withBytes(mm);
    const pin = await mm.pin(BASE, 2 * PAGE, { write: true });
    if (!(pin instanceof Pin)) throw new Error(`pin: ${pin}`);
    expect(await mm.fork()).toBe(ENOMEM);
    expect([phys.mms, phys.freePages]).toEqual([[mm], 1]);
    checkInvariants(phys);
    expectBytes(await readOk(mm, BASE, BYTES), bytes);
    await mm.fill(BASE, BYTES, 1);
    expectBytes(await readOk(mm, BASE, BYTES), new Uint8Array(BYTES).fill(1));
    pin.release();
    checkQuiescent(phys);
  });

  test("after the end: -EINVAL", async () => {
    const { phys, mm } = setUp();
    mm.mmgrab();
    await mm.exit();
    expect(await mm.fork()).toBe(EINVAL);
    expect(phys.mms).toEqual([mm]);
  });
});

describe("exec", () => {
  test("ends the address space as exit does: RELEASE over everything, then UNMAP, and the frames are free", async () => {
    const { phys, mm, free } = setUp();
    await withBytes(mm);
    const watcher = watch(mm);
    const kinds: string[] = [];
    watcher.check = () => void kinds.push(mm.pageAt(BASE).kind);
    await mm.exec();
    expect(watcher.take()).toEqual([
      [MMU_NOTIFY_RELEASE, 0, Number.MAX_SAFE_INTEGER],
      [MMU_NOTIFY_UNMAP, BASE, BASE + BYTES],
    ]);
    expect(kinds).toEqual(["present", "present"]);
    expect(phys.freePages).toBe(free);
    expect(mm.mmget()).toBe(false);
    expect(await mm.mmap(PAGE)).toBe(ENOMEM);
  });
});

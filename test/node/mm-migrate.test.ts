import { describe, expect, test, vi } from "vitest";
import { EINVAL } from "../../src/base/errno.ts";
import { checkQuiescent } from "../../src/mm/invariants.ts";
import { Mm } from "../../src/mm/mm.ts";
import {
  MIGRATE_PFN_MIGRATE,
  MIGRATE_PFN_VALID,
  MIGRATE_PFN_WRITE,
  MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
  MIGRATE_VMA_SELECT_SYSTEM,
  MMU_NOTIFY_CLEAR,
  MMU_NOTIFY_MIGRATE,
  MMU_NOTIFY_UNMAP,
} from "../../src/mm/types.ts";
import {
  FakeDevice,
  MB,
  PAGE,
  RecordingNotifier,
  expectBytes,
  migration,
  pattern,
  readOk,
  testPhys,
} from "./mm-fake-device.ts";

// 64 seeds per race, on a machine that may be busy with other tests.
vi.setConfig({ testTimeout: 60_000 });

const BASE = 0x7f0000000000;
const COLLECTED = MIGRATE_PFN_VALID | MIGRATE_PFN_MIGRATE;

function setUp(pages = 0) {
  const phys = testPhys();
  const mm = new Mm({ phys });
  const device = new FakeDevice(phys);
  if (pages > 0) void mm.mmap(pages * PAGE, { at: BASE });
  return { phys, mm, device };
}

const kinds = (mm: Mm, pages: number) => Array.from({ length: pages }, (_, i) => mm.pageAt(BASE + i * PAGE).kind);
const pfns = (mm: Mm, pages: number) => Array.from({ length: pages }, (_, i) => mm.pageAt(BASE + i * PAGE).pfn);

describe("round trip", () => {
  test("a chunk goes to the device and a CPU access brings all of it home, byte for byte", async () => {
    const { phys, mm, device } = setUp(512);
    const bytes = pattern(2 * MB);
    await mm.write(BASE, bytes);
    const free = phys.freePages;
    expect(await device.migrate(mm, BASE, BASE + 2 * MB)).toBe(512);
    expect(new Set(kinds(mm, 512))).toEqual(new Set(["device-private"]));
    expect(phys.freePages).toBe(free + 512);
    checkQuiescent(phys);

    expect(await mm.load32(BASE + MB)).toBeTypeOf("number");
    expect(mm.deviceFaults).toBe(1);
    expect(new Set(kinds(mm, 512))).toEqual(new Set(["present"]));
    expectBytes(await readOk(mm, BASE, 2 * MB), bytes);
    expect(device.freePages).toBe(1024);
    checkQuiescent(phys);
  });

  test("eviction by frame brings the pages home without an address", async () => {
    const { phys, mm, device } = setUp(512);
    const bytes = pattern(2 * MB, 2);
    await mm.write(BASE, bytes);
    await device.migrate(mm, BASE, BASE + 2 * MB);
    expect(await device.evict(pfns(mm, 512))).toBe(512);
    expect(new Set(kinds(mm, 512))).toEqual(new Set(["present"]));
    expectBytes(await readOk(mm, BASE, 2 * MB), bytes);
    expect(device.freed).toHaveLength(512);
    checkQuiescent(phys);
  });

  test("write permission survives both ways, and so does its absence", async () => {
    const { phys, mm, device } = setUp(4);
    await mm.fill(BASE, 4 * PAGE, 6);
    await mm.mprotect(BASE, 2 * PAGE, "R");
    await device.migrate(mm, BASE, BASE + 2 * PAGE);
    await device.migrate(mm, BASE + 2 * PAGE, BASE + 4 * PAGE);
    expect([0, 1, 2, 3].map((i) => mm.pageAt(BASE + i * PAGE).writable)).toEqual([false, false, true, true]);
    await device.evict(pfns(mm, 4));
    expect([0, 1, 2, 3].map((i) => mm.pageAt(BASE + i * PAGE).writable)).toEqual([false, false, true, true]);
    checkQuiescent(phys);
    // The pages are still this process's own: getting write back needs no copy.
    const before = pfns(mm, 4);
    await mm.mprotect(BASE, 2 * PAGE, "RW");
    await mm.fill(BASE, 4 * PAGE, 7);
    expect(pfns(mm, 4)).toEqual(before);
  });

  test("a CPU write to a device page lands after the bytes came home", async () => {
    const { mm, device } = setUp(2);
    await mm.fill(BASE, 2 * PAGE, 1);
    await device.migrate(mm, BASE, BASE + 2 * PAGE);
    device.bytesOf(mm.pageAt(BASE).pfn).fill(2);
    await mm.store32(BASE, 0);
    const expected = new Uint8Array(2 * PAGE).fill(1).fill(2, 0, PAGE).fill(0, 0, 4);
    expectBytes(await readOk(mm, BASE, 2 * PAGE), expected);
  });

  test("munmap and dontneed free device pages at once", async () => {
    const { phys, mm, device } = setUp(4);
    await mm.fill(BASE, 4 * PAGE, 1);
    await device.migrate(mm, BASE, BASE + 4 * PAGE);
    await mm.dontneed(BASE, PAGE);
    expect(device.freePages).toBe(1021);
    expect(await mm.load32(BASE)).toBe(0);
    await mm.munmap(BASE, 4 * PAGE);
    expect(device.freePages).toBe(1024);
    checkQuiescent(phys);
  });

  test("exit frees device pages", async () => {
    const { phys, mm, device } = setUp(4);
    await mm.fill(BASE, 4 * PAGE, 1);
    await device.migrate(mm, BASE, BASE + 4 * PAGE);
    await mm.exit();
    expect(device.freePages).toBe(1024);
    expect(phys.freePages).toBe(2046);
    phys.removePagemap(device.pgmap);
  });
});

describe("holes", () => {
  test("untouched and zero-mapped pages get a device page and read zero", async () => {
    const { phys, mm, device } = setUp(4);
    await readOk(mm, BASE + PAGE, 1);
    await mm.store32(BASE + 2 * PAGE, 5);
    const guard = mm.mmapLock.tryRead()!;
    const m = migration(mm, BASE, BASE + 4 * PAGE, MIGRATE_VMA_SELECT_SYSTEM, device);
    expect(mm.migrateVmaSetup(m)).toBe(0);
    expect([m.src[0], m.src[1], m.src[3]]).toEqual([MIGRATE_PFN_MIGRATE, MIGRATE_PFN_MIGRATE, MIGRATE_PFN_MIGRATE]);
    expect(m.cpages).toBe(4);
    await mm.migrateVmaPages(m);
    mm.migrateVmaFinalize(m);
    guard.release();
    checkQuiescent(phys);

    expect(await device.migrate(mm, BASE, BASE + 4 * PAGE)).toBe(4);
    expect(kinds(mm, 4)).toEqual(Array(4).fill("device-private"));
    expect(mm.pageAt(BASE).writable).toBe(true);
    checkQuiescent(phys);
    const expected = new Uint8Array(4 * PAGE);
    expected[2 * PAGE] = 5;
    expectBytes(await readOk(mm, BASE, 4 * PAGE), expected);
  });

  test("the zero page is a hole only when system pages are selected", async () => {
    const { mm, device } = setUp(2);
    await readOk(mm, BASE, 1);
    const guard = mm.mmapLock.tryRead()!;
    const m = migration(mm, BASE, BASE + 2 * PAGE, MIGRATE_VMA_SELECT_DEVICE_PRIVATE, device);
    mm.migrateVmaSetup(m);
    expect([...m.src]).toEqual([0, MIGRATE_PFN_MIGRATE]);
    expect(m.cpages).toBe(1);
    guard.release();
  });

  test("in a read-only area the device page is mapped read-only", async () => {
    const { phys, mm, device } = setUp();
    await mm.mmap(PAGE, { at: BASE, prot: "R" });
    expect(await device.migrate(mm, BASE, BASE + PAGE)).toBe(1);
    expect(mm.pageAt(BASE)).toMatchObject({ kind: "device-private", writable: false });
    checkQuiescent(phys);
    expect(await mm.load32(BASE)).toBe(0);
  });
});

describe("events", () => {
  test("collection and filling of holes announce MIGRATE with the owner, before the change", async () => {
    const { mm, device } = setUp(4);
    await mm.store32(BASE, 1);
    const watcher = new RecordingNotifier(mm, BASE, BASE + 4 * PAGE);
    mm.intervalNotifierInsert(watcher);
    const seen: string[][] = [];
    watcher.check = () => void seen.push(kinds(mm, 4));
    await device.migrate(mm, BASE, BASE + 4 * PAGE);
    expect(watcher.events.map((e) => [e.event, e.start, e.end])).toEqual([
      [MMU_NOTIFY_MIGRATE, BASE, BASE + 4 * PAGE],
      [MMU_NOTIFY_MIGRATE, BASE + PAGE, BASE + 4 * PAGE],
    ]);
    expect(watcher.events.map((e) => e.owner)).toEqual([device, device]);
    expect(seen).toEqual([
      ["present", "none", "none", "none"],
      ["migration", "none", "none", "none"],
    ]);
  });

  test("without holes there is one event", async () => {
    const { mm, device } = setUp(4);
    await mm.fill(BASE, 4 * PAGE, 1);
    const watcher = new RecordingNotifier(mm, BASE, BASE + 4 * PAGE);
    mm.intervalNotifierInsert(watcher);
    await device.migrate(mm, BASE, BASE + 4 * PAGE);
    expect(watcher.take()).toEqual([[MMU_NOTIFY_MIGRATE, BASE, BASE + 4 * PAGE]]);
  });

  test("eviction announces CLEAR, one per run of neighbours, exactly as long, before the change", async () => {
    const { mm, device } = setUp(8);
    await mm.fill(BASE, 8 * PAGE, 1);
    await device.migrate(mm, BASE, BASE + 3 * PAGE);
    await device.migrate(mm, BASE + 5 * PAGE, BASE + 8 * PAGE);
    const all = pfns(mm, 8);
    const watcher = new RecordingNotifier(mm, BASE, BASE + 8 * PAGE);
    mm.intervalNotifierInsert(watcher);
    const seen: string[] = [];
    watcher.check = (range) => void seen.push(mm.pageAt(range.start).kind);
    await device.evict([all[0]!, all[1]!, all[2]!, all[5]!, all[7]!]);
    expect(watcher.take()).toEqual([
      [MMU_NOTIFY_CLEAR, BASE, BASE + 3 * PAGE],
      [MMU_NOTIFY_CLEAR, BASE + 5 * PAGE, BASE + 6 * PAGE],
      [MMU_NOTIFY_CLEAR, BASE + 7 * PAGE, BASE + 8 * PAGE],
    ]);
    expect(seen).toEqual(["device-private", "device-private", "device-private"]);
    expect(mm.pageAt(BASE + 6 * PAGE).kind).toBe("device-private");
  });
});

describe("refusals", () => {
  function collect(
    mm: Mm,
    device: FakeDevice,
    pages: number,
    flags = MIGRATE_VMA_SELECT_SYSTEM,
    owner: unknown = device,
  ) {
    const guard = mm.mmapLock.tryRead()!;
    const m = migration(mm, BASE, BASE + pages * PAGE, flags, owner);
    expect(mm.migrateVmaSetup(m)).toBe(0);
    mm.migrateVmaPages(m);
    const words = [...m.src];
    mm.migrateVmaFinalize(m);
    guard.release();
    return { words: words.map((w) => w & (COLLECTED | MIGRATE_PFN_WRITE)), cpages: m.cpages };
  }
  // Without a destination, `migrateVmaPages` takes the MIGRATE bit from what was collected.
  const WAS_COLLECTED = MIGRATE_PFN_VALID | MIGRATE_PFN_WRITE;

  test("a page that somebody has locked is left alone, the others are collected", async () => {
    const { phys, mm, device } = setUp(3);
    await mm.fill(BASE, 3 * PAGE, 1);
    const { pfn } = mm.pageAt(BASE + PAGE);
    phys.tryLockPage(pfn);
    expect(collect(mm, device, 3)).toEqual({ words: [WAS_COLLECTED, 0, WAS_COLLECTED], cpages: 2 });
    phys.unlockPage(pfn);
    checkQuiescent(phys);
  });

  test("a page with a reference that is no mapping is put back as it was", async () => {
    const { phys, mm, device } = setUp(3);
    await mm.fill(BASE, 3 * PAGE, 1);
    const view = mm.pageAt(BASE + PAGE);
    phys.getPage(view.pfn);
    expect(collect(mm, device, 3)).toEqual({ words: [WAS_COLLECTED, 0, WAS_COLLECTED], cpages: 2 });
    expect(mm.pageAt(BASE + PAGE)).toEqual(view);
    phys.putPage(view.pfn);
    checkQuiescent(phys);
  });

  test("device pages need their selection and their owner", async () => {
    const { mm, device } = setUp(1);
    await mm.store32(BASE, 1);
    await device.migrate(mm, BASE, BASE + PAGE);
    expect(collect(mm, device, 1).cpages).toBe(0);
    expect(collect(mm, device, 1, MIGRATE_VMA_SELECT_DEVICE_PRIVATE, {}).cpages).toBe(0);
    expect(collect(mm, device, 1, MIGRATE_VMA_SELECT_DEVICE_PRIVATE).cpages).toBe(1);
  });

  test("a system page is not collected when only device pages are selected", async () => {
    const { mm, device } = setUp(1);
    await mm.store32(BASE, 1);
    expect(collect(mm, device, 1, MIGRATE_VMA_SELECT_DEVICE_PRIVATE)).toEqual({ words: [0], cpages: 0 });
  });

  test("everything collected and given no destination is as before", async () => {
    const { phys, mm, device } = setUp(4);
    await mm.write(BASE, pattern(3 * PAGE));
    const before = [0, 1, 2, 3].map((i) => mm.pageAt(BASE + i * PAGE));
    expect(collect(mm, device, 4).cpages).toBe(4);
    expect([0, 1, 2, 3].map((i) => mm.pageAt(BASE + i * PAGE))).toEqual(before);
    checkQuiescent(phys);
  });

  test("a page that gains a reference between setup and pages stays, its destination is freed", async () => {
    const { phys, mm, device } = setUp(2);
    await mm.fill(BASE, 2 * PAGE, 8);
    const { pfn } = mm.pageAt(BASE);
    device.duringMigration = () => phys.getPage(pfn);
    expect(await device.migrate(mm, BASE, BASE + 2 * PAGE)).toBe(1);
    expect(mm.pageAt(BASE)).toEqual({ kind: "present", pfn, writable: true, huge: false });
    expect(device.freePages).toBe(1023);
    phys.putPage(pfn);
    checkQuiescent(phys);
    expectBytes(await readOk(mm, BASE, 2 * PAGE), new Uint8Array(2 * PAGE).fill(8));
  });

  test("made to fail, a collection takes nothing", async () => {
    const { phys, mm, device } = setUp(2);
    await mm.fill(BASE, 2 * PAGE, 1);
    phys.failpoint = (site) => site === "migrate-collect";
    expect(await device.migrate(mm, BASE, BASE + 2 * PAGE)).toBe(0);
    expect(kinds(mm, 2)).toEqual(["present", "present"]);
    checkQuiescent(phys);
  });

  test("eviction skips free frames and frames that are locked", async () => {
    const { phys, mm, device } = setUp(3);
    await mm.fill(BASE, 3 * PAGE, 1);
    await device.migrate(mm, BASE, BASE + 3 * PAGE);
    const [a, b, c] = pfns(mm, 3);
    await mm.dontneed(BASE, PAGE);
    phys.tryLockPage(b!);
    expect(await device.evict([a!, b!, c!])).toBe(1);
    expect(kinds(mm, 3)).toEqual(["none", "device-private", "present"]);
    phys.unlockPage(b!);
    checkQuiescent(phys);
  });

  test("eviction of a frame with another reference moves nothing", async () => {
    const { phys, mm, device } = setUp(1);
    await mm.store32(BASE, 9);
    await device.migrate(mm, BASE, BASE + PAGE);
    const view = mm.pageAt(BASE);
    phys.getPage(view.pfn);
    expect(await device.evict([view.pfn])).toBe(0);
    expect(mm.pageAt(BASE)).toEqual(view);
    phys.putPage(view.pfn);
    checkQuiescent(phys);
  });

  test.each([
    ["an empty interval", BASE, BASE, -1],
    ["an interval that leaves the area", BASE, BASE + 5 * PAGE, -1],
    ["an unaligned interval", BASE + 1, BASE + PAGE + 1, -1],
    ["a fault page that is not a device page", BASE, BASE + PAGE, 7],
  ])("%s: -EINVAL", async (_, start, end, faultPage) => {
    const { mm, device } = setUp(4);
    const guard = mm.mmapLock.tryRead()!;
    const m = migration(mm, BASE, BASE + PAGE, MIGRATE_VMA_SELECT_SYSTEM, device);
    const npages = Math.max(0, Math.round((end - start) / PAGE));
    const arrays = { src: new Uint32Array(npages), dst: new Uint32Array(npages) };
    expect(mm.migrateVmaSetup({ ...m, ...arrays, start, end, faultPage })).toBe(EINVAL);
    guard.release();
  });
});

describe("CPU fault on a device page", () => {
  test("a copy that fails is a bus error; the page stays in device memory and can be had later", async () => {
    const { phys, mm, device } = setUp(2);
    await mm.fill(BASE, 2 * PAGE, 4);
    await device.migrate(mm, BASE, BASE + 2 * PAGE);
    device.failCopyToRam = true;
    expect(await mm.load32(BASE + PAGE)).toMatchObject({ code: "BUS", addr: BASE + PAGE });
    expect(kinds(mm, 2)).toEqual(["device-private", "device-private"]);
    checkQuiescent(phys);
    device.failCopyToRam = false;
    expectBytes(await readOk(mm, BASE, 2 * PAGE), new Uint8Array(2 * PAGE).fill(4));
  });

  test("without permission it is a segmentation fault and moves nothing", async () => {
    const { phys, mm, device } = setUp(1);
    await mm.store32(BASE, 4);
    await device.migrate(mm, BASE, BASE + PAGE);
    await mm.mprotect(BASE, PAGE, "R");
    expect(await mm.store32(BASE, 1)).toMatchObject({ code: "SEGV" });
    await mm.mprotect(BASE, PAGE, "NONE");
    expect(await mm.load32(BASE)).toMatchObject({ code: "SEGV" });
    expect(mm.deviceFaults).toBe(0);
    checkQuiescent(phys);
  });

  test("many readers of one page: one migration, all get the bytes", async () => {
    const { phys, mm, device } = setUp(4);
    await mm.fill(BASE, 4 * PAGE, 0x11);
    await device.migrate(mm, BASE, BASE + 4 * PAGE);
    const values = await Promise.all(Array.from({ length: 8 }, (_, i) => mm.load32(BASE + (i % 4) * PAGE)));
    expect(values).toEqual(Array(8).fill(0x11111111));
    expect(device.freed).toHaveLength(4);
    checkQuiescent(phys);
  });
});

describe("eviction holds no mmap lock", () => {
  test("an area may be unmapped while its pages are under way; they are freed at the end", async () => {
    const { phys, mm, device } = setUp(4);
    await mm.fill(BASE, 4 * PAGE, 1);
    await device.migrate(mm, BASE, BASE + 4 * PAGE);
    const src = Uint32Array.from(pfns(mm, 4));
    await phys.migrateDevicePfns(src);
    expect(kinds(mm, 4)).toEqual(Array(4).fill("migration"));
    expect(mm.munmap(BASE, 2 * PAGE)).toBe(0);
    await phys.migrateDevicePages(src, new Uint32Array(4));
    phys.migrateDeviceFinalize(src, new Uint32Array(4));
    expect(kinds(mm, 4)).toEqual(["none", "none", "device-private", "device-private"]);
    expect(device.freePages).toBe(1022);
    checkQuiescent(phys);
  });

  test("a protection that changes meanwhile is the one that the page has afterwards", async () => {
    const { phys, mm, device } = setUp(3);
    await mm.fill(BASE, 3 * PAGE, 1);
    await device.migrate(mm, BASE, BASE + 3 * PAGE);
    const src = Uint32Array.from(pfns(mm, 3));
    await phys.migrateDevicePfns(src);
    await mm.mprotect(BASE, PAGE, "R");
    await mm.mprotect(BASE + PAGE, PAGE, "NONE");
    phys.migrateDevicePages(src, new Uint32Array(3));
    phys.migrateDeviceFinalize(src, new Uint32Array(3));
    checkQuiescent(phys);
    expect([0, 1, 2].map((i) => mm.pageAt(BASE + i * PAGE).writable)).toEqual([false, false, true]);
    expect(await mm.load32(BASE + PAGE)).toMatchObject({ code: "SEGV" });
    await mm.mprotect(BASE, 3 * PAGE, "RW");
    expectBytes(await readOk(mm, BASE, 3 * PAGE), new Uint8Array(3 * PAGE).fill(1));
    // And the process is still known to be its only owner: a write needs no copy.
    const before = pfns(mm, 3);
    await mm.fill(BASE, 3 * PAGE, 2);
    expect(pfns(mm, 3)).toEqual(before);
  });
});

describe("races, every order that 64 seeds draw", () => {
  const seeds = Array.from({ length: 64 }, (_, i) => i + 1);

  test("R1: a CPU write to a hole during a migration is never lost, and a page that loses is freed", async () => {
    const outcomes = new Set<string>();
    for (const seed of seeds) {
      const { phys, mm, device } = setUp(3);
      await mm.store32(BASE, 1);
      await phys.sched.race(seed, [
        async () => void (await device.migrate(mm, BASE, BASE + 3 * PAGE)),
        async () => expect(await mm.store32(BASE + PAGE, 42)).toBeUndefined(),
      ]);
      outcomes.add(kinds(mm, 3).join());
      checkQuiescent(phys);
      expect(device.freePages).toBe(1024 - kinds(mm, 3).filter((k) => k === "device-private").length);
      expect(await mm.load32(BASE + PAGE)).toBe(42);
      expect(await mm.load32(BASE)).toBe(1);
      expect(await mm.load32(BASE + 2 * PAGE)).toBe(0);
    }
    // Both winners are drawn: the store before the insertion, and after it (which brings the chunk home).
    expect(outcomes).toContain("device-private,present,device-private");
    expect(outcomes.size).toBeGreaterThan(1);
  });

  test("R2: an access to a page under migration waits and sees the bytes, wherever they then are", async () => {
    for (const seed of seeds) {
      const { phys, mm, device } = setUp(4);
      const bytes = pattern(4 * PAGE, seed);
      await mm.write(BASE, bytes);
      const [, , read] = await phys.sched.race<unknown>(seed, [
        () => device.migrate(mm, BASE, BASE + 4 * PAGE),
        async () => mm.atomicAdd32(BASE + 3 * PAGE, 1),
        async () => mm.read(BASE, 2 * PAGE),
      ]);
      expectBytes(read, bytes.subarray(0, 2 * PAGE));
      new Uint32Array(bytes.buffer, 3 * PAGE, 1)[0]! += 1;
      expectBytes(await readOk(mm, BASE, 4 * PAGE), bytes);
      checkQuiescent(phys);
    }
  });

  test("R3: two migrations of one chunk: every page moves at most once, no deadlock", async () => {
    for (const seed of seeds) {
      const { phys, mm, device } = setUp(4);
      const bytes = pattern(4 * PAGE, seed);
      await mm.write(BASE, bytes);
      const moved = await phys.sched.race(seed, [
        () => device.migrate(mm, BASE, BASE + 3 * PAGE),
        () => device.migrate(mm, BASE + PAGE, BASE + 4 * PAGE),
      ]);
      expect(moved[0]! + moved[1]!).toBe(4);
      checkQuiescent(phys);
      expectBytes(await readOk(mm, BASE, 4 * PAGE), bytes);
    }
  });

  test("R4: munmap waits for a migration and frees what it brought", async () => {
    for (const seed of seeds) {
      const { phys, mm, device } = setUp(4);
      await mm.fill(BASE, 4 * PAGE, 1);
      const watcher = new RecordingNotifier(mm, BASE, BASE + 4 * PAGE);
      mm.intervalNotifierInsert(watcher);
      await phys.sched.race<unknown>(seed, [
        () => device.migrate(mm, BASE, BASE + 4 * PAGE),
        async () => mm.munmap(BASE, 4 * PAGE),
      ]);
      expect(watcher.take().at(-1)).toEqual([MMU_NOTIFY_UNMAP, BASE, BASE + 4 * PAGE]);
      expect(kinds(mm, 4)).toEqual(Array(4).fill("none"));
      expect(device.freePages).toBe(1024);
      expect(phys.freePages).toBe(2046);
      checkQuiescent(phys);
    }
  });

  test("R5: eviction and CPU faults on the same pages: each page comes home once with its bytes", async () => {
    for (const seed of seeds) {
      const { phys, mm, device } = setUp(4);
      const bytes = pattern(4 * PAGE, seed);
      await mm.write(BASE, bytes);
      await device.migrate(mm, BASE, BASE + 4 * PAGE);
      const frames = pfns(mm, 4);
      await phys.sched.race<unknown>(seed, [
        () => device.evict(frames),
        async () => mm.load32(BASE + 2 * PAGE),
        async () => mm.store32(BASE + PAGE, 0),
      ]);
      bytes.fill(0, PAGE, PAGE + 4);
      expectBytes(await readOk(mm, BASE, 4 * PAGE), bytes);
      expect(new Set(device.freed).size).toBe(4);
      checkQuiescent(phys);
    }
  });

  test("eviction against munmap, dontneed and mprotect leaves no page, lock or entry behind", async () => {
    for (const seed of seeds) {
      const { phys, mm, device } = setUp(6);
      const bytes = pattern(6 * PAGE, seed);
      await mm.write(BASE, bytes);
      await device.migrate(mm, BASE, BASE + 6 * PAGE);
      const watcher = new RecordingNotifier(mm, BASE, BASE + 6 * PAGE);
      watcher.check = async () => void (await mm.sched.point("callback"));
      mm.intervalNotifierInsert(watcher);
      await phys.sched.race<unknown>(seed, [
        () => device.evict(pfns(mm, 6)),
        async () => mm.munmap(BASE + PAGE, PAGE),
        async () => mm.dontneed(BASE + 2 * PAGE, 2 * PAGE),
        async () => mm.mprotect(BASE + 4 * PAGE, PAGE, "R"),
      ]);
      checkQuiescent(phys);
      expect(mm.pageAt(BASE + PAGE).kind).toBe("none");
      expectBytes(await readOk(mm, BASE, PAGE), bytes.subarray(0, PAGE));
      expectBytes(await readOk(mm, BASE + 2 * PAGE, 2 * PAGE), new Uint8Array(2 * PAGE));
      expectBytes(await readOk(mm, BASE + 4 * PAGE, 2 * PAGE), bytes.subarray(4 * PAGE));
    }
  });
});

import { describe, expect, test, vi } from "vitest";
import { assert } from "../../src/base/assert.ts";
import { PG_COMPOUND } from "../../src/mm/frame-table.ts";
import { checkQuiescent } from "../../src/mm/invariants.ts";
import { Mm } from "../../src/mm/mm.ts";
import type { PhysMemory } from "../../src/mm/phys-mem.ts";
import {
  type DevPagemap,
  MIGRATE_PFN_COMPOUND,
  MIGRATE_PFN_MIGRATE,
  MIGRATE_PFN_VALID,
  MIGRATE_PFN_WRITE,
  MIGRATE_VMA_SELECT_COMPOUND,
  MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
  MIGRATE_VMA_SELECT_SYSTEM,
  MMU_NOTIFY_CLEAR,
  MMU_NOTIFY_MIGRATE,
  type MigrateVma,
  type VmFault,
  migratePfn,
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

vi.setConfig({ testTimeout: 60_000 });

const BASE = 0x7f0000000000;
const SELECT_LARGE = MIGRATE_VMA_SELECT_SYSTEM | MIGRATE_VMA_SELECT_COMPOUND;
const COLLECTED = MIGRATE_PFN_VALID | MIGRATE_PFN_MIGRATE;

/** Device memory of four large folios. Counts what it is told of its owner's references. */
class LargeDevice {
  readonly memory = new Uint8Array(8 * MB);
  readonly pgmap: DevPagemap;
  readonly freed: number[] = [];
  readonly split: number[] = [];
  /** Whether CPU faults take large folios, and give them. */
  home: { readonly select: number; readonly large: boolean } = { select: MIGRATE_VMA_SELECT_COMPOUND, large: true };
  readonly #phys: PhysMemory;
  #next = 0;

  constructor(phys: PhysMemory) {
    this.#phys = phys;
    this.pgmap = {
      type: "private",
      firstPfn: 0,
      npages: 2048,
      owner: this,
      ops: {
        folioFree: (pfn) => {
          expect(phys.zoneDeviceData(pfn)).toBe(this);
          this.freed.push(pfn);
        },
        folioSplit: (head, tail) => {
          expect(head).toBe(tail - (tail % 512));
          this.split.push(tail);
        },
        migrateToRam: (vmf) => this.#migrateToRam(vmf),
      },
    };
    phys.addPagemap(this.pgmap);
  }

  bytesOf(pfn: number, pages: number): Uint8Array {
    const at = (pfn - this.pgmap.firstPfn) * PAGE;
    return this.memory.subarray(at, at + pages * PAGE);
  }

  /** The destination of word `i`: large where the source is, unless `single`. */
  fill(m: MigrateVma, i: number, single = false): void {
    const large = (m.src[i]! & MIGRATE_PFN_COMPOUND) !== 0 && !single;
    const count = (m.src[i]! & MIGRATE_PFN_COMPOUND) === 0 ? 1 : 512;
    if (large) this.#next = Math.ceil(this.#next / 512) * 512;
    const head = this.pgmap.firstPfn + this.#next;
    this.#next += count;
    const from = (m.src[i]! & MIGRATE_PFN_VALID) === 0 ? -1 : m.src[i]! >>> 6;
    this.bytesOf(head, count).fill(0);
    if (from >= 0) this.bytesOf(head, count).set(this.#phys.ram.subarray(from * PAGE, (from + count) * PAGE));
    if (large) this.#phys.zoneDevicePageInit(head, this, 9);
    else for (let k = 0; k < count; k++) this.#phys.zoneDevicePageInit(head + k, this);
    m.dst[i] = migratePfn(head) | (large ? MIGRATE_PFN_COMPOUND : 0);
    if (!large) for (let k = 1; k < count; k++) m.dst[i + k] = migratePfn(head + k);
  }

  /** Moves `[start, end)`, at most up to the end of its area. */
  async migrate(mm: Mm, start: number, end: number, single = false): Promise<MigrateVma> {
    const guard = await mm.mmapLock.read();
    const m = migration(mm, start, Math.min(end, mm.vmaLookup(start)!.end), SELECT_LARGE, this);
    expect(await mm.migrateVmaSetup(m)).toBe(0);
    for (let i = 0; i < m.src.length; i++) if ((m.src[i]! & MIGRATE_PFN_MIGRATE) !== 0) this.fill(m, i, single);
    await mm.sched.point("test:copied");
    await mm.migrateVmaPages(m);
    mm.migrateVmaFinalize(m);
    guard.release();
    return m;
  }

  /** RAM for every collected word, of its size or of single pages. */
  toRam(src: Uint32Array, dst: Uint32Array, large: boolean): void {
    const phys = this.#phys;
    for (let i = 0; i < src.length; i++) {
      if ((src[i]! & MIGRATE_PFN_VALID) === 0) continue;
      const from = src[i]! >>> 6;
      const count = (src[i]! & MIGRATE_PFN_COMPOUND) === 0 ? 1 : 512;
      if (count === 512 && large) {
        const head = Number(phys.allocHuge());
        phys.locks.tryLockRun(head, 512);
        phys.ram.set(this.bytesOf(from, 512), head * PAGE);
        dst[i] = migratePfn(head) | MIGRATE_PFN_COMPOUND;
        continue;
      }
      for (let k = 0; k < count; k++) {
        const pfn = Number(phys.allocPage());
        phys.tryLockPage(pfn);
        phys.ram.set(this.bytesOf(from + k, 1), pfn * PAGE);
        dst[i + k] = migratePfn(pfn);
      }
    }
  }

  async #migrateToRam(vmf: VmFault): Promise<0> {
    const mm = vmf.mm as Mm;
    const start = Math.floor(vmf.address / (2 * MB)) * 2 * MB;
    const flags = MIGRATE_VMA_SELECT_DEVICE_PRIVATE | this.home.select;
    const from = Math.max(start, vmf.vma.start);
    const m = migration(mm, from, Math.min(start + 2 * MB, vmf.vma.end), flags, this, vmf.pfn);
    expect(await mm.migrateVmaSetup(m)).toBe(0);
    await mm.sched.point("test:home");
    this.toRam(m.src, m.dst, this.home.large);
    await mm.migrateVmaPages(m);
    mm.migrateVmaFinalize(m);
    return 0;
  }
}

async function setUp(write = true) {
  const phys = testPhys(4096);
  const mm = new Mm({ phys });
  await mm.mmap(4 * MB, { at: BASE });
  await mm.madvise(BASE, 4 * MB, "hugepage");
  if (write) await mm.write(BASE, pattern(2 * MB));
  const device = new LargeDevice(phys);
  return { phys, mm, device };
}

const isLarge = (phys: PhysMemory, pfn: number) => (phys.frames.flags[pfn]! & PG_COMPOUND) !== 0;

describe("a huge page", () => {
  test("is one word, one announcement, and a huge device entry; a CPU access brings it home as one", async () => {
    const { phys, mm, device } = await setUp();
    const { pfn } = mm.pageAt(BASE);
    const free = phys.freePages;
    const watcher = new RecordingNotifier(mm, BASE, BASE + 4 * MB);
    await mm.intervalNotifierInsert(watcher);
    const m = await device.migrate(mm, BASE, BASE + 2 * MB);
    expect(m.cpages).toBe(1);
    expect(m.src[0]).toBe((pfn << 6) | COLLECTED | MIGRATE_PFN_COMPOUND | MIGRATE_PFN_WRITE);
    expect(m.src.subarray(1).every((word) => word === 0)).toBe(true);
    expect(watcher.take()).toEqual([[MMU_NOTIFY_MIGRATE, BASE, BASE + 2 * MB]]);
    const head = device.pgmap.firstPfn;
    expect(mm.pageAt(BASE + 3 * PAGE)).toEqual({
      kind: "device-private",
      pfn: head + 3,
      writable: true,
      huge: true,
    });
    expect(phys.freePages).toBe(free + 512);
    checkQuiescent(phys);

    expectBytes(await readOk(mm, BASE, 2 * MB), pattern(2 * MB));
    expect([mm.deviceFaults, mm.pageAt(BASE).huge, phys.freePages]).toEqual([1, true, free]);
    expect(device.freed).toEqual([head]);
    checkQuiescent(phys);
  });

  test("an address in the middle faults on the head of the folio", async () => {
    const { mm, device } = await setUp();
    await device.migrate(mm, BASE, BASE + 2 * MB);
    const seen: number[] = [];
    const { migrateToRam } = device.pgmap.ops;
    device.pgmap.ops.migrateToRam = (vmf) => {
      seen.push(vmf.pfn);
      return migrateToRam(vmf);
    };
    await mm.load32(BASE + 300 * PAGE);
    expect(seen).toEqual([device.pgmap.firstPfn]);
  });

  test("without COMPOUND selected it is split, told as CLEAR inside of MIGRATE, and goes page by page", async () => {
    const { phys, mm } = await setUp();
    const watcher = new RecordingNotifier(mm, BASE, BASE + 4 * MB);
    await mm.intervalNotifierInsert(watcher);
    expect(await new FakeDevice(phys).migrate(mm, BASE, BASE + 2 * MB)).toBe(512);
    expect(watcher.take()).toEqual([
      [MMU_NOTIFY_MIGRATE, BASE, BASE + 2 * MB],
      [MMU_NOTIFY_CLEAR, BASE, BASE + 2 * MB],
    ]);
    expectBytes(await readOk(mm, BASE, 2 * MB), pattern(2 * MB));
    checkQuiescent(phys);
  });

  test("covered in part it is split, and only the part goes", async () => {
    const { phys, mm, device } = await setUp();
    device.home = { select: 0, large: false };
    const m = await device.migrate(mm, BASE + 511 * PAGE, BASE + 2 * MB);
    expect(m.cpages).toBe(1);
    expect([mm.pageAt(BASE + 510 * PAGE).kind, mm.pageAt(BASE + 511 * PAGE)]).toMatchObject([
      "present",
      { kind: "device-private", huge: false },
    ]);
    expectBytes(await readOk(mm, BASE, 2 * MB), pattern(2 * MB));
    checkQuiescent(phys);
  });

  test("beside the interval stays large, also where one table maps both", async () => {
    const { phys, mm, device } = await setUp();
    const { pfn } = mm.pageAt(BASE);
    // Off the alignment: its second half shares a table with what comes behind it.
    const at = BASE + 9 * MB;
    expect(await mm.mremap(BASE, 2 * MB, 2 * MB, { to: at })).toBe(at);
    await mm.mmap(MB, { at: at + 2 * MB });
    await mm.write(at + 2 * MB, pattern(MB));
    const m = await device.migrate(mm, at + 2 * MB, at + 2 * MB + 16 * PAGE);
    expect(m.cpages).toBe(16);
    expect(isLarge(phys, pfn)).toBe(true);
    const part = await device.migrate(mm, at + 2 * MB - PAGE, at + 2 * MB);
    expect([part.cpages, isLarge(phys, pfn)]).toEqual([1, false]);
    device.home = { select: 0, large: false };
    expectBytes(await readOk(mm, at, 2 * MB), pattern(2 * MB));
    expectBytes(await readOk(mm, at + 2 * MB, MB), pattern(MB));
    checkQuiescent(phys);
  });

  test.for([true, false])("held by somebody it stays, and so does all of it (COMPOUND %s)", async (compound) => {
    const { phys, mm, device } = await setUp();
    const { pfn } = mm.pageAt(BASE);
    phys.getPage(pfn + 77);
    if (compound) {
      const m = await device.migrate(mm, BASE, BASE + 2 * MB);
      expect([m.cpages, m.src[0]]).toEqual([0, 0]);
    } else {
      expect(await new FakeDevice(phys).migrate(mm, BASE, BASE + 2 * MB)).toBe(0);
    }
    expect(mm.pageAt(BASE)).toEqual({ kind: "present", pfn, writable: true, huge: true });
    phys.putPage(pfn + 77);
    expectBytes(await readOk(mm, BASE, 2 * MB), pattern(2 * MB));
    checkQuiescent(phys);
  });

  test("one of its pages locked: nothing is collected", async () => {
    const { phys, mm, device } = await setUp();
    const { pfn } = mm.pageAt(BASE);
    phys.tryLockPage(pfn + 5);
    expect((await device.migrate(mm, BASE, BASE + 2 * MB)).cpages).toBe(0);
    phys.unlockPage(pfn + 5);
    checkQuiescent(phys);
  });

  test("single destination pages split it on the way", async () => {
    const { phys, mm, device } = await setUp();
    device.home = { select: 0, large: false };
    const { pfn } = mm.pageAt(BASE);
    const m = await device.migrate(mm, BASE, BASE + 2 * MB, true);
    expect(m.src[7]).toBe(((Number(pfn) + 7) << 6) | COLLECTED | MIGRATE_PFN_WRITE);
    expect(mm.pageAt(BASE)).toMatchObject({ kind: "device-private", huge: false });
    expectBytes(await readOk(mm, BASE, 2 * MB), pattern(2 * MB));
    checkQuiescent(phys);
  });

  test("no destination at all: everything is as before", async () => {
    const { phys, mm } = await setUp();
    const before = mm.pageAt(BASE);
    const guard = await mm.mmapLock.read();
    const m = migration(mm, BASE, BASE + 2 * MB, SELECT_LARGE, phys);
    await mm.migrateVmaSetup(m);
    expect(mm.pageAt(BASE)).toMatchObject({ kind: "migration", huge: true });
    await mm.migrateVmaPages(m);
    mm.migrateVmaFinalize(m);
    guard.release();
    expect(mm.pageAt(BASE)).toEqual(before);
    checkQuiescent(phys);
  });

  test("a large destination for a single page is refused and freed", async () => {
    const { phys, mm, device } = await setUp(false);
    await mm.madvise(BASE, 4 * MB, "nohugepage");
    await mm.write(BASE, pattern(PAGE));
    const guard = await mm.mmapLock.read();
    const m = migration(mm, BASE, BASE + 2 * MB, MIGRATE_VMA_SELECT_SYSTEM, device);
    await mm.migrateVmaSetup(m);
    phys.zoneDevicePageInit(device.pgmap.firstPfn, device, 9);
    m.dst[0] = migratePfn(device.pgmap.firstPfn) | MIGRATE_PFN_COMPOUND;
    await mm.migrateVmaPages(m);
    expect(m.src[0]! & MIGRATE_PFN_MIGRATE).toBe(0);
    mm.migrateVmaFinalize(m);
    guard.release();
    expect(device.freed).toEqual([device.pgmap.firstPfn]);
    expectBytes(await readOk(mm, BASE, PAGE), pattern(PAGE));
    checkQuiescent(phys);
  });
});

describe("2 MiB of nothing", () => {
  test("is one hole, filled by one folio of zeros", async () => {
    const { phys, mm, device } = await setUp(false);
    const m = await device.migrate(mm, BASE, BASE + 4 * MB);
    expect(m.cpages).toBe(2);
    expect([m.src[0], m.src[1], m.src[512]]).toEqual([18, 0, 18]);
    expect(mm.pageAt(BASE + 2 * MB)).toMatchObject({ kind: "device-private", huge: true, writable: true });
    checkQuiescent(phys);
    expectBytes(await readOk(mm, BASE, 4 * MB), new Uint8Array(4 * MB));
    expect(device.freed).toHaveLength(2);
    checkQuiescent(phys);
  });

  test("can be filled by single pages", async () => {
    const { phys, mm, device } = await setUp(false);
    device.home = { select: 0, large: false };
    await device.migrate(mm, BASE, BASE + 2 * MB, true);
    expect(mm.pageAt(BASE + 511 * PAGE)).toMatchObject({ kind: "device-private", huge: false });
    expectBytes(await readOk(mm, BASE, 2 * MB), new Uint8Array(2 * MB));
    checkQuiescent(phys);
  });

  test("a page that came meanwhile wins: the folio is freed", async () => {
    const { phys, mm, device } = await setUp(false);
    const guard = await mm.mmapLock.read();
    const m = migration(mm, BASE, BASE + 2 * MB, SELECT_LARGE, device);
    await mm.migrateVmaSetup(m);
    device.fill(m, 0);
    mm.faultIn(BASE + 9 * PAGE, false);
    await mm.migrateVmaPages(m);
    expect(m.src[0]).toBe(0);
    mm.migrateVmaFinalize(m);
    guard.release();
    expect(device.freed).toEqual([device.pgmap.firstPfn]);
    checkQuiescent(phys);
  });
});

describe("a huge device entry", () => {
  test("that comes home page by page is split, and its owner told of every new page", async () => {
    const { phys, mm, device } = await setUp();
    await device.migrate(mm, BASE, BASE + 2 * MB);
    device.home = { select: 0, large: false };
    const head = device.pgmap.firstPfn;
    expectBytes(await readOk(mm, BASE, 2 * MB), pattern(2 * MB));
    expect(device.split).toEqual(Array.from({ length: 511 }, (_, i) => head + 1 + i));
    expect(device.freed).toHaveLength(512);
    expect(mm.pageAt(BASE).huge).toBe(false);
    checkQuiescent(phys);
  });

  test("comes home as single pages where there is no large folio to be had", async () => {
    const { phys, mm, device } = await setUp();
    await device.migrate(mm, BASE, BASE + 2 * MB);
    device.home = { select: MIGRATE_VMA_SELECT_COMPOUND, large: false };
    expectBytes(await readOk(mm, BASE, 2 * MB), pattern(2 * MB));
    expect([device.split.length, device.freed.length]).toEqual([511, 512]);
    checkQuiescent(phys);
  });

  test("unmapped in part: the folio is freed when all of it is gone", async () => {
    const { phys, mm, device } = await setUp();
    await device.migrate(mm, BASE, BASE + 2 * MB);
    await mm.munmap(BASE, MB);
    expect([device.freed.length, mm.pageAt(BASE + MB)]).toMatchObject([0, { kind: "device-private", huge: false }]);
    await mm.munmap(BASE + MB, MB);
    expect(device.freed).toEqual([device.pgmap.firstPfn]);
    checkQuiescent(phys);
  });

  test("unmapped in part and then touched: the rest becomes single pages", async () => {
    const { phys, mm, device } = await setUp();
    await device.migrate(mm, BASE, BASE + 2 * MB);
    await mm.munmap(BASE, MB);
    expectBytes(await readOk(mm, BASE + MB, MB), pattern(2 * MB).subarray(MB));
    expect([device.split.length, device.freed.length]).toEqual([255, 256]);
    checkQuiescent(phys);
  });

  test("is evicted by frame as one, announced as CLEAR", async () => {
    const { phys, mm, device } = await setUp();
    await device.migrate(mm, BASE, BASE + 2 * MB);
    const watcher = new RecordingNotifier(mm, BASE, BASE + 2 * MB);
    await mm.intervalNotifierInsert(watcher);
    const head = device.pgmap.firstPfn;
    const src = Uint32Array.from({ length: 512 }, (_, i) => head + i);
    const dst = new Uint32Array(512);
    await phys.migrateDevicePfns(src);
    expect([src[0], src[1]]).toEqual([((head << 6) | COLLECTED | MIGRATE_PFN_COMPOUND) >>> 0, 0]);
    expect(watcher.take()).toEqual([[MMU_NOTIFY_CLEAR, BASE, BASE + 2 * MB]]);
    device.toRam(src, dst, true);
    phys.migrateDevicePages(src, dst);
    phys.migrateDeviceFinalize(src, dst);
    expect([mm.pageAt(BASE).huge, isLarge(phys, mm.pageAt(BASE).pfn)]).toEqual([true, true]);
    expectBytes(await readOk(mm, BASE, 2 * MB), pattern(2 * MB));
    checkQuiescent(phys);
  });

  test("is not evicted by some of its frames", async () => {
    const { phys, mm, device } = await setUp();
    await device.migrate(mm, BASE, BASE + 2 * MB);
    const head = device.pgmap.firstPfn;
    const some = Uint32Array.of(head, head + 1);
    await phys.migrateDevicePfns(some);
    expect([...some]).toEqual([0, 0]);
    expect(mm.pageAt(BASE)).toMatchObject({ kind: "device-private", pfn: head, huge: true });
    checkQuiescent(phys);
  });

  test("is evicted to single pages where RAM has nothing larger", async () => {
    const { phys, mm, device } = await setUp();
    await device.migrate(mm, BASE, BASE + 2 * MB);
    const head = device.pgmap.firstPfn;
    const src = Uint32Array.from({ length: 512 }, (_, i) => head + i);
    const dst = new Uint32Array(512);
    await phys.migrateDevicePfns(src);
    device.toRam(src, dst, false);
    phys.migrateDevicePages(src, dst);
    phys.migrateDeviceFinalize(src, dst);
    expect(mm.pageAt(BASE)).toMatchObject({ kind: "present", huge: false });
    expectBytes(await readOk(mm, BASE, 2 * MB), pattern(2 * MB));
    checkQuiescent(phys);
  });

  test("shared by fork comes home for both", async () => {
    const { phys, mm, device } = await setUp();
    await device.migrate(mm, BASE, BASE + 2 * MB);
    const child = await mm.fork();
    assert(child instanceof Mm, "fork failed");
    expect(child.pageAt(BASE)).toMatchObject({ kind: "device-private", huge: true, writable: false });
    checkQuiescent(phys);
    await child.write(BASE + PAGE, Uint8Array.of(250));
    expectBytes(await readOk(mm, BASE, 2 * MB), pattern(2 * MB));
    expect((await readOk(child, BASE + PAGE, 1))[0]).toBe(250);
    checkQuiescent(phys);
    await child.exit();
    await mm.exit();
    expect(phys.freePages).toBe(phys.ramPages - 2);
  });
});

test("a look-up reports order 9 for huge pages in RAM and of the own device, 0 for small ones", async () => {
  const { mm, device } = await setUp();
  await mm.write(BASE + 2 * MB, pattern(PAGE));
  await device.migrate(mm, BASE, BASE + 2 * MB);
  const watcher = new RecordingNotifier(mm, BASE, BASE + 4 * MB);
  await mm.intervalNotifierInsert(watcher);
  const snap = async () => {
    const range = {
      notifier: watcher,
      notifierSeq: await mm.readBegin(watcher),
      start: BASE,
      end: BASE + 4 * MB,
      pfns: new Float64Array(1024),
      flags: new Uint8Array(1024),
      orders: new Uint8Array(1024),
      defaultFlags: 0,
      devPrivateOwner: device,
    };
    const guard = await mm.mmapLock.read();
    expect(await mm.hmmRangeFault(range)).toBe(0);
    guard.release();
    return [0, 511, 512, 1023].map((i) => range.orders[i]);
  };
  expect(await snap()).toEqual([9, 9, 9, 9]);
  await mm.mprotect(BASE + 2 * MB, PAGE, "R");
  expect(await snap()).toEqual([9, 9, 0, 0]);
});

test.for(Array.from({ length: 24 }, (_, seed) => [seed] as const))(
  "races with stores, partial unmapping, fork and swap: no byte is lost (seed %i)",
  async ([seed]) => {
    const { phys, mm, device } = await setUp();
    device.home = { select: seed % 2 === 0 ? MIGRATE_VMA_SELECT_COMPOUND : 0, large: seed % 3 === 0 };
    const bytes = pattern(2 * MB);
    const children: Mm[] = [];
    await phys.sched.race(seed, [
      async () => void (await device.migrate(mm, BASE, BASE + 2 * MB)),
      async () => {
        for (const page of [0, 100, 500]) {
          await mm.write(BASE + page * PAGE, Uint8Array.of(page & 127));
          bytes[page * PAGE] = page & 127;
        }
      },
      async () => void (await mm.munmap(BASE + 200 * PAGE, 10 * PAGE)),
      async () => {
        const child = await mm.fork();
        assert(child instanceof Mm, "fork failed");
        children.push(child);
        await child.write(BASE + 300 * PAGE, Uint8Array.of(1));
      },
      async () => void (await mm.madvise(BASE + 400 * PAGE, 50 * PAGE, "pageout")),
    ]);
    expectBytes(await readOk(mm, BASE, 200 * PAGE), bytes.subarray(0, 200 * PAGE));
    expectBytes(await readOk(mm, BASE + 210 * PAGE, 302 * PAGE), bytes.subarray(210 * PAGE, 512 * PAGE));
    checkQuiescent(phys);
    for (const child of children) await child.exit();
    await mm.exit();
    expect([phys.freePages, phys.swap.used]).toEqual([phys.ramPages - 2, 0]);
  },
);

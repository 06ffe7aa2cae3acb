import { describe, expect, test, vi } from "vitest";
import { EBUSY, EFAULT, EINVAL, EOPNOTSUPP } from "../../src/base/errno.ts";
import { makeDeviceExclusive } from "../../src/mm/exclusive.ts";
import { checkInvariants, checkQuiescent } from "../../src/mm/invariants.ts";
import { Mm } from "../../src/mm/mm.ts";
import { MMU_NOTIFY_CLEAR, MMU_NOTIFY_EXCLUSIVE, MMU_NOTIFY_UNMAP } from "../../src/mm/types.ts";
import { FakeDevice, MB, PAGE, RecordingNotifier, expectBytes, pattern, readOk, testPhys } from "./mm-fake-device.ts";

vi.setConfig({ testTimeout: 60_000 });

const BASE = 0x7f0000000000;
const OWNER = { device: 1 };

async function setUp(pages = 4) {
  const phys = testPhys(2048);
  const mm = new Mm({ phys });
  await mm.mmap(pages * PAGE, { at: BASE });
  await mm.write(BASE, pattern(pages * PAGE));
  const watcher = new RecordingNotifier(mm, BASE, BASE + pages * PAGE);
  await mm.intervalNotifierInsert(watcher);
  return { phys, mm, watcher };
}

/** Makes the page exclusive and lets go of it, as a driver does when it has mapped it. */
async function take(mm: Mm, addr: number): Promise<number> {
  const pfn = await makeDeviceExclusive(mm, addr, OWNER);
  expect(pfn).toBeGreaterThan(0);
  mm.phys.unlockPage(pfn);
  mm.phys.putPage(pfn);
  return pfn;
}

describe("make", () => {
  test("EXCLUSIVE with the owner is told while the entry is present; the page comes locked and held", async () => {
    const { phys, mm, watcher } = await setUp();
    const { pfn } = mm.pageAt(BASE + PAGE);
    watcher.check = () => expect(mm.pageAt(BASE + PAGE).kind).toBe("present");
    expect(await makeDeviceExclusive(mm, BASE + PAGE, OWNER)).toBe(pfn);
    expect(watcher.events).toEqual([
      { start: BASE + PAGE, end: BASE + 2 * PAGE, event: MMU_NOTIFY_EXCLUSIVE, blockable: true, owner: OWNER },
    ]);
    expect([mm.pageAt(BASE + PAGE).kind, phys.isLockedPage(pfn), phys.refcount(pfn)]).toEqual([
      "device-exclusive",
      true,
      2,
    ]);
    checkInvariants(phys);
    phys.unlockPage(pfn);
    phys.putPage(pfn);
    checkQuiescent(phys);
  });

  test("an untouched page, one in swap and one in device memory are brought to RAM first", async () => {
    const { phys, mm } = await setUp(4);
    const device = new FakeDevice(phys);
    await mm.dontneed(BASE, PAGE);
    await mm.madvise(BASE + PAGE, PAGE, "pageout");
    await device.migrate(mm, BASE + 2 * PAGE, BASE + 3 * PAGE);
    for (const page of [0, 1, 2]) await take(mm, BASE + page * PAGE);
    expect([0, 1, 2].map((i) => mm.pageAt(BASE + i * PAGE).kind)).toEqual(Array(3).fill("device-exclusive"));
    checkQuiescent(phys);
    expectBytes(await readOk(mm, BASE + PAGE, 3 * PAGE), pattern(4 * PAGE).subarray(PAGE));
  });

  test("a page shared by fork is copied first", async () => {
    const { phys, mm } = await setUp();
    const child = await mm.fork();
    if (!(child instanceof Mm)) throw new Error("fork failed");
    const shared = child.pageAt(BASE).pfn;
    expect(await take(mm, BASE)).not.toBe(shared);
    checkQuiescent(phys);
  });

  test("a huge page is split first", async () => {
    const { phys, mm } = await setUp();
    const at = BASE + 4 * MB;
    await mm.mmap(2 * MB, { at });
    await mm.madvise(at, 2 * MB, "hugepage");
    await mm.write(at, pattern(2 * MB));
    expect(mm.pageAt(at).huge).toBe(true);
    await take(mm, at + 5 * PAGE);
    expect([mm.pageAt(at).huge, mm.pageAt(at + 5 * PAGE).kind]).toEqual([false, "device-exclusive"]);
    expectBytes(await readOk(mm, at, 2 * MB), pattern(2 * MB));
    checkQuiescent(phys);
  });

  test("what cannot be: unaligned, a hole, no permission, shared memory, hugetlb", async () => {
    const { phys, mm, watcher } = await setUp();
    await mm.mmap(PAGE, { at: BASE + 2 * MB, shared: true });
    await mm.mmap(2 * MB, { at: BASE + 4 * MB, hugetlb: true });
    await mm.mprotect(BASE, PAGE, "R");
    watcher.take();
    expect(await makeDeviceExclusive(mm, BASE + 1, OWNER)).toBe(EINVAL);
    expect(await makeDeviceExclusive(mm, BASE - PAGE, OWNER)).toBe(EFAULT);
    expect(await makeDeviceExclusive(mm, BASE, OWNER)).toBe(EFAULT);
    expect(await makeDeviceExclusive(mm, BASE + 2 * MB, OWNER)).toBe(EOPNOTSUPP);
    expect(await makeDeviceExclusive(mm, BASE + 4 * MB, OWNER)).toBe(EOPNOTSUPP);
    expect(watcher.take()).toEqual([]);
    checkQuiescent(phys);
  });

  test("a page that changes while the change is announced is busy", async () => {
    const { phys, mm, watcher } = await setUp();
    const word = mm.tables.read(BASE / PAGE);
    watcher.check = () => mm.tables.write(BASE / PAGE, 0);
    expect(await makeDeviceExclusive(mm, BASE, OWNER)).toBe(EBUSY);
    mm.tables.write(BASE / PAGE, word);
    checkQuiescent(phys);
  });
});

describe("undo", () => {
  test("a CPU access tells CLEAR while the entry is exclusive, and then finds its page", async () => {
    const { phys, mm, watcher } = await setUp();
    const pfn = await take(mm, BASE);
    watcher.take();
    // Until the device has let go, its stores count.
    watcher.check = () => {
      expect(mm.pageAt(BASE).kind).toBe("device-exclusive");
      phys.bytesOf(pfn)[0] = 123;
    };
    expect((await readOk(mm, BASE, 1))[0]).toBe(123);
    expect(watcher.take()).toEqual([[MMU_NOTIFY_CLEAR, BASE, BASE + PAGE]]);
    expect(mm.pageAt(BASE)).toEqual({ kind: "present", pfn, writable: true, huge: false });
    checkQuiescent(phys);
  });

  test("a CPU access waits until the driver has unlocked the page", async () => {
    const { phys, mm } = await setUp();
    const pfn = Number(await makeDeviceExclusive(mm, BASE, OWNER));
    let done = false;
    const access = Promise.resolve(mm.write(BASE, Uint8Array.of(5))).then(() => (done = true));
    await new Promise((resume) => setImmediate(resume));
    expect(done).toBe(false);
    phys.unlockPage(pfn);
    phys.putPage(pfn);
    await access;
    expect(phys.bytesOf(pfn)[0]).toBe(5);
    checkQuiescent(phys);
  });

  test("munmap frees the page, fork makes it ordinary, mprotect holds after it, compaction moves it", async () => {
    const { phys, mm, watcher } = await setUp(4);
    for (const page of [0, 1, 2, 3]) await take(mm, BASE + page * PAGE);
    watcher.take();
    await mm.munmap(BASE, PAGE);
    expect(watcher.take()).toEqual([[MMU_NOTIFY_UNMAP, BASE, BASE + PAGE]]);
    await mm.mprotect(BASE + PAGE, PAGE, "R");
    expect(await mm.write(BASE + PAGE, Uint8Array.of(1))).toMatchObject({ code: "SEGV" });
    expectBytes(await readOk(mm, BASE + PAGE, PAGE), pattern(4 * PAGE).subarray(PAGE, 2 * PAGE));
    const child = await mm.fork();
    if (!(child instanceof Mm)) throw new Error("fork failed");
    expect([mm.pageAt(BASE + 2 * PAGE).kind, child.pageAt(BASE + 2 * PAGE).kind]).toEqual(["present", "present"]);
    await child.write(BASE + 2 * PAGE, Uint8Array.of(1));
    expectBytes(await readOk(mm, BASE + 2 * PAGE, 2 * PAGE), pattern(4 * PAGE).subarray(2 * PAGE));
    checkQuiescent(phys);
    await child.exit();
    await mm.exit();
    expect(phys.freePages).toBe(2046);
  });

  test("a look-up for a device that wants the page takes it back; a snapshot does not", async () => {
    const { phys, mm, watcher } = await setUp(1);
    await take(mm, BASE);
    watcher.take();
    const look = async (defaultFlags: number) => {
      const range = {
        notifier: watcher,
        notifierSeq: await mm.readBegin(watcher),
        start: BASE,
        end: BASE + PAGE,
        pfns: new Float64Array(1),
        flags: new Uint8Array(1),
        orders: new Uint8Array(1),
        defaultFlags,
        devPrivateOwner: OWNER,
      };
      const guard = await mm.mmapLock.read();
      const error = await mm.hmmRangeFault(range);
      guard.release();
      return [error, range.flags[0]];
    };
    expect(await look(0)).toEqual([0, 0]);
    expect(mm.pageAt(BASE).kind).toBe("device-exclusive");
    expect(await look(1)).toEqual([EBUSY, 0]);
    expect(mm.pageAt(BASE).kind).toBe("present");
    expect(await look(1)).toEqual([0, 3]);
    checkQuiescent(phys);
  });
});

test.for(Array.from({ length: 16 }, (_, seed) => [seed] as const))(
  "device and CPU take turns: every addition counts (seed %i)",
  async ([seed]) => {
    const { phys, mm, watcher } = await setUp(1);
    await mm.store32(BASE, 0);
    // The device's mapping: from `take` until it is told of a change.
    let mapped = 0;
    watcher.check = (range) => {
      if (range.event !== MMU_NOTIFY_EXCLUSIVE) mapped = 0;
    };
    const device = async () => {
      for (let i = 0; i < 5;) {
        const pfn = await makeDeviceExclusive(mm, BASE, OWNER);
        if (pfn < 0) continue;
        mapped = Number(pfn);
        phys.unlockPage(mapped);
        await phys.sched.point("test:device");
        if (mapped !== 0) {
          phys.words[mapped * 1024]! += 1;
          i++;
        }
        phys.putPage(pfn);
        await phys.sched.point("test:device:done");
      }
    };
    const cpu = async () => {
      for (let i = 0; i < 5; i++) await mm.atomicAdd32(BASE, 1);
    };
    await phys.sched.race(seed, [device, cpu, cpu]);
    expect(await mm.load32(BASE)).toBe(15);
    checkQuiescent(phys);
  },
);

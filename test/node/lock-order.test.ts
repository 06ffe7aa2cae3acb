import { describe, expect, test } from "vitest";
import { InvariantError } from "../../src/base/assert.ts";
import { LockContext, branch, currentActivity, inActivity, trackActivities } from "../../src/base/lock-order.ts";
import { Mutex, RwSemaphore } from "../../src/base/locks.ts";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { Machine } from "../../src/machine/machine.ts";
import { Mm } from "../../src/mm/mm.ts";
import { MB, PAGE, RecordingNotifier, mmapOk, pattern, testPhys, testScheduler } from "./mm-fake-device.ts";

const notifierLock = () => new RwSemaphore("N", "notifier");

describe("every lock of the stack, taken in the wrong order, is reported with both names", () => {
  test("a system call under the notifier lock", async () => {
    const mm = new Mm({ phys: testPhys() });
    const a = await mmapOk(mm, 4 * PAGE);
    const wrong = inActivity(async () => {
      const n = await notifierLock().read();
      try {
        await mm.munmap(a, PAGE);
      } finally {
        n.release();
      }
    });
    await expect(wrong).rejects.toThrow(/mmap lock of mm \d+ \(mmap\) taken under N \(notifier\)/);
    expect(mm.mmapLock.isHeld).toBe(false);
  });

  test("a CPU fault under a page lock, and a page waited for under another", async () => {
    const phys = testPhys();
    const mm = new Mm({ phys });
    const a = await mmapOk(mm, 4 * PAGE);
    const pfn = phys.allocPage();
    const other = phys.allocPage();
    await inActivity(async () => {
      expect(phys.tryLockPage(pfn)).toBe(true);
      expect(() => mm.write(a, pattern(4))).toThrow(`(mmap) taken under page ${pfn} (page)`);
      expect(() => phys.lockPage(other)).toThrow(`page ${other} (page) taken under page ${pfn} (page)`);
      expect(phys.tryLockPage(other)).toBe(true);
      expect(() => phys.locks.waitUnlocked(other)).toThrow(InvariantError);
      phys.unlockPage(other);
      phys.unlockPage(pfn);
    });
  });

  test("a notifier callback that makes a system call", async () => {
    const mm = new Mm({ phys: testPhys() });
    const a = await mmapOk(mm, 4 * PAGE);
    const notifier = new RecordingNotifier(mm, a, a + 4 * PAGE);
    await mm.intervalNotifierInsert(notifier);
    notifier.check = async () => {
      await mm.mprotect(a, PAGE, "R");
    };
    await expect(mm.munmap(a, PAGE)).rejects.toThrow(/mmap lock of mm (\d+) .* taken under mmap lock of mm \1/);
  });

  test("an interval removed, or read, during an invalidation under the lock that its callback takes", async () => {
    const mm = new Mm({ phys: testPhys() });
    const a = await mmapOk(mm, 4 * PAGE);
    const notifier = new RecordingNotifier(mm, a, a + 4 * PAGE);
    await mm.intervalNotifierInsert(notifier);
    mm.notifiers.start({ start: a, end: a + PAGE, event: 1, blockable: true, owner: null });
    await inActivity(async () => {
      const n = await notifierLock().read();
      const message = "the end of an invalidation (notifier) taken under N (notifier)";
      expect(() => mm.intervalNotifierRemove(notifier)).toThrow(message);
      expect(() => mm.readBegin(notifier)).toThrow(message);
      n.release();
      const removed = mm.intervalNotifierRemove(notifier);
      mm.notifiers.end();
      await removed;
    });
  });

  test("a migration to VRAM under the mmap lock, and a driver lock under a reservation", async () => {
    const machine = new Machine({ engine: REFERENCE_ENGINE, ram: 16 * MB });
    const p = machine.createProcess();
    const vm = machine.createDevice({ vram: 4 * MB }).vm(p);
    const a = await p.mmap(PAGE);
    await inActivity(async () => {
      const guard = await p.mm.mmapLock.read();
      await expect(vm.toVram(a, PAGE)).rejects.toThrow(/vm \d+ \(driverVm\) taken under mmap lock of mm \d+ \(mmap\)/);
      guard.release();
      const resv = await new Mutex("a buffer", "reservation").lock();
      await expect(vm.toVram(a, PAGE)).rejects.toThrow(/vm \d+ \(driverVm\) taken under a buffer \(reservation\)/);
      resv.release();
      expect(await vm.toVram(a, PAGE)).toBe(1);
    });
    await machine.close();
  });
});

describe("what an activity holds", () => {
  test("stays its own across awaits: two activities in a race do not see each other's locks", async () => {
    const sched = testScheduler();
    const outer = new RwSemaphore("M", "mmap");
    const inner = notifierLock();
    let insideBoth = 0;
    for (let seed = 0; seed < 8; seed++) {
      const reader = async () => {
        const m = await outer.read();
        await sched.point("holding M");
        const n = await inner.read();
        await sched.point("holding both");
        if (currentActivity()!.held().length === 2) insideBoth += 1;
        n.release();
        m.release();
        expect(currentActivity()!.held()).toEqual([]);
      };
      await sched.race(seed, [reader, reader, reader]);
    }
    expect(insideBoth).toBe(24);
  });

  test("is told of a lock when it is waited for: the order is checked before, not after the wait", async () => {
    const lock = new RwSemaphore("M", "mmap");
    const holder = lock.tryWrite()!;
    await inActivity(async () => {
      const n = await notifierLock().read();
      expect(() => lock.read()).toThrow("lock order: M (mmap) taken under N (notifier)");
      n.release();
    });
    expect(lock.isContended).toBe(false);
    holder.release();
  });

  test("a branch stands on what its parent holds, not on what its siblings do", async () => {
    const [first, second] = [new Mutex("first", "reservation"), new Mutex("second", "reservation")];
    await inActivity(async () => {
      const m = await new RwSemaphore("M", "mmap").read();
      const guards = await Promise.all([first, second].map((lock) => branch(async () => lock.lock())));
      expect(() => branch(() => new RwSemaphore("D", "driverVm").read())).toThrow("D (driverVm) taken under M (mmap)");
      for (const guard of guards) guard.release();
      m.release();
    });
  });

  test("a mutex that is tried may be out of order, but not under the notifier lock", () => {
    const held = new LockContext();
    const page = new RwSemaphore("page", "page");
    const resv = new RwSemaphore("resv", "reservation");
    held.tried(page);
    held.tried(resv);
    expect(() => held.taking(resv)).toThrow("resv (reservation) taken under page (page)");
    held.taking(notifierLock());
    expect(() => held.tried(resv)).toThrow("resv (reservation) taken under N (notifier)");
  });

  test("locks of one class that have a number are taken together in ascending order", () => {
    const held = new LockContext();
    held.taking(new RwSemaphore("one", "reservation", 1));
    held.taking(new RwSemaphore("two", "reservation", 2));
    expect(() => held.taking(new RwSemaphore("zero", "reservation", 0))).toThrow(/zero .* taken under one/);
    expect(() => held.taking(new RwSemaphore("none", "reservation"))).toThrow(/none .* taken under one/);
  });

  test("is not kept track of in production", () => {
    const tracker = trackActivities(null);
    try {
      const n = notifierLock().tryRead()!;
      const m = new RwSemaphore("M", "mmap").tryRead()!;
      expect(currentActivity()).toBeNull();
      m.release();
      n.release();
    } finally {
      trackActivities(tracker);
    }
  });
});

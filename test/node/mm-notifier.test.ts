import { describe, expect, test } from "vitest";
import { EAGAIN, EINVAL, ENOMEM, EOVERFLOW } from "../../src/base/errno.ts";
import { IntervalTreeNode } from "../../src/base/interval-tree.ts";
import { Mm } from "../../src/mm/mm.ts";
import {
  MMU_NOTIFY_CLEAR,
  MMU_NOTIFY_RELEASE,
  MMU_NOTIFY_UNMAP,
  type MmuIntervalNotifier,
  type MmuNotifierRange,
} from "../../src/mm/types.ts";
import { PAGE, RecordingNotifier, mmapOk, testPhys } from "./mm-fake-device.ts";

function setUp() {
  const mm = new Mm({ phys: testPhys(64) });
  return { mm, n: mm.notifiers };
}

function clear(start: number, end: number, blockable = true): MmuNotifierRange {
  return { start, end, event: MMU_NOTIFY_CLEAR, blockable, owner: null };
}

/** True when the promise has settled once every microtask has run. */
async function isSettled(promise: unknown): Promise<boolean> {
  let settled = false;
  void Promise.resolve(promise).then(() => (settled = true));
  await new Promise((turn) => setImmediate(turn));
  return settled;
}

describe("sequence numbers (the worked example)", () => {
  test("insert, read, hit, retry, wait for the end, read again", async () => {
    const { mm, n } = setUp();
    const x = new RecordingNotifier(mm, 0x10000, 0x20000);
    expect(n.seq).toBe(2);
    expect(mm.intervalNotifierInsert(x)).toBe(0);
    expect(x.invalidateSeq).toBe(1);
    const seq = mm.readBegin(x);
    expect(seq).toBe(1);
    expect(mm.readRetry(x, 1)).toBe(false);

    expect(n.start(clear(0x1f000, 0x30000))).toBe(0);
    expect(n.seq).toBe(3);
    expect(x.invalidateSeq).toBe(3);
    expect(mm.readRetry(x, 1)).toBe(true);
    const inside = mm.readBegin(x);
    expect(await isSettled(inside)).toBe(false);
    n.end();
    expect(n.seq).toBe(4);
    expect(await inside).toBe(3);
    expect(mm.readRetry(x, 3)).toBe(false);
  });

  test("an invalidation that misses every interval leaves the sequence alone", () => {
    const { mm, n } = setUp();
    const x = new RecordingNotifier(mm, 0x10000, 0x20000);
    mm.intervalNotifierInsert(x);
    n.start(clear(0x20000, 0x30000));
    expect([n.seq, n.active]).toEqual([2, 1]);
    n.end();
    expect([n.seq, n.active]).toEqual([2, 0]);
    expect(x.events).toEqual([]);
  });

  test.each([
    ["last byte before it", 0xf000, 0x10000, 0],
    ["first byte of it", 0xf000, 0x10001, 1],
    ["last byte of it", 0x1ffff, 0x30000, 1],
    ["first byte after it", 0x20000, 0x30000, 0],
  ])("an interval is hit exactly when the change reaches the %s", (_, start, end, hits) => {
    const { mm, n } = setUp();
    const x = new RecordingNotifier(mm, 0x10000, 0x20000);
    mm.intervalNotifierInsert(x);
    n.start(clear(start, end));
    n.end();
    expect(x.events).toHaveLength(hits);
  });

  test("concurrent invalidations share one odd number until the last of all ends, one that hits nothing included", () => {
    const { mm, n } = setUp();
    const x = new RecordingNotifier(mm, 0x10000, 0x20000);
    mm.intervalNotifierInsert(x);
    n.start(clear(0x10000, 0x11000));
    n.start(clear(0x90000, 0x91000));
    n.start(clear(0x12000, 0x13000));
    expect([n.seq, n.active]).toEqual([3, 3]);
    n.end();
    n.end();
    expect(n.seq).toBe(3);
    n.end();
    expect(n.seq).toBe(4);
  });
});

describe("insertion", () => {
  test("during an invalidation that hit something it is deferred, and its readers wait for the end", async () => {
    const { mm, n } = setUp();
    const x = new RecordingNotifier(mm, 0x10000, 0x20000);
    const y = new RecordingNotifier(mm, 0x10000, 0x20000);
    mm.intervalNotifierInsert(x);
    n.start(clear(0x10000, 0x20000));
    n.end();
    n.start(clear(0x10000, 0x20000));
    expect(n.seq).toBe(5);
    expect(mm.intervalNotifierInsert(y)).toBe(0);
    expect(y.invalidateSeq).toBe(5);
    const read = mm.readBegin(y);
    expect(await isSettled(read)).toBe(false);
    expect(n.intervals()).toEqual([x]);
    n.end();
    expect(n.seq).toBe(6);
    expect(await read).toBe(5);
    expect(n.intervals()).toEqual([x, y]);
    n.start(clear(0x10000, 0x11000));
    expect(y.events).toHaveLength(1);
  });

  test("during an invalidation that hit nothing it makes the sequence odd and goes in at once", async () => {
    const { mm, n } = setUp();
    n.start(clear(0x10000, 0x20000));
    const y = new RecordingNotifier(mm, 0x10000, 0x20000);
    expect(mm.intervalNotifierInsert(y)).toBe(0);
    expect([n.seq, y.invalidateSeq]).toEqual([3, 3]);
    expect(n.intervals()).toEqual([y]);
    const read = mm.readBegin(y);
    expect(await isSettled(read)).toBe(false);
    n.end();
    expect(await read).toBe(3);
  });

  test("the first one waits for the mmap lock for write, later ones do not", async () => {
    const { mm } = setUp();
    const guard = mm.mmapLock.tryRead()!;
    const first = mm.intervalNotifierInsert(new RecordingNotifier(mm, 0, PAGE));
    expect(await isSettled(first)).toBe(false);
    guard.release();
    expect(await first).toBe(0);
    const again = mm.mmapLock.tryRead()!;
    expect(mm.intervalNotifierInsert(new RecordingNotifier(mm, 0, PAGE))).toBe(0);
    again.release();
  });

  test("an empty interval or one whose end is not exact: -EOVERFLOW", () => {
    const { mm, n } = setUp();
    expect(mm.intervalNotifierInsert(new RecordingNotifier(mm, 0x1000, 0x1000))).toBe(EOVERFLOW);
    expect(mm.intervalNotifierInsert(new RecordingNotifier(mm, 0x1000, 2 ** 53 + 2))).toBe(EOVERFLOW);
    expect(n.intervals()).toEqual([]);
  });

  test("made to fail: -ENOMEM, nothing inserted", () => {
    const { mm, n } = setUp();
    mm.phys.failpoint = (site) => site === "notifier-insert";
    expect(mm.intervalNotifierInsert(new RecordingNotifier(mm, 0, PAGE))).toBe(ENOMEM);
    expect(n.intervals()).toEqual([]);
  });

  test("into an address space without users: -EINVAL", async () => {
    const { mm } = setUp();
    await mm.exit();
    expect(mm.intervalNotifierInsert(new RecordingNotifier(mm, 0, PAGE))).toBe(EINVAL);
  });
});

describe("removal", () => {
  test("waits for the running invalidation, after which no callback comes", async () => {
    const { mm, n } = setUp();
    const x = new RecordingNotifier(mm, 0x10000, 0x20000);
    mm.intervalNotifierInsert(x);
    n.start(clear(0x10000, 0x20000));
    const removed = mm.intervalNotifierRemove(x);
    expect(await isSettled(removed)).toBe(false);
    n.end();
    await removed;
    expect(n.intervals()).toEqual([]);
    n.start(clear(0x10000, 0x20000));
    n.end();
    expect(x.events).toHaveLength(1);
  });

  test("of an insertion that is still deferred cancels it at once", () => {
    const { mm, n } = setUp();
    const x = new RecordingNotifier(mm, 0x10000, 0x20000);
    const y = new RecordingNotifier(mm, 0x10000, 0x20000);
    mm.intervalNotifierInsert(x);
    n.start(clear(0x10000, 0x20000));
    mm.intervalNotifierInsert(y);
    expect(mm.intervalNotifierRemove(y)).toBeUndefined();
    n.end();
    expect(n.intervals()).toEqual([x]);
  });

  test("does not wait while an invalidation runs that hit nothing", () => {
    const { mm, n } = setUp();
    const x = new RecordingNotifier(mm, 0x10000, 0x20000);
    mm.intervalNotifierInsert(x);
    n.start(clear(0x30000, 0x40000));
    expect(mm.intervalNotifierRemove(x)).toBeUndefined();
    n.end();
  });
});

describe("callbacks", () => {
  class Refusing extends IntervalTreeNode implements MmuIntervalNotifier {
    invalidateSeq = 0;
    calls = 0;

    invalidate(range: MmuNotifierRange): boolean {
      this.calls += 1;
      return range.blockable && false;
    }
  }

  test("a refused non-blockable change asks nobody else, is over at once and fails with -EAGAIN", () => {
    const { mm, n } = setUp();
    const first = new Refusing(0x10000, 0x1ffff);
    const second = new Refusing(0x20000, 0x2ffff);
    mm.intervalNotifierInsert(first);
    mm.intervalNotifierInsert(second);
    expect(n.start(clear(0x10000, 0x30000, false))).toBe(EAGAIN);
    expect([first.calls, second.calls]).toEqual([1, 0]);
    expect([n.active, n.seq]).toEqual([0, 4]);
  });

  test("a refusal of a blockable change is ignored and counted", () => {
    const { mm, n } = setUp();
    mm.intervalNotifierInsert(new Refusing(0x10000, 0x1ffff));
    expect(n.start(clear(0x10000, 0x30000))).toBe(0);
    expect([n.active, n.ignoredRefusals]).toEqual([1, 1]);
    n.end();
  });

  test("are called one after the other in address order, each awaited", async () => {
    const { mm, n } = setUp();
    const order: string[] = [];
    const slow = new RecordingNotifier(mm, 0x10000, 0x20000);
    slow.check = async () => {
      order.push("slow begins");
      await new Promise((turn) => setImmediate(turn));
      order.push("slow ends");
    };
    const quick = new RecordingNotifier(mm, 0x18000, 0x30000);
    quick.check = () => void order.push("quick");
    mm.intervalNotifierInsert(quick);
    mm.intervalNotifierInsert(slow);
    expect(await n.start(clear(0x10000, 0x30000))).toBe(0);
    expect(order).toEqual(["slow begins", "slow ends", "quick"]);
    n.end();
  });
});

describe("end of the address space", () => {
  test("RELEASE over everything, once, then UNMAP of what is mapped; later mmget fails", async () => {
    const { mm } = setUp();
    const a = await mmapOk(mm, 2 * PAGE);
    const b = await mmapOk(mm, PAGE, { at: a + 4 * PAGE });
    const x = new RecordingNotifier(mm, a, a + 16 * PAGE);
    mm.intervalNotifierInsert(x);
    expect(mm.mmget()).toBe(true);
    await mm.exit();
    expect(x.events).toEqual([]);
    expect(mm.exited.isDone).toBe(false);
    mm.mmput();
    expect(mm.exited.isDone).toBe(true);
    expect(x.take()).toEqual([
      [MMU_NOTIFY_RELEASE, 0, Number.MAX_SAFE_INTEGER],
      [MMU_NOTIFY_UNMAP, a, a + 2 * PAGE],
      [MMU_NOTIFY_UNMAP, b, b + PAGE],
    ]);
    expect(mm.mmget()).toBe(false);
    expect(mm.phys.mms).toEqual([mm]);
    mm.intervalNotifierRemove(x);
    expect(mm.phys.mms).toEqual([]);
  });

  test("the last mmput waits in the background for callbacks that wait", async () => {
    const { mm } = setUp();
    const a = await mmapOk(mm, PAGE);
    const x = new RecordingNotifier(mm, a, a + PAGE);
    x.check = () => new Promise((turn) => setImmediate(turn));
    mm.intervalNotifierInsert(x);
    mm.mmput();
    expect(mm.exited.isDone).toBe(false);
    await mm.sched.settle();
    expect(mm.exited.isDone).toBe(true);
    expect(x.take().map(([event]) => event)).toEqual([MMU_NOTIFY_RELEASE, MMU_NOTIFY_UNMAP]);
  });

  test("mmputAsync ends it later, as work of its own", async () => {
    const { mm } = setUp();
    mm.mmputAsync();
    expect(mm.isExiting).toBe(false);
    await mm.sched.settle();
    expect(mm.exited.isDone).toBe(true);
  });
});

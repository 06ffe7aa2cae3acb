import { describe, expect, test } from "vitest";
import { LockContext } from "../../src/base/lock-order.ts";
import { Completion, Mutex, RwSemaphore, WaitQueue } from "../../src/base/locks.ts";
import { DeadlockError, Scheduler } from "../../src/base/scheduler.ts";
import type { Platform } from "../../src/base/scheduler.ts";

const platform: Platform = {
  turn: () => new Promise((resolve) => setImmediate(resolve)),
  now: () => 0,
  sleep: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
};

/** The example of scheduler.ts. */
async function orderOf(seed: number): Promise<string> {
  const s = new Scheduler(platform);
  const order: string[] = [];
  const activity = (name: string) => async () => {
    for (let i = 0; i < 3; i++) {
      await s.point("step");
      order.push(name);
    }
  };
  await s.race(seed, [activity("a"), activity("b")]);
  return order.join("");
}

describe("a race", () => {
  test("gives the same order for the same seed, and many orders for many seeds", async () => {
    const orders = new Set<string>();
    for (let seed = 1; seed <= 40; seed++) {
      const order = await orderOf(seed);
      expect(await orderOf(seed)).toBe(order);
      orders.add(order);
    }
    // 20 interleavings of three and three exist.
    expect(orders.size).toBeGreaterThan(10);
  });

  test("gives the results in order, and the first error once all have ended", async () => {
    const s = new Scheduler(platform);
    expect(await s.race(3, [async () => 1, async () => 2])).toEqual([1, 2]);
    let ended = false;
    const failing = s.race(4, [
      async () => Promise.reject(new Error("first")),
      async () => {
        await s.point("p");
        ended = true;
      },
    ]);
    await expect(failing).rejects.toThrow("first");
    expect(ended).toBe(true);
  });

  test("in which nobody can go on is a deadlock that names the seed", async () => {
    const s = new Scheduler(platform);
    const never = new Completion();
    await expect(s.race(5, [async () => never.wait()])).rejects.toThrow(DeadlockError);
    await expect(s.race(5, [async () => never.wait()])).rejects.toThrow("seed 5");
  });

  test("runs on virtual time, which moves only when nothing else can", async () => {
    const s = new Scheduler(platform);
    const seen: number[] = [];
    await s.race(1, [
      async () => {
        await s.sleep(1e9);
        seen.push(s.now());
      },
      async () => {
        await s.sleep(10);
        seen.push(s.now());
      },
    ]);
    expect(seen).toEqual([10, 1e9]);
  });

  test("waits for what lies outside before it draws again, so that its duration decides nothing", async () => {
    const orderWith = async (seed: number, first: number, second: number) => {
      const s = new Scheduler(platform);
      const order: string[] = [];
      await s.race(seed, [
        async () => {
          await s.external(platform.sleep(first));
          await s.point("a");
          order.push("a");
        },
        async () => {
          await s.point("b");
          await s.external(platform.sleep(second));
          order.push("b");
        },
      ]);
      return order.join("");
    };
    for (let seed = 0; seed < 8; seed++) {
      expect(await orderWith(seed, 0, 0)).toBe(await orderWith(seed, 0, 0));
    }
  });
});

describe("outside a race", () => {
  test("a point has nothing to await, and a watcher changes that", async () => {
    const s = new Scheduler(platform);
    expect(s.point("p")).toBeUndefined();
    let seen = 0;
    const unwatch = s.watch(() => {
      seen += 1;
    });
    await s.point("p");
    expect(seen).toBe(1);
    unwatch();
    expect(s.point("p")).toBeUndefined();
  });

  test("settle waits for deferred work, that of deferred work too, and throws its error once", async () => {
    const s = new Scheduler(platform);
    let done = 0;
    s.defer("outer", async () => {
      await platform.sleep(1);
      s.defer("inner", () => {
        done += 1;
      });
      done += 1;
    });
    await s.settle();
    expect(done).toBe(2);
    s.defer("bad", () => {
      throw new Error("deferred");
    });
    await expect(s.settle()).rejects.toThrow("deferred");
    await s.settle();
  });
});

describe("locks", () => {
  test("a free lock is taken without a promise; a waiting writer stops later readers", async () => {
    const lock = new RwSemaphore("l", "mmap");
    const reader = lock.tryRead()!;
    const order: string[] = [];
    const writer = Promise.resolve(lock.write()).then((g) => {
      order.push("write");
      g.release();
    });
    expect(lock.tryRead()).toBeNull();
    const later = Promise.resolve(lock.read()).then((g) => {
      order.push("read");
      g.release();
    });
    reader.release();
    await Promise.all([writer, later]);
    expect(order).toEqual(["write", "read"]);
    expect(lock.isHeld).toBe(false);
  });

  test("a guard released twice is a bug", () => {
    const guard = new Mutex("m", "device").tryLock()!;
    guard.release();
    expect(() => guard.release()).toThrow("released twice");
  });

  test("taking a lock of a lower rank under a higher one is named with both", () => {
    const held = new LockContext();
    held.taking(new RwSemaphore("notifier lock", "notifier"));
    expect(() => held.taking(new RwSemaphore("mmap lock", "mmap"))).toThrow(/mmap lock .* notifier lock/);
  });

  test("a completion wakes those before and does not stop those after; a wait queue wakes all", async () => {
    const completion = new Completion();
    const before = completion.wait();
    completion.complete();
    await before;
    expect(completion.wait()).toBeUndefined();
    const queue = new WaitQueue();
    let open = false;
    const waiting = Promise.all([queue.waitUntil(() => open), queue.waitUntil(() => open)]);
    queue.wakeAll();
    open = true;
    await Promise.resolve();
    queue.wakeAll();
    await waiting;
  });
});

import { assert } from "./assert.ts";
import { newActivity } from "./lock-order.ts";
import { Random } from "./random.ts";

/**
 * The deterministic scheduler.
 *
 * Overview. An `await` is where another activity may run. Named yield points (`point`) stand at every place of the
 * stack where an interleaving matters. Normally a point costs one property read and nothing waits. Inside `race`, every
 * activity stops at each point; when nothing can move any more, the scheduler draws from the seed which one goes on. So
 * the seed alone decides the interleaving, and a failing seed can be run again.
 *
 * What counts as "nothing can move": one turn of the host's event loop (`Platform.turn`) lets every promise chain run
 * until it stops at a point, a lock, or something outside (`external`: the GPU, a timer). Results from outside arrive in
 * the order they come, which is not under the seed's control; so the scheduler first waits for all that are under way
 * and then lets them go on one at a time, in the order in which they were asked for.
 *
 * Example (test/node/scheduler.test.ts runs it):
 *
 *     const s = new Scheduler(platform);
 *     const order: string[] = [];
 *     const activity = (name: string) => async () => {
 *       for (let i = 0; i < 3; i++) { await s.point("step"); order.push(name); }
 *     };
 *     await s.race(7, [activity("a"), activity("b")]);   // the same order every time
 */
export interface Platform {
  /** Resolves in a later turn of the event loop, when all microtasks have run. */
  turn(): Promise<void>;
  /** Milliseconds from an arbitrary start, never going back. */
  now(): number;
  sleep(ms: number): Promise<void>;
}

/** No activity of a race can go on: each waits for a lock or an event that only another of them could give. */
export class DeadlockError extends Error {
  override readonly name = "DeadlockError";
  readonly code = "EDEADLK";
}

interface Parked {
  readonly name: string;
  readonly resume: () => void;
}

interface Timer {
  readonly at: number;
  readonly resume: () => void;
}

export class Scheduler {
  readonly #platform: Platform;
  #steps = 0;
  #random: Random | null = null;
  #ready: Parked[] = [];
  #timers: Timer[] = [];
  #virtualNow = 0;
  /** What the clock said when it was last looked at, and whether nobody has waited since. */
  #seen = 0;
  #isSeen = false;
  #stretch = 0;
  #externals = 0;
  #watchers = new Set<() => void | Promise<void>>();
  #deferred = 0;
  #idle: (() => void)[] = [];
  #deferredError: unknown = null;
  /** Awaited at the named points when set; the page's pause and single-step hang here. */
  gate: ((name: string) => Promise<void> | undefined) | null = null;

  constructor(platform: Platform) {
    this.#platform = platform;
  }

  /** Yield points passed so far. */
  get steps(): number {
    return this.#steps;
  }
  get racing(): boolean {
    return this.#random !== null;
  }

  /** A place where another activity may run. Undefined, with nothing to await, unless a race or a watcher wants it. */
  point(name: string): Promise<void> | undefined {
    this.#steps += 1;
    if (this.#random === null && this.#watchers.size === 0) return undefined;
    return this.#stop(name);
  }

  async #stop(name: string): Promise<void> {
    for (const watch of this.#watchers) await watch();
    if (this.#random !== null) await this.#park(name);
  }

  #park(name: string): Promise<void> {
    return new Promise((resume) => this.#ready.push({ name, resume }));
  }

  /** Await something that the seed cannot order: the GPU, the host. */
  async external<T>(promise: Promise<T>): Promise<T> {
    if (this.#random === null) return promise;
    this.#externals += 1;
    try {
      return await promise;
    } finally {
      this.#externals -= 1;
      if (this.#random !== null) await this.#park("external");
    }
  }

  /** Lets everybody else run who can: in a later turn of the event loop, or in the order of the race. */
  turn(): Promise<void> {
    return this.#random === null ? this.#platform.turn() : this.#park("turn");
  }

  /** Milliseconds. Virtual inside a race, so that timeouts do not depend on the machine. */
  now(): number {
    if (this.#random !== null) return this.#virtualNow;
    this.#seen = this.#platform.now();
    if (!this.#isSeen) {
      this.#isSeen = true;
      // Runs when the code that looks waits for something, or ends.
      void Promise.resolve().then(() => {
        this.#isSeen = false;
        this.#stretch += 1;
      });
    }
    return this.#seen;
  }

  /** Another number when something has been waited for since a look at the clock. Means nothing inside a race. */
  get stretch(): number {
    return this.#stretch;
  }

  /**
   * The time of the last look at the clock, if nothing has been waited for since; a look otherwise. For what happens often and
   * need not be told apart to the microsecond: in a browser a look costs as much as the event that it is for.
   */
  lately(): number {
    if (this.#random !== null) return this.#virtualNow;
    return this.#isSeen ? this.#seen : this.now();
  }

  sleep(ms: number): Promise<void> {
    if (this.#random === null) return this.#platform.sleep(ms);
    return new Promise((resume) => this.#timers.push({ at: this.#virtualNow + ms, resume }));
  }

  /** `f` runs at every yield point until the function returned is called. */
  watch(f: () => void | Promise<void>): () => void {
    this.#watchers.add(f);
    return () => this.#watchers.delete(f);
  }

  /** Runs `work` later, as an activity of its own. `settle` waits for it; its error is thrown there. */
  defer(name: string, work: () => void | Promise<void>): void {
    this.#deferred += 1;
    void newActivity(() => this.#runDeferred(name, work));
  }

  async #runDeferred(name: string, work: () => void | Promise<void>): Promise<void> {
    try {
      if (this.#random !== null) await this.#park(name);
      else await Promise.resolve();
      await work();
    } catch (error) {
      this.#deferredError ??= error;
    } finally {
      this.#deferred -= 1;
      if (this.#deferred === 0) {
        const idle = this.#idle;
        this.#idle = [];
        for (const wake of idle) wake();
      }
    }
  }

  get deferredCount(): number {
    return this.#deferred;
  }

  /** Resolves when no deferred work is left; rejects with the first error of one. */
  async settle(): Promise<void> {
    while (this.#deferred > 0) await new Promise<void>((wake) => this.#idle.push(wake));
    const error = this.#deferredError;
    this.#deferredError = null;
    if (error !== null) throw error;
  }

  /**
   * Runs the activities interleaved at every yield point in an order drawn from `seed`.
   * Resolves with their results in order, or rejects with the first error once all have ended.
   */
  async race<T>(seed: number, activities: readonly (() => Promise<T>)[]): Promise<T[]> {
    assert(this.#random === null, "a race inside a race");
    this.#random = new Random(seed);
    this.#virtualNow = this.#platform.now();
    let running = activities.length;
    const settled = Promise.allSettled(
      activities.map((activity, i) =>
        newActivity(async () => {
          try {
            await this.#park(`start ${i}`);
            return await activity();
          } finally {
            running -= 1;
          }
        }),
      ),
    );
    try {
      while (running > 0) {
        await this.#platform.turn();
        if (running === 0) break;
        if (this.#externals > 0) continue;
        if (!this.#releaseOne()) {
          if (running === 0) break;
          throw new DeadlockError(`${running} of ${activities.length} activities can never go on (seed ${seed})`);
        }
      }
    } finally {
      this.#random = null;
      // Work deferred inside the race goes on freely after it.
      for (const parked of this.#ready.splice(0)) parked.resume();
      for (const timer of this.#timers.splice(0)) timer.resume();
    }
    const results = await settled;
    const failed = results.find((r) => r.status === "rejected");
    if (failed !== undefined) throw failed.reason;
    return results.map((r) => (r as PromiseFulfilledResult<T>).value);
  }

  #releaseOne(): boolean {
    if (this.#ready.length > 0) {
      const index = this.#random!.below(this.#ready.length);
      const [parked] = this.#ready.splice(index, 1);
      parked!.resume();
      return true;
    }
    if (this.#timers.length > 0) {
      this.#timers.sort((a, b) => a.at - b.at);
      const timer = this.#timers.shift()!;
      this.#virtualNow = Math.max(this.#virtualNow, timer.at);
      timer.resume();
      return true;
    }
    return false;
  }
}

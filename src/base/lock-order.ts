import { assert } from "./assert.ts";

/**
 * The debug check of the lock order.
 *
 * Overview. Each lock belongs to a class with a rank (spec/gpusvm.md 6.1, outermost first). A `LockContext` is what one
 * activity holds; every lock tells the context of the activity that takes it, and a lock whose rank is not above every
 * rank held is a bug, named with both locks.
 *
 * JavaScript knows no current activity: which one runs is lost at every `await`. A debug build gives a tracker that does
 * know (test/node/lock-order-setup.ts: the asynchronous context of Node). Without one, in a browser and in production, a
 * lock pays one comparison with null.
 *
 * An activity begins where work is set off that nobody waits for in line: an activity of a race, deferred work, and a
 * verb or system call that is called from outside the stack. What it calls and awaits belongs to it. Where it splits
 * (`Promise.all`), each branch is a context of its own that stands on what its parent holds.
 */
export const LOCK_RANK = {
  device: 1,
  driverVm: 2,
  migrate: 3,
  /** One change of a file at a time; faults do not take it. */
  file: 3,
  mmap: 4,
  reservation: 5,
  page: 6,
  notifier: 8,
  gcList: 9,
} as const;
export type LockClass = keyof typeof LOCK_RANK;

/** What the check needs of a lock. */
export interface OrderedLock {
  readonly name: string;
  readonly lockClass: LockClass;
  /** Locks of one class that have a number may be held together, taken in ascending order. */
  readonly order: number | null;
}

const RANKS = 10;

/** What one activity holds. */
export class LockContext {
  readonly #parent: LockContext | null;
  /** By rank. */
  readonly #held: Set<OrderedLock>[] = Array.from({ length: RANKS }, () => new Set());

  constructor(parent: LockContext | null = null) {
    this.#parent = parent;
  }

  /** Before the lock is waited for, or had at once. */
  taking(lock: OrderedLock): void {
    this.#check(lock, LOCK_RANK[lock.lockClass]);
    this.#held[LOCK_RANK[lock.lockClass]]!.add(lock);
  }

  /** The same for an attempt that never waits: it may take what is out of order, but nothing at all under the notifier lock. */
  tried(lock: OrderedLock): void {
    const rank = LOCK_RANK[lock.lockClass];
    this.#check(lock, Math.max(rank, LOCK_RANK.page + 1));
    this.#held[rank]!.add(lock);
  }

  /** The activity is about to wait until somebody else lets `lock` go, without taking it. */
  waitingFor(lock: OrderedLock): void {
    this.#check(lock, LOCK_RANK[lock.lockClass]);
  }

  released(lock: OrderedLock): void {
    const wasHeld = this.#held[LOCK_RANK[lock.lockClass]]!.delete(lock);
    assert(wasHeld, () => `${lock.name} released by an activity that does not hold it`);
  }

  /** The locks held, outermost class first, those of the activities that this one is a branch of included. */
  held(): OrderedLock[] {
    return [...(this.#parent?.held() ?? []), ...this.#held.flatMap((locks) => [...locks])];
  }

  #check(lock: OrderedLock, rank: number): void {
    for (let above = RANKS - 1; above >= rank; above--) {
      for (const held of this.#held[above]!) {
        assert(
          isOrderedAfter(lock, held),
          () => `lock order: ${lock.name} (${lock.lockClass}) taken under ${held.name} (${held.lockClass})`,
        );
      }
    }
    if (this.#parent !== null) this.#parent.#check(lock, rank);
  }
}

function isOrderedAfter(lock: OrderedLock, held: OrderedLock): boolean {
  const isBoth = lock.lockClass === held.lockClass && lock.order !== null && held.order !== null;
  return isBoth && held.order! < lock.order!;
}

/** Knows which activity runs. */
export interface ActivityTracker {
  current(): LockContext | null;
  /** Runs `f`, and all that it awaits, as the activity of `context`. */
  run<T>(context: LockContext, f: () => T): T;
}

let tracker: ActivityTracker | null = null;

/** Turns the check on, or with null off. The tracker before. */
export function trackActivities(to: ActivityTracker | null): ActivityTracker | null {
  const before = tracker;
  tracker = to;
  return before;
}

export function tracksActivities(): boolean {
  return tracker !== null;
}

/** The context of the running activity; null where nobody keeps track. */
export function currentActivity(): LockContext | null {
  return tracker === null ? null : tracker.current();
}

/** Runs `f` as part of the running activity, or as one of its own when called from outside the stack. */
export function inActivity<T>(f: () => T): T {
  return tracker === null || tracker.current() !== null ? f() : tracker.run(new LockContext(), f);
}

/** Runs `f` as an activity of its own: work that whoever sets it off does not wait for while holding locks. */
export function newActivity<T>(f: () => T): T {
  return tracker === null ? f() : tracker.run(new LockContext(), f);
}

/** Runs `f` as a branch of the running activity, beside other branches. */
export function branch<T>(f: () => T): T {
  return tracker === null ? f() : tracker.run(new LockContext(tracker.current()), f);
}

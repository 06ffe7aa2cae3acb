import { assert } from "./assert.ts";
import { type LockClass, type LockContext, currentActivity } from "./lock-order.ts";
import type { MaybePromise } from "./maybe-promise.ts";

/**
 * Locks of the stack: explicit objects, fair (first come, first served), never recursive.
 *
 * Overview. An `await` is a preemption point, so a section of code without one needs no lock. What spans an await
 * takes one of these. Acquiring is synchronous when the lock is free and gives a promise only when it is contended, so
 * that an uncontended path stays free of microtasks. The value acquired is a guard; a function that needs the lock held
 * takes the guard as a parameter or asserts with `isHeld`.
 *
 * Order. Each lock belongs to a class; lock-order.ts says which may be taken under which, and checks it in debug builds.
 */

/** Proof that a lock is held. `release` may be called once. */
export interface Guard {
  readonly mode: "read" | "write";
  readonly held: boolean;
  release(): void;
}

interface Waiter {
  readonly write: boolean;
  /** Of the activity that waits. */
  readonly context: LockContext | null;
  readonly grant: (guard: Guard) => void;
}

class LockGuard implements Guard {
  readonly mode: "read" | "write";
  #lock: RwSemaphore | null;
  readonly #context: LockContext | null;

  constructor(lock: RwSemaphore, mode: "read" | "write", context: LockContext | null) {
    this.#lock = lock;
    this.mode = mode;
    this.#context = context;
  }

  get held(): boolean {
    return this.#lock !== null;
  }

  release(): void {
    const lock = this.#lock;
    assert(lock !== null, "a lock guard was released twice");
    this.#lock = null;
    this.#context?.released(lock);
    lock.releaseOf(this.mode);
  }
}

/** Reader/writer lock. A waiting writer stops later readers, so nobody starves; read is not recursive. */
export class RwSemaphore {
  readonly name: string;
  readonly lockClass: LockClass;
  readonly order: number | null;
  #readers = 0;
  #writer = false;
  #waiters: Waiter[] = [];

  /** `order`: see OrderedLock. */
  constructor(name: string, lockClass: LockClass, order: number | null = null) {
    this.name = name;
    this.lockClass = lockClass;
    this.order = order;
  }

  get isWriteHeld(): boolean {
    return this.#writer;
  }
  /** Held in any mode. */
  get isHeld(): boolean {
    return this.#writer || this.#readers > 0;
  }
  get isContended(): boolean {
    return this.#waiters.length > 0;
  }

  /** Null if somebody holds it for write or waits to. Keeps to the lock order: who fails here waits next. */
  tryRead(): Guard | null {
    return this.#try(false);
  }

  tryWrite(): Guard | null {
    return this.#try(true);
  }

  /** `tryRead` without a guard, for paths on which an allocation per call is felt; ended by `leaveRead`. */
  enterRead(): boolean {
    if (!this.#isFree(false)) return false;
    currentActivity()?.taking(this);
    this.#readers += 1;
    return true;
  }

  /** Ends what `enterRead` began, in the same activity. */
  leaveRead(): void {
    currentActivity()?.released(this);
    this.releaseOf("read");
  }

  read(): MaybePromise<Guard> {
    return this.#take(false);
  }

  write(): MaybePromise<Guard> {
    return this.#take(true);
  }

  /** For Mutex. Null if it is held; may be out of order. */
  tryOutOfOrder(): Guard | null {
    if (!this.#isFree(true)) return null;
    const context = currentActivity();
    context?.tried(this);
    return this.#hold(true, context);
  }

  /** For guards only, and `leaveRead`. */
  releaseOf(mode: "read" | "write"): void {
    if (mode === "write") {
      assert(this.#writer, () => `${this.name}: write released but not held`);
      this.#writer = false;
    } else {
      assert(this.#readers > 0, () => `${this.name}: read released but not held`);
      this.#readers -= 1;
    }
    if (this.#waiters.length > 0) this.#grantNext();
  }

  #isFree(write: boolean): boolean {
    return !this.#writer && this.#waiters.length === 0 && !(write && this.#readers > 0);
  }

  #try(write: boolean): Guard | null {
    if (!this.#isFree(write)) return null;
    const context = currentActivity();
    context?.taking(this);
    return this.#hold(write, context);
  }

  #take(write: boolean): MaybePromise<Guard> {
    const context = currentActivity();
    context?.taking(this);
    if (this.#isFree(write)) return this.#hold(write, context);
    return new Promise((grant) => {
      this.#waiters.push({ write, context, grant });
    });
  }

  #hold(write: boolean, context: LockContext | null): Guard {
    if (write) this.#writer = true;
    else this.#readers += 1;
    return new LockGuard(this, write ? "write" : "read", context);
  }

  #grantNext(): void {
    while (this.#waiters.length > 0) {
      const next = this.#waiters[0]!;
      if (this.#writer || (next.write && this.#readers > 0)) return;
      this.#waiters.shift();
      next.grant(this.#hold(next.write, next.context));
      if (next.write) return;
    }
  }
}

/** Mutual exclusion: a semaphore that is only ever taken for write. */
export class Mutex {
  readonly #sem: RwSemaphore;

  constructor(name: string, lockClass: LockClass, order: number | null = null) {
    this.#sem = new RwSemaphore(name, lockClass, order);
  }

  get isHeld(): boolean {
    return this.#sem.isHeld;
  }
  /** Null if it is held. Never waits, so it may be out of order: of several reservations, all but the first are tried. */
  tryLock(): Guard | null {
    return this.#sem.tryOutOfOrder();
  }
  lock(): MaybePromise<Guard> {
    return this.#sem.write();
  }
}

/** One-shot event. `complete` wakes all waiters, present and future. */
export class Completion {
  #done = false;
  #waiters: (() => void)[] = [];

  get isDone(): boolean {
    return this.#done;
  }

  complete(): void {
    if (this.#done) return;
    this.#done = true;
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const wake of waiters) wake();
  }

  wait(): MaybePromise<void> {
    if (this.#done) return undefined;
    return new Promise((wake) => this.#waiters.push(wake));
  }
}

/** Waiters that are all woken together; each re-checks its condition. */
export class WaitQueue {
  #waiters: (() => void)[] = [];

  wakeAll(): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const wake of waiters) wake();
  }

  /** Resolves at the next `wakeAll`. */
  sleep(): Promise<void> {
    return new Promise((wake) => this.#waiters.push(wake));
  }

  async waitUntil(condition: () => boolean): Promise<void> {
    while (!condition()) await this.sleep();
  }
}

import { assert } from "./assert.ts";
import type { MaybePromise } from "./maybe-promise.ts";

/**
 * Locks of the stack: explicit objects, fair (first come, first served), never recursive.
 *
 * Overview. An `await` is a preemption point, so a section of code without one needs no lock. What spans an await
 * takes one of these. Acquiring is synchronous when the lock is free and gives a promise only when it is contended, so
 * that an uncontended path stays free of microtasks. The value acquired is a guard; a function that needs the lock held
 * takes the guard as a parameter or asserts with `isHeld`.
 *
 * Order. Each lock belongs to a class with a rank (spec/gpusvm.md 6.1, outermost first). There is no "current task" in
 * JavaScript, so the order cannot be checked by the lock alone; `LockContext` carries what one activity holds.
 */
export const LOCK_RANK = {
  device: 1,
  driverVm: 2,
  migrate: 3,
  mmap: 4,
  reservation: 5,
  page: 6,
  notifier: 8,
  gcList: 9,
} as const;
export type LockClass = keyof typeof LOCK_RANK;

/** Proof that a lock is held. `release` may be called once. */
export interface Guard {
  readonly mode: "read" | "write";
  readonly held: boolean;
  release(): void;
}

interface Waiter {
  readonly write: boolean;
  readonly grant: (guard: Guard) => void;
}

class LockGuard implements Guard {
  readonly mode: "read" | "write";
  #lock: RwSemaphore | null;

  constructor(lock: RwSemaphore, mode: "read" | "write") {
    this.#lock = lock;
    this.mode = mode;
  }

  get held(): boolean {
    return this.#lock !== null;
  }

  release(): void {
    const lock = this.#lock;
    assert(lock !== null, "a lock guard was released twice");
    this.#lock = null;
    lock.releaseOf(this.mode);
  }
}

/** Reader/writer lock. A waiting writer stops later readers, so nobody starves; read is not recursive. */
export class RwSemaphore {
  readonly name: string;
  readonly lockClass: LockClass;
  #readers = 0;
  #writer = false;
  #waiters: Waiter[] = [];

  constructor(name: string, lockClass: LockClass) {
    this.name = name;
    this.lockClass = lockClass;
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

  /** Null if somebody holds it for write or waits to. */
  tryRead(): Guard | null {
    if (this.#writer || this.#waiters.length > 0) return null;
    this.#readers += 1;
    return new LockGuard(this, "read");
  }

  tryWrite(): Guard | null {
    if (this.#writer || this.#readers > 0 || this.#waiters.length > 0) return null;
    this.#writer = true;
    return new LockGuard(this, "write");
  }

  read(): MaybePromise<Guard> {
    return this.tryRead() ?? this.#wait(false);
  }

  write(): MaybePromise<Guard> {
    return this.tryWrite() ?? this.#wait(true);
  }

  /** For guards only. */
  releaseOf(mode: "read" | "write"): void {
    if (mode === "write") {
      assert(this.#writer, `${this.name}: write released but not held`);
      this.#writer = false;
    } else {
      assert(this.#readers > 0, `${this.name}: read released but not held`);
      this.#readers -= 1;
    }
    this.#grantNext();
  }

  #wait(write: boolean): Promise<Guard> {
    return new Promise((grant) => {
      this.#waiters.push({ write, grant });
    });
  }

  #grantNext(): void {
    while (this.#waiters.length > 0) {
      const next = this.#waiters[0]!;
      if (this.#writer || (next.write && this.#readers > 0)) return;
      this.#waiters.shift();
      if (next.write) this.#writer = true;
      else this.#readers += 1;
      next.grant(new LockGuard(this, next.write ? "write" : "read"));
      if (next.write) return;
    }
  }
}

/** Mutual exclusion: a semaphore that is only ever taken for write. */
export class Mutex {
  readonly #sem: RwSemaphore;

  constructor(name: string, lockClass: LockClass) {
    this.#sem = new RwSemaphore(name, lockClass);
  }

  get isHeld(): boolean {
    return this.#sem.isHeld;
  }
  tryLock(): Guard | null {
    return this.#sem.tryWrite();
  }
  lock(): MaybePromise<Guard> {
    return this.#sem.write();
  }
}

/**
 * What one activity holds, for the debug check of the lock order. Taking a lock whose rank is not above every rank held
 * is a bug, named with both locks.
 */
export class LockContext {
  readonly #held: { lock: { name: string; lockClass: LockClass }; rank: number }[] = [];

  taking(lock: { name: string; lockClass: LockClass }): void {
    const rank = LOCK_RANK[lock.lockClass];
    for (const held of this.#held) {
      assert(
        held.rank < rank,
        () => `lock order: ${lock.name} (${lock.lockClass}) taken under ${held.lock.name} (${held.lock.lockClass})`,
      );
    }
    this.#held.push({ lock, rank });
  }

  released(lock: { name: string; lockClass: LockClass }): void {
    const index = this.#held.findLastIndex((h) => h.lock === lock);
    assert(index >= 0, () => `${lock.name} released by an activity that does not hold it`);
    this.#held.splice(index, 1);
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

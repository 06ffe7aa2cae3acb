import { assert } from "../base/assert.ts";
import type { Pfn } from "../base/addr.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import { type FrameTable, PG_LOCKED, PG_WAITERS } from "./frame-table.ts";

interface Waiters {
  /** Want the lock; it is handed to the first. */
  readonly lockers: (() => void)[];
  /** Want only to know that it was released once. */
  readonly watchers: (() => void)[];
}

/** The lock bit of every page, with its wait queues. @kernel folio_lock */
export class PageLocks {
  readonly #frames: FrameTable;
  readonly #waiters = new Map<Pfn, Waiters>();

  constructor(frames: FrameTable) {
    this.#frames = frames;
  }

  isLocked(pfn: Pfn): boolean {
    return (this.#frames.flags[pfn]! & PG_LOCKED) !== 0;
  }

  /** @kernel folio_trylock */
  tryLock(pfn: Pfn): boolean {
    const flags = this.#frames.flags;
    if ((flags[pfn]! & PG_LOCKED) !== 0) return false;
    flags[pfn]! |= PG_LOCKED;
    return true;
  }

  lock(pfn: Pfn): MaybePromise<void> {
    if (this.tryLock(pfn)) return undefined;
    return new Promise((granted) => this.#waitersOf(pfn).lockers.push(granted));
  }

  unlock(pfn: Pfn): void {
    const flags = this.#frames.flags;
    assert((flags[pfn]! & PG_LOCKED) !== 0, () => `page ${pfn} was unlocked but not locked`);
    if ((flags[pfn]! & PG_WAITERS) === 0) flags[pfn]! &= ~PG_LOCKED;
    else this.#handOver(pfn);
  }

  /** Resolves at the next unlock of the page, even if another takes it at once. @kernel folio_wait_locked */
  waitUnlocked(pfn: Pfn): MaybePromise<void> {
    if (!this.isLocked(pfn)) return undefined;
    return new Promise((wake) => this.#waitersOf(pfn).watchers.push(wake));
  }

  #waitersOf(pfn: Pfn): Waiters {
    let waiters = this.#waiters.get(pfn);
    if (waiters === undefined) {
      waiters = { lockers: [], watchers: [] };
      this.#waiters.set(pfn, waiters);
      this.#frames.flags[pfn]! |= PG_WAITERS;
    }
    return waiters;
  }

  #handOver(pfn: Pfn): void {
    const waiters = this.#waiters.get(pfn)!;
    for (const wake of waiters.watchers.splice(0)) wake();
    const next = waiters.lockers.shift();
    if (next === undefined) this.#frames.flags[pfn]! &= ~PG_LOCKED;
    else next();
    if (waiters.lockers.length === 0) {
      this.#waiters.delete(pfn);
      this.#frames.flags[pfn]! &= ~PG_WAITERS;
    }
  }
}

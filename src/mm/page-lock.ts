import { assert } from "../base/assert.ts";
import type { Pfn } from "../base/addr.ts";
import { type LockContext, type OrderedLock, currentActivity, tracksActivities } from "../base/lock-order.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import { mutated } from "../base/mutation.ts";
import { type FrameTable, PG_LOCKED, PG_WAITERS } from "./frame-table.ts";

/** Debug: who holds a page, for the check of the lock order. */
interface Holder {
  readonly context: LockContext;
  readonly lock: OrderedLock;
}

interface Locker {
  readonly holder: Holder | null;
  readonly granted: () => void;
}

interface Waiters {
  /** Want the lock; it is handed to the first. */
  readonly lockers: Locker[];
  /** Want only to know that it was released once. */
  readonly watchers: (() => void)[];
}

/** The lock bit of every page, with its wait queues. @kernel folio_lock */
export class PageLocks {
  readonly #frames: FrameTable;
  readonly #waiters = new Map<Pfn, Waiters>();
  readonly #holders = new Map<Pfn, Holder>();

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
    if (tracksActivities()) this.#noteTried(pfn);
    return true;
  }

  /** The locks of `count` frames in a row, or none of them. @kernel folio_trylock */
  tryLockRun(first: Pfn, count: number): boolean {
    const flags = this.#frames.flags;
    for (let pfn = first; pfn < first + count; pfn++) if ((flags[pfn]! & PG_LOCKED) !== 0) return false;
    for (let pfn = first; pfn < first + count; pfn++) flags[pfn]! |= PG_LOCKED;
    this.noteLocked(first, count);
    return true;
  }

  unlockRun(first: Pfn, count: number): void {
    const flags = this.#frames.flags;
    for (let pfn = first; pfn < first + count; pfn++) {
      // Nobody waits, and nobody is to be told.
      const isPlain = (flags[pfn]! & (PG_LOCKED | PG_WAITERS)) === PG_LOCKED && this.#holders.size === 0;
      if (isPlain) flags[pfn]! &= ~PG_LOCKED;
      else this.unlock(pfn);
    }
  }

  lock(pfn: Pfn): MaybePromise<void> {
    const holder = holderOf(pfn);
    holder?.context.taking(holder.lock);
    const flags = this.#frames.flags;
    if ((flags[pfn]! & PG_LOCKED) === 0) {
      flags[pfn]! |= PG_LOCKED;
      if (holder !== null) this.#holders.set(pfn, holder);
      return undefined;
    }
    return new Promise((granted) => this.#waitersOf(pfn).lockers.push({ holder, granted }));
  }

  unlock(pfn: Pfn): void {
    const flags = this.#frames.flags;
    assert((flags[pfn]! & PG_LOCKED) !== 0, () => `page ${pfn} was unlocked but not locked`);
    if (this.#holders.size > 0) this.#noteReleased(pfn);
    if ((flags[pfn]! & PG_WAITERS) === 0) flags[pfn]! &= ~PG_LOCKED;
    else this.#handOver(pfn);
  }

  /** Resolves at the next unlock of the page, even if another takes it at once. @kernel folio_wait_locked */
  waitUnlocked(pfn: Pfn): MaybePromise<void> {
    if (!this.isLocked(pfn)) return undefined;
    const holder = holderOf(pfn);
    holder?.context.waitingFor(holder.lock);
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
    if (!mutated("unlock-wakeup-lost")) for (const wake of waiters.watchers.splice(0)) wake();
    const next = waiters.lockers.shift();
    if (next === undefined) this.#frames.flags[pfn]! &= ~PG_LOCKED;
    else {
      if (next.holder !== null) this.#holders.set(pfn, next.holder);
      next.granted();
    }
    if (waiters.lockers.length === 0) {
      this.#waiters.delete(pfn);
      this.#frames.flags[pfn]! &= ~PG_WAITERS;
    }
  }
  /** Debug: the running activity has locked frames that nobody else can have, as it made them. */
  noteLocked(first: Pfn, count: number): void {
    if (tracksActivities()) for (let pfn = first; pfn < first + count; pfn++) this.#noteTried(pfn);
  }

  #noteTried(pfn: Pfn): void {
    const holder = holderOf(pfn);
    if (holder === null) return;
    holder.context.tried(holder.lock);
    this.#holders.set(pfn, holder);
  }

  #noteReleased(pfn: Pfn): void {
    const holder = this.#holders.get(pfn);
    if (holder === undefined) return;
    this.#holders.delete(pfn);
    holder.context.released(holder.lock);
  }
}

function holderOf(pfn: Pfn): Holder | null {
  const context = currentActivity();
  return context === null ? null : { context, lock: { name: `page ${pfn}`, lockClass: "page", order: null } };
}

import { assert } from "../base/assert.ts";
import { type Errno, ENOMEM } from "../base/errno.ts";
import { type Guard, Mutex } from "../base/locks.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";

/** Something that will have happened. `Completion` of base is one. @kernel dma_fence */
export interface Fence {
  readonly isDone: boolean;
  wait(): MaybePromise<void>;
}

/** Why a fence is kept. A waiter for one usage waits for all fences of that usage and below. @kernel dma_resv_usage */
export const RESV_USAGE_KERNEL = 0;
export const RESV_USAGE_WRITE = 1;
export const RESV_USAGE_READ = 2;
export const RESV_USAGE_BOOKKEEP = 3;
export type ResvUsage =
  | typeof RESV_USAGE_KERNEL
  | typeof RESV_USAGE_WRITE
  | typeof RESV_USAGE_READ
  | typeof RESV_USAGE_BOOKKEEP;

let created = 0;

/**
 * Reservation of one or several objects: the lock under which their residency changes, and the fences of what still
 * uses them. Objects that share one are locked together.
 *
 * @kernel dma_resv
 */
export class DmaResv {
  readonly name: string;
  /** Place in the order in which several are waited for. */
  readonly order: number;
  readonly #mutex: Mutex;
  #fences: { fence: Fence; usage: ResvUsage }[] = [];
  #reserved = 0;

  constructor(name: string) {
    created += 1;
    this.order = created;
    this.name = name;
    this.#mutex = new Mutex(name, "reservation", this.order);
  }

  get isHeld(): boolean {
    return this.#mutex.isHeld;
  }

  tryLock(): Guard | null {
    return this.#mutex.tryLock();
  }

  lock(): MaybePromise<Guard> {
    return this.#mutex.lock();
  }

  assertHeld(): void {
    assert(this.#mutex.isHeld, () => `the reservation of ${this.name} must be held`);
  }

  /** Makes room for `count` fences, so that adding them later cannot fail. @kernel dma_resv_reserve_fences */
  reserveFences(count: number): 0 | Errno {
    this.assertHeld();
    if (!Number.isSafeInteger(count) || count < 0) return ENOMEM;
    this.#reserved = Math.max(this.#reserved, count);
    return 0;
  }

  /**
   * Needs the lock and a reserved slot. A fence that is there already takes no other slot and keeps the stronger usage:
   * the objects that share a reservation are often given the same fence.
   *
   * @kernel dma_resv_add_fence
   */
  addFence(fence: Fence, usage: ResvUsage): void {
    this.assertHeld();
    const known = this.#fences.find((f) => f.fence === fence);
    if (known !== undefined) {
      if (usage < known.usage) known.usage = usage;
      return;
    }
    assert(this.#reserved > 0, () => `no fence slot is reserved in ${this.name}`);
    this.#reserved -= 1;
    this.#fences = this.#fences.filter((f) => !f.fence.isDone);
    this.#fences.push({ fence, usage });
  }

  /** Fences not done yet that a waiter for `usage` has to wait for. */
  fences(usage: ResvUsage): Fence[] {
    return this.#fences.filter((f) => f.usage <= usage && !f.fence.isDone).map((f) => f.fence);
  }

  /** Waits for them, without needing the lock. @kernel dma_resv_wait_timeout */
  async wait(usage: ResvUsage): Promise<void> {
    for (const fence of this.fences(usage)) await fence.wait();
  }
}

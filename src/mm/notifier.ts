import { EAGAIN, EOVERFLOW, type Errno } from "../base/errno.ts";
import { IntervalTree } from "../base/interval-tree.ts";
import { type OrderedLock, currentActivity } from "../base/lock-order.ts";
import { WaitQueue } from "../base/locks.ts";
import { type MaybePromise, isPromise } from "../base/maybe-promise.ts";
import { mutated } from "../base/mutation.ts";
import { type Steps, run, wait } from "./steps.ts";
import type { MmuIntervalNotifier, MmuNotifierRange } from "./types.ts";

/** What removals and readers wait for: not under the lock that a callback takes (I6). */
const INVALIDATION_END: OrderedLock = { name: "the end of an invalidation", lockClass: "notifier", order: null };

/**
 * Interval notifiers of one mm: who is told before the CPU mapping changes.
 *
 * The sequence number is even when idle and odd while an invalidation is open that matters to some interval. A reader
 * notes the sequence of its interval, looks the pages up, takes the lock that the callback takes, and asks whether the
 * interval was hit since (`readRetry`). Each callback sets its interval's number to the odd one of its invalidation
 * before any page-table entry changes, so no stale look-up passes; a reader that begins inside waits for the end.
 *
 * While the number is odd the tree stands still: insertions and removals are deferred to the end of the last open
 * invalidation, so the walk over the intervals may await each callback.
 * @kernel mmu_notifier_subscriptions
 */
export class NotifierSubscriptions {
  #seq = 2;
  /** Invalidations between start and end, whether or not they hit anything. */
  #active = 0;
  readonly #tree = new IntervalTree<MmuIntervalNotifier>();
  #deferred: { readonly ni: MmuIntervalNotifier; readonly insert: boolean }[] = [];
  readonly #wq = new WaitQueue();
  /** False returns for blockable ranges: a bug of the interval's owner, counted and ignored as the kernel does. */
  ignoredRefusals = 0;

  get seq(): number {
    return this.#seq;
  }
  get active(): number {
    return this.#active;
  }

  /**
   * Announces a change; the caller makes it after this has resolved and then calls `end`. -EAGAIN when an interval
   * refuses a non-blockable range: then nothing may be changed and `end` is not called.
   * @kernel mmu_notifier_invalidate_range_start, mn_itree_invalidate
   */
  start(range: MmuNotifierRange): MaybePromise<0 | Errno> {
    this.#active += 1;
    const first = this.#tree.iterFirst(range.start, range.end - 1);
    if (first === null) return 0;
    if (this.#seq % 2 === 0) this.#seq += 1;
    return this.#callAll(first, range);
  }

  /** The interval and those behind it. */
  #callAll(first: MmuIntervalNotifier, range: MmuNotifierRange): MaybePromise<0 | Errno> {
    for (let ni: MmuIntervalNotifier | null = first; ni !== null;) {
      const answer = ni.invalidate(range, this.#seq);
      if (isPromise(answer)) return run(this.#callRest(ni, answer, range));
      if (!this.#goesOn(answer, range)) return EAGAIN;
      ni = this.#tree.iterNext(ni, range.start, range.end - 1);
    }
    return 0;
  }

  *#callRest(ni: MmuIntervalNotifier, answer: Promise<boolean>, range: MmuNotifierRange): Steps<0 | Errno> {
    if (!this.#goesOn(yield* wait(answer), range)) return EAGAIN;
    const next = this.#tree.iterNext(ni, range.start, range.end - 1);
    return next === null ? 0 : yield* wait(this.#callAll(next, range));
  }

  /** False: an interval refuses a range that may not block, so the change is called off. */
  #goesOn(agreed: boolean, range: MmuNotifierRange): boolean {
    if (agreed) return true;
    if (range.blockable) this.ignoredRefusals += 1;
    else this.end();
    return range.blockable;
  }

  /** @kernel mmu_notifier_invalidate_range_end, mn_itree_inv_end */
  end(): void {
    this.#active -= 1;
    if (this.#active > 0 || this.#seq % 2 === 0) return;
    this.#seq += 1;
    if (this.#deferred.length > 0) this.#runDeferred();
    if (!mutated("invalidation-wakeup-lost")) this.#wq.wakeAll();
  }

  #runDeferred(): void {
    for (const { ni, insert } of this.#deferred.splice(0)) {
      if (insert) this.#tree.insert(ni);
      else this.#tree.remove(ni);
    }
  }

  /**
   * The caller has checked that the mm has users. 0, -EOVERFLOW for an interval that is empty or not exact.
   * @kernel __mmu_interval_notifier_insert
   */
  insert(ni: MmuIntervalNotifier): 0 | Errno {
    if (!Number.isSafeInteger(ni.last) || ni.last < ni.start) return EOVERFLOW;
    if (this.#active === 0) {
      // Odd and in the past: no invalidation ever gets this number again.
      ni.invalidateSeq = this.#seq - 1;
      this.#tree.insert(ni);
      return 0;
    }
    // The running invalidation may have passed this interval by: its readers block until it ends.
    if (this.#seq % 2 === 1) {
      this.#deferred.push({ ni, insert: true });
    } else {
      this.#seq += 1;
      this.#tree.insert(ni);
    }
    ni.invalidateSeq = this.#seq;
    return 0;
  }

  /** @kernel mmu_interval_notifier_remove */
  remove(ni: MmuIntervalNotifier): MaybePromise<void> {
    if (this.#seq % 2 === 0) {
      this.#tree.remove(ni);
      return undefined;
    }
    const pending = this.#deferred.findIndex((d) => d.ni === ni && d.insert);
    if (pending >= 0) {
      this.#deferred.splice(pending, 1);
      return undefined;
    }
    currentActivity()?.waitingFor(INVALIDATION_END);
    this.#deferred.push({ ni, insert: false });
    const seq = this.#seq;
    return this.#wq.waitUntil(() => this.#seq !== seq);
  }

  /** @kernel mmu_interval_read_begin */
  readBegin(ni: MmuIntervalNotifier): MaybePromise<number> {
    const seq = ni.invalidateSeq;
    if (seq !== this.#seq) return seq;
    currentActivity()?.waitingFor(INVALIDATION_END);
    return this.#wq.waitUntil(() => this.#seq !== seq).then(() => seq);
  }

  /** For checks and displays: the intervals of the tree, in order. */
  intervals(): MmuIntervalNotifier[] {
    const list: MmuIntervalNotifier[] = [];
    for (let ni = this.#tree.first(); ni !== null; ni = this.#tree.next(ni)) list.push(ni);
    return list;
  }
}

import { causedBy, currentCause } from "../base/cause.ts";
import { IntervalTree, IntervalTreeNode } from "../base/interval-tree.ts";
import type { Guard } from "../base/locks.ts";
import { type MaybePromise, isPromise } from "../base/maybe-promise.ts";
import { mutated } from "../base/mutation.ts";
import type { MmuIntervalNotifier, MmuNotifierRange } from "../mm/types.ts";
import type { GpuSvm } from "./gpusvm.ts";
import type { GpuSvmRange } from "./range.ts";

/**
 * A window of fixed size and alignment that the mm reports changes of, and the ranges in it. Made by the first fault in
 * the window, gone with its last range. Changed and read under the driver's lock; its ranges also under the notifier
 * lock. Stands in its gpusvm's tree itself. @kernel drm_gpusvm_notifier, drm_gpusvm_notifier.entry, to_drm_gpusvm_notifier
 */
export class GpuSvmNotifier<R extends GpuSvmRange = GpuSvmRange> extends IntervalTreeNode {
  /** @kernel drm_gpusvm_notifier.gpusvm */
  readonly gpusvm: GpuSvm<R>;
  /** What is registered with the mm. @kernel drm_gpusvm_notifier.notifier */
  notifier: MmuIntervalNotifier;
  /** The interval is no longer registered: the gpusvm is being torn down. @kernel drm_gpusvm_notifier.flags.removed */
  removed = false;
  /**
   * Tree and list in one, of the ranges themselves: no node leads back to its object.
   * @kernel drm_gpusvm_notifier.root, drm_gpusvm_notifier.range_list, drm_gpusvm_range.entry, to_drm_gpusvm_range
   */
  readonly #ranges = new IntervalTree<R>();

  constructor(gpusvm: GpuSvm<R>) {
    super(0, 0);
    this.gpusvm = gpusvm;
    this.notifier = new NotifierInterval(this, 0, 0);
  }

  /** Sets the window; before it is registered. @kernel drm_gpusvm_notifier.itree, drm_gpusvm_notifier_start */
  setWindow(start: number, last: number): void {
    this.start = start;
    this.last = last;
    this.notifier = new NotifierInterval(this, start, last);
  }

  /** Exclusive. @kernel drm_gpusvm_notifier_end */
  get end(): number {
    return this.last + 1;
  }
  /** Bytes. @kernel drm_gpusvm_notifier_size */
  get size(): number {
    return this.last + 1 - this.start;
  }
  get rangeCount(): number {
    return this.#ranges.size;
  }

  /** The lowest range that intersects `[start, end)`. Driver lock or notifier lock. @kernel drm_gpusvm_range_find */
  rangeFind(start: number, end: number): R | null {
    return this.#ranges.iterFirst(start, end - 1);
  }

  /** The range that contains `addr`. */
  rangeAt(addr: number): R | null {
    return this.#ranges.iterFirst(addr, addr);
  }

  /** @kernel __drm_gpusvm_range_next */
  rangeNext(range: R): R | null {
    return this.#ranges.next(range);
  }

  /** Ranges that intersect `[start, end)`, by address; the one given must stay. @kernel drm_gpusvm_for_each_range */
  *forEachRange(start: number, end: number, from: R | null = null): Generator<R> {
    let range = from ?? this.rangeFind(start, end);
    while (range !== null && range.start < end) {
      yield range;
      range = this.rangeNext(range);
    }
  }

  /** The same; the one given may be removed. @kernel drm_gpusvm_for_each_range_safe */
  *forEachRangeSafe(start: number, end: number): Generator<R> {
    let range = this.rangeFind(start, end);
    while (range !== null && range.start < end) {
      const next = this.rangeNext(range);
      yield range;
      range = next;
    }
  }

  /** Driver lock and notifier lock (any mode). @kernel drm_gpusvm_range_insert */
  rangeInsert(range: R): void {
    this.#ranges.insert(range);
  }
  /** Driver lock and notifier lock (any mode). @kernel __drm_gpusvm_range_remove */
  rangeErase(range: R): void {
    this.#ranges.remove(range);
    range.notifier = null;
  }
}

/**
 * The interval as the mm knows it. A callback sets the sequence first and whatever it hits, so that every look-up that
 * began before fails its check. @kernel drm_gpusvm_notifier_ops, drm_gpusvm_notifier_invalidate
 */
class NotifierInterval<R extends GpuSvmRange> extends IntervalTreeNode implements MmuIntervalNotifier {
  invalidateSeq = 0;
  readonly #owner: GpuSvmNotifier<R>;

  constructor(owner: GpuSvmNotifier<R>, start: number, last: number) {
    super(start, last);
    this.#owner = owner;
  }

  invalidate(range: MmuNotifierRange, curSeq: number): MaybePromise<boolean> {
    if (!range.blockable) return false;
    const guard = this.#owner.gpusvm.notifierLock.write();
    return isPromise(guard) ? this.#whenLocked(guard, range, curSeq) : this.#locked(guard, range, curSeq);
  }

  async #whenLocked(waiting: Promise<Guard>, range: MmuNotifierRange, curSeq: number): Promise<boolean> {
    const cause = currentCause();
    const guard = await waiting;
    return causedBy(cause, () => this.#locked(guard, range, curSeq));
  }

  #locked(guard: Guard, range: MmuNotifierRange, curSeq: number): MaybePromise<boolean> {
    const { gpusvm } = this.#owner;
    if (!mutated("set-seq")) gpusvm.mirroredMm.setSeq(this, curSeq);
    const done = gpusvm.invalidate(this.#owner, range);
    if (isPromise(done)) return releaseAfter(done, guard);
    guard.release();
    return true;
  }
}

async function releaseAfter(done: Promise<void>, guard: Guard): Promise<boolean> {
  try {
    await done;
  } finally {
    guard.release();
  }
  return true;
}

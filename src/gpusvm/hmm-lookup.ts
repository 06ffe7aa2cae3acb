import { type Va, pagesIn } from "../base/addr.ts";
import { EBUSY, type Errno } from "../base/errno.ts";
import { LengthPool, clearArray } from "../base/length-pool.ts";
import { type MaybePromise, isPromise } from "../base/maybe-promise.ts";
import { type Steps, run, wait } from "../mm/steps.ts";
import type { HmmRange, MmuIntervalNotifier, SvmMm } from "../mm/types.ts";

/** What a look-up stores, by page. */
interface Slots {
  readonly pfns: Float64Array;
  readonly flags: Uint8Array;
  readonly orders: Uint8Array;
}

/** Of look-ups that are over. */
const spare = new LengthPool<Slots>();

/** All zero. */
function slotsFor(npages: number): Slots {
  const slots = spare.take(npages);
  if (slots === undefined) {
    return { pfns: new Float64Array(npages), flags: new Uint8Array(npages), orders: new Uint8Array(npages) };
  }
  clearArray(slots.pfns);
  clearArray(slots.flags);
  clearArray(slots.orders);
  return slots;
}

/** One look-up of the CPU pages of an interval, with arrays of one slot per page. */
export class HmmLookup implements HmmRange {
  readonly notifier: MmuIntervalNotifier;
  notifierSeq = 0;
  readonly start: Va;
  readonly end: Va;
  readonly npages: number;
  readonly pfns: Float64Array;
  readonly flags: Uint8Array;
  readonly orders: Uint8Array;
  readonly defaultFlags: number;
  readonly devPrivateOwner: unknown;
  readonly #slots: Slots;

  constructor(notifier: MmuIntervalNotifier, start: Va, end: Va, defaultFlags: number, owner: unknown) {
    const npages = pagesIn(start, end);
    this.notifier = notifier;
    this.start = start;
    this.end = end;
    this.npages = npages;
    this.#slots = slotsFor(npages);
    this.pfns = this.#slots.pfns;
    this.flags = this.#slots.flags;
    this.orders = this.#slots.orders;
    this.defaultFlags = defaultFlags;
    this.devPrivateOwner = owner;
  }

  /** Nobody reads the slots any more. Who does not say so leaves them to the garbage collector. */
  release(): void {
    spare.give(this.npages, this.#slots);
  }
}

/**
 * Order of the largest power of two that exceeds neither the rest of the CPU's huge page behind `pfn` nor the rest of
 * the range behind page `index`. It promises no alignment of the frame or the address: consumers must not assume any.
 * @kernel drm_gpusvm_hmm_pfn_to_order
 */
export function hmmPfnToOrder(mapOrder: number, pfn: number, index: number, npages: number): number {
  const block = 2 ** mapOrder;
  const pages = Math.min(block - (pfn % block), npages - index);
  return 31 - Math.clz32(pages);
}

/**
 * Looks up under the mmap lock, which the caller does not hold, and again while invalidations collide with it, until
 * the deadline. `hmm.notifierSeq` is that of the caller's `readBegin` on entry, and of the last look-up after.
 * @kernel hmm_range_fault_unlocked_timeout
 */
export function hmmRangeFaultUnlocked(mm: SvmMm, hmm: HmmLookup, expired: () => boolean): MaybePromise<0 | Errno> {
  if (!mm.mmapLock.enterRead()) return run(lookUpLater(mm, hmm, expired, null));
  let err: MaybePromise<0 | Errno> = 0;
  try {
    err = mm.hmmRangeFault(hmm);
  } finally {
    if (!isPromise(err)) mm.mmapLock.leaveRead();
  }
  return isPromise(err) || err === EBUSY ? run(lookUpLater(mm, hmm, expired, err)) : err;
}

/** `first`: the outcome of the first look-up; while that is a promise, the lock is held for it. Null: none has begun. */
function* lookUpLater(
  mm: SvmMm,
  hmm: HmmLookup,
  expired: () => boolean,
  first: MaybePromise<0 | Errno> | null,
): Steps<0 | Errno> {
  let err = first === null ? yield* lookUp(mm, hmm) : isPromise(first) ? yield* finish(mm, first) : first;
  while (err === EBUSY && !expired()) {
    hmm.notifierSeq = yield* wait(mm.readBegin(hmm.notifier));
    err = yield* lookUp(mm, hmm);
  }
  return err;
}

function* lookUp(mm: SvmMm, hmm: HmmLookup): Steps<0 | Errno> {
  const guard = yield* wait(mm.mmapLock.read());
  try {
    return yield* wait(mm.hmmRangeFault(hmm));
  } finally {
    guard.release();
  }
}

function* finish(mm: SvmMm, pending: Promise<0 | Errno>): Steps<0 | Errno> {
  try {
    return yield* wait(pending);
  } finally {
    mm.mmapLock.leaveRead();
  }
}

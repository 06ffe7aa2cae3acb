import { EFAULT } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { branch } from "../base/lock-order.ts";
import { Completion } from "../base/locks.ts";
import { isPromise } from "../base/maybe-promise.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import type { Scheduler } from "../base/scheduler.ts";
import { type Steps, run, wait } from "../base/steps.ts";
import type { Gpu } from "../hal/gpu.ts";
import { drmPagemapEvictToRam } from "../pagemap/evict-to-ram.ts";
import type { BuddyBlock } from "../vram/buddy.ts";
import type { Work } from "../vram/device-ops.ts";
import type { SvmBo } from "./svm-bo.ts";

/** All copies home go through one queue. */
const HOMEWARD = 1;

/** The way home of one buffer. Signals when its device frames are free, or the device is lost. */
export class Departure extends Completion {
  readonly context = HOMEWARD;
  readonly #copying: (fence: Departure) => void;
  /** Resolves when the copies of all its pages are queued: from then on the pages cannot stay. */
  readonly copyQueued: Promise<Departure>;

  constructor() {
    super();
    let copying: (fence: Departure) => void = () => undefined;
    this.copyQueued = new Promise((resolve) => {
      copying = resolve;
    });
    this.#copying = copying;
  }

  allCopiesQueued(): void {
    this.#copying(this);
  }
}

/**
 * Evictions of SVM buffers, pipelined (spec/device.md 6.5).
 *
 * An eviction is over for who wants the room as soon as all pages of the buffer are out of every page table, locked, and
 * their copies to RAM are queued: nothing but a lost device can keep them in VRAM then, and whatever is written to the
 * memory is queued behind the copies. The memory is given out at once, with the fence of the copies; until the fence
 * signals, the device frames still belong to the pages on their way, so the next tenant waits for it before it puts pages
 * there. Where a page could not be collected, the eviction is waited for as a whole.
 *
 * The fences signal in the order of the copies, so the last one stands for all before it. A tenant waits for those alone
 * whose memory it got: the first can move in while the last is still packing.
 * @kernel ttm_bo_move_pipeline_evict
 */
export class Departures {
  readonly #gpu: Gpu;
  readonly #sched: Scheduler;
  #last: Promise<void> = Promise.resolve();
  /** Buffers whose memory has been given out, and when their pages have left it. */
  readonly #leaving = new Map<SvmBo, Promise<void>>();

  constructor(gpu: Gpu, sched: Scheduler) {
    this.#gpu = gpu;
    this.#sched = sched;
  }

  /** Somebody whose memory has been given out is not home yet. */
  get areUnderWay(): boolean {
    return this.#leaving.size > 0;
  }

  /** Resolves when everybody who has departed so far is home. */
  get settled(): Promise<void> {
    return this.#last;
  }

  /** Waits until no page that is on its way home is left in these blocks, which are the caller's. */
  *vacated(blocks: readonly BuddyBlock[]): Steps<void> {
    for (const [bo, home] of [...this.#leaving]) if (overlap(bo.blocks, blocks)) yield* wait(home);
  }

  /** Its reservation is held. The fence; null: it is home; or why it is not. */
  start(bo: SvmBo): MaybePromise<Work> {
    if (bo.departure !== null) return bo.departure;
    const departure = new Departure();
    bo.departure = departure;
    // The pages stay locked until they are home, and whoever wants the room goes on before that.
    const evicted = branch(() => drmPagemapEvictToRam(bo));
    if (!isPromise(evicted)) return this.#ended(bo, departure, evicted);
    let isPromised = false;
    const promised = departure.copyQueued.then((fence) => {
      isPromised = true;
      this.#follow(bo, fence, evicted);
      return fence;
    });
    const ended = evicted.then((err) => (isPromised ? null : this.#ended(bo, departure, err)));
    return Promise.race([promised, ended]);
  }

  /** Nothing is under way any more: the buffer is home, or stays where it is. */
  #ended(bo: SvmBo, departure: Departure, err: 0 | Errno): null | Errno {
    if (err === 0) departure.complete();
    else bo.departure = null;
    return err === 0 ? null : err;
  }

  #follow(bo: SvmBo, fence: Departure, evicted: Promise<0 | Errno>): void {
    const before = this.#last;
    const home = Promise.resolve(run(this.#untilHome(bo, evicted)));
    const hasLeft = () => {
      this.#leaving.delete(bo);
    };
    this.#leaving.set(bo, home.then(hasLeft, hasLeft));
    const isOver = () => before.then(() => fence.complete());
    this.#last = home.then(isOver, isOver);
    this.#sched.defer("driver:departure", () => home);
  }

  /** Somebody else who brings the pages home, as a CPU fault, may make an attempt come out empty-handed. */
  *#untilHome(bo: SvmBo, evicted: Promise<0 | Errno>): Steps<void> {
    let err = yield* wait(evicted);
    while (err !== 0 && !this.#gpu.isLost && !bo.detached.isDone) {
      // Of a process that is exiting, the pages are freed in its course.
      if (err === EFAULT) yield* wait(Promise.race([bo.detached.wait(), this.#gpu.lost]));
      else yield* wait(this.#sched.sleep(1));
      if (!bo.detached.isDone) err = yield* wait(drmPagemapEvictToRam(bo));
    }
  }
}

function overlap(a: readonly BuddyBlock[], b: readonly BuddyBlock[]): boolean {
  return a.some((x) => b.some((y) => x.offset < y.offset + y.size && y.offset < x.offset + x.size));
}

import type { Guard } from "../base/locks.ts";
import type { Scheduler } from "../base/scheduler.ts";
import { type Steps, wait } from "../base/steps.ts";
import type { SvmVm } from "./vm.ts";

/** Work on one queue after which others get a turn, milliseconds. @kernel xe_pagefault_queue_work, USM_QUEUE_MAX_RUNTIME_MS */
const SLICE_MS = 20;
/** Of so many questions the first looks at the clock; the others take the last look of the work itself. */
const LOOK_EVERY = 16;

/** How long a service has been at work. Its clock is the scheduler's, so virtual in a race. */
export class TimeSlice {
  readonly #sched: Scheduler;
  #end: number;
  #asked = 0;

  constructor(sched: Scheduler) {
    this.#sched = sched;
    this.#end = sched.now() + SLICE_MS;
  }

  get isOver(): boolean {
    const looks = this.#asked % LOOK_EVERY === 0;
    this.#asked += 1;
    return (looks ? this.#sched.now() : this.#sched.lately()) >= this.#end;
  }

  /** Lets others run. The caller holds nothing that they could want. */
  async yield(): Promise<void> {
    await this.#sched.turn();
    this.#end = this.#sched.now() + SLICE_MS;
  }
}

/** An address space's lock, held for write over a long request, and given up for a moment whenever a slice is over. */
export class SlicedLock {
  readonly #vm: SvmVm;
  readonly #slice: TimeSlice;
  #guard: Guard;

  private constructor(vm: SvmVm, guard: Guard) {
    this.#vm = vm;
    this.#guard = guard;
    this.#slice = new TimeSlice(vm.sched);
  }

  static *take(vm: SvmVm): Steps<SlicedLock> {
    return new SlicedLock(vm, yield* wait(vm.lock.write()));
  }

  /** Between two pieces of work. True: others have had a turn, and may have changed anything that the lock guards. */
  *pause(): Steps<boolean> {
    if (!this.#slice.isOver) return false;
    this.#guard.release();
    this.#vm.counters.slices += 1;
    yield* wait(this.#slice.yield());
    this.#guard = yield* wait(this.#vm.lock.write());
    return true;
  }

  /** Also where others' turn has failed, and nothing is held. */
  release(): void {
    if (this.#guard.held) this.#guard.release();
  }
}

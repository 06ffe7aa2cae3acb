import type { Scheduler } from "../base/scheduler.ts";

/** Work on one queue after which others get a turn, milliseconds. @kernel xe_pagefault_queue_work, USM_QUEUE_MAX_RUNTIME_MS */
const SLICE_MS = 20;

/** How long a service has been at work. Its clock is the scheduler's, so virtual in a race. */
export class TimeSlice {
  readonly #sched: Scheduler;
  #end: number;

  constructor(sched: Scheduler) {
    this.#sched = sched;
    this.#end = sched.now() + SLICE_MS;
  }

  get isOver(): boolean {
    return this.#sched.now() >= this.#end;
  }

  /** Lets others run. The caller holds nothing that they could want. */
  async yield(): Promise<void> {
    await this.#sched.turn();
    this.#end = this.#sched.now() + SLICE_MS;
  }
}

import type { Scheduler } from "../base/scheduler.ts";

/** Faults of a batch that are measured each, and what share of those after them, while they are short. */
const ALL_OF_THE_FIRST = 8;
const ONE_OF = 8;
/** Milliseconds from one fault to the next. */
const SHORT_MS = 0.05;

/**
 * The clock of the statistics' times.
 *
 * Seven looks at the clock for a fault of 4 KiB cost a browser as much as a step of its service takes. So of a long batch of
 * short faults only every eighth is measured after the first ones, and what it took counts for eight. Once a fault has had to
 * wait for something it is always measured, and counts for itself, from the last look on.
 *
 * Locking. The VM's lock for write while a batch is served, which alone tells faults apart.
 */
export class StepClock {
  readonly #sched: Scheduler;
  /** Faults that one counts for; 0: it is not measured. */
  #weight = 1;
  /** Faults are short, as far as is known. */
  #isShort = false;
  /** The last look at the beginning of a fault: when, and at which. */
  #began = 0;
  #index = 0;
  /** Where the fault began: its stretch of time without waiting. */
  #stretch = 0;

  constructor(sched: Scheduler) {
    this.#sched = sched;
  }

  /** The service of fault `index` of a batch begins. The time of the last look at the clock, milliseconds. */
  beginFault(index: number): number {
    const stretch = this.#sched.stretch;
    const isMeasured = index % ONE_OF === 0 || index < ALL_OF_THE_FIRST || !this.#isShort || stretch !== this.#stretch;
    this.#stretch = stretch;
    if (!isMeasured) {
      this.#weight = 0;
      return this.#sched.lately();
    }
    const now = this.#sched.now();
    this.#isShort = now - this.#began < SHORT_MS * (index - this.#index) && !this.#sched.racing;
    this.#weight = this.#isShort && index >= ALL_OF_THE_FIRST ? (index % ONE_OF === 0 ? ONE_OF : 0) : 1;
    this.#began = now;
    this.#index = index;
    return now;
  }

  /** No batch is being served. */
  endFaults(): void {
    this.#weight = 1;
  }

  /** When a step begins: milliseconds, for `microsecondsSince`. */
  start(): number {
    return this.#weightNow() === 0 ? this.#sched.lately() : this.#sched.now();
  }

  /** What a step that began at `start` counts, microseconds. */
  microsecondsSince(start: number): number {
    const weight = this.#weightNow();
    return weight === 0 ? 0 : (this.#sched.now() - start) * 1000 * weight;
  }

  #weightNow(): number {
    return this.#sched.stretch === this.#stretch ? this.#weight : 1;
  }
}

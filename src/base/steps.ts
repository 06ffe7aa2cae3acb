import { currentCause, swapCause } from "./cause.ts";
import { inActivity, tracksActivities } from "./lock-order.ts";
import { type MaybePromise, isPromise } from "./maybe-promise.ts";

/**
 * One body for the case that waits and the case that does not.
 *
 * An operation seldom has to wait, but it may at several places. Written as a generator that yields the promises it
 * meets, it runs through synchronously as long as `wait` gets values, and turns into an asynchronous activity at the
 * first promise:
 *
 *     function* munmap(mm): Steps<0 | Errno> {
 *       const guard = yield* wait(mm.mmapLock.write());
 *       …
 *     }
 *     return run(munmap(mm));     // 0, an errno, or a promise of it
 */
export type Steps<T> = Generator<Promise<unknown>, T, unknown>;

/** What `yield*` takes from `wait`. */
export type Waiting<T> = Iterable<Promise<unknown>, T, unknown>;

/** The value, after waiting for it if need be. For the operand of a `yield*` only. */
export function wait<T>(x: MaybePromise<T>): Waiting<T> {
  if (isPromise(x)) return waiting(x);
  AT_HAND.value = x;
  return AT_HAND as Waiting<T>;
}

function* waiting<T>(x: Promise<T>): Steps<T> {
  return (yield x) as T;
}

/**
 * A value that nobody has to wait for, as an iteration that is over. There is one for all: `yield*` takes the value out before
 * anything else runs. A generator for each would be most of what an operation allocates that never waits.
 */
class AtHand implements Waiting<unknown> {
  readonly done = true;
  value: unknown = undefined;

  next(): this {
    return this;
  }
  [Symbol.iterator](): this {
    return this;
  }
}
const AT_HAND = new AtHand();

export function run<T>(steps: Steps<T>): MaybePromise<T> {
  return tracksActivities() ? inActivity(() => runHere(steps)) : runHere(steps);
}

/** The same as something that event `cause` led to. */
export function runBecause<T>(cause: number, steps: Steps<T>): MaybePromise<T> {
  const outer = swapCause(cause);
  try {
    return run(steps);
  } finally {
    swapCause(outer);
  }
}

function runHere<T>(steps: Steps<T>): MaybePromise<T> {
  const first = steps.next();
  return first.done ? first.value : goOn(steps, first.value);
}

async function goOn<T>(steps: Steps<T>, waitingFor: Promise<unknown>): Promise<T> {
  const cause = currentCause();
  for (let pending = waitingFor; ;) {
    let value: unknown;
    let error: unknown;
    let failed = false;
    try {
      value = await pending;
    } catch (reason) {
      failed = true;
      error = reason;
    }
    const outer = swapCause(cause);
    try {
      // A rejection ends the activity where it waits, so that its `finally` blocks run.
      const step = failed ? steps.throw(error) : steps.next(value);
      if (step.done) return step.value;
      pending = step.value;
    } finally {
      swapCause(outer);
    }
  }
}

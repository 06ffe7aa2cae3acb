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

/** The value, after waiting for it if need be. */
export function* wait<T>(x: MaybePromise<T>): Steps<T> {
  return isPromise(x) ? ((yield x) as T) : x;
}

export function run<T>(steps: Steps<T>): MaybePromise<T> {
  const first = steps.next();
  return first.done ? first.value : goOn(steps, first.value);
}

async function goOn<T>(steps: Steps<T>, waitingFor: Promise<unknown>): Promise<T> {
  for (let pending = waitingFor; ;) {
    let step: IteratorResult<Promise<unknown>, T>;
    try {
      step = steps.next(await pending);
    } catch (error) {
      // A rejection ends the activity where it waits, so that its `finally` blocks run.
      step = steps.throw(error);
    }
    if (step.done) return step.value;
    pending = step.value;
  }
}

/**
 * What need not wait does not wait: a function that can usually answer at once returns its value, and a promise only
 * when it has to wait for a lock, the GPU or the scheduler. `if (isPromise(x)) x = await x;` keeps the caller's fast
 * path free of microtasks.
 */
export type MaybePromise<T> = T | Promise<T>;

export function isPromise<T>(x: MaybePromise<T>): x is Promise<T> {
  return x instanceof Promise;
}

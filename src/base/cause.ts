/**
 * Because of what things happen: the number of the event that the running activity goes back to.
 *
 * It is passed along, not set: `causedBy` holds for what the function called does before it first awaits, and an activity
 * written as `Steps` takes the cause that it was started under with it across every wait (steps.ts). An `async` function
 * loses it at its first `await`; one that records events later takes the cause as a parameter. So activities that run side
 * by side never see each other's.
 */
let running = 0;

/** Sequence number of the event that caused what runs now; 0: it comes from outside. */
export function currentCause(): number {
  return running;
}

/** Runs `f` as something that event `cause` led to. */
export function causedBy<T>(cause: number, f: () => T): T {
  const outer = swapCause(cause);
  try {
    return f();
  } finally {
    running = outer;
  }
}

/** For who cannot use a function: the cause before, to be put back before anything is awaited. */
export function swapCause(cause: number): number {
  const before = running;
  running = cause;
  return before;
}

/** Longer ones are left to the garbage collector, and so is what comes when so many of one length are kept. */
const LONGEST = 512;
const KEEP = 32;

/**
 * What is over, for those to come: things that are made for a number of pages, by that number. A browser takes longer to make
 * and collect the arrays of a chunk of 2 MiB that is one folio than to do all else with it.
 */
export class LengthPool<T> {
  /** By length. */
  readonly #kept: (T[] | undefined)[] = new Array<undefined>(LONGEST + 1).fill(undefined);

  /** One for `length` pages that nobody has; undefined: there is none. */
  take(length: number): T | undefined {
    return length <= LONGEST ? this.#kept[length]?.pop() : undefined;
  }

  /** Nobody looks at `thing`, of `length` pages, any more. */
  give(length: number, thing: T): void {
    if (length > LONGEST) return;
    const kept = (this.#kept[length] ??= []);
    if (kept.length < KEEP) kept.push(thing);
  }
}

/** Up to here a loop is quicker than the call. */
const SHORT = 16;

/** All of `array` is zero then. Faults of single pages clear ten arrays of one element each. */
export function clearArray(array: Uint8Array | Uint32Array | Float64Array): void {
  const { length } = array;
  if (length > SHORT) {
    array.fill(0);
    return;
  }
  for (let i = 0; i < length; i++) array[i] = 0;
}

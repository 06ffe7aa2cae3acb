/** A typed array of addresses: `Float64Array` for `number`, `BigUint64Array` for `bigint`. */
export interface KeyArray<A> {
  [index: number]: A;
  readonly length: number;
}

/*
 * Binary search in one ascending block, five steps for 32 slots, without branches: the outcome of a comparison is added
 * as a number. The result is relative to `base` and at most 31, the slot that is always padding.
 */

/** Number of keys below `key`. */
export function firstNotBelow<A extends number | bigint>(keys: KeyArray<A>, base: number, key: A): number {
  let at = Number(keys[base + 15] < key) << 4;
  at += Number(keys[base + at + 7] < key) << 3;
  at += Number(keys[base + at + 3] < key) << 2;
  at += Number(keys[base + at + 1] < key) << 1;
  return at + Number(keys[base + at] < key);
}

/** Number of keys up to and including `key`. */
export function firstAbove<A extends number | bigint>(keys: KeyArray<A>, base: number, key: A): number {
  let at = Number(keys[base + 15] <= key) << 4;
  at += Number(keys[base + at + 7] <= key) << 3;
  at += Number(keys[base + at + 3] <= key) << 2;
  at += Number(keys[base + at + 1] <= key) << 1;
  return at + Number(keys[base + at] <= key);
}

/** A longer array that begins with the same values. */
export function copyInts(from: Int32Array, length: number): Int32Array {
  const to = new Int32Array(length);
  to.set(from);
  return to;
}

import type { KeyArray } from "../base/interval-tree.ts";

/** Address, length or object offset. One manager uses one of the two types, and one unit (bytes or pages), throughout. */
export type Address = number | bigint;

/**
 * The arithmetic that the manager's algorithms are written over.
 *
 * The kernel computes in unsigned 64 bits, wrapping. The product computes in doubles, which are faster and exact below
 * 2^53; `U64` computes as the kernel does, for spaces that reach 2^53 and for comparison with recorded behaviour.
 * What differs between the two is here and nowhere else.
 */
export interface Arithmetic<A extends Address> {
  readonly zero: A;
  readonly one: A;
  /** Not below any address. */
  readonly greatest: A;
  /** A fresh array of addresses. */
  keys(length: number): KeyArray<A>;
  /** `a + b`. */
  add(a: A, b: A): A;
  /** `a - b`; below zero it wraps to a value above every address. */
  sub(a: A, b: A): A;
  /** An integer that the type represents exactly. */
  isOperand(a: A): boolean;
  /** True when `addr + range` cannot be represented, or one of them is no operand. @kernel drm_gpuvm_check_overflow */
  overflows(addr: A, range: A): boolean;
  /** Offsets from `offset` to `offset + range` can be computed as the type means them: exactly, or wrapping. */
  isSpan(offset: A, range: A): boolean;
}

const TWO_64 = 2 ** 64;

/** The product's arithmetic. Operands of 2^53 and more are refused before any state is touched. */
export const NUMBERS: Arithmetic<number> = {
  zero: 0,
  one: 1,
  greatest: Infinity,
  keys: (length) => new Float64Array(length),
  add: (a, b) => a + b,
  sub: (a, b) => (a >= b ? a - b : a - b + TWO_64),
  isOperand: (a) => Number.isSafeInteger(a) && a >= 0,
  overflows: (addr, range) =>
    !(Number.isSafeInteger(addr) && Number.isSafeInteger(range) && addr >= 0 && range >= 0) ||
    addr + range > Number.MAX_SAFE_INTEGER,
  isSpan: (offset, range) => Number.isSafeInteger(offset) && offset >= 0 && offset + range <= Number.MAX_SAFE_INTEGER,
};

const U64_MAX = 2n ** 64n - 1n;

/** The kernel's arithmetic: unsigned 64 bits, wrapping. */
export const U64: Arithmetic<bigint> = {
  zero: 0n,
  one: 1n,
  greatest: U64_MAX,
  keys: (length) => new BigUint64Array(length),
  add: (a, b) => BigInt.asUintN(64, a + b),
  sub: (a, b) => BigInt.asUintN(64, a - b),
  isOperand: (a) => a >= 0n && a <= U64_MAX,
  overflows: (addr, range) => addr < 0n || range < 0n || addr + range > U64_MAX,
  isSpan: (offset) => offset >= 0n && offset <= U64_MAX,
};

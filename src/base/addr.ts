/**
 * Addresses and sizes.
 *
 * Addresses are exact integers in a `number`, below 2^53. JavaScript's bitwise operators truncate to 32 bits, so they
 * are never applied to an address; the functions here are the only arithmetic needed besides `+` and `-`.
 *
 * The brands are optional properties: a plain number may be given where an address is wanted, but one kind of address
 * is not accepted for another.
 */

/** CPU (and, because the address is shared, GPU) virtual address, bytes. */
export type Va = number & { readonly __addr?: "va" };
/** Device physical address, bytes. Tile `t` begins at `t * 2^36`. */
export type Pa = number & { readonly __addr?: "pa" };
/** Page frame number of the emulated machine: RAM frames and device frames share one space. */
export type Pfn = number & { readonly __addr?: "pfn" };

export const PAGE_SHIFT = 12;
export const PAGE_SIZE = 4096;
export const SZ_4K = 4096;
export const SZ_64K = 65536;
export const SZ_2M = 2097152;
export const SZ_8M = 8388608;
export const SZ_512M = 536870912;
export const SZ_1G = 1073741824;

const U32 = 4294967296;

/** Largest multiple of `size` (a power of two) that is not above `x`. */
export function alignDown(x: number, size: number): number {
  return Math.floor(x / size) * size;
}

/** Smallest multiple of `size` (a power of two) that is not below `x`. */
export function alignUp(x: number, size: number): number {
  return Math.ceil(x / size) * size;
}

export function isAligned(x: number, size: number): boolean {
  return Math.floor(x / size) * size === x;
}

export function isPowerOfTwo(x: number): boolean {
  if (!Number.isSafeInteger(x) || x <= 0) return false;
  const high = Math.floor(x / U32);
  const half = high === 0 ? x : high;
  return (high === 0 || high * U32 === x) && (half & (half - 1)) >>> 0 === 0;
}

/** Low 32 bits, unsigned. */
export function lo32(x: number): number {
  return (x % U32) >>> 0;
}

/** Bits 32 and up, unsigned. */
export function hi32(x: number): number {
  return (x / U32) >>> 0;
}

export function fromHiLo(hi: number, lo: number): number {
  return hi * U32 + (lo >>> 0);
}

/** Number of pages in `[start, end)`; both page aligned. @kernel npages_in_range */
export function pagesIn(start: number, end: number): number {
  return (end - start) / PAGE_SIZE;
}

/** `0x7f0000000000`. Formatting by halves is ten times faster than `toString(16)` on a large number. */
export function hex(x: number): string {
  if (!Number.isSafeInteger(x) || x < 0) return String(x);
  const hi = hi32(x);
  const lo = lo32(x);
  return hi === 0 ? `0x${lo.toString(16)}` : `0x${hi.toString(16)}${lo.toString(16).padStart(8, "0")}`;
}

/** `[0x1000, 0x3000)`. */
export function hexRange(start: number, end: number): string {
  return `[${hex(start)}, ${hex(end)})`;
}

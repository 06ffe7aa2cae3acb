import { hex, isAligned, isPowerOfTwo, PAGE_SIZE } from "../base/addr.ts";
import { KernelError } from "../base/errors.ts";

/** What a verb takes where it wants a whole number: an address, a length, a word. */
export type Num = number | bigint;

/** A bigint becomes the number that it is; one beyond what numbers can say becomes one that every check refuses. */
export function toNumber(x: Num): number {
  return typeof x === "bigint" ? Number(x) : x;
}

/** An address or an offset, bytes. Throws KernelError EINVAL. */
export function checkedAddress(a: Num, verb: string): number {
  const address = toNumber(a);
  if (!Number.isSafeInteger(address) || address < 0) {
    throw new KernelError("EINVAL", `${verb}: ${String(a)} is no address`);
  }
  return address;
}

/** An address that a GPU is asked for: any of 64 bits, also one that no table can translate. Throws KernelError EINVAL. */
export function checkedGpuAddress(a: Num, verb: string): number {
  const address = toNumber(a);
  if (!Number.isInteger(address) || address < 0 || address >= 2 ** 64) {
    throw new KernelError("EINVAL", `${verb}: ${String(a)} is no address`);
  }
  return address;
}

/** The length of an area from `a`, bytes above 0. Throws KernelError EINVAL. */
export function checkedLength(a: number, l: Num, verb: string): number {
  const length = toNumber(l);
  if (!Number.isSafeInteger(length) || length <= 0 || !Number.isSafeInteger(a + length)) {
    throw new KernelError("EINVAL", `${verb}: a length above 0 is wanted, not ${String(l)}`, { addr: a });
  }
  return length;
}

/** The same for what is cut into units: whole pages, or words. */
export function checkedUnits(a: number, unit: number, verb: string): number {
  if (!isAligned(a, unit)) {
    throw new KernelError("EINVAL", `${verb}: ${hex(a)} is not a multiple of ${unit}`, { addr: a });
  }
  return a;
}

/** An integer modulo 2^32. Throws KernelError EINVAL. */
export function toWord(v: Num, verb: string): number {
  if (typeof v !== "bigint" && !Number.isInteger(v)) {
    throw new KernelError("EINVAL", `${verb}: a whole number is wanted, not ${String(v)}`);
  }
  if (typeof v === "number" && v >= 0 && v < 2 ** 32) return v;
  return Number(BigInt.asUintN(32, BigInt(v)));
}

/** An alignment: a power of two, at least a page. Throws KernelError EINVAL. */
export function checkedAlign(align: Num, verb: string): number {
  const bytes = toNumber(align);
  if (!isPowerOfTwo(bytes) || bytes < PAGE_SIZE) {
    throw new KernelError("EINVAL", `${verb}: an alignment of whole pages, a power of two, is wanted, not ${align}`);
  }
  return bytes;
}

/** A copy of nothing: the bytes that a view shows. Throws KernelError EINVAL for what is no view. */
export function bytesOf(data: ArrayBufferView, verb: string): Uint8Array {
  if (!ArrayBuffer.isView(data)) throw new KernelError("EINVAL", `${verb}: a typed array is wanted`);
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/**
 * What the results of the main job are compared with, from sources that are not the emulator's own: the browser's gzip for
 * the CRC-32, plain loops over the bytes for histogram and transform.
 */

/** Number of times each byte value occurs. */
export function countBytes(into: Uint32Array, bytes: Uint8Array): void {
  for (let i = 0; i < bytes.length; i++) into[bytes[i]!]! += 1;
}

/** CRC-32 of the whole file as the browser's own gzip computes it: it stands in the last eight bytes of the stream. */
export async function gzipCrc32(file: Blob): Promise<number> {
  const reader = file.stream().pipeThrough(new CompressionStream("gzip")).getReader();
  let tail = new Uint8Array(0);
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    const joined = new Uint8Array(tail.length + read.value.length);
    joined.set(tail);
    joined.set(read.value, tail.length);
    tail = joined.slice(-8);
  }
  return new DataView(tail.buffer).getUint32(0, true);
}

/**
 * CRC-32 of a file from those of its blocks: all of `block` bytes, but the last, which has what is left of `size`.
 *
 * CRC is linear over GF(2): the CRC of A followed by B is the CRC of A, advanced by the length of B in zero bytes, xor the
 * CRC of B. Advancing by a fixed length is a 32 by 32 bit matrix (the method of zlib's crc32_combine).
 */
export function joinCrc32(sums: Uint32Array, block: number, size: number): number {
  const byBlock = advanceBy(block);
  let crc = sums[0]!;
  for (let i = 1; i < sums.length; i++) {
    const length = Math.min(block, size - i * block);
    crc = (times(length === block ? byBlock : advanceBy(length), crc) ^ sums[i]!) >>> 0;
  }
  return crc;
}

const POLYNOMIAL = 0xedb88320;

/** The matrix that advances a CRC by `length` zero bytes, a column per word. */
function advanceBy(length: number): Uint32Array {
  // One zero bit: shift down, and fold the polynomial in when a one falls out.
  let power = Uint32Array.from({ length: 32 }, (_, bit) => (bit === 0 ? POLYNOMIAL : 2 ** (bit - 1)));
  let result = Uint32Array.from({ length: 32 }, (_, bit) => 2 ** bit);
  for (let bits = length * 8; bits > 0; bits = Math.floor(bits / 2)) {
    if (bits % 2 === 1) result = result.map((column) => times(power, column));
    power = power.map((column) => times(power, column));
  }
  return result;
}

function times(matrix: Uint32Array, vector: number): number {
  let sum = 0;
  for (let bit = 0; bit < 32; bit++) if ((vector & (1 << bit)) !== 0) sum ^= matrix[bit]!;
  return sum >>> 0;
}

/** Offset of the first byte at which `changed` is not `original` xor the keystream, or -1. `offset`: of both in the file. */
export function firstTransformError(original: Uint8Array, changed: Uint8Array, offset: number): number {
  let word = 0;
  for (let i = 0; i < original.length; i++) {
    const at = offset + i;
    if (i === 0 || at % 4 === 0) word = keystream(Math.floor(at / 4));
    if ((original[i]! ^ ((word >>> ((at % 4) * 8)) & 255)) !== changed[i]) return at;
  }
  return original.length === changed.length ? -1 : offset + Math.min(original.length, changed.length);
}

/** Word `i` of the keystream: Chris Wellons' hash "lowbias32" of i + 1, in its published constants. */
function keystream(i: number): number {
  let x = (i + 1) | 0;
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  return (x ^ (x >>> 16)) >>> 0;
}

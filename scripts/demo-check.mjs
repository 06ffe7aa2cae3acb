/**
 * What the demo's kernels ought to have computed over a file, worked out here from the file itself: with Node's zlib
 * for CRC-32, and with code that shares nothing with the emulator for the rest.
 */
import { createHash } from "node:crypto";
import { open } from "node:fs/promises";
import { crc32 } from "node:zlib";

const BLOCK = 4096;
const PIECE = 1 << 20;

/** Checks results against a file. Each check gives null, or one sentence on the first difference. */
export class FileOracle {
  size;
  /** Settles when the file has been read and the checks can be made; rejects where it cannot be read. */
  ready;
  #file;
  #histogram = new Float64Array(256);
  #crcs;
  /** Received pieces of the transformed bytes: start, end. */
  #pieces = [];
  #wrong = null;
  #isClosing = false;

  /** The file must not change until `close`. It is read while the caller goes on. */
  static async open(path) {
    const oracle = new FileOracle();
    oracle.#file = await open(path, "r");
    oracle.size = (await oracle.#file.stat()).size;
    oracle.#crcs = new Uint32Array(Math.ceil(oracle.size / BLOCK));
    oracle.ready = oracle.#compute();
    oracle.ready.catch(() => {});
    return oracle;
  }

  async #compute() {
    let block = 0;
    for await (const piece of this.pieces()) {
      if (this.#isClosing) return;
      countBytes(this.#histogram, piece);
      for (let at = 0; at < piece.length; at += BLOCK) this.#crcs[block++] = crc32(piece.subarray(at, at + BLOCK));
    }
  }

  /** The file from front to back. */
  async *pieces() {
    for (let at = 0; at < this.size; at += PIECE) yield this.read(at, Math.min(PIECE, this.size - at));
  }

  async read(offset, length) {
    const piece = Buffer.allocUnsafeSlow(length);
    let filled = 0;
    while (filled < length) {
      const { bytesRead } = await this.#file.read(piece, filled, length - filled, offset + filled);
      if (bytesRead === 0) throw new Error("the file became shorter while it was read.");
      filled += bytesRead;
    }
    return piece;
  }

  async close() {
    this.#isClosing = true;
    await this.ready.catch(() => {});
    await this.#file.close();
  }

  /** @param {ArrayLike<number>} bins how often each byte value occurs */
  checkHistogram(bins) {
    if (bins.length !== 256) return `the histogram has ${bins.length} bins, not 256`;
    for (let value = 0; value < 256; value++) {
      if (bins[value] !== this.#histogram[value]) {
        return `byte value ${value} occurs ${this.#histogram[value]} times, the kernel counted ${bins[value]}`;
      }
    }
    return null;
  }

  /** @param {Buffer} bytes little-endian words, the CRC-32 of each 4 KiB block; a short last block counts as it is */
  checkCrcs(bytes) {
    if (bytes.length !== this.#crcs.length * 4)
      return `${bytes.length / 4} block checksums came, not ${this.#crcs.length}`;
    for (let block = 0; block < this.#crcs.length; block++) {
      const is = bytes.readUInt32LE(block * 4);
      const right = this.#crcs[block];
      if (is !== right) return `the CRC-32 of block ${block} is ${hex(right)}, the kernel computed ${hex(is)}`;
    }
    return null;
  }

  /**
   * One piece of the transformed file, in any order, by its digest.
   * @param {string} sha256 in hex
   * @returns whether it is right; one that is not has to come whole, to `receiveTransformed`
   */
  async receiveDigest(offset, length, sha256) {
    const right = await this.#transformed(offset, length);
    if (right === null || createHash("sha256").update(right).digest("hex") !== sha256) return false;
    this.#pieces.push([offset, offset + length]);
    return true;
  }

  /** One piece of the transformed file, in any order. */
  async receiveTransformed(offset, bytes) {
    const right = await this.#transformed(offset, bytes.length);
    if (right === null) {
      this.#wrong ??= `the transformed bytes go to ${offset + bytes.length}, beyond the file's end`;
      return;
    }
    this.#pieces.push([offset, offset + bytes.length]);
    if (Buffer.compare(bytes, right) === 0) return;
    const at = right.findIndex((byte, i) => byte !== bytes[i]);
    this.#wrong ??= `byte ${offset + at} of the transformed file is ${hex(right[at])}, the CPU read ${hex(bytes[at])}`;
  }

  /** What a piece of the transformed file ought to be; null beyond the file's end. */
  async #transformed(offset, length) {
    if (offset + length > this.size) return null;
    return xorInPlace(await this.read(offset, length), offset);
  }

  /** After the last piece: all bytes must have come, each once. */
  checkTransformed() {
    if (this.#wrong !== null) return this.#wrong;
    let next = 0;
    for (const [start, end] of this.#pieces.sort((a, b) => a[0] - b[0])) {
      if (start !== next)
        return `transformed bytes ${Math.min(start, next)} to ${Math.max(start, next)} came ${start > next ? "never" : "twice"}`;
      next = end;
    }
    return next === this.size ? null : `only ${next} of ${this.size} transformed bytes came`;
  }
}

/** Integer hash of 32 bits (lowbias32's form with this project's constants). */
export function mix32(x) {
  x ^= x >>> 16;
  x = Math.imul(x, 0x7feb352d);
  x ^= x >>> 15;
  x = Math.imul(x, 0x846ca68b);
  return (x ^ (x >>> 16)) >>> 0;
}

/** `bytes` transformed: they stand at `offset` of the file. */
export function keystreamXor(bytes, offset) {
  return xorInPlace(Buffer.from(bytes), offset);
}

/** Byte i of word k is XORed with byte i of mix32(k + 1), little-endian. */
function xorInPlace(out, offset) {
  const view = new DataView(out.buffer, out.byteOffset, out.length);
  const edge = (from, to) => {
    for (let i = from; i < to; i++) {
      const at = offset + i;
      out[i] ^= mix32(Math.floor(at / 4) + 1) >>> (8 * (at % 4));
    }
  };
  const head = Math.min(out.length, (4 - (offset % 4)) % 4);
  const words = Math.floor((out.length - head) / 4);
  const first = (offset + head) / 4 + 1;
  edge(0, head);
  for (let k = 0; k < words; k++) {
    const at = head + 4 * k;
    view.setInt32(at, view.getInt32(at, true) ^ mix32(first + k), true);
  }
  edge(head + 4 * words, out.length);
  return out;
}

/** Adds how often each byte value occurs to `counts`. In four tables by turns: equal bytes in a row wait for each other in one. */
function countBytes(counts, bytes) {
  const table = new Uint32Array(4 * 256);
  const fours = bytes.length - (bytes.length % 4);
  for (let i = 0; i < fours; i += 4) {
    table[bytes[i]]++;
    table[256 + bytes[i + 1]]++;
    table[512 + bytes[i + 2]]++;
    table[768 + bytes[i + 3]]++;
  }
  for (let i = fours; i < bytes.length; i++) table[bytes[i]]++;
  for (let i = 0; i < table.length; i++) counts[i % 256] += table[i];
}

function hex(value) {
  return `0x${value.toString(16)}`;
}

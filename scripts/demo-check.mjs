/**
 * What the demo's kernels ought to have computed over a file, worked out here from the file itself: with Node's zlib
 * for CRC-32, and with code that shares nothing with the emulator for the rest.
 */
import { open } from "node:fs/promises";
import { crc32 } from "node:zlib";

const BLOCK = 4096;
const PIECE = 1 << 20;

/** Reads a file once and checks results against it. Each check gives null, or one sentence on the first difference. */
export class FileOracle {
  size;
  #file;
  #histogram = new Float64Array(256);
  #crcs;
  /** Received pieces of the transformed bytes: start, end. */
  #pieces = [];
  #wrong = null;

  /** The file must not change until `close`. */
  static async open(path, onProgress = () => {}) {
    const oracle = new FileOracle();
    oracle.#file = await open(path, "r");
    oracle.size = (await oracle.#file.stat()).size;
    oracle.#crcs = new Uint32Array(Math.ceil(oracle.size / BLOCK));
    for (let at = 0; at < oracle.size; at += PIECE) {
      const piece = await oracle.read(at, Math.min(PIECE, oracle.size - at));
      for (let i = 0; i < piece.length; i++) oracle.#histogram[piece[i]]++;
      for (let b = 0; b < piece.length; b += BLOCK)
        oracle.#crcs[(at + b) / BLOCK] = crc32(piece.subarray(b, b + BLOCK));
      onProgress((at + piece.length) / oracle.size);
    }
    return oracle;
  }

  async read(offset, length) {
    const piece = Buffer.alloc(length);
    let filled = 0;
    while (filled < length) {
      const { bytesRead } = await this.#file.read(piece, filled, length - filled, offset + filled);
      if (bytesRead === 0) throw new Error("the file became shorter while it was read.");
      filled += bytesRead;
    }
    return piece;
  }

  close() {
    return this.#file.close();
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

  /** One piece of the transformed file, in any order. */
  async receiveTransformed(offset, bytes) {
    if (offset + bytes.length > this.size) {
      this.#wrong ??= `the transformed bytes go to ${offset + bytes.length}, beyond the file's end`;
      return;
    }
    this.#pieces.push([offset, offset + bytes.length]);
    const right = keystreamXor(await this.read(offset, bytes.length), offset);
    if (Buffer.compare(bytes, right) === 0) return;
    const at = right.findIndex((byte, i) => byte !== bytes[i]);
    this.#wrong ??= `byte ${offset + at} of the transformed file is ${hex(right[at])}, the CPU read ${hex(bytes[at])}`;
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

/** `bytes` stands at `offset` of the file; byte i of word k is XORed with byte i of mix32(k + 1), little-endian. */
export function keystreamXor(bytes, offset) {
  const out = Buffer.from(bytes);
  const edge = (from, to) => {
    for (let i = from; i < to; i++) {
      const at = offset + i;
      out[i] ^= mix32(Math.floor(at / 4) + 1) >>> (8 * (at % 4));
    }
  };
  const head = Math.min(bytes.length, (4 - (offset % 4)) % 4);
  const words = Math.floor((bytes.length - head) / 4);
  const first = (offset + head) / 4 + 1;
  edge(0, head);
  for (let k = 0; k < words; k++) {
    const at = head + 4 * k;
    out.writeInt32LE(out.readInt32LE(at) ^ mix32(first + k), at);
  }
  edge(head + 4 * words, bytes.length);
  return out;
}

function hex(value) {
  return `0x${value.toString(16)}`;
}

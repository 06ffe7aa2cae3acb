/**
 * Writes protocol buffers: just what a trace needs, into one growing buffer.
 *
 * A nested message is written in place. Its length, known only at its end, goes into four bytes kept free before it: a
 * varint may be padded, and tracing libraries write them so.
 */
const LENGTH_BYTES = 4;
const VARINT = 0;
const FIXED64 = 1;
const BYTES = 2;

export class ProtoWriter {
  #bytes = new Uint8Array(1 << 16);
  #view = new DataView(this.#bytes.buffer);
  #size = 0;

  /** What has been written, copied. */
  finish(): Uint8Array<ArrayBuffer> {
    return this.#bytes.slice(0, this.#size);
  }

  /** uint32, uint64, enum, bool: a whole number from 0 to 2^53. */
  uint(field: number, value: number): void {
    this.#tag(field, VARINT);
    this.#varint(value);
  }

  /** int32, int64: a whole number of at most 53 bits. */
  int(field: number, value: number): void {
    this.#tag(field, VARINT);
    if (value >= 0) this.#varint(value);
    else this.#negative(value);
  }

  /** A whole number from 0 to 2^53. */
  fixed64(field: number, value: number): void {
    this.#tag(field, FIXED64);
    this.#reserve(8);
    this.#view.setUint32(this.#size, value >>> 0, true);
    this.#view.setUint32(this.#size + 4, Math.floor(value / 2 ** 32), true);
    this.#size += 8;
  }

  string(field: number, text: string): void {
    const bytes = utf8(text);
    this.#tag(field, BYTES);
    this.#varint(bytes.length);
    this.#reserve(bytes.length);
    this.#bytes.set(bytes, this.#size);
    this.#size += bytes.length;
  }

  /** A message, whose fields `write` writes. */
  message(field: number, write: () => void): void {
    this.#tag(field, BYTES);
    this.#reserve(LENGTH_BYTES);
    const at = this.#size;
    this.#size += LENGTH_BYTES;
    write();
    let length = this.#size - at - LENGTH_BYTES;
    for (let i = 0; i < LENGTH_BYTES; i++) {
      const more = i < LENGTH_BYTES - 1 ? 0x80 : 0;
      this.#bytes[at + i] = (length & 0x7f) | more;
      length >>>= 7;
    }
  }

  #tag(field: number, type: number): void {
    this.#varint(field * 8 + type);
  }

  #varint(value: number): void {
    this.#reserve(10);
    let rest = value;
    for (; rest >= 0x80; rest = Math.floor(rest / 128)) this.#bytes[this.#size++] = (rest % 128) | 0x80;
    this.#bytes[this.#size++] = rest;
  }

  /** Two's complement of 64 bits: ten bytes. */
  #negative(value: number): void {
    this.#reserve(10);
    let rest = BigInt.asUintN(64, BigInt(value));
    for (; rest >= 0x80n; rest >>= 7n) this.#bytes[this.#size++] = Number(rest & 0x7fn) | 0x80;
    this.#bytes[this.#size++] = Number(rest);
  }

  #reserve(bytes: number): void {
    if (this.#size + bytes <= this.#bytes.length) return;
    const larger = new Uint8Array(Math.max(this.#bytes.length * 2, this.#size + bytes));
    larger.set(this.#bytes);
    this.#bytes = larger;
    this.#view = new DataView(larger.buffer);
  }
}

/** This layer knows no TextEncoder: it compiles without a platform. */
function utf8(text: string): number[] {
  const bytes: number[] = [];
  for (const char of text) {
    const code = char.codePointAt(0)!;
    if (code < 0x80) bytes.push(code);
    else if (code < 0x800) bytes.push(0xc0 | (code >> 6), 0x80 | (code & 63));
    else if (code < 0x10000) bytes.push(0xe0 | (code >> 12), 0x80 | ((code >> 6) & 63), 0x80 | (code & 63));
    else bytes.push(0xf0 | (code >> 18), 0x80 | ((code >> 12) & 63), 0x80 | ((code >> 6) & 63), 0x80 | (code & 63));
  }
  return bytes;
}

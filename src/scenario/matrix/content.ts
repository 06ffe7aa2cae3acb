/**
 * What a buffer must hold, byte for byte: what it was filled with, and the words written since. It is put together only when
 * it is compared, for buffers are many and large and the words few.
 */
export class Content {
  #byte = 0;
  readonly #words = new Map<number, number>();

  fill(byte: number): void {
    this.#byte = byte;
    this.#words.clear();
  }

  /** Stores words from `offset` on, a multiple of 4. */
  words(offset: number, values: Iterable<number>): void {
    for (const value of values) {
      this.#words.set(offset, value);
      offset += 4;
    }
  }

  /** From the first word written to the end of the last one; null where nothing was. */
  extent(): [from: number, to: number] | null {
    if (this.#words.size === 0) return null;
    const offsets = [...this.#words.keys()];
    return [Math.min(...offsets), Math.max(...offsets) + 4];
  }

  /** The bytes `[from, to)`, multiples of 4. */
  bytes(from: number, to: number): Uint8Array {
    const bytes = new Uint8Array(to - from).fill(this.#byte);
    const view = new DataView(bytes.buffer);
    for (const [offset, value] of this.#words) {
      if (offset >= from && offset < to) view.setUint32(offset - from, value, true);
    }
    return bytes;
  }
}

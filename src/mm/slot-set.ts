/** A set of slots of a window that is worked off in ascending order: a bit per slot. */
export class SlotSet {
  readonly #words: Uint32Array;
  #count = 0;
  /** Words in which bits can be: `[first, end)`. */
  #first = Infinity;
  #end = 0;

  /** For slots `[0, slots)`. */
  constructor(slots: number) {
    this.#words = new Uint32Array(Math.ceil(slots / 32));
  }

  get isEmpty(): boolean {
    return this.#count === 0;
  }

  add(slot: number): void {
    const word = slot >>> 5;
    const bit = 1 << (slot & 31);
    if ((this.#words[word]! & bit) !== 0) return;
    this.#words[word]! |= bit;
    this.#count += 1;
    if (word < this.#first) this.#first = word;
    if (word >= this.#end) this.#end = word + 1;
  }

  delete(slot: number): void {
    const word = slot >>> 5;
    const bit = 1 << (slot & 31);
    if ((this.#words[word]! & bit) === 0) return;
    this.#words[word]! &= ~bit;
    this.#count -= 1;
    if (this.#count > 0) return;
    this.#first = Infinity;
    this.#end = 0;
  }

  /** The lowest slot from `from` on; -1 when there is none. */
  next(from: number): number {
    const passed = from >>> 5;
    for (let word = Math.max(passed, this.#first); word < this.#end; word++) {
      const behind = word === passed ? from & 31 : 0;
      const bits = this.#words[word]! & (0xffffffff << behind);
      if (bits !== 0) return word * 32 + (31 - Math.clz32(bits & -bits));
    }
    return -1;
  }
}

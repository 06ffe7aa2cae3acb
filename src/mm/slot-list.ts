import { assert } from "../base/assert.ts";

/**
 * Slots of a window in the order in which they were added, each at most once: a list through two arrays, without an
 * allocation per slot. Slot 0, which no window gives out, stands for both ends; a slot that is not in the list follows
 * itself.
 */
export class SlotList {
  readonly #next: Uint32Array;
  readonly #previous: Uint32Array;
  #count = 0;

  /** For slots `[1, slots)`. */
  constructor(slots: number) {
    this.#next = Uint32Array.from({ length: slots }, (_, slot) => slot);
    this.#previous = this.#next.slice();
  }

  get count(): number {
    return this.#count;
  }

  /** The slot that has been in the list the longest; 0 when it is empty. */
  get oldest(): number {
    return this.#next[0]!;
  }

  has(slot: number): boolean {
    return this.#next[slot] !== slot;
  }

  /** Behind all others; one that is in the list stays where it is. */
  add(slot: number): void {
    if (this.has(slot)) return;
    assert(slot > 0, "slot 0 is in no list");
    const last = this.#previous[0]!;
    this.#next[last] = slot;
    this.#previous[slot] = last;
    this.#next[slot] = 0;
    this.#previous[0] = slot;
    this.#count += 1;
  }

  /** Takes it out, if it is there. */
  delete(slot: number): void {
    if (!this.has(slot)) return;
    const before = this.#previous[slot]!;
    const behind = this.#next[slot]!;
    this.#next[before] = behind;
    this.#previous[behind] = before;
    this.#next[slot] = slot;
    this.#count -= 1;
  }
}

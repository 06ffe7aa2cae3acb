import { assert } from "../base/assert.ts";
import { PAGE_SIZE } from "../base/addr.ts";

/**
 * Swap: the bytes of anonymous pages that are not in RAM.
 *
 * A slot is counted by the page-table entries that name it, several after a fork; the last one frees it. Slot 0 is never
 * used. The bytes lie outside the emulated RAM, as a disk's do.
 * @kernel swap_info_struct
 */
export class SwapSpace {
  /** Slots that can be in use at once. */
  readonly capacity: number;
  readonly #bytes: (Uint8Array | null)[] = [null];
  readonly #counts: number[] = [0];
  readonly #free: number[] = [];

  constructor(capacity: number) {
    this.capacity = capacity;
  }

  /** Above every slot that has ever been in use. */
  get slots(): number {
    return this.#bytes.length;
  }

  /** Slots in use. */
  get used(): number {
    return this.#bytes.length - 1 - this.#free.length;
  }

  /** A slot with a copy of `page`'s bytes and one user; 0 when all are in use. @kernel folio_alloc_swap */
  store(page: Uint8Array): number {
    if (this.used >= this.capacity) return 0;
    const slot = this.#free.pop() ?? this.#bytes.length;
    this.#bytes[slot] = page.slice(0, PAGE_SIZE);
    this.#counts[slot] = 1;
    return slot;
  }

  /** The page's bytes; not to be changed. */
  read(slot: number): Uint8Array {
    const bytes = this.#bytes[slot] ?? null;
    assert(bytes !== null, () => `swap slot ${slot} is free`);
    return bytes;
  }

  /** Entries that name the slot; 0 = free. @kernel swap_count */
  count(slot: number): number {
    return this.#counts[slot] ?? 0;
  }

  /** One more entry names the slot. @kernel swap_duplicate */
  get(slot: number): void {
    assert(this.count(slot) > 0, () => `swap slot ${slot} is free`);
    this.#counts[slot]! += 1;
  }

  /** One entry less; the last frees the slot. @kernel swap_free */
  put(slot: number): void {
    assert(this.count(slot) > 0, () => `swap slot ${slot} is free`);
    this.#counts[slot]! -= 1;
    if (this.#counts[slot] !== 0) return;
    this.#bytes[slot] = null;
    this.#free.push(slot);
  }
}

import { PAGE_SIZE } from "../base/addr.ts";
import type { Pfn } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import type { PhysMemory } from "../mm/phys-mem.ts";

/** No copy; a copy that reads zero and takes no RAM; a copy in a frame. */
const NONE = 0;
const ZERO = 1;
const FRAME = 2;

/**
 * Shadow copies in RAM, by VRAM page number.
 *
 * Memory layout: parallel typed arrays, because a refresh looks at every page that has a copy.
 *
 *     kind      NONE, ZERO, FRAME
 *     frame     the RAM frame, with one reference of the table's; 0 unless FRAME
 *     copied    round of the device whose result the copy is
 *     written   last round that may have written the page
 *     tenancy   changes whenever the page gets or loses a copy of other bytes' life: who waited compares it
 */
export class ShadowTable {
  readonly #phys: PhysMemory;
  readonly #kind: Uint8Array;
  readonly #frame: Uint32Array;
  readonly #copied: Float64Array;
  readonly #written: Float64Array;
  readonly #tenancy: Uint32Array;
  #frames = 0;

  constructor(phys: PhysMemory, pages: number) {
    this.#phys = phys;
    this.#kind = new Uint8Array(pages);
    this.#frame = new Uint32Array(pages);
    this.#copied = new Float64Array(pages);
    this.#written = new Float64Array(pages);
    this.#tenancy = new Uint32Array(pages);
  }

  /** RAM frames that the copies hold. */
  get frames(): number {
    return this.#frames;
  }

  has(page: number): boolean {
    return this.#kind[page] !== NONE;
  }
  /** The device may have newer bytes than the copy. */
  isStale(page: number): boolean {
    return this.#written[page]! > this.#copied[page]!;
  }
  copiedAt(page: number): number {
    return this.#copied[page]!;
  }
  tenancyOf(page: number): number {
    return this.#tenancy[page]!;
  }

  /** First copy of a page that has just been filled: `frame`, whose reference it takes over; 0 for zeros. */
  put(page: number, frame: Pfn, round: number): void {
    assert(this.#kind[page] === NONE, () => `VRAM page ${page} has a shadow already`);
    this.#kind[page] = frame === 0 ? ZERO : FRAME;
    this.#frame[page] = frame;
    this.#copied[page] = round;
    this.#written[page] = 0;
    this.#tenancy[page]! += 1;
    if (frame !== 0) this.#frames += 1;
  }

  /** A newer copy, likewise. */
  replace(page: number, frame: Pfn, round: number): void {
    if (this.#kind[page] === FRAME) this.#phys.putPage(this.#frame[page]!);
    else this.#frames += 1;
    this.#kind[page] = FRAME;
    this.#frame[page] = frame;
    this.#copied[page] = round;
  }

  drop(page: number): void {
    if (this.#kind[page] === NONE) return;
    if (this.#kind[page] === FRAME) {
      this.#phys.putPage(this.#frame[page]!);
      this.#frames -= 1;
    }
    this.#kind[page] = NONE;
    this.#frame[page] = 0;
    this.#tenancy[page]! += 1;
  }

  /** `round` may have written the page. */
  touch(page: number, round: number): void {
    if (this.#written[page]! < round) this.#written[page] = round;
  }

  /** Appends the pages of `[from, to)` that have a stale copy. */
  pushStale(from: number, to: number, into: number[]): void {
    for (let page = from; page < to; page++) if (this.has(page) && this.isStale(page)) into.push(page);
  }

  /** Stores the copy's bytes in RAM frame `to`. */
  copyTo(page: number, to: Pfn): void {
    if (this.#kind[page] === FRAME) this.#phys.copyPage(to, this.#frame[page]!);
    else this.#phys.ram.fill(0, to * PAGE_SIZE, (to + 1) * PAGE_SIZE);
  }
}

import { alignDown } from "../base/addr.ts";
import { ACCESS_ATOMIC, ACCESS_READ } from "../abi/fault.ts";
import type { PinnedBuffer } from "./round-pins.ts";
import type { SvmRange } from "./svm-range.ts";

/** A range that a batch of faults has served. */
export interface Covered {
  readonly range: SvmRange;
  /** Null: they are to be found again. */
  buffers: readonly PinnedBuffer[] | null;
}

/**
 * Ranges that a batch of faults has served, found by page: ranges are aligned to their sizes, of which there are few, and no two
 * live ones overlap.
 */
export class CoveredRanges {
  readonly #sizes: number[] = [];
  /** By start, for each size. */
  readonly #byStart: Map<number, Covered>[] = [];
  readonly #tile: number;
  #last: Covered | null = null;

  /** `tile`: the one whose faults they are. */
  constructor(tile: number) {
    this.#tile = tile;
  }

  add(range: SvmRange, buffers: readonly PinnedBuffer[]): void {
    const covered = { range, buffers };
    this.#last = covered;
    let i = this.#sizes.indexOf(range.size);
    if (i < 0) {
      i = this.#sizes.push(range.size) - 1;
      this.#byStart.push(new Map());
    }
    // In the place of one that is gone, if there is any.
    this.#byStart[i]!.set(range.start, covered);
  }

  /** Others have had their turn: the memory behind a range may be another now, even where its entries serve again. */
  forgetBuffers(): void {
    for (const ranges of this.#byStart) for (const covered of ranges.values()) covered.buffers = null;
  }

  /** The one whose entries serve an access to `page` now. */
  find(page: number, access: number): Covered | null {
    const tile = this.#tile;
    if (this.#last !== null && serves(this.#last.range, page, access, tile)) return this.#last;
    for (let i = 0; i < this.#sizes.length; i++) {
      const covered = this.#byStart[i]!.get(alignDown(page, this.#sizes[i]!));
      if (covered !== undefined && serves(covered.range, page, access, tile)) return covered;
    }
    return null;
  }
}

/** Whether the entries of a range serve an access of a tile to `page` now. */
export function serves(range: SvmRange, page: number, access: number, tile: number): boolean {
  if (page < range.start || page >= range.end) return false;
  if (!range.isBoundOn(tile) || (access === ACCESS_ATOMIC && !range.atomics)) return false;
  return access === ACCESS_READ || !range.readOnly;
}

import { SZ_2M, alignDown } from "../base/addr.ts";
import { ACCESS_ATOMIC, ACCESS_READ } from "../abi/fault.ts";
import type { PinnedBuffer } from "./round-pins.ts";
import type { SvmRange } from "./svm-range.ts";

/** A range that a batch of faults has served. */
export interface Covered {
  readonly range: SvmRange;
  /** Null: they are to be found again. */
  buffers: readonly PinnedBuffer[] | null;
}

/** Ranges that a batch of faults has served, found by page. */
export class CoveredRanges {
  readonly #byWindow = new Map<number, Covered[]>();
  readonly #tile: number;
  #last: Covered | null = null;

  /** `tile`: the one whose faults they are. */
  constructor(tile: number) {
    this.#tile = tile;
  }

  add(range: SvmRange, buffers: readonly PinnedBuffer[]): void {
    const covered = { range, buffers };
    this.#last = covered;
    for (let at = alignDown(range.start, SZ_2M); at < range.end; at += SZ_2M) {
      const list = this.#byWindow.get(at);
      if (list === undefined) this.#byWindow.set(at, [covered]);
      else list.push(covered);
    }
  }

  /** Others have had their turn: the memory behind a range may be another now, even where its entries serve again. */
  forgetBuffers(): void {
    for (const list of this.#byWindow.values()) for (const covered of list) covered.buffers = null;
  }

  /** The one whose entries serve an access to `page` now. */
  find(page: number, access: number): Covered | null {
    const tile = this.#tile;
    if (this.#last !== null && serves(this.#last.range, page, access, tile)) return this.#last;
    return this.#byWindow.get(alignDown(page, SZ_2M))?.find((c) => serves(c.range, page, access, tile)) ?? null;
  }
}

/** Whether the entries of a range serve an access of a tile to `page` now. */
export function serves(range: SvmRange, page: number, access: number, tile: number): boolean {
  if (page < range.start || page >= range.end) return false;
  if (!range.isBoundOn(tile) || (access === ACCESS_ATOMIC && !range.atomics)) return false;
  return access === ACCESS_READ || !range.readOnly;
}

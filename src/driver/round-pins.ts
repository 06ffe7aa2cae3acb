import type { FaultBatch } from "./fault-record.ts";

/** Memory that the GPU reaches: a buffer of SVM, a buffer object, or what is mapped where it lies in system memory. */
export interface PinnedBuffer {
  /** Bytes. */
  readonly size: number;
  /** It takes up system window and not VRAM. */
  readonly inWindow?: boolean;
  pin(): void;
  unpin(): void;
}

/** A range that a launch reaches memory through: its page tables must survive as long as the memory. */
export interface PinnedTables {
  pinTables(): void;
  unpinTables(): void;
}

/**
 * What a launch needs in VRAM, and in the system window (spec/device.md 5.7). Buffers that a round made resident must survive until the next
 * dispatch has run; after it, those of items that still fault stay, so that an item with two faults in a row does not
 * lose its first page to the service of its second.
 *
 * The device merges faults of one page, so the items behind a merged fault are not known. Buffers served in such a round
 * may be wanted by anybody (a page of counters that every item adds to): they stay as long as there is room, and are let
 * go in the order that costs least.
 *
 * Address spaces share buffers, and each has page tables of its own. So a pin of a buffer holds the tables of those ranges
 * through which this launch reaches it, and no others.
 */
interface Pin {
  round: number;
  lowestItem: number;
  highestItem: number;
  /** Items that are not known may want it. */
  isShared: boolean;
  /** An item that faulted on it is still undone. */
  isWanted: boolean;
  /** The range whose tables it holds. Null: none, as of a range that is pinned itself. */
  range: PinnedTables | null;
  /** Further ones: rarely any. */
  more: Set<PinnedTables> | null;
}

export class RoundPins {
  /** In the order of pinning. */
  readonly #pins = new Map<PinnedBuffer, Pin>();
  #round = 0;
  #merged = false;
  #released = 0;

  get isEmpty(): boolean {
    return this.#pins.size === 0;
  }
  /** How often a buffer has been let go. */
  get released(): number {
    return this.#released;
  }

  /** Bytes that this launch holds. */
  get bytes(): number {
    let sum = 0;
    for (const bo of this.#pins.keys()) sum += bo.size;
    return sum;
  }

  /** Those of the system window. */
  get bytesInWindow(): number {
    let sum = 0;
    for (const bo of this.#pins.keys()) if (bo.inWindow === true) sum += bo.size;
    return sum;
  }

  /** Bytes of VRAM of the buffers that are smaller than `size`: the likely shared ones. */
  bytesBelow(size: number): number {
    let sum = 0;
    for (const bo of this.#pins.keys()) if (bo.size < size && bo.inWindow !== true) sum += bo.size;
    return sum;
  }

  /** `item` faulted on a page of `bo`, which has been made resident and is reached through `range`, if through any. */
  pin(bo: PinnedBuffer, item: number, range: PinnedTables | null = null): void {
    let pin = this.#pins.get(bo);
    if (pin === undefined) {
      bo.pin();
      pin = {
        round: this.#round,
        lowestItem: item,
        highestItem: item,
        isShared: this.#merged,
        isWanted: true,
        range: null,
        more: null,
      };
      this.#pins.set(bo, pin);
    } else {
      pin.round = this.#round;
      pin.lowestItem = Math.min(pin.lowestItem, item);
      pin.highestItem = Math.max(pin.highestItem, item);
      pin.isShared ||= this.#merged;
    }
    if (range !== null && range !== pin.range) holdTables(pin, range);
  }

  /** A dispatch has run and left the faults of `batch`; `merged` more of them behind equal ones. */
  beginRound(batch: FaultBatch, merged: number): void {
    this.#round += 1;
    this.#merged = merged > 0;
    for (const [bo, pin] of this.#pins) {
      pin.isWanted = batch.hasItemIn(pin.lowestItem, pin.highestItem);
      if (!pin.isWanted && !pin.isShared) this.#release(bo);
    }
  }

  /** A dispatch has run, and the next one will want again whatever it had. */
  keepRound(): void {
    this.#round += 1;
    this.#merged = true;
  }

  /**
   * `place` is full: lets go buffers of earlier rounds worth `bytes` there. First what no undone item is known to want; large ones
   * before small ones, which are more likely to be shared; the newest first, because low items are served first. The
   * number of bytes let go.
   */
  yieldEarlier(bytes: number, place: "VRAM" | "window" = "VRAM"): number {
    const isThere = (bo: PinnedBuffer) => (bo.inWindow === true) === (place === "window");
    const earlier = [...this.#pins].filter(([bo, pin]) => pin.round < this.#round && isThere(bo)).reverse();
    earlier.sort(([a, pa], [b, pb]) => Number(pa.isWanted) - Number(pb.isWanted) || b.size - a.size);
    let sum = 0;
    for (const [bo] of earlier) {
      if (sum >= bytes) break;
      this.#release(bo);
      sum += bo.size;
    }
    return sum;
  }

  clear(): void {
    for (const bo of [...this.#pins.keys()]) this.#release(bo);
  }

  #release(bo: PinnedBuffer): void {
    letTablesGo(this.#pins.get(bo)!);
    this.#pins.delete(bo);
    this.#released += 1;
    bo.unpin();
  }
}

function holdTables(pin: Pin, range: PinnedTables): void {
  if (pin.range === null) pin.range = range;
  else if (pin.more?.has(range) === true) return;
  else (pin.more ??= new Set()).add(range);
  range.pinTables();
}

function letTablesGo({ range, more }: Pin): void {
  range?.unpinTables();
  if (more !== null) for (const other of more) other.unpinTables();
}

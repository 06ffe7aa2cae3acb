import { TRACE_STRIDE } from "../base/trace.ts";

/** Events that the page keeps; older ones are overwritten. */
const CAPACITY = 1 << 17;
/** Depths beyond are shown at this one. */
const DEEPEST = 5;

/** One event, unpacked for display. */
export interface EventView {
  readonly seq: number;
  readonly kind: number;
  readonly cause: number;
  /** ms, on the worker's clock. */
  readonly time: number;
  readonly subject: number;
  readonly start: number;
  readonly end: number;
  readonly detail: number;
  /** Steps to the event that began the chain. */
  readonly depth: number;
}

/** True when the event is about addresses; rounds and launches are not. */
export function hasPlace({ start, end }: EventView): boolean {
  return start > 0 && end > start;
}

/**
 * The events of one run, packed as they came, with the list of those that pass the filter.
 *
 * Sequence numbers are consecutive except where the worker's ring overflowed, so an event is found by its number in
 * constant time: slot `seq % CAPACITY`, valid when the number stored there is the one asked for.
 */
export class EventLog {
  readonly #words = new Float64Array(CAPACITY * TRACE_STRIDE);
  readonly #depth = new Uint8Array(CAPACITY);
  /** Numbers of the events that pass the filter, ascending; those before `#matchStart` have been overwritten. */
  #matches: number[] = [];
  #matchStart = 0;
  #first = 1;
  #last = 0;
  #hidden: ReadonlySet<number> = new Set();
  readonly counts: number[] = [];
  /** Time of the first event, ms. */
  began = 0;

  get size(): number {
    return this.#matches.length - this.#matchStart;
  }

  get total(): number {
    return this.#last;
  }

  clear(): void {
    this.#words.fill(0);
    this.#matches = [];
    this.#matchStart = 0;
    this.#first = 1;
    this.#last = 0;
    this.counts.length = 0;
    this.began = 0;
  }

  append(events: Float64Array): void {
    for (let at = 0; at < events.length; at += TRACE_STRIDE) {
      const seq = events[at]!;
      const kind = events[at + 1]!;
      const slot = seq % CAPACITY;
      this.#words.set(events.subarray(at, at + TRACE_STRIDE), slot * TRACE_STRIDE);
      const cause = events[at + 2]!;
      this.#depth[slot] = this.has(cause) ? Math.min(DEEPEST, this.#depth[cause % CAPACITY]! + 1) : 0;
      if (this.#last === 0) this.began = events[at + 3]!;
      this.#last = seq;
      this.counts[kind] = (this.counts[kind] ?? 0) + 1;
      if (!this.#hidden.has(kind)) this.#matches.push(seq);
    }
    this.#first = Math.max(this.#first, this.#last - CAPACITY + 1);
    this.#dropOverwritten();
  }

  #dropOverwritten(): void {
    while (this.#matchStart < this.#matches.length && this.#matches[this.#matchStart]! < this.#first)
      this.#matchStart += 1;
    if (this.#matchStart > CAPACITY) {
      this.#matches = this.#matches.slice(this.#matchStart);
      this.#matchStart = 0;
    }
  }

  /** All events that are kept, packed as they came, ascending. */
  packed(): Float64Array {
    const kept: number[] = [];
    for (let seq = this.#first; seq <= this.#last; seq++) if (this.has(seq)) kept.push(seq % CAPACITY);
    const events = new Float64Array(kept.length * TRACE_STRIDE);
    kept.forEach((slot, i) => {
      events.set(this.#words.subarray(slot * TRACE_STRIDE, (slot + 1) * TRACE_STRIDE), i * TRACE_STRIDE);
    });
    return events;
  }

  /** Events of these kinds are left out of the list. */
  hide(kinds: ReadonlySet<number>): void {
    this.#hidden = kinds;
    this.#matches = [];
    this.#matchStart = 0;
    for (let seq = this.#first; seq <= this.#last; seq++) {
      if (this.has(seq) && !kinds.has(this.#words[(seq % CAPACITY) * TRACE_STRIDE + 1]!)) this.#matches.push(seq);
    }
  }

  has(seq: number): boolean {
    return seq > 0 && this.#words[(seq % CAPACITY) * TRACE_STRIDE] === seq;
  }

  get(seq: number): EventView | null {
    if (!this.has(seq)) return null;
    const slot = seq % CAPACITY;
    const [, kind, cause, time, subject, start, end, detail] = this.#words.subarray(
      slot * TRACE_STRIDE,
      (slot + 1) * TRACE_STRIDE,
    ) as unknown as number[];
    return {
      seq,
      kind: kind!,
      cause: cause!,
      time: time!,
      subject: subject!,
      start: start!,
      end: end!,
      detail: detail!,
      depth: this.#depth[slot]!,
    };
  }

  /** The i-th event that passes the filter. */
  match(i: number): EventView | null {
    const seq = this.#matches[this.#matchStart + i];
    return seq === undefined ? null : this.get(seq);
  }

  /** Where event `seq`, or the next one shown, stands in the filtered list. */
  indexOf(seq: number): number {
    let lo = this.#matchStart;
    let hi = this.#matches.length;
    while (lo < hi) {
      const mid = (lo + hi) >> 1;
      if (this.#matches[mid]! < seq) lo = mid + 1;
      else hi = mid;
    }
    return lo - this.#matchStart;
  }

  /** The event and what led to it, the first cause first. */
  chain(seq: number): EventView[] {
    const chain: EventView[] = [];
    for (let event = this.get(seq); event !== null && chain.length < 32; event = this.get(event.cause))
      chain.unshift(event);
    return chain;
  }

  /** Direct consequences of an event, at most `limit`. */
  effects(seq: number, limit: number): EventView[] {
    const found: EventView[] = [];
    const horizon = Math.min(this.#last, seq + 20_000);
    for (let next = seq + 1; next <= horizon && found.length < limit; next++) {
      const event = this.get(next);
      if (event !== null && event.cause === seq) found.push(event);
    }
    return found;
  }
}

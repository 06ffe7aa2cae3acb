import { PAGE_SIZE, alignDown, hex, hi32, lo32 } from "../base/addr.ts";
import type { Va } from "../base/addr.ts";
import { FAULT_FATAL, FAULT_NOT_PRESENT, FAULT_RECORD_WORDS } from "../abi/fault.ts";

/**
 * The fault queue's records, merged (spec/device.md 3.5, 3.6): one entry per address space and page with the strongest
 * access of all records of that page, in the order of the lowest work item that wants it.
 *
 * A queue holds thousands of records of which most are served with their neighbours, by one range. So a batch is columns of
 * numbers, and an object is made for a fault that is served by itself.
 */
export interface MergedFault {
  readonly asid: number;
  /** The tile whose queue it stood in. */
  readonly tile: number;
  /** Exact address of the access that was recorded. */
  readonly addr: number;
  readonly page: number;
  /** 0 read, 1 write, 2 atomic. */
  readonly access: number;
  /** FAULT_NOT_PRESENT, or the violation that a record of the page reports. */
  readonly type: number;
  /** True when every record of the page is a hint. */
  readonly prefetch: boolean;
  readonly item: number;
  /** Records merged into this one. */
  readonly instances: number;
}

const FATAL_REASONS = [
  "",
  "bad address space id",
  "non-canonical address",
  "malformed page-table entry",
  "physical address out of range",
];

export interface FatalFault {
  readonly addr: number;
  readonly access: number;
  readonly item: number;
  readonly reason: number;
}

/** Of what a fault is: bits 1:0 access, 3:2 type, 4 hint. */
const TYPE_POS = 2;
const HINT = 16;
/** Items are sorted by so many of their bits at a time. */
const DIGIT_BITS = 8;
const DIGITS = 1 << DIGIT_BITS;
/** Entries from which on insertion is no way to sort. */
const MANY = 32;

export class FaultBatch {
  readonly fatals: readonly FatalFault[];
  /** The tile whose queue they stood in. */
  readonly tile: number;
  /** Faults, numbered by ascending item, then page. */
  readonly count: number;
  readonly #columns: Columns;

  constructor(columns: Columns, fatals: readonly FatalFault[], tile: number) {
    this.#columns = columns;
    this.count = columns.count;
    this.fatals = fatals;
    this.tile = tile;
  }

  asid(i: number): number {
    return this.#columns.asid[this.#columns.order[i]!]!;
  }
  page(i: number): number {
    return alignDown(this.#columns.addr[this.#columns.order[i]!]!, PAGE_SIZE);
  }
  /** Exact, of the lowest item's access. */
  addr(i: number): Va {
    return this.#columns.addr[this.#columns.order[i]!]!;
  }
  isHint(i: number): boolean {
    return this.#columns.what[this.#columns.order[i]!]! >= HINT;
  }
  access(i: number): number {
    return this.#columns.what[this.#columns.order[i]!]! & 3;
  }
  item(i: number): number {
    return this.#columns.item[this.#columns.order[i]!]!;
  }

  at(i: number): MergedFault {
    const { order, asid, addr, item, what, instances } = this.#columns;
    const k = order[i]!;
    const bits = what[k]!;
    return {
      asid: asid[k]!,
      tile: this.tile,
      addr: addr[k]!,
      page: alignDown(addr[k]!, PAGE_SIZE),
      access: bits & 3,
      type: (bits >>> TYPE_POS) & 3,
      prefetch: bits >= HINT,
      item: item[k]!,
      instances: instances[k]!,
    };
  }

  /** The first that is no hint. */
  first(): MergedFault | null {
    const { order, what } = this.#columns;
    for (let i = 0; i < this.count; i++) if (what[order[i]!]! < HINT) return this.at(i);
    return null;
  }

  /** Whether an item of `[lowest, highest]` has a fault here. */
  hasItemIn(lowest: number, highest: number): boolean {
    let from = 0;
    let to = this.count;
    while (from < to) {
      const middle = (from + to) >>> 1;
      if (this.item(middle) < lowest) from = middle + 1;
      else to = middle;
    }
    return from < this.count && this.item(from) <= highest;
  }

  firstFatal(): FatalFault | null {
    let first: FatalFault | null = null;
    for (const fatal of this.fatals) if (first === null || fatal.item < first.item) first = fatal;
    return first;
  }
}

/** `tile`: whose queue they stood in. Records do not say so themselves: each tile has a queue of its own. */
export function parseFaults(records: Uint32Array, count: number, tile = 0): FaultBatch {
  const columns = new Columns(count);
  const fatals: FatalFault[] = [];
  // abi/fault.ts has the layout in words; an object for every record would be most of the time spent here.
  for (let at = 0; at < count * FAULT_RECORD_WORDS; at += FAULT_RECORD_WORDS) {
    const w2 = records[at + 2]!;
    const w4 = records[at + 4]!;
    const access = w2 & 3;
    const type = (w2 >>> 2) & 3;
    const prefetch = ((w4 >>> 16) & 1) === 1;
    const lo = ((w2 & 0xfffff000) | (w4 & 0xfff)) >>> 0;
    const hi = records[at + 3]!;
    const item = records[at + 5]!;
    if (type !== FAULT_FATAL) columns.merge(records[at + 1]! >>> 12, lo, hi, access, type, prefetch, item);
    else if (!prefetch) fatals.push({ addr: hi * 2 ** 32 + lo, access, item, reason: (w4 >>> 12) & 15 });
  }
  columns.sort();
  return new FaultBatch(columns, fatals, tile);
}

/** What the driver itself expects to be wanted, as if the hardware had given hints of it. `item`: who is expected to want it. */
export function hintBatch(
  pages: Iterable<Va>,
  { asid, access, item, tile }: Pick<MergedFault, "asid" | "access" | "item" | "tile">,
): FaultBatch {
  const addrs = [...pages];
  const columns = new Columns(addrs.length);
  for (const at of addrs) columns.merge(asid, lo32(at), hi32(at), access, FAULT_NOT_PRESENT, true, item);
  columns.sort();
  return new FaultBatch(columns, [], tile);
}

/** One entry per page, in the order of arrival; `order` numbers them. */
class Columns {
  count = 0;
  readonly addr: Float64Array;
  readonly asid: Uint32Array;
  readonly item: Uint32Array;
  readonly instances: Uint32Array;
  /** Access, type and HINT. */
  readonly what: Uint8Array;
  order: Uint32Array;
  /** Entries by hash of their page, from 1; 0: free. */
  readonly #slots: Uint32Array;
  readonly #mask: number;

  constructor(capacity: number) {
    this.addr = new Float64Array(capacity);
    this.asid = new Uint32Array(capacity);
    this.item = new Uint32Array(capacity);
    this.instances = new Uint32Array(capacity);
    this.what = new Uint8Array(capacity);
    this.order = new Uint32Array(capacity);
    const slots = 2 ** Math.ceil(Math.log2(Math.max(1, 2 * capacity)));
    this.#slots = new Uint32Array(slots);
    this.#mask = slots - 1;
  }

  /** Takes a record of the page at `hi`, `lo` in. */
  merge(asid: number, lo: number, hi: number, access: number, type: number, prefetch: boolean, item: number): void {
    const { addr, what } = this;
    const at = hi * 2 ** 32 + lo;
    const page = at - (lo & (PAGE_SIZE - 1));
    let slot =
      (Math.imul((lo >>> 12) ^ Math.imul(hi, 0x9e3779b1) ^ Math.imul(asid, 0x85ebca6b), 0x9e3779b1) >>> 7) & this.#mask;
    for (let k = this.#slots[slot]!; k !== 0; k = this.#slots[(slot = (slot + 1) & this.#mask)]!) {
      const known = k - 1;
      if (alignDown(addr[known]!, PAGE_SIZE) !== page || this.asid[known] !== asid) continue;
      this.instances[known] = this.instances[known]! + 1;
      const had = what[known]!;
      const wasHint = had >= HINT;
      // A real access outweighs a hint, a stronger access a weaker one; the lowest item names the address.
      const stronger = wasHint && !prefetch ? true : wasHint === prefetch && access > (had & 3);
      const worst = Math.max(type, (had >>> TYPE_POS) & 3);
      what[known] = (stronger ? access : had & 3) | (worst << TYPE_POS) | (wasHint && prefetch ? HINT : 0);
      if (item < this.item[known]!) {
        this.item[known] = item;
        addr[known] = at;
      }
      return;
    }
    const i = this.count++;
    this.#slots[slot] = i + 1;
    addr[i] = at;
    this.asid[i] = asid;
    this.item[i] = item;
    this.instances[i] = 1;
    what[i] = access | (type << TYPE_POS) | (prefetch ? HINT : 0);
  }

  /** Orders them by item, then page. */
  sort(): void {
    const { count, item } = this;
    let isOrdered = true;
    for (let i = 0; i < count; i++) {
      this.order[i] = i;
      if (i > 0 && this.#isBefore(i, i - 1)) isOrdered = false;
    }
    if (isOrdered) return;
    this.#sortByItem();
    const { order } = this;
    for (let from = 0; from < count;) {
      let to = from + 1;
      while (to < count && item[order[to]!] === item[order[from]!]) to += 1;
      this.#sortByAddr(from, to);
      from = to;
    }
  }

  /** Digit by digit, since a sort by comparisons would take as long as all the rest of the merge. */
  #sortByItem(): void {
    const { count, item } = this;
    let [lowest, highest] = [Infinity, 0];
    for (let i = 0; i < count; i++) {
      lowest = Math.min(lowest, item[i]!);
      highest = Math.max(highest, item[i]!);
    }
    let from = this.order;
    let to: Uint32Array = new Uint32Array(count);
    const places = new Uint32Array(DIGITS + 1);
    for (let rest = highest - lowest, shift = 0; rest > 0; rest = Math.floor(rest / DIGITS), shift += DIGIT_BITS) {
      places.fill(0);
      const digit = (k: number) => ((item[k]! - lowest) >>> shift) & (DIGITS - 1);
      for (let i = 0; i < count; i++) places[digit(i) + 1]! += 1;
      for (let d = 0; d < DIGITS; d++) places[d + 1]! += places[d]!;
      for (let i = 0; i < count; i++) {
        const k = from[i]!;
        to[places[digit(k)]!++] = k;
      }
      [from, to] = [to, from];
    }
    this.order = from;
  }

  /** Places `[from, to)` of the order, which are of one item: mostly a few. */
  #sortByAddr(from: number, to: number): void {
    const { addr, order } = this;
    if (to - from > MANY) {
      order.subarray(from, to).sort((a, b) => addr[a]! - addr[b]!);
      return;
    }
    for (let i = from + 1; i < to; i++) {
      const k = order[i]!;
      let at = i;
      for (; at > from && addr[order[at - 1]!]! > addr[k]!; at--) order[at] = order[at - 1]!;
      order[at] = k;
    }
  }

  /** Pages differ, so addresses order as pages do. */
  #isBefore(a: number, b: number): boolean {
    return this.item[a]! < this.item[b]! || (this.item[a] === this.item[b] && this.addr[a]! < this.addr[b]!);
  }
}

export function describeFatal(fatal: FatalFault): string {
  return `${FATAL_REASONS[fatal.reason] ?? "fatal fault"} in the page at ${hex(alignDown(fatal.addr, PAGE_SIZE))}`;
}

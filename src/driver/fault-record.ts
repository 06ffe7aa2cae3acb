import { PAGE_SIZE, alignDown, hex } from "../base/addr.ts";
import { FAULT_FATAL, FAULT_RECORD_WORDS, decodeFault } from "../abi/fault.ts";

/**
 * The fault queue's records, merged (spec/device.md 3.5, 3.6): one entry per address space and page with the strongest
 * access of all records of that page, in the order of the lowest work item that wants it.
 */
export interface MergedFault {
  readonly asid: number;
  /** The tile whose queue it stood in. */
  readonly tile: number;
  /** Exact address of the access that was recorded. */
  addr: number;
  page: number;
  /** 0 read, 1 write, 2 atomic. */
  access: number;
  /** FAULT_NOT_PRESENT, or the violation that a record of the page reports. */
  type: number;
  /** True when every record of the page is a hint. */
  prefetch: boolean;
  item: number;
  /** Records merged into this one. */
  instances: number;
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

export class FaultBatch {
  /** By ascending item, then page. */
  readonly faults: MergedFault[];
  readonly fatals: FatalFault[];
  /** The tile whose queue they stood in. */
  readonly tile: number;

  constructor(faults: MergedFault[], fatals: FatalFault[], tile: number) {
    this.faults = faults;
    this.fatals = fatals;
    this.tile = tile;
  }

  get count(): number {
    return this.faults.length;
  }

  /** Whether an item of `[lowest, highest]` has a fault here. */
  hasItemIn(lowest: number, highest: number): boolean {
    let from = 0;
    let to = this.faults.length;
    while (from < to) {
      const middle = (from + to) >>> 1;
      if (this.faults[middle]!.item < lowest) from = middle + 1;
      else to = middle;
    }
    return from < this.faults.length && this.faults[from]!.item <= highest;
  }

  firstFatal(): FatalFault | null {
    let first: FatalFault | null = null;
    for (const fatal of this.fatals) if (first === null || fatal.item < first.item) first = fatal;
    return first;
  }
}

/** `tile`: whose queue they stood in. Records do not say so themselves: each tile has a queue of its own. */
export function parseFaults(records: Uint32Array, count: number, tile = 0): FaultBatch {
  const byPage = new Map<number, MergedFault>();
  const fatals: FatalFault[] = [];
  for (let i = 0; i < count; i++) {
    const { va: addr, asid, access, type, reason, prefetch, work: item } = decodeFault(records, i * FAULT_RECORD_WORDS);
    if (type === FAULT_FATAL) {
      if (!prefetch) fatals.push({ addr, access, item, reason });
      continue;
    }
    const page = alignDown(addr, PAGE_SIZE);
    // ASIDs are below 2^16 and page numbers below 2^36: the key is exact.
    const key = page / PAGE_SIZE + asid * 2 ** 36;
    const known = byPage.get(key);
    if (known === undefined) {
      byPage.set(key, { asid, tile, addr, page, access, type, prefetch, item, instances: 1 });
      continue;
    }
    known.instances += 1;
    // A real access outweighs a hint, a stronger access a weaker one; the lowest item names the address.
    const stronger = known.prefetch && !prefetch ? true : known.prefetch === prefetch && access > known.access;
    if (stronger) known.access = access;
    known.prefetch &&= prefetch;
    known.type = Math.max(known.type, type);
    if (item < known.item) {
      known.item = item;
      known.addr = addr;
    }
  }
  const faults = [...byPage.values()];
  if (!isOrdered(faults)) faults.sort((a, b) => a.item - b.item || a.page - b.page);
  return new FaultBatch(faults, fatals, tile);
}

function isOrdered(faults: readonly MergedFault[]): boolean {
  for (let i = 1; i < faults.length; i++) {
    const a = faults[i - 1]!;
    const b = faults[i]!;
    if (a.item > b.item || (a.item === b.item && a.page > b.page)) return false;
  }
  return true;
}

export function describeFatal(fatal: FatalFault): string {
  return `${FATAL_REASONS[fatal.reason] ?? "fatal fault"} in the page at ${hex(alignDown(fatal.addr, PAGE_SIZE))}`;
}

import { PAGE_SIZE } from "../base/addr.ts";
import type { Va } from "../base/addr.ts";
import type { FaultBatch } from "./fault-record.ts";
import type { Interval } from "./policy/policy.ts";
import type { LaunchStream } from "./stream-ahead.ts";

/** Faults that make a line: two always do. */
const FEWEST = 3;
/** Of the faults of a front, and of all of a batch, so many in sixteen must lie on lines. */
const MOST_OF_16 = 15;

/** Faults of one area of memory, for one kind of access, all of them hints or none. */
interface Front {
  readonly area: Interval;
  readonly access: number;
  readonly isHint: boolean;
  readonly item: number;
  readonly addr: Va;
  lastItem: number;
  lastAddr: Va;
  count: number;
  onLine: number;
}

/**
 * What the items of a launch walk through in order, as the faults of a round show it: addresses that grow with the items by the
 * same step. Behind an item's first miss all are hints, so several streams of one area tell themselves apart by what is a hint
 * and by the kind of access; where more are mixed they show nothing. None is named where faults lie on no line.
 *
 * `items` is their number, `areaOf` the area around an address, null where there is none.
 */
export function itemStreams(
  batch: FaultBatch,
  asid: number,
  items: number,
  areaOf: (addr: Va) => Interval | null,
): LaunchStream[] {
  const fronts: Front[] = [];
  let last: Front | null = null;
  const frontOf = (i: number): Front | null => {
    const [addr, access, isHint] = [batch.addr(i), batch.access(i), batch.isHint(i)];
    const holds = (of: Front) =>
      of.access === access && of.isHint === isHint && addr >= of.area.start && addr < of.area.end;
    if (last === null || !holds(last)) last = fronts.find(holds) ?? null;
    return last;
  };
  const numbers = Array.from({ length: batch.count }, (_, i) => i).filter((i) => batch.asid(i) === asid);
  for (const i of numbers) {
    const [item, addr] = [batch.item(i), batch.addr(i)];
    const of = frontOf(i);
    const area = of === null ? areaOf(addr) : null;
    if (of !== null) {
      of.lastItem = item;
      of.lastAddr = addr;
      of.count += 1;
    } else if (area !== null) {
      const [access, isHint] = [batch.access(i), batch.isHint(i)];
      fronts.push({ area, access, isHint, item, addr, lastItem: item, lastAddr: addr, count: 1, onLine: 0 });
    }
  }
  for (const i of numbers) {
    const of = frontOf(i);
    if (of !== null && Math.abs(of.addr + (batch.item(i) - of.item) * stepOf(of) - batch.addr(i)) < PAGE_SIZE)
      of.onLine += 1;
  }
  const lines = fronts.filter((of) => of.count >= FEWEST && stepOf(of) > 0 && isMost(of.onLine, of.count));
  const faults = numbers.reduce((sum, i) => sum + Number(!batch.isHint(i)), 0);
  const explained = lines.reduce((sum, of) => sum + (of.isHint ? 0 : of.count), 0);
  return faults > 0 && isMost(explained, faults) ? lines.map((of) => streamOf(of, items)) : [];
}

/** Bytes from one item to the next; NaN where there is one item only. */
function stepOf({ item, addr, lastItem, lastAddr }: Front): number {
  return (lastAddr - addr) / (lastItem - item);
}

function isMost(part: number, all: number): boolean {
  return part * 16 >= all * MOST_OF_16;
}

/** The whole line, beyond the area too: cut off, it would give other parts to the items. Those may have no work there. */
function streamOf(front: Front, items: number): LaunchStream {
  const { item, addr, access } = front;
  const step = stepOf(front);
  const start = addr - item * step;
  const at = Math.max(0, Math.floor(start));
  return { at, bytes: Math.ceil(start + items * step) - at, access };
}

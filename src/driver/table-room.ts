import { PAGE_SIZE } from "../base/addr.ts";
import { ENOMEM } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import type { SvmDevice } from "./device.ts";
import type { SvmRange } from "./svm-range.ts";
import type { SvmVm } from "./vm.ts";

/**
 * Room for page tables, in this order:
 *
 *     1  tables whose entries were zapped lead nowhere; they stay, since the next bind mostly wants them again, until the
 *        aperture is full
 *     2  mappings give way, least recently used first: their entries go, the TLB is flushed, the tables are freed. The pages
 *        stay where they are, and the next access binds them again.
 *
 * What a launch in progress has been promised is pinned and stays (round-pins.ts): the ranges of its own address space. Others
 * may map the same memory, and lose their tables although it is pinned. All this happens in every address space of
 * the device and waits for nothing, so no bind of another one is between its check and its entries.
 */

/** Tables that one call frees at least, where there are so many: who comes next finds room. */
const TABLES = 16;

/**
 * Writes entries, and writes them again for as long as they find no room for their tables and others have tables to give.
 * -ENOMEM: nobody has any more.
 */
export function withTableRoom(device: SvmDevice, write: () => 0 | Errno): 0 | Errno {
  let written = write();
  if (written === ENOMEM && freeZappedTables(device) > 0) written = write();
  while (written === ENOMEM && takeBoundTables(device) > 0) written = write();
  return written;
}

/** Frees the tables of entries that lead nowhere. The number of ranges that have lost theirs. */
function freeZappedTables(device: SvmDevice): number {
  let ranges = 0;
  for (const { vm, range } of rangesOf(device)) {
    if (range.isBound || range.tilePresent === 0) continue;
    vm.unbindRange(range);
    ranges += 1;
  }
  return ranges;
}

/** Frees tables of mappings that no launch in progress has been promised. The number of tables. */
function takeBoundTables(device: SvmDevice): number {
  const bound = [...rangesOf(device)].filter(({ range }) => range.isBound);
  bound.sort((a, b) => a.range.usedAt - b.range.usedAt);
  const before = tablesOf(device);
  let freed = 0;
  for (const { vm, range } of bound) {
    if (freed >= TABLES) break;
    if (range.isPromised) continue;
    vm.trace.record("table-reclaim", vm.asid, range.start, range.end, range.size / PAGE_SIZE);
    vm.stats.add("wgsvm_table_reclaim_count");
    vm.unbindRange(range);
    freed = before - tablesOf(device);
  }
  return freed;
}

function* rangesOf(device: SvmDevice): Generator<{ vm: SvmVm; range: SvmRange }> {
  for (const vm of device.vms) {
    const [start, end] = vm.window;
    for (const notifier of vm.gpusvm.forEachNotifier(start, end)) {
      for (const range of notifier.forEachRange(start, end)) yield { vm, range };
    }
  }
}

function tablesOf({ regions }: SvmDevice): number {
  return regions.reduce((sum, { tableBytes }) => sum + tableBytes / PAGE_SIZE, 0);
}

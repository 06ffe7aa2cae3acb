import { PAGE_SIZE } from "../base/addr.ts";
import { EAGAIN, ENOMEM } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import { mutated } from "../base/mutation.ts";
import { type Steps, run, wait } from "../base/steps.ts";
import { PTE_AE, PTE_DM, PTE_PAT_POS, PTE_W } from "../abi/pte.ts";
import { mayDoAtomics } from "./attributes-advise.ts";
import { DRM_INTERCONNECT_SYSTEM } from "../pagemap/pagemap-addr.ts";
import type { PagemapAddrArray } from "../pagemap/pagemap-addr.ts";
import { PageRuns } from "./page-table-runs.ts";
import { noteBound } from "./page-table-tiles.ts";
import type { SvmRange } from "./svm-range.ts";
import { withTableRoom } from "./table-room.ts";
import type { SvmVm } from "./vm.ts";

/**
 * Writes the page-table entries of a range whose pages have been looked up, on one tile, and marks it present there.
 *
 * The check that the pages are still valid and the writes are one section without an await, so no invalidation can come
 * between: it either came before, and the check fails with -EAGAIN, or it comes later and zaps what stands here.
 * -ENOMEM: no room for page tables, even without those that nobody needs now (table-room.ts). Driver lock held; takes the notifier lock for read. @kernel xe_vm_range_rebind
 */
export function bindRange(vm: SvmVm, range: SvmRange, tile = 0): MaybePromise<0 | Errno> {
  const { notifierLock } = vm.gpusvm;
  if (!notifierLock.enterRead()) return run(bindWhenLocked(vm, range, tile));
  try {
    return bindWithRoom(vm, range, tile);
  } finally {
    notifierLock.leaveRead();
  }
}

function* bindWhenLocked(vm: SvmVm, range: SvmRange, tile: number): Steps<0 | Errno> {
  const held = yield* wait(vm.gpusvm.notifierLock.read());
  try {
    return bindWithRoom(vm, range, tile);
  } finally {
    held.release();
  }
}

function bindWithRoom(vm: SvmVm, range: SvmRange, tile: number): 0 | Errno {
  const bound = withTableRoom(vm.device, () => bindLocked(vm, range, tile));
  if (bound === ENOMEM) vm.device.tableRefusals += 1;
  return bound;
}

/** What is being bound: a bind waits for nothing, so one is enough. */
const RUNS = new PageRuns();

function bindLocked(vm: SvmVm, range: SvmRange, tile: number): 0 | Errno {
  if (!vm.gpusvm.rangePagesValid(range) && !mutated("bind-unchecked")) return EAGAIN;
  const npages = range.size / PAGE_SIZE;
  const write = range.readOnly ? 0 : PTE_W;
  const attr = vm.attributes.at(range.start);
  const pat = (attr.pat ?? vm.binds.at(range.start)?.pat ?? 0) << PTE_PAT_POS;
  const inSystem = write | pat | (mayDoAtomics(vm, range, attr, false) ? PTE_AE : 0);
  const inVram = write | pat | PTE_DM | (mayDoAtomics(vm, range, attr, true) ? PTE_AE : 0);
  range.atomics = (collectRuns(range.pages.dmaAddr!, npages, inSystem, inVram, RUNS) & PTE_AE) !== 0;
  const bound = vm.tables.mapRuns(range.start, RUNS, 1 << tile);
  if (bound !== 0) return bound;
  vm.flushTables();
  vm.setWrites(range, write === 0 ? null : range.pages.dmaAddr);
  noteBound(range, 1 << tile);
  range.usedAt = vm.device.nextUse();
  vm.trace.record("bind", vm.asid, range.start, range.end, npages);
  return 0;
}

/** The first `npages` pages of the packed array, as runs. The flags that all have in common. */
function collectRuns(dma: PagemapAddrArray, npages: number, inSystem: number, inVram: number, runs: PageRuns): number {
  runs.clear();
  let common = inSystem | inVram;
  for (let j = 0, i = 0; i < npages; j++) {
    const pages = Math.min(2 ** dma.order(j), npages - i);
    const flag = dma.proto(j) === DRM_INTERCONNECT_SYSTEM ? inSystem : inVram;
    common &= flag;
    runs.push(pages, dma.addr[j]!, flag);
    i += pages;
  }
  return common;
}

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
import { noteBound } from "./page-table-tiles.ts";
import type { SvmRange } from "./svm-range.ts";
import { freeZappedTables } from "./table-room.ts";
import type { SvmVm } from "./vm.ts";

/**
 * Writes the page-table entries of a range whose pages have been looked up, on one tile, and marks it present there.
 *
 * The check that the pages are still valid and the writes are one section without an await, so no invalidation can come
 * between: it either came before, and the check fails with -EAGAIN, or it comes later and zaps what stands here.
 * -ENOMEM: no room for page tables, even without those that lead nowhere. Driver lock held; takes the notifier lock for read. @kernel xe_vm_range_rebind
 */
export function bindRange(vm: SvmVm, range: SvmRange, tile = 0): MaybePromise<0 | Errno> {
  return run(bindWhenLocked(vm, range, tile));
}

function* bindWhenLocked(vm: SvmVm, range: SvmRange, tile: number): Steps<0 | Errno> {
  const held = yield* wait(vm.gpusvm.notifierLock.read());
  try {
    const bound = bindLocked(vm, range, tile);
    return bound === ENOMEM && freeZappedTables(vm.device) > 0 ? bindLocked(vm, range, tile) : bound;
  } finally {
    held.release();
  }
}

function bindLocked(vm: SvmVm, range: SvmRange, tile: number): 0 | Errno {
  if (!vm.gpusvm.rangePagesValid(range) && !mutated("bind-unchecked")) return EAGAIN;
  const npages = range.size / PAGE_SIZE;
  const pas = new Float64Array(npages);
  const flags = new Uint32Array(npages);
  const write = range.readOnly ? 0 : PTE_W;
  const attr = vm.attributes.at(range.start);
  const pat = (attr.pat ?? vm.binds.at(range.start)?.pat ?? 0) << PTE_PAT_POS;
  const inSystem = write | pat | (mayDoAtomics(vm, range, attr, false) ? PTE_AE : 0);
  const inVram = write | pat | PTE_DM | (mayDoAtomics(vm, range, attr, true) ? PTE_AE : 0);
  range.atomics = (expand(range.pages.dmaAddr!, inSystem, inVram, pas, flags) & PTE_AE) !== 0;
  const bound = vm.tables.map(range.start, npages, pas, flags, 1 << tile);
  if (bound !== 0) return bound;
  vm.flushTables();
  vm.setWrites(range, write === 0 ? null : range.pages.dmaAddr);
  noteBound(range, 1 << tile);
  vm.trace.record("bind", vm.asid, range.start, range.end, npages);
  return 0;
}

/** One address and one set of flags per page, from the packed array. The flags that all pages have. */
function expand(
  dma: PagemapAddrArray,
  inSystem: number,
  inVram: number,
  pas: Float64Array,
  flags: Uint32Array,
): number {
  let i = 0;
  let common = inSystem | inVram;
  for (let j = 0; i < pas.length; j++) {
    const pages = 2 ** dma.order(j);
    const base = dma.addr[j]!;
    const flag = dma.proto(j) === DRM_INTERCONNECT_SYSTEM ? inSystem : inVram;
    common &= flag;
    for (let k = 0; k < pages; k++, i++) {
      pas[i] = base + k * PAGE_SIZE;
      flags[i] = flag;
    }
  }
  return common;
}

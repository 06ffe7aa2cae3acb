import { PAGE_SIZE } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import type { Errno } from "../base/errno.ts";
import { PTE_AE, PTE_DM, PTE_NULL, PTE_PAT_POS, PTE_W } from "../abi/pte.ts";
import { AP_HOST, AP_VRAM } from "../hal/gpu.ts";
import type { BindVa } from "./bind-va.ts";
import type { Bo } from "./bo.ts";
import { PageRuns } from "./page-table-runs.ts";
import type { Userptr } from "./userptr.ts";

/**
 * What the entries of a mapping say, from its first address up; null where its memory cannot be reached now: the object is
 * evicted, or the pages of the process have changed since they were looked up. What guards the memory is held (BindVa).
 */
export function entriesOf(va: BindVa): PageRuns | null {
  const { bo, userptr } = va;
  const write = (va.isReadOnly ? 0 : PTE_W) | (va.pat << PTE_PAT_POS);
  if (bo !== null) return bo.isResident ? entriesOfBo(va, bo, write | PTE_AE) : null;
  if (userptr !== null) return userptr.isCurrent ? entriesOfUserptr(va, userptr, write | PTE_AE) : null;
  const runs = new PageRuns();
  if (va.isNull) runs.push(va.range / PAGE_SIZE, 0, PTE_NULL | write);
  return runs;
}

function entriesOfBo(va: BindVa, bo: Bo, flags: number): PageRuns {
  const runs = new PageRuns();
  for (const { aperture, page, pages } of bo.runs(va.offset / PAGE_SIZE, va.range / PAGE_SIZE)) {
    assert(aperture !== AP_HOST, "a resident object lies in RAM");
    runs.push(pages, page * PAGE_SIZE, aperture === AP_VRAM ? flags | PTE_DM : flags);
  }
  return runs;
}

function entriesOfUserptr(va: BindVa, userptr: Userptr, flags: number): PageRuns {
  const runs = new PageRuns();
  const dma = userptr.pages.dmaAddr!;
  const first = (va.offset - userptr.start) / PAGE_SIZE;
  const end = first + va.range / PAGE_SIZE;
  for (let j = 0, at = 0; at < end; j++) {
    const pages = 2 ** dma.order(j);
    const from = Math.max(at, first);
    const to = Math.min(at + pages, end);
    if (from < to) runs.push(to - from, dma.addr[j]! + (from - at) * PAGE_SIZE, flags);
    at += pages;
  }
  return runs;
}

/** Writes the entries and takes note; -ENOMEM: no room for page tables, with nothing changed. The caller flushes. */
export function writeEntries(va: BindVa, runs: PageRuns): 0 | Errno {
  const { vm } = va.binds;
  const mapped = vm.tables.mapRuns(va.addr, runs, va.tileMask);
  if (mapped !== 0) return mapped;
  va.isBound = true;
  va.invalidated = false;
  va.bo?.bound.add(va);
  if (va.userptr !== null && !va.isReadOnly) vm.setWindowWrites(va, pagesOf(runs));
  vm.trace.record("bind", vm.asid, va.addr, va.end, va.range / PAGE_SIZE);
  return 0;
}

/** Addresses in the system window. */
function pagesOf(runs: PageRuns): number[] {
  const pages: number[] = [];
  for (let i = 0; i < runs.count; i++) {
    for (let k = 0; k < runs.pages[i]!; k++) pages.push(runs.pas[i]! + k * PAGE_SIZE);
  }
  return pages;
}

/** The entries are gone for good, or are another mapping's now. */
export function forgetEntries(va: BindVa): void {
  va.isBound = false;
  va.bo?.bound.delete(va);
  if (va.userptr !== null) va.binds.vm.setWindowWrites(va, []);
}

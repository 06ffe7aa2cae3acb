import { PAGE_SIZE, SZ_2M, type Va } from "../base/addr.ts";
import { EBUSY, EFAULT, EPERM, type Errno } from "../base/errno.ts";
import { isPromise } from "../base/maybe-promise.ts";
import { handleMmFault, migrationEntryWait } from "./fault.ts";
import { HPAGE_ORDER } from "./frame-table.ts";
import type { Mm } from "./mm.ts";
import {
  PTE_DEVICE_PRIVATE,
  PTE_KIND,
  PTE_MIGRATION,
  PTE_NOACCESS,
  PTE_PRESENT,
  PTE_WRITE,
  ptePfn,
} from "./page-table.ts";
import { type Steps, wait } from "./steps.ts";
import {
  HMM_PFN_ERROR,
  HMM_PFN_REQ_FAULT,
  HMM_PFN_REQ_WRITE,
  HMM_PFN_VALID,
  HMM_PFN_WRITE,
  type HmmRange,
} from "./types.ts";
import type { Vma } from "./vma.ts";

/**
 * Snapshot of what `[range.start, range.end)` maps to, faulting in what the request needs. mmap lock held for read.
 *
 * 0: every slot is stored, usable once `readRetry` says no. -EBUSY: an invalidation hit the notifier since
 * `notifierSeq`. -EFAULT: a hole, an area that cannot be read, or a fault that failed. -EPERM: write wanted where the
 * area forbids it. @kernel hmm_range_fault
 */
export function* hmmRangeFault(mm: Mm, range: HmmRange): Steps<0 | Errno> {
  let at = range.start;
  for (;;) {
    if (mm.readRetry(range.notifier, range.notifierSeq)) return EBUSY;
    // Results below `at` are kept when a fault makes the walk start again.
    at = walk(mm, range, at);
    if (at >= range.end) return 0;
    const error = yield* resolve(mm, range, at);
    if (error !== 0) return error;
  }
}

/** Stores slots from `start` on up to the first that needs a fault or cannot be served; its address, or the end. */
function walk(mm: Mm, range: HmmRange, start: Va): Va {
  const { phys, tables } = mm;
  const { pfns, flags, orders, end } = range;
  const required = range.defaultFlags;
  let vma: Vma | null = null;
  let order = 0;
  let orderEnd = start;
  let i = (start - range.start) / PAGE_SIZE;
  for (let at = start; at < end; at += PAGE_SIZE, i++) {
    if (vma === null || at >= vma.end || at < vma.start) vma = mm.vmas.lookup(at);
    pfns[i] = 0;
    flags[i] = 0;
    orders[i] = 0;
    if (vma === null || vma.special || !vma.readable) {
      if ((required & HMM_PFN_REQ_FAULT) !== 0) return at;
      flags[i] = HMM_PFN_ERROR;
      continue;
    }
    if (at >= orderEnd) {
      const index = Math.floor(at / SZ_2M);
      order = tables.isHuge(index) ? HPAGE_ORDER : 0;
      orderEnd = (index + 1) * SZ_2M;
    }
    const word = tables.read(at / PAGE_SIZE);
    const kind = word & PTE_KIND;
    if (kind === PTE_PRESENT && (word & PTE_NOACCESS) === 0) {
      const have = HMM_PFN_VALID | ((word & PTE_WRITE) === 0 ? 0 : HMM_PFN_WRITE);
      if (needs(required, have)) return at;
      pfns[i] = ptePfn(word);
      flags[i] = have;
      orders[i] = order;
    } else if (kind === PTE_DEVICE_PRIVATE && isOwn(phys.pgmapOf(ptePfn(word)).owner, range)) {
      // Never faults, whatever is requested: the owner reaches its own memory as it is.
      pfns[i] = ptePfn(word);
      flags[i] = HMM_PFN_VALID | ((word & PTE_WRITE) === 0 ? 0 : HMM_PFN_WRITE);
      orders[i] = order;
    } else if (needs(required, 0)) {
      return at;
    }
  }
  return end;
}

function needs(required: number, have: number): boolean {
  if ((required & HMM_PFN_REQ_FAULT) === 0) return false;
  return (have & HMM_PFN_VALID) === 0 || ((required & HMM_PFN_REQ_WRITE) !== 0 && (have & HMM_PFN_WRITE) === 0);
}

function isOwn(owner: unknown, range: HmmRange): boolean {
  return range.devPrivateOwner !== null && owner === range.devPrivateOwner;
}

/** Does what the page at `at` needs: 0 when the walk may go on there. */
function* resolve(mm: Mm, range: HmmRange, at: Va): Steps<0 | Errno> {
  const vma = mm.vmas.lookup(at);
  if (vma === null || vma.special || !vma.readable) return EFAULT;
  const word = mm.tables.read(at / PAGE_SIZE);
  if ((word & PTE_KIND) === PTE_MIGRATION) {
    yield* migrationEntryWait(mm, ptePfn(word));
    return 0;
  }
  // A write fault only where the entry asks for one: a hole in a request for reading becomes the zero page.
  const write = (range.defaultFlags & HMM_PFN_REQ_WRITE) !== 0;
  if (write && !vma.writable) return EPERM;
  if (mm.phys.fails("hmm-fault")) return EFAULT;
  const point = mm.sched.point("mm:hmm:fault");
  if (point !== undefined) yield* wait(point);
  // The kernel faults the rest of the page-table walk's interval, device pages of the owner included: a chunk that is
  // partly in device memory comes home as a whole instead of staying mixed.
  const end = Math.min(range.end, vma.end, (Math.floor(at / SZ_2M) + 1) * SZ_2M);
  for (let addr = at; addr < end; addr += PAGE_SIZE) {
    const result = handleMmFault(mm, vma, addr, write);
    const code = isPromise(result) ? yield* wait(result) : result;
    if (code !== 0) return EFAULT;
  }
  return 0;
}

import { PAGE_SIZE, SZ_2M, type Va } from "../base/addr.ts";
import { EBUSY, EFAULT, EPERM, type Errno } from "../base/errno.ts";
import { type MaybePromise, isPromise } from "../base/maybe-promise.ts";
import { handleMmFault, migrationEntryWait } from "./fault.ts";
import { HPAGE_ORDER } from "./frame-table.ts";
import type { Mm } from "./mm.ts";
import {
  PTE_DEVICE_PRIVATE,
  PTE_KIND,
  PTE_MIGRATION,
  PTE_NOACCESS,
  PTE_NONE,
  PTE_PRESENT,
  PTE_WRITE,
  pteIndex,
  ptePfn,
} from "./page-table.ts";
import { type Steps, run, wait } from "./steps.ts";
import {
  HMM_PFN_ERROR,
  HMM_PFN_REQ_FAULT,
  HMM_PFN_REQ_WRITE,
  HMM_PFN_VALID,
  HMM_PFN_WRITE,
  type HmmRange,
} from "./types.ts";

/**
 * Snapshot of what `[range.start, range.end)` maps to, faulting in what the request needs. mmap lock held for read.
 *
 * 0: every slot is stored, usable once `readRetry` says no. -EBUSY: an invalidation hit the notifier since
 * `notifierSeq`. -EFAULT: a hole, an area that cannot be read, or a fault that failed. -EPERM: write wanted where the
 * area forbids it. @kernel hmm_range_fault
 */
export function hmmRangeFault(mm: Mm, range: HmmRange): MaybePromise<0 | Errno> {
  if (mm.readRetry(range.notifier, range.notifierSeq)) return EBUSY;
  const at = walk(mm, range, range.start);
  return at >= range.end ? 0 : run(faultFrom(mm, range, at));
}

/** Results below `at`, where the walk has stopped, are kept when a fault makes it start again. */
function* faultFrom(mm: Mm, range: HmmRange, stopped: Va): Steps<0 | Errno> {
  for (let at = stopped; at < range.end; at = walk(mm, range, at)) {
    const error = yield* resolve(mm, range, at);
    if (error !== 0) return error;
    if (mm.readRetry(range.notifier, range.notifierSeq)) return EBUSY;
  }
  return 0;
}

/** Stores slots from `start` on up to the first that needs a fault or cannot be served; its address, or the end. */
function walk(mm: Mm, range: HmmRange, start: Va): Va {
  for (let at = start; at < range.end;) {
    const vma = mm.vmas.lookup(at);
    const isReadable = vma !== null && !vma.special && vma.readable;
    // As far as one area and one table reach.
    const stop = isReadable ? Math.min(range.end, vma.end, (Math.floor(at / SZ_2M) + 1) * SZ_2M) : at + PAGE_SIZE;
    const reached = isReadable ? walkTable(mm, range, at, stop) : walkHole(range, at);
    if (reached < stop) return reached;
    at = stop;
  }
  return range.end;
}

/** A page of no area, or of one that cannot be read: an error, if it is a request for more than a look. */
function walkHole({ start, pfns, flags, orders, defaultFlags }: HmmRange, at: Va): Va {
  const i = (at - start) / PAGE_SIZE;
  pfns[i] = 0;
  flags[i] = 0;
  orders[i] = 0;
  if ((defaultFlags & HMM_PFN_REQ_FAULT) !== 0) return at;
  flags[i] = HMM_PFN_ERROR;
  return at + PAGE_SIZE;
}

/** As `walk`, for `[at, stop)`, which lies in one area and one table. */
function walkTable(mm: Mm, range: HmmRange, at: Va, stop: Va): Va {
  const { phys, tables } = mm;
  const { pfns, flags, orders, defaultFlags: required } = range;
  const index = Math.floor(at / SZ_2M);
  const table = tables.at(index);
  const order = tables.isHuge(index) ? HPAGE_ORDER : 0;
  const from = pteIndex(at);
  const first = (at - range.start) / PAGE_SIZE;
  const count = (stop - at) / PAGE_SIZE;
  // Of device pages: neighbours mostly lie in one memory.
  const { pgmap } = phys.frames;
  let known = -1;
  let isKnownOwn = false;
  for (let k = 0; k < count; k++) {
    const i = first + k;
    const word = table === null ? PTE_NONE : table[from + k]!;
    const kind = word & PTE_KIND;
    const pfn = ptePfn(word);
    pfns[i] = 0;
    flags[i] = 0;
    orders[i] = 0;
    if (kind === PTE_PRESENT && (word & PTE_NOACCESS) === 0) {
      const have = HMM_PFN_VALID | ((word & PTE_WRITE) === 0 ? 0 : HMM_PFN_WRITE);
      if (needs(required, have)) return at + k * PAGE_SIZE;
      pfns[i] = pfn;
      flags[i] = have;
      orders[i] = order;
      continue;
    }
    if (kind === PTE_DEVICE_PRIVATE) {
      if (pgmap[pfn] !== known) {
        known = pgmap[pfn]!;
        isKnownOwn = isOwn(phys.pgmapOf(pfn).owner, range);
      }
      // Never faults, whatever is requested: the owner reaches its own memory as it is.
      if (isKnownOwn) {
        pfns[i] = pfn;
        flags[i] = HMM_PFN_VALID | ((word & PTE_WRITE) === 0 ? 0 : HMM_PFN_WRITE);
        orders[i] = order;
        continue;
      }
    }
    if (needs(required, 0)) return at + k * PAGE_SIZE;
  }
  return stop;
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

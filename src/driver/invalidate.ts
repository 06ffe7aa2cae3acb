import { type MaybePromise, isPromise } from "../base/maybe-promise.ts";
import { mutated } from "../base/mutation.ts";
import { REASON_EVICTED, REASON_ZAPPED } from "../abi/pte.ts";
import { gpuSvmCtx } from "../gpusvm/ctx.ts";
import type { GpuSvmNotifier } from "../gpusvm/notifier.ts";
import { MMU_NOTIFY_CLEAR, MMU_NOTIFY_MIGRATE, MMU_NOTIFY_UNMAP } from "../mm/types.ts";
import type { MmuNotifierRange } from "../mm/types.ts";
import { microsecondsSince } from "./stats.ts";
import type { SvmRange } from "./svm-range.ts";
import type { SvmVm } from "./vm.ts";

const IN_NOTIFIER = gpuSvmCtx({ inNotifier: true });

/**
 * The CPU mapping is about to change: the GPU loses every range that the event touches, whole ranges at a time. The order
 * is binding: zap the entries, flush the TLB, undo the DMA mappings.
 *
 * The device executes in queue order, so a zap and a flush that are queued are in force for all that is queued later, and
 * nothing has to be waited for: what runs now was queued before, reads pages that nothing queued before overwrites, and a
 * page that goes home is copied behind it.
 *
 * Notifier lock held for write. @kernel xe_svm_invalidate
 */
export function invalidate(vm: SvmVm, notifier: GpuSvmNotifier<SvmRange>, event: MmuNotifierRange): MaybePromise<void> {
  const start = Math.max(event.start, notifier.start);
  const end = Math.min(event.end, notifier.end);
  const first = notifier.rangeFind(start, end);
  if (first === null) return undefined;
  vm.counters.inval += 1;
  if (!vm.isClosed && !mutated("zap-skipped")) {
    const reason = reasonOf(event.event);
    for (let at: SvmRange | null = first; at !== null && at.start < end; at = notifier.rangeNext(at)) {
      zapRange(vm, at, reason);
    }
    flushZapped(vm);
  }
  let waiting: Promise<void>[] | null = null;
  for (let range: SvmRange | null = first; range !== null && range.start < end; range = notifier.rangeNext(range)) {
    // A range without pages loses nothing: a fork's shares are broken page by page, an event each. Of one that has just lost
    // them, by close or to make room, bytes may still be on their way home, which has to be waited for.
    const isComing = (range.pagesIfAny?.unmapping ?? null) !== null;
    if (!range.hasDmaMapping && !isComing && event.event !== MMU_NOTIFY_UNMAP) continue;
    const cause = vm.trace.record("invalidate", vm.asid, range.start, range.end, event.event);
    const unmapped = vm.gpusvm.rangeUnmapPages(range, IN_NOTIFIER);
    if (isPromise(unmapped)) (waiting ??= []).push(unmapped);
    if (event.event === MMU_NOTIFY_UNMAP && !vm.isClosed) {
      vm.gpusvm.rangeSetUnmapped(range, event);
      vm.collector.add(range, cause);
    }
  }
  return waiting === null ? undefined : Promise.all(waiting).then(() => undefined);
}

/** The TLB forgets what has been zapped since the last flush. */
export function flushZapped(vm: SvmVm): void {
  if (!vm.tables.isStale) return;
  const before = vm.counters.tlbInval;
  const since = vm.sched.now();
  vm.flushTables();
  vm.stats.add("svm_tlb_inval_count", vm.counters.tlbInval - before);
  vm.stats.add("svm_tlb_inval_us", microsecondsSince(since, vm.sched.now()));
}

function reasonOf(event: number): number {
  return event === MMU_NOTIFY_CLEAR || event === MMU_NOTIFY_MIGRATE ? REASON_EVICTED : REASON_ZAPPED;
}

/** The entries of a range go. Notifier lock held for write. @kernel xe_svm_range_notifier_event_begin */
export function zapRange(vm: SvmVm, range: SvmRange, reason: number): void {
  if (range.unmapped || !range.isBound) return;
  if (vm.tables.zap(range, range.start, range.end, reason) === 0) return;
  vm.setWrites(range, null);
}

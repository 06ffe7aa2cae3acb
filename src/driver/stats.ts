import { PAGE_SIZE, SZ_2M, SZ_64K } from "../base/addr.ts";

/**
 * Statistics, under the names of the Xe driver's GT statistics where it has them, and ours under `wgsvm_`.
 *
 * Overview. A name of Xe's means here what it means there: `*_us` are microseconds from entering the step to leaving it,
 * `4K`, `64K` and `2M` the size of the SVM range (others count in the totals only), a device copy is one to the device, a
 * CPU copy one to RAM. Two things follow from the emulation and are no differences of meaning: copies to the device are
 * queued, so what their time holds is the work of queueing them (the bytes go into the staging ring meanwhile); and a TLB
 * invalidation is ordered by the queue, so nobody waits for it. What Xe counts of hardware that there is none of here
 * (engine groups, page reclaim lists) has no line.
 *
 * One object counts for an address space and passes everything on to that of its device, which outlives it. The clock is
 * the scheduler's, virtual inside a race; where it is looked at, and where one fault stands for eight, says step-clock.ts.
 *
 * @kernel xe_gt_stats
 */
export const STAT_NAMES = [
  // Xe's.
  "svm_pagefault_count",
  "tlb_inval_count",
  "svm_tlb_inval_count",
  "svm_tlb_inval_us",
  "vma_pagefault_count",
  "vma_pagefault_kb",
  "invalid_prefetch_pagefault_count",
  "svm_4K_pagefault_count",
  "svm_64K_pagefault_count",
  "svm_2M_pagefault_count",
  "svm_4K_valid_pagefault_count",
  "svm_64K_valid_pagefault_count",
  "svm_2M_valid_pagefault_count",
  "svm_4K_pagefault_us",
  "svm_64K_pagefault_us",
  "svm_2M_pagefault_us",
  "svm_4K_migrate_count",
  "svm_64K_migrate_count",
  "svm_2M_migrate_count",
  "svm_4K_migrate_us",
  "svm_64K_migrate_us",
  "svm_2M_migrate_us",
  "svm_device_copy_us",
  "svm_4K_device_copy_us",
  "svm_64K_device_copy_us",
  "svm_2M_device_copy_us",
  "svm_cpu_copy_us",
  "svm_4K_cpu_copy_us",
  "svm_64K_cpu_copy_us",
  "svm_2M_cpu_copy_us",
  "svm_device_copy_kb",
  "svm_4K_device_copy_kb",
  "svm_64K_device_copy_kb",
  "svm_2M_device_copy_kb",
  "svm_cpu_copy_kb",
  "svm_4K_cpu_copy_kb",
  "svm_64K_cpu_copy_kb",
  "svm_2M_cpu_copy_kb",
  "svm_4K_get_pages_us",
  "svm_64K_get_pages_us",
  "svm_2M_get_pages_us",
  "svm_4K_bind_us",
  "svm_64K_bind_us",
  "svm_2M_bind_us",
  // Ours.
  /** Faults answered with what another fault of the same batch had brought. */
  "wgsvm_chained_fault_count",
  /** Times the service of a fault began again because the CPU side had changed. */
  "wgsvm_fault_retry_count",
  /** Faults that found VRAM full of their own round's pages and were left for the next. */
  "wgsvm_postponed_fault_count",
  /** Dispatches. */
  "wgsvm_round_count",
  /** SVM buffers put out of VRAM to make room. */
  "wgsvm_evict_count",
  /** Chunks that came back to VRAM after having left it. */
  "wgsvm_refault_count",
  /** Pages that the prefetch policy brought. */
  "wgsvm_prefetched_pages",
  /** Faults on chunks that the thrash policy keeps in RAM. */
  "wgsvm_thrash_pin_count",
  /** Faults on chunks that got a time slice because they thrash. */
  "wgsvm_thrash_timeslice_count",
  /** Times that a prefetch tried a chunk again because somebody held a page of it. */
  "wgsvm_prefetch_retry_count",
  /** CPU faults on pages of the device. */
  "wgsvm_cpu_fault_count",
  /** Mappings of system memory that gave way to others in the system window. */
  "wgsvm_window_reclaim_count",
  /** Mappings whose page tables were wanted for others. */
  "wgsvm_table_reclaim_count",
  /** Dispatches of items whose memory was brought ahead of them. */
  "wgsvm_stream_pass_count",
  /** Times that a launch has waited for room which others held, or for its turn to be served. */
  "wgsvm_turn_wait_count",
] as const;
export type StatName = (typeof STAT_NAMES)[number];

const INDEX = new Map<StatName, number>(STAT_NAMES.map((name, i) => [name, i]));

function indexOf(name: StatName): number {
  return INDEX.get(name)!;
}

/**
 * What comes in three sizes: where that of `4K` stands, then `64K`, then `2M`. Numbers and not names, since several are counted
 * for every fault: to look a name up takes longer than to count.
 */
export const SIZED = {
  pagefault_count: indexOf("svm_4K_pagefault_count"),
  valid_pagefault_count: indexOf("svm_4K_valid_pagefault_count"),
  pagefault_us: indexOf("svm_4K_pagefault_us"),
  migrate_count: indexOf("svm_4K_migrate_count"),
  migrate_us: indexOf("svm_4K_migrate_us"),
  device_copy_us: indexOf("svm_4K_device_copy_us"),
  cpu_copy_us: indexOf("svm_4K_cpu_copy_us"),
  device_copy_kb: indexOf("svm_4K_device_copy_kb"),
  cpu_copy_kb: indexOf("svm_4K_cpu_copy_kb"),
  get_pages_us: indexOf("svm_4K_get_pages_us"),
  bind_us: indexOf("svm_4K_bind_us"),
};
/** Of those, what counts all sizes together; -1: nothing does. */
const TOTALS = new Int8Array(STAT_NAMES.length).fill(-1);
for (const name of ["device_copy_us", "device_copy_kb", "cpu_copy_us", "cpu_copy_kb"] as const) {
  TOTALS[SIZED[name]] = indexOf(`svm_${name}`);
}

/** @kernel xe_gt_stats_incr, xe_gt_stats_print_info, xe_gt_stats_clear */
export class SvmStats {
  readonly #values = new Float64Array(STAT_NAMES.length);
  readonly #device: SvmStats | null;

  /** `device`: the statistics of the device, to which everything counts too; null: these are. */
  constructor(device: SvmStats | null) {
    this.#device = device;
  }

  add(name: StatName, n = 1): void {
    this.#addAt(indexOf(name), n);
  }

  /** Counts one of `SIZED` for the size of a range, and for all sizes together where that is counted. */
  addSized(sized: number, rangeBytes: number, n = 1): void {
    const total = TOTALS[sized]!;
    if (total >= 0) this.#addAt(total, n);
    const size = rangeBytes === PAGE_SIZE ? 0 : rangeBytes === SZ_2M ? 2 : rangeBytes === SZ_64K ? 1 : -1;
    if (size >= 0) this.#addAt(sized + size, n);
  }

  #addAt(index: number, n: number): void {
    this.#values[index]! += n;
    const device = this.#device;
    if (device !== null) device.#values[index]! += n;
  }

  /** Whole units. */
  get(name: StatName): number {
    return Math.round(this.#values[indexOf(name)]!);
  }

  /** All of them by name. */
  all(): Record<StatName, number> {
    return Object.fromEntries(STAT_NAMES.map((name) => [name, this.get(name)])) as Record<StatName, number>;
  }

  /** One line each, `name: value`, as the debug file of Xe has them. */
  text(): string {
    return STAT_NAMES.map((name) => `${name}: ${this.get(name)}\n`).join("");
  }

  /** All are 0 again; those of the device stay. */
  clear(): void {
    this.#values.fill(0);
  }
}

/** Microseconds since `start`, a time of the scheduler. */
export function microsecondsSince(start: number, now: number): number {
  return (now - start) * 1000;
}

/**
 * Deliberate faults of the stack, to prove that its tests find such (src/explore).
 *
 * Each hook is one line at the place that it breaks: `if (!mutated("zap-skipped")) …`. One fault at a time is switched on, by
 * `mutate`, in tests alone: a build defines SVM_MUTATIONS as false, and then `mutated` is the constant false. Elsewhere a
 * hook costs a comparison, and none stands where every page of a loop passes. What each breaks: src/explore/faults.ts.
 */
declare const SVM_MUTATIONS: boolean | undefined;

const AVAILABLE = typeof SVM_MUTATIONS === "undefined" || SVM_MUTATIONS;

export const MUTATIONS = [
  "seq-recheck",
  "set-seq",
  "bind-unchecked",
  "write-shared-device-page",
  "dma-unmap-forgotten",
  "unmap-unawaited",
  "fini-mapped",
  "dead-range-revived",
  "collector-skipped",
  "zap-skipped",
  "tlb-skipped",
  "close-reachable",
  "mmap-lock-kept",
  "stale-writes",
  "window-copy-in-skipped",
  "zeroing-skipped",
  "copy-home-unawaited",
  "vacancy-unawaited",
  "zdd-reference-forgotten",
  "detached-lost",
  "mm-user-leaked",
  "failed-copy-committed",
  "time-slice-ignored",
  "invalidation-wakeup-lost",
  "unlock-wakeup-lost",
  "fault-page-unlocked",
  "collect-unlocked",
  "evict-unlocked",
  "held-page-migrated",
  "hole-overwritten",
  "finalize-short",
  "evict-unannounced",
  "evict-recheck",
  "fork-unannounced",
  "mprotect-unannounced",
  "munmap-unannounced",
  "dontneed-unannounced",
  "mremap-unannounced",
] as const;
export type Mutation = (typeof MUTATIONS)[number];

let active: Mutation | null = null;

/** Whether this fault is switched on. */
export function mutated(name: Mutation): boolean {
  return AVAILABLE && active === name;
}

/** Switches one fault on, and all others off; null: all off. For tests. */
export function mutate(name: Mutation | null): void {
  active = name;
}

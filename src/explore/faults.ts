import type { Mutation } from "../base/mutation.ts";

/** A deliberate fault of the stack, and what finds it. */
export interface Fault {
  readonly name: Mutation;
  readonly breaks: string;
  /** The case that shows it, and in how many seeds at most. */
  readonly case: string;
  readonly within: number;
}

/** In the order of the layers, from the GPU's fault down to the page tables of the CPU. */
export const FAULTS: readonly Fault[] = [
  // The driver.
  fault("bind-unchecked", "page-table entries are written without the check that the pages are still valid", "R1"),
  fault("zap-skipped", "an invalidation leaves the GPU its entries", "R1"),
  fault("tlb-skipped", "TLB invalidations are not sent", "R1"),
  fault("collector-skipped", "a fault does not collect dead ranges first", "remap"),
  fault("close-reachable", "a closing address space stays valid for the hardware", "R14"),
  fault("mmap-lock-kept", "the mmap lock is not given back after a migration", "R1"),
  fault("zeroing-skipped", "pages that nobody has touched are not cleared in VRAM", "R8"),
  fault("copy-home-unawaited", "pages are given to the CPU before their copy home has come", "R3"),
  fault("vacancy-unawaited", "memory is used again before its last pages have left", "holes"),
  // gpusvm.
  fault("seq-recheck", "get_pages maps what it looked up without asking whether it is stale", "R2"),
  fault("set-seq", "a callback does not set the sequence number of its interval", "R2"),
  fault("write-shared-device-page", "the GPU may write a device page that is shared copy-on-write", "unbind"),
  fault("dma-unmap-forgotten", "one page of each range stays mapped in the window", "R9"),
  fault("unmap-unawaited", "a callback returns before what the GPU wrote in place is home", "R2"),
  fault("fini-mapped", "the interval is unregistered while ranges are still mapped", "close-system", 200),
  fault("dead-range-revived", "the pages of a dead range are not marked as unmapped", "remap"),
  // The page map.
  fault("zdd-reference-forgotten", "a migration counts one of its pages too few", "R1"),
  fault("detached-lost", "the last page to leave does not say so", "R1"),
  fault("mm-user-leaked", "an eviction keeps its user reference on the address space", "R1"),
  fault("failed-copy-committed", "pages move although their copy has failed", "R12"),
  fault("time-slice-ignored", "a CPU fault takes pages home inside their time slice", "R15"),
  // The memory manager.
  fault("invalidation-wakeup-lost", "the end of an invalidation does not wake who waits for it", "R4"),
  fault("unlock-wakeup-lost", "the unlocking of a page does not wake who watches it", "R1"),
  fault("fault-page-unlocked", "a CPU fault goes on although another has locked the page", "R8"),
  fault("collect-unlocked", "a migration collects pages that others have locked", "R10"),
  fault("evict-unlocked", "an eviction takes pages that others have locked", "R13"),
  fault("held-page-migrated", "pages move although somebody holds them", "R10"),
  fault("hole-overwritten", "a hole that a CPU fault has filled meanwhile is overwritten", "R1"),
  fault("finalize-short", "the first page of a migration is not unlocked", "R1"),
  fault("evict-unannounced", "pages leave VRAM without telling who maps them", "R5"),
  fault("evict-recheck", "entries are not looked at again after the announcement", "evict-change", 200),
  fault("fork-unannounced", "fork shares pages without telling who writes them", "R9"),
  fault("mprotect-unannounced", "the protection changes without telling anybody", "protect"),
  fault("munmap-unannounced", "memory is unmapped without telling anybody", "R4"),
  fault("dontneed-unannounced", "memory is discarded without telling anybody", "R8"),
  fault("mremap-unannounced", "memory moves without telling anybody", "move"),
  fault("window-copy-in-skipped", "what the CPU wrote does not reach the window", "R2"),
  fault("stale-writes", "a submission marks pages that were unmapped while it waited", "in-place", 200),
];

function fault(name: Mutation, breaks: string, of: string, within = 50): Fault {
  return { name, breaks, case: of, within };
}

import type { Va } from "../../base/addr.ts";

/**
 * Policies: what the driver decides where the mechanism leaves a choice. One interface per question; docs/policies.md
 * says what each one does, and which drivers the presets imitate.
 *
 * A policy knows addresses and counts, no clock and no random numbers of its own making, so that the same seed gives the
 * same decisions on any machine. One object serves one address space, or, for eviction, one device; all calls come under
 * the lock of the address space, except where said.
 */

/** What is known of a GPU fault when its range has been found. */
export interface RangeFault {
  readonly start: Va;
  readonly end: Va;
  /** ACCESS_READ, ACCESS_WRITE or ACCESS_ATOMIC. */
  readonly access: number;
}

/** Whether memory that a GPU fault finds in RAM moves to the device. */
export interface MigratePolicy {
  readonly name: MigrateName;
  /**
   * "move" to the device's memory; "stay": the device maps it where it lies, or does so without the right to write. Not
   * asked where advice decides.
   */
  onFault(fault: RangeFault): "move" | "stay" | "stay-read-only";
}

export interface Interval {
  readonly start: Va;
  readonly end: Va;
}

/** Which pages of the device and the process a prefetcher may look at. */
export interface PrefetchView {
  /** The part of a block of 2 MiB around `addr` that one area and one mirror cover; null: none. */
  blockAt(addr: Va): Interval | null;
  /** One byte per page of `[start, end)`: 1 where it lies in the device's memory now. */
  resident(start: Va, end: Va): Uint8Array;
}

/** What else comes to the device with the chunks that faults have brought. */
export interface PrefetchPolicy {
  readonly name: PrefetchName;
  /** Stretches to bring too, after a batch of faults has brought `moved` (ascending by fault). Advice and room are the caller's. */
  afterBatch(moved: readonly Interval[], view: PrefetchView): Interval[];
}

/** A buffer in VRAM, as eviction sees it. */
export interface Evictable {
  /** Bytes. */
  readonly size: number;
  /** What its memory is to the process: the same for a buffer that comes back. */
  readonly identity: string;
}

/** Which buffer leaves VRAM first. For a whole device; its calls need no lock. */
export interface EvictPolicy {
  readonly name: EvictName;
  /** The order of leaving is that of use, which the memory manager keeps by itself. */
  readonly isOrderOfUse: boolean;
  /** A buffer got memory. */
  arrived(buffer: Evictable): void;
  /** A fault or a placement met it: the driver sees no other use, for the hardware counts no accesses. */
  used(buffer: Evictable): void;
  /** All that may leave, first to go first; `byUse` has the least recently used first. */
  order<T extends Evictable>(byUse: readonly T[]): readonly T[];
}

/** What is done about a chunk that a fault wants on the device although the CPU keeps taking it back. */
export interface ThrashVerdict {
  /** It stays in RAM, mapped in place, until `released` names it. */
  readonly pin: boolean;
  /** Milliseconds for which a CPU fault does not take it back. */
  readonly timesliceMs: number;
}

/** How chunks that bounce between CPU and device are dealt with. */
export interface ThrashPolicy {
  readonly name: ThrashName;
  /** A GPU fault met the chunk at `start`, which would move. Time is counted in such calls. */
  onGpuFault(start: Va): ThrashVerdict;
  /** The chunk at `start` is about to move to the device without a fault. Nothing is counted. */
  onPlacement(start: Va): ThrashVerdict;
  /** A CPU fault takes the chunk home. No lock. */
  onCpuFault(start: Va): void;
  /** Chunks whose pin has run out since the last call: what is mapped in place is to be dropped. */
  released(): Va[];
}

export const MIGRATE_POLICIES = ["fault", "write", "never"] as const;
export type MigrateName = (typeof MIGRATE_POLICIES)[number];
export const PREFETCH_POLICIES = ["none", "sequential", "density"] as const;
export type PrefetchName = (typeof PREFETCH_POLICIES)[number];
export const EVICT_POLICIES = ["lru", "fifo", "random", "frequency"] as const;
export type EvictName = (typeof EVICT_POLICIES)[number];
export const THRASH_POLICIES = ["none", "timeslice", "pin"] as const;
export type ThrashName = (typeof THRASH_POLICIES)[number];

/** One name per question. */
export interface PolicyNames {
  readonly migrate: MigrateName;
  readonly prefetch: PrefetchName;
  readonly evict: EvictName;
  readonly thrash: ThrashName;
}

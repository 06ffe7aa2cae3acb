import { alignDown } from "../base/addr.ts";
import { ACCESS_ATOMIC } from "../abi/fault.ts";
import { EACCES } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { needVramForAtomic } from "./attributes-advise.ts";
import { ATOMIC_CPU } from "./attributes.ts";
import type { MemAttr } from "./attributes.ts";
import type { GpuSvmCtx } from "../gpusvm/ctx.ts";
import type { SvmDevice } from "./device.ts";
import type { MergedFault } from "./fault-record.ts";
import type { Interval, ThrashVerdict } from "./policy/policy.ts";
import type { SvmRange } from "./svm-range.ts";
import type { SvmVm } from "./vm.ts";

/** Minimum stay of memory that an atomic access needs on the device; it doubles with every attempt. @kernel xe_device.atomic_svm_timeslice_ms */
const ATOMIC_TIMESLICE_MS = 5;
/** Migrations that an access tries which no other memory can serve. */
const ATOMIC_MIGRATIONS = 3;

/** The service of one fault over its retries. */
export class FaultAttempt {
  readonly fault: MergedFault;
  /** When it began, in the scheduler's time. */
  readonly since: number;
  /** Nothing has been tried yet. */
  isFresh = true;
  /** Migrations that may still be tried. Others than for atomics try once: what cannot move is mapped where it lies. */
  migrations = 1;
  /** Mapping in place has failed for want of window: it must move after all. */
  windowIsFull = false;
  timesliceMs = 0;
  /** A chunk could not be had as a whole: now one all of whose pages are there, or the page alone. */
  onlyPresent = false;
  /** What the thrash policy says, asked once per fault. */
  thrash: ThrashVerdict | null = null;
  /** Bytes of the largest chunk that the system window has room for. */
  #largest = Infinity;

  constructor(fault: MergedFault, now: number) {
    this.fault = fault;
    this.since = now;
  }

  /** The window has `room` bytes at most: chunks that fit in from now on. False: none does. */
  cutTo(chunkSizes: readonly number[], room: number): boolean {
    const fitting = chunkSizes.find((chunk) => chunk <= room);
    if (fitting !== undefined) this.#largest = fitting;
    return fitting !== undefined;
  }
  /** Where in `piece` the range of the fault may lie. */
  clip(piece: Interval): Interval {
    if (this.#largest === Infinity) return piece;
    const start = alignDown(this.fault.page, this.#largest);
    return { start: Math.max(piece.start, start), end: Math.min(piece.end, start + this.#largest) };
  }

  /** For the choice of the chunk. */
  chunkCtx(vm: SvmVm, readOnly: boolean): GpuSvmCtx {
    const ctx = vm.faultCtx(readOnly);
    return this.onlyPresent ? { ...ctx, checkPagesThreshold: vm.chunkSizes[0]! } : ctx;
  }
}

/** Where the pages of a range go before they are mapped. */
export interface FaultPlacement {
  /** Into the memory of this device, where they are not yet; null: they are mapped where they lie. */
  readonly target: SvmDevice | null;
  /** Of which tile of it. */
  readonly tile: number;
  /** What lies in device memory comes home first. */
  readonly bringsHome: boolean;
  /** They are mapped without the right to write. */
  readonly readOnly: boolean;
  /** No other memory serves the access. */
  readonly only: boolean;
}

const STAY: FaultPlacement = { target: null, tile: 0, bringsHome: false, readOnly: false, only: false };
const STAY_READ_ONLY: FaultPlacement = { ...STAY, readOnly: true };
const HOME: FaultPlacement = { ...STAY, bringsHome: true };

/**
 * Where the range of a fault belongs: what the access needs, then what has been advised, then the policies. -EACCES: the
 * access is not allowed there. The VM's lock is held. @kernel xe_vma_resolve_pagemap, xe_svm_range_needs_migrate_to_vram
 */
export function placeFault(vm: SvmVm, range: SvmRange, attempt: FaultAttempt, attr: MemAttr): FaultPlacement | Errno {
  const { access, tile } = attempt.fault;
  const canMigrate = vm.canMigrate(range);
  const need = needVramForAtomic(vm, access, attr, canMigrate);
  if (need === 1) {
    if (!canMigrate) return EACCES;
    // Any tile's memory serves.
    return { ...STAY, target: vm.isResident(range) ? null : vm.device, tile, only: true };
  }
  if (need !== 0) return need;
  const mayStay = vm.device.canMapSystemMemory && !attempt.windowIsFull;
  if (attr.loc === "system" && mayStay) return HOME;
  if (!canMigrate) return STAY;
  const target = typeof attr.loc === "object" ? attr.loc : vm.device;
  const wanted = wantedTile(vm, attr, tile);
  if (target.isResident(vm.mm, range.start, range.end, wanted)) return STAY;
  const itsTile = wanted ?? (target === vm.device ? tile : 0);
  const move: FaultPlacement = { target, tile: itsTile, bringsHome: false, readOnly: false, only: false };
  if (target === attr.loc || !mayStay) return move;
  const decided = vm.policies.migrate.onFault({ start: range.start, end: range.end, access });
  if (decided === "stay") return STAY;
  if (decided === "stay-read-only") return STAY_READ_ONLY;
  attempt.thrash ??= judgeThrashing(vm, range, attempt);
  return attempt.thrash.pin ? STAY : move;
}

/** The tile whose memory it has to be; undefined: any tile of the device that is asked for will do. */
function wantedTile(vm: SvmVm, { loc, tile }: MemAttr, faulting: number): number | undefined {
  if (tile !== null) return tile;
  return loc === "device" && vm.device.regions.length > 1 ? faulting : undefined;
}

function judgeThrashing(vm: SvmVm, range: SvmRange, attempt: FaultAttempt): ThrashVerdict {
  const verdict = vm.policies.thrash.onGpuFault(range.start);
  if (verdict.pin) vm.stats.add("wgsvm_thrash_pin_count");
  if (verdict.timesliceMs > 0) {
    vm.stats.add("wgsvm_thrash_timeslice_count");
    attempt.timesliceMs = verdict.timesliceMs;
  }
  return verdict;
}

/** An access that only its device's memory serves may try longer, with a longer stay each time. */
export function beginOnly(attempt: FaultAttempt): void {
  if (attempt.timesliceMs > 0) return;
  attempt.timesliceMs = ATOMIC_TIMESLICE_MS;
  attempt.migrations = ATOMIC_MIGRATIONS;
}

/** Whether an atomic access is refused before its range is even looked for. */
export function refusesAtomics(attr: MemAttr, access: number): boolean {
  return access === ACCESS_ATOMIC && attr.atomic === ATOMIC_CPU;
}

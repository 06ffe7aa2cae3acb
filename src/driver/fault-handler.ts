import { PAGE_SIZE, SZ_2M, SZ_64K, alignDown, alignUp } from "../base/addr.ts";
import {
  EACCES,
  EAGAIN,
  EBUSY,
  EFAULT,
  EINVAL,
  EIO,
  ENOENT,
  ENOMEM,
  ENOSPC,
  EOPNOTSUPP,
  EPERM,
  isErr,
} from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { causedBy } from "../base/cause.ts";
import { mutated } from "../base/mutation.ts";
import { type MaybePromise, isPromise } from "../base/maybe-promise.ts";
import { type Steps, run, runBecause, wait } from "../base/steps.ts";
import { ACCESS_READ, FAULT_ATOMIC_VIOLATION } from "../abi/fault.ts";
import type { GpuSvmCtx } from "../gpusvm/ctx.ts";
import type { VmaView } from "../mm/types.ts";
import { ExecPins, makeResident } from "./bind-exec.ts";
import { serveMapping } from "./bind-fault.ts";
import type { FaultRound } from "./bind-fault.ts";
import type { BindVa } from "./bind-va.ts";
import { bindRange } from "./bind.ts";
import { ACCESS_NAMES } from "./launch.ts";
import type { LaunchFault } from "./launch.ts";
import { CoveredRanges, serves } from "./covered-ranges.ts";
import type { FaultBatch, MergedFault } from "./fault-record.ts";
import type { PinnedBuffer, RoundPins } from "./round-pins.ts";
import type { SvmRange } from "./svm-range.ts";
import { FaultAttempt, beginOnly, placeFault, refusesAtomics } from "./fault-placement.ts";
import type { FaultPlacement } from "./fault-placement.ts";
import { prefetchAfterBatch } from "./fault-prefetch.ts";
import { reasonOf } from "./fault-reason.ts";
import { unshare } from "./place-chunk.ts";
import { migrateRange } from "./populate.ts";
import type { Interval } from "./policy/policy.ts";
import { SIZED } from "./stats.ts";
import { TimeSlice } from "./time-slice.ts";
import type { SvmVm } from "./vm.ts";
import { makeWindowRoom, windowFor } from "./window-room.ts";

/**
 * The page-fault handler: serves the faults of one round together (spec/gpusvm.md 5.2, 5.3).
 *
 * Faults arrive merged per page. One that lies in a range which this batch has served already is answered with it
 * (chained) and does not count as a fault of its own. Room in VRAM for the whole batch is made first, by evicting all
 * victims at once, so that their copies share one submission; then each chunk is migrated, looked up and bound. What
 * finds no room because this round's own buffers fill VRAM is left for the next round.
 *
 * Time slice. After 20 ms the driver lock is given up between two faults, so that other launches, CPU faults and whoever
 * else waits for it get on. A fault's entries and the invalidation that goes with them are queued in one go (bind.ts), so
 * none is open then.
 *
 * What mostly need not be waited for is tested, and delegated only if it must: the steps of a fault run thousands of times.
 *
 * Locking. The driver lock is held for write throughout; everything below takes what it needs. No lock spans the phases:
 * a fault that loses a race to the CPU side begins again.
 */
export interface Service {
  /** Faults that were served: replaying them makes sense. */
  served: number;
  /** The failing fault of the lowest item, if any. */
  failed: LaunchFault | null;
  /** The first fault that found VRAM full of this round's own pages. */
  postponed: LaunchFault | null;
  /** `failed`, or else `postponed`, is for want of room: it might be served if others let go what they hold. */
  lacksRoom: boolean;
}

/** Times one fault may begin again; each time the CPU side has changed something. */
const MAX_RETRIES = 64;
/** After so many, a retry first lets other work run. */
const RETRIES_BEFORE_SLEEP = 4;

type Outcome = 0 | Errno | "postponed";

const TABLES = "the page-table aperture";

interface Round extends FaultRound {
  isFirst: boolean;
  readonly covered: CoveredRanges;
  /** Those that are no mirrors and that this batch has served. They say themselves whether they are valid still. */
  readonly mappings: Set<BindVa>;
  /** Chunks that this batch has brought to the device, by fault. */
  readonly moved: Interval[];
  /** What the last fault found no room in. */
  shortOf: "VRAM" | "the system window" | typeof TABLES;
}

export class FaultHandler {
  readonly #vm: SvmVm;

  constructor(vm: SvmVm) {
    this.#vm = vm;
  }

  /** `isExpected`: they are what somebody expects already, so no policy adds to them. */
  serve(batch: FaultBatch, pins: RoundPins, { isExpected = false } = {}): MaybePromise<Service> {
    return run(this.#serve(batch, pins, isExpected));
  }

  *#serve(batch: FaultBatch, pins: RoundPins, isExpected: boolean): Steps<Service> {
    const vm = this.#vm;
    const service: Service = { served: 0, failed: null, postponed: null, lacksRoom: false };
    let guard = yield* wait(vm.lock.write());
    try {
      if (!vm.faultMode) return yield* this.#serveResident(batch, service);
      yield* wait(vm.collector.collectLocked());
      yield* this.#dropReleased();
      yield* this.#makeRoom(batch, pins);
      const moved: Interval[] = [];
      const covered = new CoveredRanges(batch.tile);
      const mappings = new Set<BindVa>();
      const slice = new TimeSlice(vm.sched);
      let begun = 0;
      const round: Round = { covered, mappings, moved, pins, isFirst: true, shortOf: "VRAM" };
      for (let i = 0; i < batch.count; i++) {
        if (batch.asid(i) !== vm.asid) continue;
        const item = batch.item(i);
        const served = covered.find(batch.page(i), batch.access(i));
        if (served !== null) served.buffers ??= vm.useRange(served.range, pins, item);
        const known = served?.buffers ?? (mappings.size > 0 ? this.#servedBefore(batch.at(i), mappings) : null);
        if (known !== null) {
          for (const bo of known) pins.pin(bo, item);
          service.served += 1;
          vm.stats.add("wgsvm_chained_fault_count");
          continue;
        }
        const fault = batch.at(i);
        if (slice.isOver) {
          guard.release();
          vm.steps.endFaults();
          vm.counters.slices += 1;
          yield* wait(slice.yield());
          guard = yield* wait(vm.lock.write());
          // What was served may have been taken away since, and come back elsewhere.
          covered.forgetBuffers();
        }
        const point = vm.sched.point("driver:fault");
        if (point !== undefined) yield point;
        const since = vm.steps.beginFault(begun++);
        const cause = vm.trace.record("gpu-fault", vm.asid, fault.page, fault.page + PAGE_SIZE, fault.access);
        round.isFirst = service.served === 0;
        round.shortOf = "VRAM";
        const serving = runBecause(cause, this.#serveOne(fault, round, since));
        const outcome = isPromise(serving) ? yield* wait(serving) : serving;
        if (outcome === 0) {
          service.served += 1;
          continue;
        }
        causedBy(cause, () => this.#account(fault, outcome, service, round.shortOf));
        // What comes after wants VRAM as well; it faults again in the next round.
        if (outcome === "postponed" && !fault.prefetch) break;
      }
      vm.steps.endFaults();
      if (!isExpected) yield* prefetchAfterBatch(vm, moved, batch.tile);
      return service;
    } finally {
      vm.steps.endFaults();
      // Not while others have their turn, should that fail.
      if (guard.held) guard.release();
    }
  }

  /** Without fault mode: process memory may have been taken away between two rounds; whatever else faults is an error. */
  *#serveResident(batch: FaultBatch, service: Service): Steps<Service> {
    const pins = new ExecPins();
    const bound = this.#vm.isClosed ? ENOENT : yield* makeResident(this.#vm.binds, pins);
    pins.clear();
    for (let i = 0; i < batch.count; i++) {
      if (batch.asid(i) !== this.#vm.asid) continue;
      if (!isErr(bound) && bound > 0) service.served += 1;
      else this.#account(batch.at(i), isErr(bound) ? bound : EINVAL, service);
    }
    return service;
  }

  /** The objects behind a mapping that this batch has served already, if it serves this fault too. */
  #servedBefore(fault: MergedFault, mappings: ReadonlySet<BindVa>): readonly PinnedBuffer[] | null {
    const va = this.#vm.binds.at(fault.page);
    if (va === null || !mappings.has(va) || !va.isValid || fault.type === FAULT_ATOMIC_VIOLATION) return null;
    if (fault.access !== ACCESS_READ && va.isReadOnly) return null;
    const behind = va.bo ?? va.userptr;
    return behind === null ? [] : [behind];
  }

  /** Takes note of a fault that was not served. */
  #account(
    fault: MergedFault,
    outcome: Errno | "postponed",
    service: Service,
    shortOf: Round["shortOf"] = "VRAM",
  ): void {
    const vm = this.#vm;
    if (fault.prefetch) {
      vm.counters.hintDropped += 1;
      vm.stats.add("invalid_prefetch_pagefault_count");
      return;
    }
    const errno = outcome === "postponed" ? ENOSPC : outcome;
    const failure: LaunchFault = {
      errno,
      addr: fault.addr,
      access: ACCESS_NAMES[fault.access]!,
      item: fault.item,
      reason:
        outcome === "postponed" ? `its working set does not fit into ${shortOf}` : reasonOf(vm, errno, fault, shortOf),
    };
    if (outcome === "postponed") {
      vm.stats.add("wgsvm_postponed_fault_count");
      service.postponed ??= failure;
      service.lacksRoom ||= service.failed === null;
      return;
    }
    vm.trace.record("fault-error", vm.asid, fault.page, fault.page + PAGE_SIZE, errno);
    if (service.failed !== null && fault.item >= service.failed.item) return;
    service.failed = failure;
    service.lacksRoom = errno === ENOSPC || (errno === ENOMEM && shortOf === TABLES);
  }

  /** Serves one fault to the end. Driver lock held. @kernel xe_svm_handle_pagefault */
  *#serveOne(fault: MergedFault, round: Round, since: number): Steps<Outcome> {
    const vm = this.#vm;
    if (vm.isClosed) return ENOENT;
    const attempt = new FaultAttempt(fault, since);
    for (let tries = 0; ; tries++) {
      const outcome = yield* this.#try(attempt, round);
      if (outcome !== EAGAIN) {
        if (outcome !== "postponed") vm.counters.gpuFault += 1;
        if (outcome !== "postponed") vm.device.tileCounters[fault.tile]!.faults += 1;
        return outcome;
      }
      if (tries >= MAX_RETRIES) return EBUSY;
      vm.counters.retries += 1;
      vm.stats.add("wgsvm_fault_retry_count");
      vm.trace.record("retry", vm.asid, fault.page, fault.page + PAGE_SIZE, EAGAIN);
      attempt.timesliceMs *= 2;
      if (tries >= RETRIES_BEFORE_SLEEP) yield* wait(vm.sched.sleep(1));
    }
  }

  /** One pass; -EAGAIN: the CPU side changed meanwhile, begin again. */
  *#try(attempt: FaultAttempt, round: Round): Steps<Outcome> {
    const vm = this.#vm;
    const { fault } = attempt;
    const collecting = mutated("collector-skipped") ? 0 : vm.collector.collectLocked();
    const collected = isPromise(collecting) ? yield* wait(collecting) : collecting;
    if (isErr(collected)) return collected;
    const mapping = vm.binds.at(fault.page);
    if (mapping === null) return vm.holes.fill(fault.page);
    const { isFresh } = attempt;
    attempt.isFresh = false;
    if (!mapping.isMirror) {
      if (isFresh) {
        vm.stats.add("vma_pagefault_count");
        vm.stats.add("vma_pagefault_kb", mapping.range / 1024);
      }
      const served = yield* serveMapping(mapping, fault, round);
      if (served === 0) round.mappings.add(mapping);
      return served;
    }
    if (isFresh) vm.stats.add("svm_pagefault_count");
    if (fault.access !== ACCESS_READ && mapping.isReadOnly) return EACCES;
    const area = vm.mm.mmapLock.enterRead() ? this.#areaLocked(fault.page) : yield* this.#areaAt(fault.page);
    if (area === null) return ENOENT;
    if (!area.readable) return EPERM;
    // A read of an area that the CPU may only read is served by a read-only mapping.
    const readOnly = mapping.isReadOnly || (fault.access === ACCESS_READ && !area.writable);
    const attr = vm.attributes.at(fault.page);
    if (refusesAtomics(attr, fault.access)) return EACCES;
    const { start, end } = attempt.clip(vm.attributes.pieceAt(fault.page, mapping.addr, mapping.end));
    const before = vm.rangesCreated;
    const finding = vm.gpusvm.rangeFindOrInsert(fault.page, start, end, attempt.chunkCtx(vm, readOnly));
    const range = isPromise(finding) ? yield* wait(finding) : finding;
    // The area has become read-only since it was looked at, which is no reason to refuse a read.
    if (range === EPERM && fault.access === ACCESS_READ) return EAGAIN;
    if (isErr(range)) return range;
    if (vm.rangesCreated !== before) vm.trace.record("range-create", vm.asid, range.start, range.end, range.allFlags);
    if (isFresh) vm.stats.addSized(SIZED.pagefault_count, range.size);
    const { tile } = fault;
    if (serves(range, fault.page, fault.access, tile)) {
      vm.stats.addSized(SIZED.valid_pagefault_count, range.size);
      round.covered.add(range, vm.useRange(range, round.pins, fault.item));
      return 0;
    }
    // What another tile has mapped serves this one too, unless more is asked for than the pages were looked up for.
    const isElsewhere = range.isBound && !range.isBoundOn(tile) && (readOnly || !range.readOnly);
    if (!isElsewhere && (range.isBound || range.readOnly)) yield* wait(vm.dropMapping(range));
    if (!readOnly && vm.canMigrate(range)) {
      const own = vm.mm.mustUnshare(range.start, range.end) ? yield* unshare(vm, range.start, range.end) : 0;
      if (own !== 0) return yield* this.#withoutPages(own, range, attempt);
    }
    const placement = placeFault(vm, range, attempt, attr);
    if (isErr(placement)) return placement;
    // Tiles have a range in one way: what is wanted for reading only is not left writable on another.
    if (isElsewhere && placement.readOnly && !range.readOnly) yield* wait(vm.dropMapping(range));
    const arrived = yield* this.#bring(range, placement, attempt, round);
    return arrived === 0 ? yield* this.#map(range, placement, attempt, readOnly, round) : arrived;
  }

  /** Moves a range to where it belongs. 0: go on, wherever it lies now. */
  *#bring(range: SvmRange, placement: FaultPlacement, attempt: FaultAttempt, round: Round): Steps<Outcome> {
    const vm = this.#vm;
    const { target, only } = placement;
    if (only) beginOnly(attempt);
    // What cannot move now is bound where it lies, if the device can reach it there.
    if (target === null || (attempt.migrations <= 0 && vm.device.canMapSystemMemory && !only)) return 0;
    if (only && attempt.migrations <= 0) return EBUSY;
    attempt.migrations -= 1;
    vm.trace.record("migrate-decide", vm.asid, range.start, range.end, 1);
    const { tile } = placement;
    const migrating = migrateRange(vm, range, target, attempt.timesliceMs, tile);
    let migrated = isPromise(migrating) ? yield* wait(migrating) : migrating;
    if (migrated === ENOSPC && round.isFirst && round.pins.yieldEarlier(range.size) > 0)
      migrated = yield* wait(migrateRange(vm, range, target, attempt.timesliceMs, tile));
    if (migrated === 0 && target === vm.device) round.moved.push({ start: range.start, end: range.end });
    // This round's own pages fill VRAM: the next round goes on.
    if (migrated === ENOSPC && !round.isFirst) return "postponed";
    if (migrated === ENOSPC && (only || !vm.device.canMapSystemMemory)) return this.#noRoom(round);
    // Other refusals (a page is in use, a CPU fault came between) are no error: the pages stay where they are.
    return migrated !== 0 && only ? EAGAIN : 0;
  }

  /** Looks the pages of a range up and binds them, once they lie where they belong. */
  *#map(
    range: SvmRange,
    placement: FaultPlacement,
    attempt: FaultAttempt,
    readOnly: boolean,
    round: Round,
  ): Steps<Outcome> {
    const vm = this.#vm;
    const { fault } = attempt;
    const refusals = vm.device.windowRefusals;
    const { tableRefusals } = vm.device;
    // Its pages are where they were, and its tables were others' meanwhile (table-room.ts).
    const lostTables = range.hasDmaMapping && range.tilePresent === 0;
    const ctx = vm.placedCtx(readOnly || placement.readOnly, placement);
    const bound = yield* this.#mapAndBind(range, ctx, attempt);
    if (bound === EAGAIN && vm.device.windowRefusals > refusals)
      return yield* this.#whenWindowIsFull(range, placement, attempt, round);
    if (bound === ENOMEM && vm.device.tableRefusals > tableRefusals) return this.#whenTablesAreFull(round);
    if (bound !== 0) return bound;
    if (lostTables || (range.holdsWindow && range.gaveWay)) vm.refaults += 1;
    round.covered.add(range, vm.useRange(range, round.pins, fault.item));
    vm.stats.addSized(SIZED.pagefault_us, range.size, vm.steps.microsecondsSince(attempt.since));
    return 0;
  }

  /** The page-table aperture is full of tables of what launches in progress need, this one among them. */
  #whenTablesAreFull(round: Round): Outcome {
    const { pins } = round;
    round.shortOf = TABLES;
    if (!round.isFirst) return "postponed";
    const yielded = pins.yieldEarlier(Infinity) + pins.yieldEarlier(Infinity, "window");
    if (yielded > 0) return EAGAIN;
    return pins.bytes > 0 ? "postponed" : ENOMEM;
  }

  /**
   * The window is full of pages that the GPU reaches in place: others give way, or the range moves to VRAM after all, or
   * the range is made smaller, or what this round holds comes first.
   *
   * A range that the window could never hold is made smaller at once, whoever might give way. So is one that it could not
   * hold beside what the launch keeps, when nothing else has been served: to wait would end in the same place.
   */
  *#whenWindowIsFull(range: SvmRange, placement: FaultPlacement, attempt: FaultAttempt, round: Round): Steps<Outcome> {
    const vm = this.#vm;
    if (yield* this.#cutTo(windowFor(vm.device), range, attempt)) return EAGAIN;
    if (yield* wait(makeWindowRoom(vm.device, range.size))) return EAGAIN;
    const yielded = round.pins.yieldEarlier(range.size, "window");
    if (yielded > 0 && (yield* wait(makeWindowRoom(vm.device, range.size)))) return EAGAIN;
    if (!attempt.windowIsFull && placement.target === null && vm.canMigrate(range)) {
      attempt.windowIsFull = true;
      return EAGAIN;
    }
    round.shortOf = vm.canMigrate(range) ? "VRAM" : "the system window";
    const { pins } = round;
    if (round.isFirst && (yield* this.#cutTo(windowFor(vm.device, pins), range, attempt))) return EAGAIN;
    if (pins.bytes === 0 && (yield* this.#cutTo(range.size / 2, range, attempt))) return EAGAIN;
    return this.#noRoom(round);
  }

  /** A range larger than `room` bytes gives way to smaller ones, if any chunk fits into that. */
  *#cutTo(room: number, range: SvmRange, attempt: FaultAttempt): Steps<boolean> {
    const vm = this.#vm;
    if (range.size <= room || !attempt.cutTo(vm.chunkSizes, room)) return false;
    yield* wait(vm.removeRange(range));
    return true;
  }

  #noRoom({ pins }: Round): Outcome {
    return pins.bytes > 0 ? "postponed" : ENOSPC;
  }

  /** Chunks that the thrash policy has kept in RAM so far: their next access decides anew. */
  *#dropReleased(): Steps<void> {
    const vm = this.#vm;
    for (const start of vm.policies.thrash.released()) {
      const range = vm.rangeAt(start);
      if (range !== null && range.isBound && !range.unmapped) yield* wait(vm.dropMapping(range));
    }
  }

  *#mapAndBind(range: SvmRange, ctx: GpuSvmCtx, attempt: FaultAttempt): Steps<0 | Errno> {
    const vm = this.#vm;
    const refusals = vm.device.windowRefusals;
    const since = vm.steps.start();
    const getting = vm.gpusvm.rangeGetPages(range, ctx);
    const got = isPromise(getting) ? yield* wait(getting) : getting;
    vm.stats.addSized(SIZED.get_pages_us, range.size, vm.steps.microsecondsSince(since));
    const bindSince = vm.steps.start();
    vm.trace.record("get-pages", vm.asid, range.start, range.end, got);
    if (got === EOPNOTSUPP) {
      // A mix of device and system pages is healed by bringing all of them home.
      yield* wait(vm.gpusvm.rangeEvict(range));
      return EAGAIN;
    }
    // The CPU took pages back that only device memory would do for.
    if (got === EFAULT && ctx.devmemOnly) return EAGAIN;
    if (got === EFAULT && vm.device.windowRefusals > refusals) return EAGAIN;
    if (got !== 0) return yield* this.#withoutPages(got, range, attempt);
    range.readOnly = ctx.readOnly;
    const point = vm.sched.point("driver:bind");
    if (point !== undefined) yield point;
    const binding = bindRange(vm, range, attempt.fault.tile);
    const bound = isPromise(binding) ? yield* wait(binding) : binding;
    vm.stats.addSized(SIZED.bind_us, range.size, vm.steps.microsecondsSince(bindSince));
    return bound;
  }

  /** The pages of a range could not be looked up. */
  *#withoutPages(why: Errno, range: SvmRange, attempt: FaultAttempt): Steps<Errno> {
    const vm = this.#vm;
    if (why !== EFAULT && why !== EPERM) return why;
    // What nobody can bring back.
    if (vm.device.firstLostPage(vm.mm, range.start, range.end) !== null) return EIO;
    // The areas beneath have changed since the range was made (mprotect splits them), or a page of it cannot be had, as
    // behind the end of a file: a fresh range will fit them, or leave that page out.
    if (!range.unmapped) {
      attempt.onlyPresent = true;
      yield* wait(vm.removeRange(range));
    }
    // Unless that page is the one that is wanted: the CPU could not have it either. What the area allows is looked at anew
    // by every try.
    return vm.mm.fileSizeBefore(attempt.fault.page) === null ? EAGAIN : EFAULT;
  }

  /** The process's area at `addr`, good until something is waited for; null: nothing is mapped there. */
  *#areaAt(addr: number): Steps<VmaView | null> {
    const { mm } = this.#vm;
    const guard = yield* wait(mm.mmapLock.read());
    const vma = mm.vmaLookup(addr);
    guard.release();
    return vma;
  }

  /** The same where the lock was free. */
  #areaLocked(addr: number): VmaView | null {
    const { mm } = this.#vm;
    const vma = mm.vmaLookup(addr);
    mm.mmapLock.leaveRead();
    return vma;
  }

  /**
   * Evicts, all at once, what the batch will need beyond the free memory. An estimate: a chunk that turns out smaller has
   * evicted too much, one that turns out not to migrate as well; both are rare, and evicting one by one costs a round
   * trip each.
   */
  *#makeRoom(batch: FaultBatch, pins: RoundPins): Steps<void> {
    const vm = this.#vm;
    const { tile } = batch;
    const region = vm.device.regions[tile]!;
    // Usually there is room whatever they want.
    if (batch.count * vm.chunkSizes[0]! <= region.free) return;
    const chunks = new Set<number>();
    let wanted = 0;
    let lastStart = 0;
    let lastEnd = 0;
    for (let i = 0; i < batch.count; i++) {
      const page = batch.page(i);
      if (page >= lastStart && page < lastEnd) continue;
      const size = this.#likelyChunk(page, batch.access(i), tile);
      if (size === 0) continue;
      lastStart = alignDown(page, size);
      lastEnd = lastStart + size;
      if (chunks.has(lastStart)) continue;
      chunks.add(lastStart);
      wanted += size;
      if (wanted >= region.heapBytes) break;
    }
    // Small buffers are worth more than the room they take: they stay.
    const missing = Math.min(wanted, region.heapBytes - pins.bytesBelow(SZ_2M)) - region.free;
    if (missing <= 0) return;
    const short = missing - region.evictable;
    if (short > 0) pins.yieldEarlier(short);
    yield* wait(vm.device.evict(missing, tile));
  }

  /** Bytes that a fault at `page` will probably take from VRAM: 0 when its range is there already, or it has none. */
  #likelyChunk(page: number, access: number, tile: number): number {
    const vm = this.#vm;
    if (vm.binds.at(page)?.isMirror !== true) return 0;
    const { loc, tile: advised } = vm.attributes.at(page);
    if ((loc !== "device" && loc !== vm.device) || (advised !== null && advised !== tile)) return 0;
    if (vm.policies.migrate.onFault({ start: page, end: page + PAGE_SIZE, access }) !== "move") return 0;
    const range = vm.rangeAt(page);
    if (range !== null)
      return vm.wantsMigration(range, loc === "device" ? tile : (advised ?? undefined)) ? range.size : 0;
    const vma = vm.mm.vmaLookup(page);
    if (vma === null || !vma.anonymous || !vm.migrates) return 0;
    for (const size of vm.chunkSizes) {
      if (size > SZ_2M) continue;
      if (alignDown(page, size) >= vma.start && alignUp(page + 1, size) <= vma.end && size !== SZ_64K) return size;
    }
    return PAGE_SIZE;
  }
}

import { EIO, ENOSPC, ETIME, errnoName } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import type { Kernel, KernelLaunch, LaunchOptions, RoundResult } from "../hal/gpu.ts";
import { describeFatal, parseFaults } from "./fault-record.ts";
import type { FaultBatch } from "./fault-record.ts";
import { RoundPins } from "./round-pins.ts";
import type { SvmVm } from "./vm.ts";

/**
 * One kernel launch on a faulting address space: rounds of dispatch, service and replay until every item is done
 * (spec/device.md 5.5 to 5.7).
 *
 * A round is one submission and one readback. All faults of a round are served together; their copies, page-table
 * writes and invalidations go out with the next round's dispatch.
 *
 * Progress. Buffers that a round's faults made resident are pinned until the next dispatch has run. When eight rounds
 * pass without one more item done while pages come back a second time, the working sets of the items in flight exceed
 * VRAM: the launch goes on item by item, and an item that cannot finish alone fails with -ENOSPC.
 */
export type LaunchRequest = Omit<LaunchOptions, "asid">;

/** A fault that could not be served, of the lowest item that has one. */
export interface LaunchFault {
  readonly errno: Errno;
  readonly addr: number;
  readonly access: "read" | "write" | "atomic";
  readonly item: number;
  /** One sentence: what stood in the way. */
  readonly reason: string;
}

export interface LaunchOutcome {
  readonly rounds: number;
  /** Null when every item is done. */
  readonly fault: LaunchFault | null;
  /** The output words that were asked for. */
  readonly out: Uint32Array;
}

/** Bytes and rounds of one launch as it goes, for reports. */
export interface RoundReport {
  readonly round: number;
  readonly remaining: number;
  readonly faults: number;
}

export const ACCESS_NAMES = ["read", "write", "atomic"] as const;
const MAX_ROUNDS = 65536;
const STUCK_ROUNDS = 8;
const NO_WORDS = new Uint32Array(0);

export async function runLaunch(
  vm: SvmVm,
  kernel: Kernel,
  request: LaunchRequest,
  onRound?: (report: RoundReport) => void | Promise<void>,
): Promise<LaunchOutcome> {
  const device = vm.device;
  const trace = device.trace;
  const cause = trace.record("launch", vm.asid, 0, 0, request.items);
  const launch = device.gpu.launch(kernel, { ...request, asid: vm.asid });
  const progress = new Progress();
  const pins = new RoundPins();
  let rounds = 0;
  let fault: LaunchFault | null = null;
  try {
    for (;;) {
      const result = await runRound(vm, launch);
      rounds += 1;
      vm.counters.rounds += 1;
      trace.record("round", vm.asid, 0, 0, result.remaining, cause);
      await onRound?.({ round: rounds, remaining: result.remaining, faults: result.count });
      if (result.remaining === 0 && result.dropped === 0) break;
      if (rounds >= MAX_ROUNDS) {
        fault = ended(ETIME, `the launch did not finish in ${MAX_ROUNDS} rounds`);
        break;
      }
      const batch = parseFaults(result.records, result.count);
      progress.after(result.remaining, vm);
      // Alone, an item keeps all it has got until it is done.
      if (!progress.serial || progress.itemDone) pins.beginRound(batch, result.dedupHits);
      fault = await serveRound(vm, result, batch, progress, pins);
      if (fault !== null) break;
      launch.setSerial(progress.serial);
    }
    const out =
      fault === null && (request.outWords ?? 0) > 0 ? await device.sched.external(launch.readOut()) : NO_WORDS;
    trace.record("launch-end", vm.asid, 0, 0, rounds, cause);
    return { rounds, fault, out };
  } finally {
    pins.clear();
    launch.end();
  }
}

async function runRound(vm: SvmVm, launch: KernelLaunch): Promise<RoundResult> {
  const device = vm.device;
  const stop = device.sched.gate?.("round");
  if (stop !== undefined) await stop;
  const yielded = device.sched.point("driver:round");
  if (yielded !== undefined) await yielded;
  // The fault queue is one per device: a round's records are read before the next round of anybody is submitted.
  const engine = await device.engineLock.lock();
  try {
    // Only the GPU itself is outside: what the submission waits for first is an activity like any other.
    return await device.submitFor(vm, () => device.sched.external(launch.round()));
  } finally {
    engine.release();
  }
}

/** Serves what can be served. Null to go on; a fault when none of the round's faults could be. */
async function serveRound(
  vm: SvmVm,
  result: RoundResult,
  batch: FaultBatch,
  progress: Progress,
  pins: RoundPins,
): Promise<LaunchFault | null> {
  if (result.fatal > 0) {
    const fatal = batch.firstFatal();
    if (fatal !== null) {
      return {
        errno: EIO,
        addr: fatal.addr,
        access: ACCESS_NAMES[fatal.access]!,
        item: fatal.item,
        reason: describeFatal(fatal),
      };
    }
  }
  const service = await vm.faults.serve(batch, pins);
  if (service.served > 0) return null;
  if (service.failed !== null) return service.failed;
  if (service.postponed !== null) {
    // Nothing could be made room for although nothing of an earlier round was pinned.
    if (progress.serial || batch.count === 1) {
      return { ...service.postponed, errno: ENOSPC, reason: "its working set does not fit into VRAM" };
    }
    progress.goSerial();
    return null;
  }
  return progress.emptyRound() ? ended(EIO, "items stay undone but no fault is recorded") : null;
}

function ended(errno: Errno, reason: string): LaunchFault {
  return { errno, addr: 0, access: "read", item: 0, reason: `${reason} (${errnoName(errno)})` };
}

/** When to give up on running all items together (spec/device.md 5.7 d). */
class Progress {
  #serial = false;
  #lowest = Infinity;
  #itemDone = false;
  #stuck = 0;
  #empty = 0;
  #refaults = 0;

  get serial(): boolean {
    return this.#serial;
  }
  /** The last round finished at least one item. */
  get itemDone(): boolean {
    return this.#itemDone;
  }

  goSerial(): void {
    this.#serial = true;
  }

  /** True when too many rounds in a row had nothing to serve. */
  emptyRound(): boolean {
    this.#empty += 1;
    return this.#empty > STUCK_ROUNDS;
  }

  /** A round has run and left `remaining` items. */
  after(remaining: number, vm: SvmVm): void {
    this.#itemDone = remaining < this.#lowest;
    if (this.#itemDone) {
      this.#lowest = remaining;
      this.#stuck = 0;
      this.#empty = 0;
    } else if (vm.refaults > this.#refaults) {
      this.#stuck += 1;
      if (this.#stuck >= STUCK_ROUNDS) this.#serial = true;
    }
    this.#refaults = vm.refaults;
  }
}

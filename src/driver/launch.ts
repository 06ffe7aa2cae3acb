import { PAGE_SIZE, alignDown, alignUp } from "../base/addr.ts";
import { causedBy } from "../base/cause.ts";
import { EFAULT, EINVAL, EIO, ENOENT, ENOMEM, ENOSPC, ETIME, errnoName } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { FATAL_NONCANONICAL } from "../abi/fault.ts";
import { isDoneByItem } from "../hal/gpu.ts";
import type { Kernel, KernelLaunch, LaunchOptions, RoundResult } from "../hal/gpu.ts";
import { describeFatal, parseFaults } from "./fault-record.ts";
import type { FaultBatch } from "./fault-record.ts";
import type { ResidentLaunch } from "./bind-exec.ts";
import type { Service } from "./fault-handler.ts";
import { LaunchTurns } from "./launch-turns.ts";
import type { LaunchTurn } from "./launch-turns.ts";
import { RoundPins } from "./round-pins.ts";
import { streamAhead, streamsOfFaults } from "./stream-ahead.ts";
import type { LaunchStream } from "./stream-ahead.ts";
import type { SvmVm } from "./vm.ts";

/**
 * One kernel launch on a faulting address space: rounds of dispatch, service and replay until every item is done
 * (spec/device.md 5.5 to 5.7).
 *
 * A round is one submission and one readback. All faults of a round are served together; their copies, page-table
 * writes and invalidations go out with the next round's dispatch.
 *
 * Progress. (a) Buffers that a round's faults made resident are pinned until the next dispatch has run. (b) Faults are
 * served by ascending item, until VRAM is full of pins; the rest fault again. (c) What a round used is the last to be
 * evicted. (d) When rounds pass without one more item done while pages come back a second time, the working sets of the
 * items in flight exceed VRAM: the launch goes on with a span of them, a quarter of those that were left, and so on down to
 * item by item (Progress). (e) An item that cannot finish alone fails with
 * -ENOSPC; a launch ends after 65536 rounds with -ETIME. (f) What other launches have pinned is waited for, between two
 * rounds: a launch that began earlier goes first, and none fails, or goes on with fewer items, for want of room while another
 * one holds some (launch-turns.ts).
 *
 * Designs. A kernel that replays as a whole (idempotent) keeps what its rounds have made resident as long as there is
 * room; one that runs once (prefault) keeps all of it, and fails with -ENOSPC when its pages do not fit together.
 *
 * Failure. A fault that cannot be served ends the launch; what its items have committed stays. If the address space was
 * made with `onFatal: "ban"`, that also bans it: the hardware refuses its ASID, and later use gives -ENOENT.
 */
export interface LaunchRequest extends Omit<LaunchOptions, "asid"> {
  /** Rounds after which the launch ends with -ETIME; at most, and by default, 65536. */
  readonly maxRounds?: number;
  /** What the items walk through in order: it is brought ahead of them. Designs `"item"` and `"workgroup"`. */
  readonly streams?: readonly LaunchStream[];
}

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
const EMPTY_ROUNDS = 8;
const NO_WORDS = new Uint32Array(0);

/** `resident`: of an address space without fault mode; the caller ends it. */
export async function runLaunch(
  vm: SvmVm,
  kernel: Kernel,
  request: LaunchRequest,
  onRound?: (report: RoundReport) => void | Promise<void>,
  resident?: ResidentLaunch,
): Promise<LaunchOutcome> {
  const device = vm.device;
  const trace = device.trace;
  const refused = refusal(vm, kernel, request);
  if (refused !== null) return { rounds: 0, fault: refused, out: NO_WORDS };
  const { maxRounds = MAX_ROUNDS, streams = [], ...options } = request;
  const { tile = 0 } = options;
  const cause = trace.record("launch", vm.asid, 0, 0, request.items);
  const launch = device.gpu.launch(kernel, { ...options, asid: vm.asid });
  const progress = new Progress(options.items);
  const pins = new RoundPins();
  const turn = resident?.turn ?? LaunchTurns.of(device).join(pins, false);
  let rounds = 0;
  let fault: LaunchFault | null = null;
  try {
    const ahead = (all: readonly LaunchStream[]) =>
      causedBy(cause, () => streamAhead(vm, { launch, items: options.items, streams: all, tile, pins, turn, cause }));
    if (streams.length > 0 && vm.faultMode) await ahead(streams);
    for (;;) {
      const result = await runRound(vm, launch, cause);
      rounds += 1;
      vm.counters.rounds += 1;
      vm.stats.add("wgsvm_round_count");
      device.tileCounters[tile]!.rounds += 1;
      // The round has run: what it has left undone misses again.
      if (device.fails("readback") && kernel.design === "item") continue;
      const round = trace.record("round", vm.asid, 0, 0, result.remaining, cause);
      trace.record("vram", vm.asid, 0, 0, device.vramUsed, round);
      await onRound?.({ round: rounds, remaining: result.remaining, faults: result.count });
      const batch = parseFaults(result.records, result.count, tile);
      if ((result.unannounced ?? 0) > 0) fault = unannounced(batch);
      if (fault !== null || (result.remaining === 0 && result.dropped === 0)) break;
      if (rounds >= Math.min(maxRounds, MAX_ROUNDS)) {
        fault = ended(ETIME, `the launch did not finish in ${rounds} rounds`);
        break;
      }
      if (rounds === 1 && streams.length === 0 && result.fatal === 0 && vm.faultMode && isDoneByItem(kernel.design)) {
        const found = streamsOfFaults(vm, batch, options.items, options.buffers ?? [], tile);
        // They take the place of the faults' service. What they leave faults again.
        if (found.length > 0) {
          await ahead(found);
          continue;
        }
      }
      progress.after(result.remaining, vm);
      renewPins(kernel, progress, pins, batch, result);
      turn.letGo();
      fault = await serveRound(vm, kernel, result, batch, progress, pins, turn, round);
      if (fault?.errno === ENOMEM && resident !== undefined) fault = await resident.bindAgain(fault);
      if (fault !== null) break;
      launch.setSpan(progress.span);
    }
    if (fault !== null && isAccessFault(fault.errno)) vm.onFatalFault();
    const out =
      fault === null && (request.outWords ?? 0) > 0 ? await device.sched.external(launch.readOut()) : NO_WORDS;
    trace.record("launch-end", vm.asid, 0, 0, rounds, cause);
    return { rounds, fault, out };
  } finally {
    pins.clear();
    if (resident === undefined) turn.end();
    launch.end();
  }
}

/** Why the launch cannot even begin, or null. */
function refusal(vm: SvmVm, kernel: Kernel, request: LaunchRequest): LaunchFault | null {
  if (vm.isBanned) return ended(ENOENT, "the address space is banned after a fault of an earlier launch");
  const first = request.buffers?.[0];
  if (kernel.design !== "prefault" || first === undefined || vm.device.canMapSystemMemory) return null;
  // What must be resident together and has nowhere else to go.
  let bytes = 0;
  for (const buffer of request.buffers ?? []) {
    bytes += alignUp(buffer.at + buffer.bytes, PAGE_SIZE) - alignDown(buffer.at, PAGE_SIZE);
  }
  const { heapBytes } = vm.device.regions[request.tile ?? 0]!;
  if (bytes <= heapBytes) return null;
  const reason = `buffers of ${bytes} bytes do not fit into VRAM of ${heapBytes}`;
  return { errno: ENOSPC, addr: first.at, access: ACCESS_NAMES[first.access] ?? "read", item: 0, reason };
}

/** A dispatch has run: what of the earlier rounds' pages the next one still wants. */
function renewPins(kernel: Kernel, progress: Progress, pins: RoundPins, batch: FaultBatch, result: RoundResult): void {
  if (kernel.design === "prefault") return;
  // Alone, an item keeps all it has got until it is done; what others had goes when it has first run so.
  if (progress.aloneRounds > 1) return;
  if (kernel.design === "idempotent" && progress.aloneRounds === 0) pins.keepRound();
  else pins.beginRound(batch, result.dedupHits);
}

/** The items that missed have run once and for all. */
function unannounced(batch: FaultBatch): LaunchFault {
  const first = batch.first();
  const reason = "the kernel reached a page that its pre-pass had not named, or that the CPU took away meanwhile";
  if (first === null) return ended(EFAULT, reason);
  return { errno: EFAULT, addr: first.addr, access: ACCESS_NAMES[first.access]!, item: first.item, reason };
}

/** Of the faults that end a launch, those that an access brought about; the others are a matter of room and time. */
function isAccessFault(errno: Errno): boolean {
  return errno !== ENOSPC && errno !== ETIME && errno !== ENOMEM;
}

async function runRound(vm: SvmVm, launch: KernelLaunch, cause: number): Promise<RoundResult> {
  const device = vm.device;
  const stop = device.sched.gate?.("round");
  if (stop !== undefined) await stop;
  const yielded = device.sched.point("driver:round");
  if (yielded !== undefined) await yielded;
  // The fault queue is one per device: a round's records are read before the next round of anybody is submitted.
  const { writeBack } = device.region;
  const engine = await device.engineLock.lock();
  try {
    device.failLost();
    // Before the window is made ready: what the CPU stored between that and the submission would be lost.
    const ready = launch.ready();
    if (ready !== undefined) await device.sched.external(ready);
    // Only the GPU itself is outside: what the submission waits for first is an activity like any other.
    const result = await device.submitFor(vm, () => {
      writeBack?.submitting(vm);
      return device.sched.external(launch.round());
    });
    const waiting = writeBack?.roundDone(cause);
    if (waiting !== undefined) await waiting;
    return result;
  } finally {
    engine.release();
  }
}

/** Serves what can be served. Null to go on; a fault when none of the round's faults could be. */
async function serveRound(
  vm: SvmVm,
  kernel: Kernel,
  result: RoundResult,
  batch: FaultBatch,
  progress: Progress,
  pins: RoundPins,
  turn: LaunchTurn,
  cause: number,
): Promise<LaunchFault | null> {
  if (result.fatal > 0) {
    const fatal = batch.firstFatal();
    if (fatal !== null) {
      return {
        errno: fatal.reason === FATAL_NONCANONICAL ? EINVAL : EIO,
        addr: fatal.addr,
        access: ACCESS_NAMES[fatal.access]!,
        item: fatal.item,
        reason: describeFatal(fatal),
      };
    }
  }
  const service = await serveInTurn(vm, batch, pins, turn, cause);
  if (service.served > 0) return null;
  if (service.failed !== null) return service.failed;
  if (service.postponed !== null) {
    // Nothing could be made room for although nothing of an earlier round was pinned.
    if (progress.aloneRounds > 0 || batch.count === 1 || kernel.design === "prefault") {
      return service.postponed;
    }
    progress.shrink(result.remaining);
    return null;
  }
  return progress.emptyRound() ? ended(EIO, "items stay undone but no fault is recorded") : null;
}

/** Serves the faults, once others leave room for it if they are what stands in the way. */
async function serveInTurn(
  vm: SvmVm,
  batch: FaultBatch,
  pins: RoundPins,
  turn: LaunchTurn,
  cause: number,
): Promise<Service> {
  for (;;) {
    const older = turn.begin();
    if (older !== undefined) {
      vm.stats.add("wgsvm_turn_wait_count");
      await older;
    }
    // What the service does, room made by eviction included, happens because of the round.
    const service = await causedBy(cause, () => vm.faults.serve(batch, pins));
    if (service.served > 0 || !service.lacksRoom || !(await turn.waitForRoom())) {
      turn.served();
      return service;
    }
    vm.stats.add("wgsvm_turn_wait_count");
  }
}

function ended(errno: Errno, reason: string): LaunchFault {
  return { errno, addr: 0, access: "read", item: 0, reason: `${reason} (${errnoName(errno)})` };
}

/** Rounds without a finished item, and with pages that come back, before fewer items run together. */
const STUCK_ROUNDS = 2;
/** Items left running are divided by it. */
const SHRINK = 4;
/** Spans done in a row before a size that once was too much is tried again. */
const PATIENCE = 16;

/**
 * How many items run together. All, until their working sets prove to exceed VRAM; then a span, as in the congestion control
 * of networks: a quarter when it is stuck, twice when one is done, but no more than half of what was stuck before, unless it
 * has gone well for a while. (spec/device.md 5.7 d goes from all to one at once, and stays there.)
 */
class Progress {
  readonly #items: number;
  #span = Infinity;
  /** A span that was too much. */
  #tooMuch = Infinity;
  /** What is left when the span is done. */
  #goal = 0;
  #spansDone = 0;
  #lowest = Infinity;
  #aloneRounds = 0;
  #stuck = 0;
  #empty = 0;
  #refaults = 0;

  constructor(items: number) {
    this.#items = items;
  }

  /** Items that the next round runs. */
  get span(): number {
    return this.#span;
  }
  /** Rounds so far that one item has run by itself without being done. */
  get aloneRounds(): number {
    return this.#aloneRounds;
  }

  /** True when too many rounds in a row had nothing to serve. */
  emptyRound(): boolean {
    this.#empty += 1;
    return this.#empty > EMPTY_ROUNDS;
  }

  /** A round has run and left `remaining` items. */
  after(remaining: number, vm: SvmVm): void {
    const isItemDone = remaining < this.#lowest;
    this.#aloneRounds = isItemDone || this.#span > 1 ? 0 : this.#aloneRounds + 1;
    if (isItemDone) {
      this.#lowest = remaining;
      this.#stuck = 0;
      this.#empty = 0;
      if (remaining <= this.#goal) this.#grow(remaining);
    } else if (vm.refaults > this.#refaults) {
      this.#stuck += 1;
      if (this.#stuck >= STUCK_ROUNDS) this.shrink(remaining);
    }
    this.#refaults = vm.refaults;
  }

  /** They do not fit together. */
  shrink(remaining: number): void {
    // What a replay as a whole has left does not say how many items are done.
    if (this.#span > 1 && this.#span >= this.#items) this.#lowest = Infinity;
    this.#tooMuch = Math.min(this.#span, remaining);
    this.#span = Math.max(1, Math.floor(this.#tooMuch / SHRINK));
    this.#goal = remaining - this.#span;
    this.#spansDone = 0;
    this.#stuck = 0;
  }

  /** A span is done. */
  #grow(remaining: number): void {
    if (this.#span === Infinity) return;
    this.#spansDone += 1;
    if (this.#spansDone % PATIENCE === 0) this.#tooMuch *= 2;
    if (this.#span * 2 <= this.#tooMuch / 2) this.#span *= 2;
    this.#goal = remaining - this.#span;
  }
}

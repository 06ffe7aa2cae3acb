import { PAGE_SIZE, SZ_2M, alignDown, alignUp } from "../base/addr.ts";
import type { Va } from "../base/addr.ts";
import type { KernelLaunch } from "../hal/gpu.ts";
import { serves } from "./covered-ranges.ts";
import { hintBatch } from "./fault-record.ts";
import type { FaultBatch } from "./fault-record.ts";
import { itemStreams } from "./item-streams.ts";
import type { LaunchTurn } from "./launch-turns.ts";
import type { RoundPins } from "./round-pins.ts";
import type { SvmVm } from "./vm.ts";

/**
 * Memory that the items of a launch walk through in order: with `n` items, item `i` works on bytes
 * `[i * bytes / n, (i + 1) * bytes / n)` of it, more or less.
 */
export interface LaunchStream {
  readonly at: Va;
  /** Bytes, above 0. */
  readonly bytes: number;
  /** ACCESS_READ, ACCESS_WRITE or ACCESS_ATOMIC. */
  readonly access: number;
}

/** What is streamed: whose items, and on which tile they run. */
export interface StreamedLaunch {
  readonly launch: KernelLaunch;
  readonly items: number;
  readonly streams: readonly LaunchStream[];
  readonly tile: number;
  /** They hold what the last piece has brought, until the round behind it has run. */
  readonly pins: RoundPins;
  readonly turn: LaunchTurn;
  /** Trace id. */
  readonly cause: number;
}

/**
 * Bytes of the largest stream that one piece brings at most: what the upload ring holds. Smaller pieces cost more than they
 * gain where the GPU is threads of the same processor: a pass over 64 MiB took 94 ms by 2 MiB, 86 by 4, 81 by 8, 78 by 16.
 */
const PIECE_BYTES = 8 * SZ_2M;
/** Pieces that VRAM and the system window have room for: the one in use, and the one that comes. */
const PIECES = 2;
/** Ranges may turn out smaller than the largest chunk, and so on down. */
const SIZES = 3;

/**
 * Runs a launch ahead of its faults: piece by piece, memory is brought to where a fault would bring it, and the items that
 * work on it run as soon as it is there, while the next piece comes. Nobody waits for the GPU in between. What a piece's
 * items have used may give way to the next one, so the whole may be larger than VRAM, or than the system window.
 *
 * It promises nothing. What it brings are hints, like those of the hardware: what cannot be had is dropped. Items that miss
 * something else are left to the rounds, and when they are most of a piece, the streams do not say what the kernel works on:
 * then it ends early. The last piece's items are left to the next round, which sees to all that is undone.
 *
 * Locking. The VM's lock for write while a piece is brought, the engine lock while a pass is submitted, neither between.
 */
export async function streamAhead(vm: SvmVm, streamed: StreamedLaunch): Promise<void> {
  const { items, streams, tile, pins, turn } = streamed;
  const step = itemsPerPiece(vm, streamed);
  const watch = new PassWatch();
  for (let first = 0; first < items && !watch.isOver; first += step) {
    const count = Math.min(step, items - first);
    const isLast = first + count === items;
    const older = turn.begin();
    if (older !== undefined) {
      vm.stats.add("wgsvm_turn_wait_count");
      await older;
    }
    try {
      const parts = streams.map((stream) => partOf(vm, stream, streamed, first, count));
      await roomForUpload(vm, parts);
      for (const part of parts) if (!(await bring(vm, part, first, tile, pins))) watch.isOver = true;
      turn.served();
      if (!isLast && !watch.isOver) await submitPass(vm, streamed, first, count, watch);
    } finally {
      // The pass is on its way, and the queue keeps the order.
      if (!isLast) pins.clear();
      turn.letGo();
    }
  }
}

/**
 * What a launch that has just faulted for the first time is to stream, where the prefetch policy follows streams and memory cannot
 * hold them: plain read-ahead would put out what it has brought. The buffers of the launch, for which hardware hints hide what its
 * items have missed, or else what their faults show.
 */
export function streamsOfFaults(
  vm: SvmVm,
  batch: FaultBatch,
  items: number,
  buffers: readonly LaunchStream[],
  tile: number,
): readonly LaunchStream[] {
  if (vm.policies.prefetch.name !== "sequential") return [];
  const areaOf = (addr: Va) => {
    const vma = vm.mm.vmaLookup(addr);
    return vma === null || vm.binds.at(addr)?.isMirror !== true ? null : { start: vma.start, end: vma.end };
  };
  const found = buffers.length > 0 ? buffers : itemStreams(batch, vm.asid, items, areaOf);
  const outgrows = found.some((stream) => stream.bytes > roomFor(vm, stream, tile));
  return outgrows ? found : [];
}

/** What becomes of the passes. */
class PassWatch {
  /** No more of them: the streams are not what the kernel works on, or the GPU has failed. */
  isOver = false;

  /** A pass over `count` items is on its way; `left` will say how many of them missed. */
  add(left: Promise<number>, count: number): void {
    left.then(
      (missed) => (this.isOver ||= missed * 2 > count),
      // Of a loss hears the round that follows.
      () => (this.isOver = true),
    );
  }
}

/** Items whose part of the largest stream makes a piece, of whole chunks where it can. */
function itemsPerPiece(vm: SvmVm, { items, streams, tile }: StreamedLaunch): number {
  const room = Math.min(...streams.map((stream) => roomFor(vm, stream, tile)));
  const largest = Math.max(...streams.map(({ bytes }) => bytes));
  const piece = Math.min(PIECE_BYTES, room / PIECES);
  // The window lacks one page of a whole number.
  const whole = alignDown(piece + PAGE_SIZE, SZ_2M) || piece;
  return Math.max(1, Math.floor((whole / largest) * items));
}

/** Bytes of VRAM, or of the system window where the GPU would reach the stream in place. */
function roomFor(vm: SvmVm, { at, bytes, access }: LaunchStream, tile: number): number {
  const { regions, window } = vm.device;
  const isAdvised = vm.attributes.at(at).loc === "system";
  const moves = vm.migrates && vm.policies.migrate.onFault({ start: at, end: at + bytes, access }) === "move";
  return window === null || (moves && !isAdvised) ? regions[tile]!.heapBytes : window.capacity;
}

interface Part {
  readonly start: Va;
  readonly end: Va;
  readonly access: number;
}

/** Whole pages, and no more of them than could be there at once. */
function partOf(vm: SvmVm, stream: LaunchStream, { items, tile }: StreamedLaunch, first: number, count: number): Part {
  const { at, bytes, access } = stream;
  const start = alignDown(at + Math.floor((first * bytes) / items), PAGE_SIZE);
  const end = alignUp(at + Math.ceil(((first + count) * bytes) / items), PAGE_SIZE);
  return { start, end: Math.min(end, start + roomFor(vm, stream, tile)), access };
}

/**
 * The quick way up has room for the first of them, and for the others by and by: the last bytes of a piece are on their way until
 * its pass has run, so who waited for room for a whole piece would wait for that.
 */
async function roomForUpload(vm: SvmVm, parts: readonly Part[]): Promise<void> {
  const bytes = parts.reduce((sum, { start, end }) => sum + end - start, 0);
  const ready = vm.device.gpu.uploadReady(Math.min(bytes, PIECE_BYTES / 2));
  if (ready !== undefined) await vm.sched.external(ready);
}

/** False: nothing of it could be had. What is there already is used once more, lest it gives way to the rest. */
async function bring(vm: SvmVm, part: Part, item: number, tile: number, pins: RoundPins): Promise<boolean> {
  let step = vm.chunkSizes[0]!;
  for (let size = 0; size < SIZES; size++) {
    const pages = pagesIn(vm, part, step, tile, size > 0);
    if (pages.length === 0) return true;
    const batch = hintBatch(pages, { asid: vm.asid, access: part.access, item, tile });
    const { served } = await vm.faults.serve(batch, pins, { isExpected: true });
    if (served === 0) return false;
    step = smallestRange(vm, pages);
  }
  return true;
}

/** The first page of each mapping, and of each `step` bytes where there is none; `missing`: of what is not mapped for the access. */
function pagesIn(vm: SvmVm, { start, end, access }: Part, step: number, tile: number, missing: boolean): Va[] {
  const pages: Va[] = [];
  for (let at = start; at < end;) {
    const mapping = vm.binds.at(at);
    const range = mapping?.isMirror === true ? vm.rangeAt(at) : null;
    const isThere = range !== null ? serves(range, at, access, tile) : mapping?.isMirror === false && mapping.isValid;
    if (!isThere || !missing) pages.push(at);
    if (isThere && range !== null) at = range.end;
    else at = mapping === null || mapping.isMirror ? alignDown(at, step) + step : mapping.end;
  }
  return pages;
}

function smallestRange(vm: SvmVm, pages: readonly Va[]): number {
  let smallest = vm.chunkSizes[0]!;
  for (const page of pages) smallest = Math.min(smallest, vm.rangeAt(page)?.size ?? PAGE_SIZE);
  return smallest;
}

/** Resolves when the pass is on its way. */
async function submitPass(
  vm: SvmVm,
  { launch, cause }: StreamedLaunch,
  first: number,
  count: number,
  watch: PassWatch,
): Promise<void> {
  const { device } = vm;
  const yielded = device.sched.point("driver:pass");
  if (yielded !== undefined) await yielded;
  // What others have submitted is read before the fault queue is emptied.
  const engine = await device.engineLock.lock();
  try {
    device.failLost();
    const ready = launch.ready();
    if (ready !== undefined) await device.sched.external(ready);
    vm.trace.record("stream-pass", vm.asid, 0, 0, count, cause);
    vm.stats.add("wgsvm_stream_pass_count");
    const { writeBack } = device.region;
    await device.submitFor(vm, async () => {
      writeBack?.submitting(vm);
      watch.add(launch.pass(first, count), count);
    });
  } finally {
    engine.release();
  }
}

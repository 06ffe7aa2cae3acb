/**
 * GPU SVM's loops of the C comparison: N ranges of 64 KiB in one anonymous area, over the real mm, faults in random
 * order under the driver's lock. Pure computation: runs in Node and in a page alike. How the C figures are scaled to
 * this machine: gpuvm-loops.ts.
 */
import { assert } from "../base/assert.ts";
import { isErr } from "../base/errno.ts";
import { RwSemaphore } from "../base/locks.ts";
import { type MaybePromise, isPromise } from "../base/maybe-promise.ts";
import { Scheduler } from "../base/scheduler.ts";
import { gpuSvmCtx } from "../gpusvm/ctx.ts";
import { GpuSvm } from "../gpusvm/gpusvm.ts";
import type { GpuSvmRange } from "../gpusvm/range.ts";
import { Mm } from "../mm/mm.ts";
import { PhysMemory } from "../mm/phys-mem.ts";
import { type GpuvmLoopSize, Xorshift, calibrate } from "./gpuvm-loops.ts";

export interface GpusvmLoopsOptions {
  /** Milliseconds. */
  readonly now: () => number;
  /** Default: 1000, 10000, 100000. There are C figures for these. */
  readonly sizes?: readonly GpuvmLoopSize[];
  /** Each loop's figure is its best of so many; default 7. */
  readonly repetitions?: number;
  /** Bytes of heap in use, after a collection where that can be asked for; without it memory is not reported. */
  readonly heapUsed?: () => number;
}

export interface GpusvmLoopResult {
  /** `"insert"`, `"hit"`, `"churn"`, `"find+remove"`. */
  readonly name: string;
  /** Number of ranges. */
  readonly n: number;
  /** Operations in one repetition, as the reference counts them. */
  readonly operations: number;
  /** Of the best repetition. */
  readonly seconds: number;
  readonly opsPerSecond: number;
  /** Median of the kernel's C code on the reference machine, operations per second. */
  readonly cPerSecond: number;
  /** Speed against the C code as scaled to this machine: 1 is as fast. */
  readonly ratio: number;
  /** Sum of range start / 65536 over the hit loop, checked against the kernel's; null for the other loops. */
  readonly checksum: number | null;
  /** Heap bytes of one range and its share of the trees, after the insert loop; null when not asked for. */
  readonly bytesPerMapping: number | null;
}

const STRIDE = 65536;
const BASE = 2 ** 40;
const MM_RANGE = 2 ** 47;
const PRIME = 7919;
/** One area and no page of it: RAM is for the machine's own two frames. */
const RAM_BYTES = 16 * 4096;
const CTX = gpuSvmCtx();

const C_PER_SECOND: Readonly<Record<GpuvmLoopSize, Readonly<Record<string, number>>>> = {
  1000: { insert: 5.8e6, hit: 13.4e6, churn: 2.6e6, "find+remove": 8.1e6 },
  10000: { insert: 3.1e6, hit: 6.2e6, churn: 1.7e6, "find+remove": 5.0e6 },
  100000: { insert: 3.0e6, hit: 1.4e6, churn: 0.46e6, "find+remove": 2.5e6 },
};
const NOTIFIERS: Readonly<Record<GpuvmLoopSize, number>> = { 1000: 1, 10000: 2, 100000: 13 };
const CHECKSUMS: Readonly<Record<GpuvmLoopSize, number>> = {
  1000: 16777715539848,
  10000: 16782217869848,
  100000: 16827249659848,
};

/** Runs the loops. Throws an `InvariantError` when a result is not the kernel's, or when anything has to wait. */
export function runGpusvmLoops(options: GpusvmLoopsOptions): GpusvmLoopResult[] {
  const { now, heapUsed } = options;
  const { factor } = calibrate(now);
  // The compiler gets its time before the first loop is measured: the smallest is over in a fifth of a millisecond.
  for (let i = 0; i < 3; i++) runOnce(10000, now);
  const results: GpusvmLoopResult[] = [];
  for (const n of options.sizes ?? [1000, 10000, 100000]) {
    const best = new Map<string, Timing>();
    for (let repetition = 0; repetition < (options.repetitions ?? 7); repetition++) {
      for (const timing of runOnce(n, now)) {
        const before = best.get(timing.name);
        if (before === undefined || timing.seconds < before.seconds) best.set(timing.name, timing);
      }
    }
    const bytesPerMapping = heapUsed === undefined ? null : measureMemory(n, heapUsed);
    for (const timing of best.values()) {
      const opsPerSecond = timing.operations / timing.seconds;
      const cPerSecond = C_PER_SECOND[n][timing.name]!;
      const ratio = opsPerSecond / (cPerSecond * factor);
      results.push({ ...timing, n, opsPerSecond, cPerSecond, ratio, bytesPerMapping });
    }
  }
  return results;
}

interface Timing {
  readonly name: string;
  readonly operations: number;
  readonly seconds: number;
  readonly checksum: number | null;
}

/** A mirror of a process with one area of N strides, and the faults of one driver. */
class Mirror {
  readonly svm: GpuSvm;
  readonly n: number;
  readonly #mm: Mm;
  readonly #lock = new RwSemaphore("bench: driver lock", "driverVm");

  constructor(n: number) {
    this.n = n;
    const scheduler = new Scheduler(NEVER_WAITS);
    this.#mm = new Mm({ phys: new PhysMemory({ ram: new Uint8Array(RAM_BYTES), sched: scheduler }) });
    const at = atOnce(this.#mm.mmap(n * STRIDE, { at: BASE }));
    assert(at === BASE, "the area of the loops");
    this.svm = new GpuSvm({
      name: "bench",
      drm: null,
      mm: this.#mm,
      mmStart: 0,
      mmRange: MM_RANGE,
      notifierSize: 512 << 20,
      chunkSizes: [65536, 4096],
      ops: { invalidate: () => undefined },
      scheduler,
    });
    this.svm.driverSetLock(this.#lock);
    assert(this.#lock.tryWrite() !== null, "the driver's lock is free");
  }

  fault(addr: number): GpuSvmRange {
    const range = this.svm.rangeFindOrInsert(addr, 0, MM_RANGE, CTX);
    if (isPromise(range) || isErr(range)) throw new Error(`the fault at ${addr} waits or fails`);
    return range;
  }

  remove(range: GpuSvmRange): void {
    atOnce(this.svm.rangeRemove(range));
  }
}

/** Nothing in these loops waits for anything. */
const NEVER_WAITS = {
  turn: () => Promise.reject(new Error("the loops have no event loop")),
  now: () => 0,
  sleep: () => Promise.reject(new Error("the loops do not sleep")),
};

function atOnce<T>(x: MaybePromise<T>): T {
  if (isPromise(x)) throw new Error("something waits in a loop with one activity");
  return x;
}

function runOnce(n: GpuvmLoopSize, now: () => number): Timing[] {
  const mirror = new Mirror(n);
  const timings: Timing[] = [];
  const timed = (name: string, operations: number, work: (m: Mirror) => number | null): void => {
    const start = now();
    const checksum = work(mirror);
    timings.push({ name, operations, checksum, seconds: (now() - start) / 1000 });
  };
  timed("insert", n, insert);
  assert(mirror.svm.notifierCount === NOTIFIERS[n], () => `${mirror.svm.notifierCount} notifiers`);
  timed("hit", 1000000, hit);
  const sum = timings.at(-1)!.checksum;
  assert(sum === CHECKSUMS[n], () => `hit checksum ${sum}, the kernel's code gives ${CHECKSUMS[n]}`);
  timed("churn", 200000, churn);
  timed("find+remove", n, findAndRemove);
  assert(mirror.svm.notifierCount === 0, () => `${mirror.svm.notifierCount} notifiers are left`);
  return timings;
}

function insert(mirror: Mirror): null {
  const { n } = mirror;
  for (let i = 0; i < n; i++) mirror.fault(BASE + ((i * PRIME) % n) * STRIDE + 0x3000);
  return null;
}

function hit(mirror: Mirror): number {
  const { n } = mirror;
  const random = new Xorshift();
  let sum = 0;
  for (let i = 0; i < 1000000; i++) {
    const s = random.next() % n;
    sum += mirror.fault(BASE + s * STRIDE + 0x5000).start / STRIDE;
  }
  return sum;
}

/** Finds a range, removes it, and makes it again by a fault elsewhere in its chunk. */
function churn(mirror: Mirror): null {
  const { n } = mirror;
  const random = new Xorshift();
  for (let i = 0; i < 200000; i++) {
    const at = BASE + (random.next() % n) * STRIDE;
    mirror.remove(mirror.fault(at));
    mirror.fault(at + 0xf000);
  }
  return null;
}

function findAndRemove(mirror: Mirror): null {
  const { n } = mirror;
  for (let i = 0; i < n; i++) mirror.remove(mirror.fault(BASE + ((i * PRIME) % n) * STRIDE));
  return null;
}

/** As many mirrors as make up 100,000 ranges, so that small things beside them do not count. */
function measureMemory(n: number, heapUsed: () => number): number {
  const mirrors = Array.from({ length: 100000 / n }, () => new Mirror(n));
  const before = heapUsed();
  for (const mirror of mirrors) insert(mirror);
  const used = heapUsed() - before;
  assert(
    mirrors.every((mirror) => mirror.svm.notifierCount > 0),
    "a mirror lost its ranges while it was measured",
  );
  return used / 100000;
}

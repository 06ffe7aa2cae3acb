/**
 * The GPU VA manager's loops of the C comparison: N mappings of 64 KiB, each operation applied inside its callback, an
 * object allocated for every mapping, no lists of objects. Pure computation: runs in Node and in a page alike.
 *
 * The C figures were taken on another machine. Two calibration loops ran there too, in C and in Node, and run here
 * again; the C figures are scaled by how much faster or slower this machine does them in JavaScript.
 */
import { assert } from "../base/assert.ts";
import { isErr } from "../base/errno.ts";
import { gpuvaMap, gpuvaRemap, gpuvaUnmap } from "../gpuvm/apply.ts";
import { GemObject } from "../gpuvm/gem-object.ts";
import { GpuVa } from "../gpuvm/gpuva.ts";
import { type GpuVm, gpuvmInit } from "../gpuvm/gpuvm.ts";
import { opsFree, smMapOpsCreate } from "../gpuvm/ops.ts";
import { smMap } from "../gpuvm/sm.ts";
import type { GpuVmOps } from "../gpuvm/vm-ops.ts";

export interface GpuvmLoopsOptions {
  /** Milliseconds. */
  readonly now: () => number;
  /** Default: 1000, 10000, 100000. There are C figures for these. */
  readonly sizes?: readonly GpuvmLoopSize[];
  /** Each loop's figure is its best of so many; default 7. */
  readonly repetitions?: number;
  /** Bytes of heap in use, after a collection where that can be asked for; without it memory is not reported. */
  readonly heapUsed?: () => number;
}

export type GpuvmLoopSize = 1000 | 10000 | 100000;

export interface GpuvmLoopResult {
  /** `"insert"`, `"map+apply"`, `"list only"`, `"find_first"`. */
  readonly name: string;
  /** Number of mappings. */
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
  /** The result of the loop, checked against the kernel's where that was recorded; else null. */
  readonly checksum: number | null;
  /** Heap bytes of one mapping and its share of the tree, after the insert loop; null when not asked for. */
  readonly bytesPerMapping: number | null;
}

/** Speeds of the calibration loops here, and how much faster than the reference machine's Node that is. */
export interface Calibration {
  readonly xorshiftPerSecond: number;
  readonly searchPerSecond: number;
  readonly mapSetPerSecond: number;
  /** Geometric mean of the first two over the reference. */
  readonly factor: number;
}

const STRIDE = 65536;
const RANDOM_START = 2463534242;

/** Of the reference machine, in Node 20. */
const REFERENCE = { xorshiftPerSecond: 5.45e8, searchPerSecond: 7.15e6 };

const C_PER_SECOND: Readonly<Record<GpuvmLoopSize, Readonly<Record<string, number>>>> = {
  1000: { insert: 6.4e6, "map+apply": 2.41e6, "list only": 6.8e6, find_first: 15.1e6 },
  10000: { insert: 4.4e6, "map+apply": 1.9e6, "list only": 4.6e6, find_first: 7.9e6 },
  100000: { insert: 1.83e6, "map+apply": 0.75e6, "list only": 1.08e6, find_first: 1.6e6 },
};

/** Sum of found address / 4096 in the last loop. */
const CHECKSUMS: Readonly<Record<GpuvmLoopSize, number>> = {
  1000: 7992637568,
  10000: 80029917568,
  100000: 800538557568,
};

/** Runs the loops. Throws an `InvariantError` when a result is not the kernel's. */
export function runGpuvmLoops(options: GpuvmLoopsOptions): GpuvmLoopResult[] {
  const { factor } = calibrate(options.now);
  // The compiler gets its time before the first loop is measured: the smallest is over in a third of a millisecond.
  for (let i = 0; i < 3; i++) runOnce(10000, options.now);
  const results: GpuvmLoopResult[] = [];
  for (const n of options.sizes ?? [1000, 10000, 100000]) {
    const best = new Map<string, Timing>();
    for (let repetition = 0; repetition < (options.repetitions ?? 7); repetition++) {
      for (const timing of runOnce(n, options.now)) {
        const before = best.get(timing.name);
        if (before === undefined || timing.seconds < before.seconds) best.set(timing.name, timing);
      }
    }
    const bytesPerMapping = options.heapUsed === undefined ? null : measureMemory(n, options.heapUsed);
    for (const timing of best.values()) {
      const opsPerSecond = timing.operations / timing.seconds;
      const cPerSecond = C_PER_SECOND[n][timing.name]!;
      results.push({
        ...timing,
        n,
        opsPerSecond,
        cPerSecond,
        ratio: opsPerSecond / (cPerSecond * factor),
        bytesPerMapping,
      });
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

/** xorshift32, the same sequence as the reference's. */
export class Xorshift {
  #state = RANDOM_START;

  next(): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return x >>> 0;
  }
}

/** Applies every step at once, in new mappings. */
const APPLY_OPS: GpuVmOps<number, GpuVm> = {
  smStepMap: (step, vm) => gpuvaMap(vm, new GpuVa(0, 0, null, 0), step),
  smStepRemap: (step) =>
    gpuvaRemap(
      step.prev === null ? null : new GpuVa(0, 0, null, 0),
      step.next === null ? null : new GpuVa(0, 0, null, 0),
      step,
    ),
  smStepUnmap: (step) => {
    gpuvaUnmap(step);
    return 0;
  },
};

function emptySpace(n: number): GpuVm {
  return gpuvmInit({ name: "bench", start: 0, range: n * STRIDE, ops: APPLY_OPS as GpuVmOps });
}

function makeObjects(): GemObject[] {
  return Array.from({ length: 9 }, (_, i) => new GemObject(`BO ${i}`, Number.MAX_SAFE_INTEGER));
}

function map(vm: GpuVm, addr: number, range: number, obj: GemObject, offset: number): void {
  const ret = smMap(vm, vm, { addr, range, obj, offset });
  assert(ret === 0, () => `smMap of ${addr} gave ${ret}`);
}

function fill(vm: GpuVm, n: number, objects: readonly GemObject[]): void {
  for (let i = 0; i < n; i++) {
    const s = (i * 7919) % n;
    map(vm, s * STRIDE, STRIDE, objects[1 + (s % 8)]!, s * STRIDE);
  }
}

function runOnce(n: GpuvmLoopSize, now: () => number): Timing[] {
  const vm = emptySpace(n);
  const objects = makeObjects();
  const timings: Timing[] = [];
  const timed = (name: string, operations: number, work: () => number | null): void => {
    const start = now();
    const checksum = work();
    timings.push({ name, operations, checksum, seconds: (now() - start) / 1000 });
  };
  timed("insert", n, () => {
    fill(vm, n, objects);
    return null;
  });
  timed("map+apply", 200000, () => mapAndApply(vm, n, objects));
  timed("list only", 200000, () => createAndFree(vm, n, objects));
  timed("find_first", 1000000, () => findFirst(vm, n));
  assert(vm.size === n, () => `${vm.size} mappings are left of ${n}`);
  const sum = timings.at(-1)!.checksum;
  assert(sum === CHECKSUMS[n], () => `find_first checksum ${sum}, the kernel's code gives ${CHECKSUMS[n]}`);
  return timings;
}

/** Cuts a hole into a mapping, then maps the whole over the three pieces. */
function mapAndApply(vm: GpuVm, n: number, objects: readonly GemObject[]): null {
  const random = new Xorshift();
  for (let k = 0; k < 200000; k += 2) {
    const s = random.next() % n;
    map(vm, s * STRIDE + 0x4000, 0x8000, objects[1 + (k % 8)]!, 0);
    map(vm, s * STRIDE, STRIDE, objects[1 + (s % 8)]!, s * STRIDE);
  }
  return null;
}

function createAndFree(vm: GpuVm, n: number, objects: readonly GemObject[]): null {
  const random = new Xorshift();
  for (let i = 0; i < 200000; i++) {
    const s = random.next() % n;
    const ops = smMapOpsCreate(vm, { addr: s * STRIDE + 0x4000, range: 0x8000, obj: objects[1]!, offset: 0 });
    assert(!isErr(ops), "no list of operations");
    opsFree(vm, ops);
  }
  return null;
}

function findFirst(vm: GpuVm, n: number): number {
  const random = new Xorshift();
  let sum = 0;
  for (let i = 0; i < 1000000; i++) {
    const s = random.next() % n;
    sum += vm.findFirst(s * STRIDE + 0x5000, 0x1000)!.addr / 4096;
  }
  return sum;
}

/** As many spaces as make up 100,000 mappings, so that small things beside them do not count. */
function measureMemory(n: number, heapUsed: () => number): number {
  const spaces = Array.from({ length: 100000 / n }, () => emptySpace(n));
  const objects = makeObjects();
  const before = heapUsed();
  for (const vm of spaces) fill(vm, n, objects);
  const used = heapUsed() - before;
  assert(
    spaces.every((vm) => vm.size === n),
    "a space lost mappings while it was measured",
  );
  return used / 100000;
}

/** Runs the calibration loops of the reference; of three runs the best counts. */
export function calibrate(now: () => number): Calibration {
  const sorted = Float64Array.from({ length: 100000 }, (_, i) => i * 3);
  const xorshiftPerSecond = speedOf(now, 1e8, xorshiftLoop);
  const searchPerSecond = speedOf(now, 1e6, (steps) => searchLoop(sorted, steps));
  const mapSetPerSecond = speedOf(now, 1e6, mapSetLoop);
  const factor = Math.sqrt(
    (xorshiftPerSecond / REFERENCE.xorshiftPerSecond) * (searchPerSecond / REFERENCE.searchPerSecond),
  );
  return { xorshiftPerSecond, searchPerSecond, mapSetPerSecond, factor };
}

/**
 * Steps per second. The result of the work is used, so that it cannot be optimised away; many short calls come first,
 * because a loop that is compiled while it runs stays at half of its speed.
 */
function speedOf(now: () => number, steps: number, work: (steps: number) => number): number {
  let best = Infinity;
  for (let i = 0; i < 300; i++) assert(work(steps / 10000) >= 0, "a calibration loop gave nonsense");
  for (let i = 0; i < 3; i++) {
    const start = now();
    assert(work(steps) >= 0, "a calibration loop gave nonsense");
    best = Math.min(best, (now() - start) / 1000);
  }
  return steps / best;
}

function xorshiftLoop(steps: number): number {
  let x = RANDOM_START;
  let sum = 0;
  for (let i = 0; i < steps; i++) {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    sum = (sum + x) | 0;
  }
  return sum >>> 0;
}

function searchLoop(sorted: Float64Array, steps: number): number {
  const random = new Xorshift();
  let sum = 0;
  for (let i = 0; i < steps; i++) {
    const key = random.next() % 300000;
    let lo = 0;
    let hi = sorted.length;
    while (lo < hi) {
      const mid = (lo + hi) >>> 1;
      if (sorted[mid]! < key) lo = mid + 1;
      else hi = mid;
    }
    sum += lo;
  }
  return sum;
}

function mapSetLoop(steps: number): number {
  const random = new Xorshift();
  const map = new Map<number, { a: number; b: number }>();
  for (let i = 0; i < steps; i++) {
    const k = random.next() % 100000;
    map.set(k, { a: k, b: i });
  }
  return map.size;
}

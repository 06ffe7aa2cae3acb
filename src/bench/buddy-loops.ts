/**
 * The buddy allocator's loops of the C comparison: 8 GiB in 4 KiB chunks, blocks of 4 KiB to 256 KiB, random order.
 * The checksums prove that the same blocks were handed out as by the kernel's code.
 */
import { assert } from "../base/assert.ts";
import { isErr } from "../base/errno.ts";
import { BUDDY_TOPDOWN, DrmBuddy } from "../vram/buddy.ts";
import type { BuddyBlock } from "../vram/buddy.ts";
import { calibrate } from "./gpuvm-loops.ts";

const SIZE = 8 * 2 ** 30;
const CHUNK = 4096;
const HELD = 10000;
const RANDOM_START = 2463534242;

export interface BuddyLoopResult {
  readonly name: string;
  /** Operations as the reference counts them. */
  readonly operations: number;
  readonly seconds: number;
  /** Median of the kernel's C code on the reference machine, operations per second. */
  readonly cPerSecond: number;
}

/** Sum of offset / 4096 of the blocks that the churn loop got, and the free bytes after it. */
export const BUDDY_CHECKSUM = 402876361439;
export const BUDDY_AVAIL = 0x1d3bf7000;

/** Runs the loops once. `now` gives milliseconds. Throws when the allocator hands out other blocks than the kernel. */
export function buddyLoops(now: () => number): BuddyLoopResult[] {
  const mm = DrmBuddy.create(SIZE, CHUNK);
  assert(!isErr(mm), "an allocator of 8 GiB");
  let state = RANDOM_START;
  const rand = (): number => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
  const alloc = (size: number, flags: number): BuddyBlock[] => {
    const blocks = mm.allocBlocks(0, mm.size, size, CHUNK, flags);
    assert(!isErr(blocks), "out of memory in a benchmark");
    return blocks;
  };
  const held: BuddyBlock[][] = [];
  const results: BuddyLoopResult[] = [];
  const timed = (name: string, operations: number, cPerSecond: number, work: () => void): void => {
    const start = now();
    work();
    results.push({ name, operations, cPerSecond, seconds: (now() - start) / 1000 });
  };

  timed("fill", HELD, 7.3e6, () => {
    for (let i = 0; i < HELD; i++) held.push(alloc(CHUNK << (rand() % 7), 0));
  });
  let sum = 0;
  timed("free and allocate", 200000, 7.9e6, () => {
    for (let n = 0; n < 200000; n++) {
      const i = rand() % HELD;
      mm.freeList(held[i]!, 0);
      const blocks = (held[i] = alloc(CHUNK << (rand() % 7), 0));
      for (const block of blocks) sum += block.offset / CHUNK;
    }
  });
  assert(sum === BUDDY_CHECKSUM, () => `buddy checksum ${sum}, the kernel's code gives ${BUDDY_CHECKSUM}`);
  assert(mm.avail === BUDDY_AVAIL, () => `avail ${mm.avail}, the kernel's code gives ${BUDDY_AVAIL}`);
  timed("free and allocate odd sizes top-down", 100000, 0.81e6, () => {
    for (let n = 0; n < 100000; n++) {
      const i = rand() % HELD;
      mm.freeList(held[i]!, 0);
      held[i] = alloc(CHUNK * (1 + (rand() % 64)), BUDDY_TOPDOWN);
    }
  });
  return results;
}

export interface BuddyLoopSpeed {
  readonly name: string;
  readonly opsPerSecond: number;
  readonly cPerSecond: number;
  /** Speed against the C code as scaled to this machine: 1 is as fast. */
  readonly ratio: number;
}

/** The compiler gets its time in so many runs. */
const WARM_UP = 4;
/** Runs between two calibrations. */
const STRETCH = 10;

/**
 * Best of the runs per loop, and the best of the calibrations between them: a machine that others use is slower at one
 * time than at another, and both sides must have had a quiet moment.
 */
export function runBuddyLoops(now: () => number, stretches = 3): BuddyLoopSpeed[] {
  for (let i = 0; i < WARM_UP; i++) buddyLoops(now);
  const runs: BuddyLoopResult[][] = [];
  let factor = calibrate(now).factor;
  for (let stretch = 0; stretch < stretches; stretch++) {
    for (let i = 0; i < STRETCH; i++) runs.push(buddyLoops(now));
    factor = Math.max(factor, calibrate(now).factor);
  }
  return runs[0]!.map(({ name, operations, cPerSecond }, i) => {
    const opsPerSecond = operations / Math.min(...runs.map((run) => run[i]!.seconds));
    return { name, opsPerSecond, cPerSecond, ratio: opsPerSecond / (cPerSecond * factor) };
  });
}

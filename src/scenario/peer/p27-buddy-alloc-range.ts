import type { Block, Buddy } from "../structures.ts";
import type { Scenario } from "../verbs.ts";

export const meta = {
  title: "Buddy alloc_range: exact windows of the memory, taken, refused, and given back",
  tags: ["buddy"],
};

const KIB = 1 << 10;
const MIB = 1 << 20;

export default async function (s: Scenario): Promise<void> {
  tile(s, "16 MiB in one", 16 * MIB, [[0, 16 * MIB]]);
  tile(
    s,
    "four quarters",
    16 * MIB,
    [0, 1, 2, 3].map((i) => [i * 4 * MIB, 4 * MIB]),
  );
  tile(
    s,
    "every single page",
    64 * KIB,
    Array.from({ length: 16 }, (_, i) => [i * 4 * KIB, 4 * KIB]),
  );
  tile(s, "7 MiB of roots 4, 2 and 1 whole", 7 * MIB, [[0, 7 * MIB]]);
  tile(s, "16 random slices", 16 * MIB, randomSlices(s));
  const board = Array.from({ length: 64 }, (_, i): Window => [i * 64 * KIB, 64 * KIB]);
  const [even, odd] = [board.filter((_, i) => i % 2 === 0), board.filter((_, i) => i % 2 === 1)];
  tile(s, "a checkerboard of 64 KiB, then its gaps", 4 * MIB, [...even, ...odd]);
  tile(s, "4K@0, 64K@64K, 1M@1M, 4M@4M", 16 * MIB, [
    [0, 4 * KIB],
    [64 * KIB, 64 * KIB],
    [MIB, MIB],
    [4 * MIB, 4 * MIB],
  ]);

  const u = s.buddy(16 * MIB);
  const half = take(u, [4 * MIB, 2 * MIB]);
  for (const [name, window, code] of [
    ["a window half taken", [4 * MIB, 4 * MIB], "ENOSPC"],
    ["a misaligned start", [KIB, 64 * KIB], "EINVAL"],
    ["a misaligned size", [0, 63 * KIB], "EINVAL"],
    ["a window that reaches outside", [15 * MIB, 2 * MIB], "EINVAL"],
  ] as const) {
    await s.fails(() => take(u, window), code, `${name} is refused`);
    s.must(u.avail === 14 * MIB, `${name}: the free space is as it was`);
  }
  u.free(half);
  for (let i = 0; i < 5; i++) {
    const blocks = take(u, [4 * MIB, 2 * MIB]);
    s.must(isExact(blocks, [4 * MIB, 2 * MIB]), `[4M, 6M) taken and freed, time ${i + 1}`);
    u.free(blocks);
  }
  s.must(isWhole(u, 16 * MIB), "with all free the largest block can be had again");
}

type Window = readonly [start: number, size: number];

function take(u: Buddy, [start, size]: Window): Block[] {
  return u.alloc(size, { start, end: start + size });
}

/** The blocks make up the window, without a gap. */
function isExact(blocks: readonly Block[], [start, size]: Window): boolean {
  let at = start;
  for (const block of [...blocks].sort((a, b) => a.off - b.off)) {
    if (block.off !== at) return false;
    at += block.size;
  }
  return at === start + size;
}

function isWhole(u: Buddy, size: number): boolean {
  const [block, ...more] = u.alloc(size, { min: size });
  return more.length === 0 && block?.off === 0 && block.size === size;
}

function tile(s: Scenario, name: string, size: number, windows: readonly Window[]): void {
  const u = s.buddy(size);
  const held = windows.map((window) => take(u, window));
  const isRight = held.every((blocks, i) => isExact(blocks, windows[i]!));
  s.must(isRight, `${name}: exact start and size each time`);
  s.must(u.avail === size - windows.reduce((sum, [, bytes]) => sum + bytes, 0), `${name}: the rest is free`);
  for (const blocks of held) u.free(blocks);
  const root = 2 ** Math.floor(Math.log2(size));
  s.must(u.avail === size && isWhole(u, root), `${name}: after freeing all the largest block can be had again`);
}

/** 16 slices of whole pages that tile 16 MiB, in a random order. */
function randomSlices(s: Scenario): Window[] {
  const cuts = new Set<number>();
  while (cuts.size < 15) cuts.add(1 + (s.random() % 4095));
  const borders = [0, ...[...cuts].sort((a, b) => a - b), 4096];
  const slices = borders.slice(1).map((end, i): Window => [borders[i]! * 4096, (end - borders[i]!) * 4096]);
  return slices
    .map((slice) => [s.random(), slice] as const)
    .sort(([a], [b]) => a - b)
    .map(([, slice]) => slice);
}

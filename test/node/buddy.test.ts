import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { SZ_4K, SZ_64K } from "../../src/base/addr.ts";
import { InvariantError } from "../../src/base/assert.ts";
import { EINVAL, ENOSPC, isErr } from "../../src/base/errno.ts";
import type { Errno } from "../../src/base/errno.ts";
import { KernelError } from "../../src/base/errors.ts";
import {
  BUDDY_CLEAR,
  BUDDY_CLEARED,
  BUDDY_CONTIGUOUS,
  BUDDY_RANGE,
  BUDDY_TOPDOWN,
  BUDDY_TRIM_DISABLE,
  DrmBuddy,
} from "../../src/vram/buddy.ts";
import type { BuddyBlock } from "../../src/vram/buddy.ts";
import { ilog2 } from "../../src/vram/buddy-tree.ts";

const K = 1024;
const CHUNK = 4 * K;

function create(size: number, chunk = CHUNK): DrmBuddy {
  const mm = DrmBuddy.create(size, chunk);
  if (isErr(mm)) throw new Error(`create: ${mm}`);
  return mm;
}
interface Ask {
  start?: number;
  end?: number;
  min?: number;
  flags?: number;
}
/** Sizes in KiB. */
function ask(mm: DrmBuddy, size: number, a: Ask = {}): BuddyBlock[] | Errno {
  const end = a.end === undefined ? mm.size : a.end * K;
  return mm.allocBlocks((a.start ?? 0) * K, end, size * K, (a.min ?? 4) * K, a.flags ?? 0);
}
function take(mm: DrmBuddy, size: number, a: Ask = {}): BuddyBlock[] {
  const blocks = ask(mm, size, a);
  if (isErr(blocks)) throw new Error(`alloc ${size}K: ${blocks}`);
  return blocks;
}
/** `48+8 56+4`: offset and size in KiB. */
const show = (blocks: readonly BuddyBlock[]): string => blocks.map((b) => `${b.offset / K}+${b.size / K}`).join(" ");
/** `0+32 32+16`, with a `c` behind clear blocks, by offset. */
function free(mm: DrmBuddy): string {
  return mm
    .freeBlocks()
    .sort((a, b) => a.offset - b.offset)
    .map((b) => `${b.offset / K}+${(mm.chunkSize * 2 ** b.order) / K}${b.cleared ? "c" : ""}`)
    .join(" ");
}

describe("the worked examples of the specification, 64 KiB manager", () => {
  test("allocations come from the top, split to the right, and merge back", () => {
    const mm = create(64 * K);
    const a = take(mm, 4);
    expect([show(a), free(mm)]).toEqual(["60+4", "0+32 32+16 48+8 56+4"]);
    const b = take(mm, 4);
    expect(show(b)).toBe("56+4");
    const c = take(mm, 8);
    expect([show(c), free(mm)]).toEqual(["48+8", "0+32 32+16"]);
    const d = take(mm, 20);
    expect([show(d), free(mm)]).toEqual(["32+16 28+4", "0+16 16+8 24+4"]);
    mm.freeList(b, 0);
    expect([mm.avail, free(mm)]).toEqual([32 * K, "0+16 16+8 24+4 56+4"]);
    mm.freeList(a, 0);
    expect(free(mm)).toBe("0+16 16+8 24+4 56+8");
    mm.freeList(c, 0);
    mm.freeList(d, 0);
    expect(free(mm)).toBe("0+64");
    expect(mm.fini()).toEqual([]);
  });

  test.each<[string, number, Ask, string, string]>([
    ["20K contiguous", 20, { flags: BUDDY_CONTIGUOUS }, "32+16 48+4", "0+32 52+4 56+8"],
    ["12K in blocks of 8K", 12, { min: 8 }, "48+8 56+4", "0+32 32+16 60+4"],
    ["the same untrimmed", 12, { min: 8, flags: BUDDY_TRIM_DISABLE }, "48+16", "0+32 32+16"],
    ["4K in blocks of 16K", 4, { min: 16 }, "48+4", "0+32 32+16 52+4 56+8"],
    ["the same untrimmed", 4, { min: 16, flags: BUDDY_TRIM_DISABLE }, "48+16", "0+32 32+16"],
    ["8K contiguous forgets its minimum", 8, { min: 16, flags: BUDDY_CONTIGUOUS }, "56+8", "0+32 32+16 48+8"],
    ["16K in a range: the first aligned slot", 16, { start: 8, end: 40, flags: BUDDY_RANGE }, "16+16", "0+16 32+32"],
    ["an exact range", 16, { start: 8, end: 24 }, "8+8 16+8", "0+8 24+8 32+32"],
    ["a long exact range", 24, { start: 4, end: 28 }, "4+4 8+8 16+8 24+4", "0+4 28+4 32+32"],
  ])("fresh: %s", (_name, size, a, blocks, rest) => {
    const mm = create(64 * K);
    expect([show(take(mm, size, a)), free(mm)]).toEqual([blocks, rest]);
  });

  test.each<[string, number, Ask, string, string]>([
    ["the smallest order first", 4, {}, "0+4", "8+8 16+16 32+32"],
    ["top-down: the highest offset first", 4, { flags: BUDDY_TOPDOWN }, "60+4", "0+4 8+8 16+16 32+16 48+8 56+4"],
    ["no aligned slot in the range", 16, { min: 16, end: 20, flags: BUDDY_RANGE }, "-28", "0+4 8+8 16+16 32+32"],
  ])("with 4K at 4K taken: %s", (_name, size, a, result, rest) => {
    const mm = create(64 * K);
    take(mm, 4, { start: 4, end: 8 });
    const blocks = ask(mm, size, a);
    expect([isErr(blocks) ? String(blocks) : show(blocks), free(mm)]).toEqual([result, rest]);
  });

  test.each<[string, Ask, string, string]>([
    ["touching blocks are found", {}, "28+4 32+16", "4+4 8+8 16+8 24+4 52+4 56+8"],
    ["a minimum may give more than asked", { min: 8 }, "24+8 32+16", "4+4 8+8 16+8 52+4 56+8"],
  ])("with 4K at 0 and at 48K taken, 20K contiguous: %s", (_name, a, blocks, rest) => {
    const mm = create(64 * K);
    take(mm, 4, { start: 0, end: 4 });
    take(mm, 4, { start: 48, end: 52 });
    expect([show(take(mm, 20, { ...a, flags: BUDDY_CONTIGUOUS })), free(mm)]).toEqual([blocks, rest]);
  });

  test.each<[string, boolean, string]>([
    ["without clear memory it stops at a split block", false, "24+8 32+16"],
    ["with clear memory somewhere it goes on to the first page taken", true, "28+4 32+16 48+4"],
  ])("24K contiguous, 8K at 48K half taken: %s", (_name, clear, blocks) => {
    const mm = create(64 * K);
    take(mm, 4, { start: 0, end: 4 });
    take(mm, 4, { start: 52, end: 56 });
    take(mm, 8, { start: 56, end: 64 });
    if (clear) mm.freeList(take(mm, 4, { start: 4, end: 8 }), BUDDY_CLEARED);
    expect(show(take(mm, 24, { flags: BUDDY_CONTIGUOUS }))).toBe(blocks);
  });

  test.each<[string, number | undefined, string, string]>([
    ["from its beginning", undefined, "32+8 40+4", "0+32 44+4 48+16"],
    ["from a start inside", 40, "40+8 48+4", "0+32 32+8 52+4 56+8"],
  ])("trim keeps 12K of a block %s", (_name, start, blocks, rest) => {
    const mm = create(64 * K);
    const list = take(mm, 32);
    expect(mm.trim(list, 12 * K, start === undefined ? undefined : start * K)).toBe(0);
    expect([show(list), free(mm)]).toEqual([blocks, rest]);
  });

  test.each<[number, string, string, number]>([
    [8, "56+8", "dirty: forced merge", 28],
    [4, "56+4 48+4", "both clear", 24],
  ])("clear and dirty single pages, 8K CLEAR in blocks of %iK: %s (%s)", (min, blocks, _what, clear) => {
    const mm = create(64 * K);
    const pages = Array.from({ length: 16 }, (_, i) => take(mm, 4, { start: i * 4, end: i * 4 + 4 }));
    pages.forEach((page, i) => mm.freeList(page, i % 2 === 0 ? BUDDY_CLEARED : 0));
    const got = take(mm, 8, { min, flags: BUDDY_CLEAR });
    expect([show(got), mm.clearAvail]).toEqual([blocks, clear * K]);
    expect(got.every((b) => b.cleared)).toBe(min === 4);
    expect(mm.freeBlocks()).toHaveLength(14);
  });

  test("28 KiB have three roots", () => {
    const mm = create(28 * K);
    expect([free(mm), mm.maxOrder, mm.rootCount]).toEqual(["0+16 16+8 24+4", 2, 3]);
  });
});

test("the example at the top of buddy.ts", () => {
  const mm = DrmBuddy.create(SZ_64K, SZ_4K);
  if (isErr(mm)) throw KernelError.fromErrno(mm, "buddy");
  const blocks = mm.allocBlocks(0, mm.size, 5 * SZ_4K, SZ_4K, 0);
  expect(blocks).toMatchObject([
    { offset: 0xc000, size: 4 * SZ_4K },
    { offset: 0xb000, size: SZ_4K },
  ]);
  if (!isErr(blocks)) mm.freeList(blocks, BUDDY_CLEARED);
  expect(mm.clearAvail).toBe(5 * SZ_4K);
});

describe("refusals", () => {
  test.each([
    ["memory below one chunk", 4095, 4096],
    ["a chunk below 4096", 65536, 2048],
    ["a chunk that is no power of two", 65536, 12288],
  ])("create: %s", (_name, size, chunk) => {
    expect(DrmBuddy.create(size, chunk)).toBe(EINVAL);
  });

  test.each<[string, number, number, number, number]>([
    ["no bytes", 0, 65536, 0, 4096],
    ["a size that is no multiple of a chunk", 0, 65536, 4097, 4096],
    ["a minimum that is no power of two", 0, 65536, 12288, 12288],
    ["a minimum below a chunk", 0, 65536, 4096, 2048],
    ["an unaligned start", 1, 65536, 4096, 4096],
    ["an unaligned end", 0, 65535, 4096, 4096],
    ["an end beyond the memory", 0, 65536 + 4096, 4096, 4096],
    ["a start at the end", 65536, 65536, 4096, 4096],
    ["more than the memory", 0, 65536, 65536 + 4096, 4096],
    ["an exact range off its minimum", 4096, 12288, 8192, 8192],
  ])("alloc: %s", (_name, start, end, size, min) => {
    expect(create(65536).allocBlocks(start, end, size, min, 0)).toBe(EINVAL);
  });

  test("a failed request gives back what it had taken, with its clear state", () => {
    const mm = create(64 * K);
    const a = take(mm, 32);
    mm.freeList(take(mm, 16), BUDDY_CLEARED);
    const before = [free(mm), mm.avail, mm.clearAvail];
    expect(ask(mm, 48)).toBe(ENOSPC);
    expect([free(mm), mm.avail, mm.clearAvail]).toEqual(before);
    mm.freeList(a, 0);
  });

  test("trim: several blocks, sizes and starts that do not fit", () => {
    const mm = create(64 * K);
    expect(mm.trim(take(mm, 12), 4 * K)).toBe(EINVAL);
    const list = take(mm, 16);
    const at = list[0]!.offset;
    for (const [size, start] of [
      [0],
      [4095],
      [20 * K],
      [8 * K, at - 4 * K],
      [8 * K, at + 12 * K],
      [8 * K, at + 1],
    ] as const) {
      expect(mm.trim(list, size!, start)).toBe(EINVAL);
    }
    expect(mm.trim(list, 16 * K, 1)).toBe(0);
    expect(show(list)).toBe(`${at / K}+16`);
  });

  test("freeing a block twice is a bug", () => {
    const mm = create(64 * K);
    const [block] = take(mm, 4);
    mm.freeBlock(block!);
    expect(() => mm.freeBlock(block!)).toThrow(InvariantError);
    expect(() => mm.freeList([block!], 0)).toThrow(InvariantError);
  });

  test("fini names what was still allocated", () => {
    const mm = create(64 * K);
    take(mm, 4);
    expect(mm.fini()).toHaveLength(2);
  });
});

describe("clear tracking", () => {
  test("a block frees with the state it had, a list with the state given", () => {
    const mm = create(64 * K);
    mm.freeList(take(mm, 64), BUDDY_CLEARED);
    expect(free(mm)).toBe("0+64c");
    const [block] = take(mm, 16, { flags: BUDDY_CLEAR });
    expect(block!.cleared).toBe(true);
    mm.freeBlock(block!);
    expect(free(mm)).toBe("0+64c");
    mm.freeList(take(mm, 16), 0);
    expect(free(mm)).toBe("0+32c 32+16c 48+16");
  });

  test("resetClear merges all and gives it one state", () => {
    const mm = create(64 * K);
    mm.freeList(take(mm, 16), BUDDY_CLEARED);
    expect(free(mm)).toBe("0+32 32+16 48+16c");
    mm.resetClear(true);
    expect([free(mm), mm.clearAvail]).toEqual(["0+64c", 64 * K]);
    mm.resetClear(false);
    expect([free(mm), mm.clearAvail]).toEqual(["0+64", 0]);
  });
});

describe("sizes beyond 32 bits", () => {
  test.each([
    [1, 0],
    [2, 1],
    [3, 1],
    [4095, 11],
    [2 ** 31, 31],
    [2 ** 32 - 1, 31],
    [2 ** 32, 32],
    [2 ** 40 + 5, 40],
    [2 ** 53 - 1, 52],
  ])("ilog2(%i) is %i", (x, log) => {
    expect(ilog2(x)).toBe(log);
  });

  test("eight PiB are split and merged like a page, by every search", () => {
    const mm = create(2 ** 52);
    expect(mm.maxOrder).toBe(40);
    const top = take(mm, 4);
    expect(top[0]!.offset).toBe(2 ** 52 - CHUNK);
    const half = mm.allocBlocks(0, mm.size, 2 ** 51, 2 ** 51, BUDDY_TOPDOWN);
    expect(half).toMatchObject([{ offset: 0, size: 2 ** 51 }]);
    const ranged = mm.allocBlocks(2 ** 51, mm.size, 2 ** 46, 2 ** 46, BUDDY_RANGE);
    expect(ranged).toMatchObject([{ offset: 2 ** 51 }]);
    expect(mm.allocBlocks(0, mm.size, 2 ** 51, 2 ** 51, 0)).toBe(ENOSPC);
    mm.freeList(half as BuddyBlock[], 0);
    mm.freeList(ranged as BuddyBlock[], 0);
    mm.freeList(top, 0);
    expect(mm.freeBlocks()).toEqual([{ offset: 0, order: 40, cleared: false }]);
  });
});

/** The model: one state per chunk, and nothing about blocks. */
describe("against a bitmap of chunks", () => {
  const chunks = 7 * 16 + 3;
  type Command =
    | { kind: "alloc"; size: number; min: number; flags: number; start: number; span: number }
    | { kind: "free"; pick: number; flags: number }
    | { kind: "freeOne"; pick: number }
    | { kind: "trim"; pick: number; size: number }
    | { kind: "reset"; clear: boolean };
  const command: fc.Arbitrary<Command> = fc.oneof(
    {
      weight: 6,
      arbitrary: fc.record({
        kind: fc.constant("alloc" as const),
        size: fc.integer({ min: 1, max: 24 }),
        min: fc.constantFrom(1, 1, 1, 2, 4, 8),
        flags: fc.constantFrom(0, 0, 1, 2, 4, 8, 9, 12, 32, 33, 40),
        start: fc.integer({ min: 0, max: chunks - 1 }),
        span: fc.integer({ min: 1, max: chunks }),
      }),
    },
    {
      weight: 4,
      arbitrary: fc.record({
        kind: fc.constant("free" as const),
        pick: fc.nat(),
        flags: fc.constantFrom(0, BUDDY_CLEARED),
      }),
    },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant("freeOne" as const), pick: fc.nat() }) },
    {
      weight: 1,
      arbitrary: fc.record({
        kind: fc.constant("trim" as const),
        pick: fc.nat(),
        size: fc.integer({ min: 1, max: 8 }),
      }),
    },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant("reset" as const), clear: fc.boolean() }) },
  );

  test("blocks never overlap, sums agree, and everything merges back at the end", () => {
    fc.assert(
      fc.property(
        fc.array(command, { maxLength: 120, size: "max" }),
        fc.constantFrom("6.15" as const, "6.18" as const),
        (commands, compat) => {
          const mm = DrmBuddy.create(chunks * CHUNK, CHUNK, { compat }) as DrmBuddy;
          const used = new Uint8Array(chunks);
          const live: BuddyBlock[][] = [];
          const set = (blocks: readonly BuddyBlock[], value: 0 | 1): void => {
            for (const b of blocks) {
              for (let c = b.offset / CHUNK; c < (b.offset + b.size) / CHUNK; c++) {
                expect(used[c]).toBe(1 - value);
                used[c] = value;
              }
            }
          };
          for (const c of commands) {
            const list = "pick" in c && live.length > 0 ? live[c.pick % live.length]! : null;
            if (c.kind === "alloc") {
              const ranged = (c.flags & BUDDY_RANGE) !== 0;
              const start = ranged ? c.start * CHUNK : 0;
              const end = ranged ? Math.min(chunks, c.start + c.span) * CHUNK : mm.size;
              let blocks: BuddyBlock[] | Errno;
              try {
                blocks = mm.allocBlocks(start, end, c.size * CHUNK, c.min * CHUNK, c.flags);
              } catch (error) {
                expect(compat).toBe("6.15");
                expect(error).toBeInstanceOf(InvariantError);
                continue;
              }
              if (isErr(blocks)) {
                // Pages in any order, out of the whole memory, can only be refused when they are not there.
                if (!ranged && c.min === 1 && (c.flags & BUDDY_CONTIGUOUS) === 0)
                  expect(mm.avail).toBeLessThan(c.size * CHUNK);
                continue;
              }
              set(blocks, 1);
              live.push(blocks);
              const sum = blocks.reduce((s, b) => s + b.size, 0);
              if ((c.flags & (BUDDY_CONTIGUOUS | BUDDY_TRIM_DISABLE)) === 0) expect(sum).toBe(c.size * CHUNK);
              else expect(sum).toBeGreaterThanOrEqual(c.size * CHUNK);
              for (const b of blocks) {
                expect(b.offset % b.size).toBe(0);
                if (ranged) expect(b.offset >= start && b.offset + b.size <= end).toBe(true);
              }
              if ((c.flags & BUDDY_CONTIGUOUS) !== 0) {
                blocks.slice(1).forEach((b, i) => expect(b.offset).toBe(blocks[i]!.offset + blocks[i]!.size));
              }
            } else if (c.kind === "reset") {
              mm.resetClear(c.clear);
              expect(mm.clearAvail).toBe(c.clear ? mm.avail : 0);
            } else if (list !== null && c.kind === "free") {
              set(list, 0);
              mm.freeList(list, c.flags);
              live.splice(live.indexOf(list), 1);
            } else if (list !== null && c.kind === "freeOne") {
              set([list[0]!], 0);
              mm.freeBlock(list.shift()!);
              if (list.length === 0) live.splice(live.indexOf(list), 1);
            } else if (list !== null && c.kind === "trim") {
              const before = list.slice();
              if (mm.trim(list, c.size * CHUNK) === 0) {
                set(before, 0);
                set(list, 1);
              }
            }
            const freeBlocks = mm.freeBlocks();
            const freeChunks = freeBlocks.reduce((s, b) => s + 2 ** b.order, 0);
            const clearChunks = freeBlocks.reduce((s, b) => s + (b.cleared ? 2 ** b.order : 0), 0);
            expect(freeChunks).toBe(chunks - used.reduce((s, u) => s + u, 0));
            expect(mm.avail).toBe(freeChunks * CHUNK);
            expect(mm.clearAvail).toBe(clearChunks * CHUNK);
            const keys = new Set(freeBlocks.map((b) => `${b.offset} ${b.order} ${b.cleared}`));
            for (const b of freeBlocks) {
              expect(used[b.offset / CHUNK]).toBe(0);
              // Free buddies of equal state are always merged.
              const size = CHUNK * 2 ** b.order;
              const buddy = b.offset % (2 * size) === 0 ? b.offset + size : b.offset - size;
              expect(keys.has(`${buddy} ${b.order} ${b.cleared}`)).toBe(false);
            }
          }
          for (const blocks of live) mm.freeList(blocks, 0);
          expect(mm.fini()).toEqual([]);
          expect(mm.freeBlocks()).toHaveLength(mm.rootCount);
        },
      ),
      { numRuns: 25 },
    );
  });
});

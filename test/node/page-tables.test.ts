import { beforeEach, describe, expect, test } from "vitest";
import { PAGE_SIZE, SZ_1G, SZ_2M, SZ_64K } from "../../src/base/addr.ts";
import { InvariantError } from "../../src/base/assert.ts";
import { ENOMEM } from "../../src/base/errno.ts";
import { PTE_AE, PTE_DM, PTE_NULL, PTE_W, REASON_EVICTED, REASON_POISONED, REASON_ZAPPED } from "../../src/abi/pte.ts";
import { GpuPageTables } from "../../src/driver/page-tables.ts";
import { PageRuns } from "../../src/driver/page-table-runs.ts";
import { ALL_SIZES, TableSpace, referenceGpu } from "./page-tables-model.ts";

const V = 0x7f00_0000_0000;
const RW = PTE_W | PTE_AE | PTE_DM;
const PIECES = SZ_2M / SZ_64K;
/** 16 MiB aligned, with room for anything above it. */
const PA = 5 * SZ_1G;
const K4 = PAGE_SIZE;

let space: TableSpace;
beforeEach(() => {
  space = new TableSpace();
});

/** Runs of bytes: `[bytes, pa, flags]`. */
type Run = readonly [bytes: number, pa: number, flags?: number];
function map(va: number, ...list: Run[]): number {
  const runs = new PageRuns();
  for (const [bytes, pa, flags] of list) runs.push(bytes / PAGE_SIZE, pa, flags ?? RW);
  return space.tables.mapRuns(va, runs);
}

/** 2 MiB as 64 KiB pieces, each elsewhere. */
function pieces(first = PA): Run[] {
  return Array.from({ length: PIECES }, (_, i) => [SZ_64K, first + ((i * 7) % PIECES) * SZ_64K * 2] as const);
}

/** 4 KiB pages that nowhere adjoin. */
function scattered(pages: number, first = PA): Run[] {
  return Array.from({ length: pages }, (_, i) => [K4, first + (pages - i) * K4] as const);
}

const NAMES = new Map([
  [K4, "4K"],
  [SZ_64K, "64K"],
  [SZ_2M, "2M"],
  [SZ_1G, "1G"],
]);
/** Leaf sizes in order, equal ones counted: `2M 3x64K`. */
function sizes(lo = V, hi = V + 4 * SZ_1G): string {
  const found: [string, number][] = [];
  for (const leaf of space.tables.forEachLeaf(lo, hi)) {
    const name = NAMES.get(leaf.size)!;
    if (found.at(-1)?.[0] === name) found.at(-1)![1] += 1;
    else found.push([name, 1]);
  }
  return found.map(([name, n]) => (n === 1 ? name : `${n}x${name}`)).join(" ");
}

const tableCount = (): number => space.tables.bytes / PAGE_SIZE;
const entries = (update: () => unknown): number[] => space.done(update).writes.map((w) => w.entries);
/** Flushed interval relative to V, in pages: `0-512`. */
function flushed(update: () => unknown): string | null {
  const text = space.done(update).flushed;
  if (text === null) return null;
  return text
    .split("-")
    .map((hex) => (Number.parseInt(hex, 16) - V) / K4)
    .join("-");
}

describe("the largest leaf that fits", () => {
  test.each<[string, number, Run[], string]>([
    ["15 pages", 0, [[15 * K4, PA]], "15x4K"],
    ["16 pages", 0, [[SZ_64K, PA]], "64K"],
    ["16 pages at an unaligned VA", K4, [[SZ_64K, PA + K4]], "16x4K"],
    ["16 pages at an unaligned PA", 0, [[SZ_64K, PA + K4]], "16x4K"],
    ["17 pages", 0, [[SZ_64K + K4, PA]], "64K 4K"],
    ["511 pages", 0, [[SZ_2M - K4, PA]], "31x64K 15x4K"],
    ["512 pages", 0, [[SZ_2M, PA]], "2M"],
    ["512 pages at an unaligned VA", SZ_64K, [[SZ_2M, PA]], "32x64K"],
    ["512 pages at a PA aligned to 64 KiB", 0, [[SZ_2M, PA + SZ_64K]], "32x64K"],
    ["2 MiB of 64 KiB pieces", 0, pieces(), "32x64K"],
    ["2 MiB of pages", 0, scattered(512), "512x4K"],
    [
      "2 MiB with other permissions from the middle on",
      0,
      [
        [SZ_2M / 2, PA],
        [SZ_2M / 2, PA + SZ_2M / 2, PTE_DM],
      ],
      "32x64K",
    ],
    ["a run around two 2 MiB", SZ_2M - SZ_64K, [[2 * SZ_2M + 2 * SZ_64K, PA - SZ_64K]], "64K 2x2M 64K"],
    ["1 GiB - 2 MiB", 0, [[SZ_1G - SZ_2M, PA]], "511x2M"],
    ["1 GiB", 0, [[SZ_1G, PA]], "1G"],
    ["1 GiB at a PA aligned to 2 MiB", 0, [[SZ_1G, PA + SZ_2M]], "512x2M"],
    ["NULL: the address counts alone", 0, [[SZ_1G + SZ_2M + SZ_64K + K4, 12345 * K4, PTE_NULL]], "1G 2M 64K 4K"],
    ["NULL at an unaligned VA", K4, [[SZ_2M, 0, PTE_NULL]], "15x4K 31x64K 4K"],
    [
      "NULL pieces with equal flags are one run",
      0,
      [
        [SZ_2M / 2, PA, PTE_NULL],
        [SZ_2M / 2, 0, PTE_NULL],
      ],
      "2M",
    ],
    ["window pages", 0, [[SZ_2M, PA, PTE_W]], "2M"],
  ])("%s", (_name, offset, runs, expected) => {
    expect(map(V + offset, ...runs)).toBe(0);
    expect(sizes()).toBe(expected);
  });

  test.each<[string, number[], string]>([
    ["4 KiB alone", [K4], "512x4K"],
    ["64 KiB", [SZ_64K], "32x64K"],
    ["2 MiB", [K4, SZ_2M], "2M"],
  ])("of the allowed sizes: %s", (_name, leafSizes, expected) => {
    space = new TableSpace(leafSizes);
    map(V, [SZ_2M, PA]);
    expect(sizes()).toBe(expected);
  });

  test("1 GiB leaves are allowed only with 2 MiB leaves to split them into", () => {
    const allocator = { alloc: () => 2 * K4, free: () => {} };
    expect(() => GpuPageTables.create(referenceGpu(), allocator, [K4, SZ_1G])).toThrow(InvariantError);
  });

  test("-ENOMEM without a root", () => {
    expect(GpuPageTables.create(referenceGpu(), { alloc: () => ENOMEM, free: () => {} }, ALL_SIZES)).toBe(ENOMEM);
  });
});

describe("what a leaf says", () => {
  test.each([
    ["writable, atomics, VRAM", RW, RW],
    ["read-only", PTE_DM | PTE_AE, PTE_DM | PTE_AE],
    ["no atomics", PTE_DM | PTE_W, PTE_DM | PTE_W],
    ["system window", PTE_W | PTE_AE, PTE_W | PTE_AE],
    ["NULL keeps nothing but W", RW | PTE_NULL, PTE_NULL | PTE_W],
    ["NULL, read-only", PTE_DM | PTE_NULL, PTE_NULL],
  ])("%s", async (_name, flags, expected) => {
    for (const [at, bytes] of [
      [0, K4],
      [SZ_64K, SZ_64K],
      [SZ_2M, SZ_2M],
      [SZ_1G, SZ_1G],
    ] as const) {
      map(V + at, [bytes, PA + at, flags]);
      const va = V + at + bytes - K4;
      const pa = (flags & PTE_NULL) === 0 ? PA + at : 0;
      expect(space.tables.lookup(va)).toEqual({ kind: "leaf", va: V + at, size: bytes, pa, flags: expected });
      const inPage = (flags & PTE_NULL) === 0 ? bytes - K4 : 0;
      expect((await space.walker())(va)).toEqual({
        present: true,
        pa: pa + inPage,
        flags: expected,
        size: bytes,
        reason: 0,
      });
    }
  });

  test.each([K4, SZ_64K])("addresses go on across 4 GiB of memory in leaves of %i bytes", async (unit) => {
    map(V, [10 * unit, 2 ** 32 - 5 * unit]);
    const walk = await space.walker();
    for (let i = 0; i < 10; i++) {
      expect(walk(V + i * unit)).toMatchObject({ pa: 2 ** 32 + (i - 5) * unit, size: unit });
    }
  });

  test("an absent page gives the reason why, at the level where the walk ends", async () => {
    map(V, ...scattered(20));
    space.tables.zap(V, V + 8 * K4, REASON_EVICTED);
    space.tables.zap(V + 4 * K4, V + 12 * K4, REASON_ZAPPED);
    const reasons = [0, 4, 8, 11, 19, 20, 1000].map((page) => {
      const found = space.tables.lookup(V + page * K4);
      return found.kind === "leaf" ? "leaf" : `${found.level}:${found.reason}`;
    });
    expect(reasons).toEqual(["0:1", "0:1", "0:2", "0:2", "leaf", "0:0", "1:0"]);
    const walk = await space.walker();
    expect(walk(V + 4 * K4).reason).toBe(REASON_EVICTED);
  });

  test("the pages left absent when part of a zapped 2 MiB is mapped keep its reason", () => {
    for (const runs of [[[SZ_2M, PA]] as Run[], scattered(512), pieces()]) {
      map(V, ...runs);
      space.tables.zap(V, V + SZ_2M, REASON_POISONED);
      map(V + 3 * K4, [K4, PA]);
      expect(space.tables.lookup(V + 4 * K4)).toEqual({ kind: "not-present", level: 0, reason: REASON_POISONED });
    }
  });
});

describe("compact tables", () => {
  beforeEach(() => {
    map(V, ...pieces());
  });

  test("take 32 entries, and one to link them", () => {
    space = new TableSpace();
    map(V + SZ_2M, [K4, PA]);
    expect(entries(() => map(V, ...pieces()))).toEqual([32, 1]);
  });

  test("are not begun for less than 2 MiB, and not where they are not wanted", () => {
    space = new TableSpace();
    map(V + SZ_2M, [K4, PA]);
    expect(entries(() => map(V, ...pieces().slice(1)))).toEqual([512, 1]);
    space = new TableSpace(ALL_SIZES, { compact: false });
    map(V + SZ_2M, [K4, PA]);
    expect(entries(() => map(V, ...pieces()))).toEqual([512, 1]);
    expect(sizes()).toBe("32x64K 4K");
  });

  test("stay when a 64 KiB piece is replaced by another", () => {
    expect(entries(() => map(V + 3 * SZ_64K, [SZ_64K, PA + SZ_1G]))).toEqual([1]);
    expect(space.tables.lookup(V + 3 * SZ_64K)).toMatchObject({ pa: PA + SZ_1G, size: SZ_64K });
  });

  test("give way to an ordinary table when 4 KiB come in, and only that piece is flushed", () => {
    const before = tableCount();
    expect(flushed(() => map(V + 3 * SZ_64K + K4, [K4, PA + SZ_1G]))).toBe("48-64");
    expect(sizes()).toBe("3x64K 16x4K 28x64K");
    expect(tableCount()).toBe(before);
  });

  test("cannot lose 4 KiB before they were split", () => {
    expect(() => space.tables.zap(V, V + K4, 0)).toThrow(InvariantError);
    expect(() => space.tables.unmap(V, V + K4)).toThrow(InvariantError);
    expect(space.tables.split(V + K4, V + SZ_2M)).toBe(0);
    space.tables.zap(V, V + K4, 0);
    expect(sizes()).toBe("15x4K 31x64K");
  });
});

describe("writes", () => {
  test("a mapping writes its new tables whole and unlinked, then the one entry that leads to them", () => {
    const { writes } = space.done(() => map(V, [K4, PA]));
    expect(writes.map((w) => w.entries)).toEqual([512, 512, 512, 1]);
    expect(writes.at(-1)!.pa - (writes.at(-1)!.pa % K4)).toBe(space.tables.root);
  });

  test.each<[string, Run[], Run[], number[]]>([
    ["the same pages", scattered(512), scattered(512), []],
    ["the same 2 MiB leaf", [[SZ_2M, PA]], [[SZ_2M, PA]], []],
    [
      "one page of 512",
      scattered(512),
      [...scattered(512).slice(0, 100), [K4, PA + SZ_1G], ...scattered(512).slice(101)],
      [1],
    ],
    [
      "two pages that do not adjoin",
      scattered(8),
      [[K4, PA], ...scattered(8).slice(1, 5), [K4, PA], ...scattered(8).slice(6)],
      [1, 1],
    ],
    ["neighbours", scattered(8), scattered(8, PA + SZ_1G), [8]],
  ])("rebinding %s writes what differs", (_name, before, after, expected) => {
    map(V, ...before);
    expect(entries(() => map(V, ...after))).toEqual(expected);
  });

  test("neighbouring 2 MiB leaves are one write", () => {
    map(V + SZ_1G / 2, [K4, PA]);
    expect(entries(() => map(V, [32 * SZ_2M, PA]))).toEqual([32]);
  });

  test("a zap of 2 MiB clears one pointer, and the same pages come back with one", () => {
    map(V, ...scattered(512));
    map(V + SZ_2M, [K4, PA]);
    expect(entries(() => space.tables.zap(V, V + SZ_2M, 2))).toEqual([1]);
    expect(sizes(V, V + SZ_2M)).toBe("");
    expect(entries(() => map(V, ...scattered(512)))).toEqual([1]);
    space.tables.zap(V, V + SZ_2M, 2);
    expect(entries(() => map(V + 9 * K4, [K4, PA]))).toEqual([512, 1]);
    expect(sizes(V, V + SZ_2M)).toBe("4K");
  });

  test("a zap of part of a table clears what is there, and what is absent stays unwritten", () => {
    map(V, ...scattered(10));
    expect(entries(() => space.tables.zap(V + 4 * K4, V + SZ_2M, 2))).toEqual([6]);
    expect(entries(() => space.tables.zap(V, V + SZ_2M, 2))).toEqual([4]);
    expect(entries(() => space.tables.zap(V, V + SZ_1G, 2))).toEqual([]);
  });

  test("an unmap of all that a subtree holds is one write, however deep it is", () => {
    map(V, [SZ_1G, PA]);
    map(V + SZ_1G, ...scattered(700));
    map(V + SZ_1G + 3 * SZ_2M, [SZ_2M, PA]);
    expect(entries(() => space.tables.unmap(V + SZ_1G, V + SZ_1G + 4 * SZ_2M))).toEqual([1]);
    expect(sizes()).toBe("1G");
    expect(entries(() => space.tables.unmap(V, V + SZ_1G))).toEqual([1]);
    expect(tableCount()).toBe(1);
  });

  test("an unmap takes along what a zap left empty beside it", () => {
    map(V, [K4, PA]);
    map(V + SZ_2M, [K4, PA]);
    space.tables.zap(V + SZ_2M, V + SZ_2M + K4, 2);
    expect(entries(() => space.tables.unmap(V, V + K4))).toEqual([1]);
    expect(tableCount()).toBe(1);
  });

  test("pages of a 64 KiB page change together: the others lose the hint", () => {
    map(V, [SZ_2M - SZ_64K, PA]);
    expect(entries(() => map(V + SZ_64K + 5 * K4, [K4, PA + SZ_1G]))).toEqual([16]);
    expect(sizes()).toBe("64K 16x4K 29x64K");
    expect(entries(() => space.tables.zap(V + 8 * K4, V + 15 * K4, 2))).toEqual([16]);
    expect(sizes()).toBe("25x4K 29x64K");
  });
});

describe("when the TLB must forget (spec/device.md 2.4)", () => {
  const BIG: Run = [SZ_2M, PA];
  test.each<[string, Run[], Run[], string | null]>([
    ["not present to present", [], scattered(4), null],
    ["nothing changes", scattered(4), scattered(4), null],
    ["another PA", scattered(4), scattered(4, PA + SZ_1G), "0-4"],
    ["another PA for one page", scattered(4), [...scattered(4).slice(0, 2), [K4, PA], ...scattered(4).slice(3)], "2-3"],
    ["another aperture", [[K4, PA, RW]], [[K4, PA, PTE_W | PTE_AE]], "0-1"],
    ["less permission: W", [[K4, PA, RW]], [[K4, PA, RW - PTE_W]], "0-1"],
    ["less permission: AE", [[K4, PA, RW]], [[K4, PA, RW - PTE_AE]], "0-1"],
    ["more permission: W", [[K4, PA, RW - PTE_W]], [[K4, PA, RW]], null],
    ["more permission: AE", [[K4, PA, RW - PTE_AE]], [[K4, PA, RW]], null],
    ["one permission for the other", [[K4, PA, RW - PTE_AE]], [[K4, PA, RW - PTE_W]], "0-1"],
    ["more permission, 2 MiB", [[SZ_2M, PA, PTE_DM]], [[SZ_2M, PA, RW]], null],
    ["less permission, 2 MiB", [BIG], [[SZ_2M, PA, PTE_DM]], "0-512"],
    ["NULL to real", [[K4, 0, PTE_NULL]], [[K4, PA]], "0-1"],
    ["real to NULL", [[K4, PA]], [[K4, 0, PTE_NULL]], "0-1"],
    ["a 2 MiB leaf is split", [BIG], [[K4, PA + SZ_1G]], "0-512"],
    ["a 1 GiB leaf is split", [[SZ_1G, PA]], [[K4, PA + SZ_1G]], `0-${SZ_1G / K4}`],
    ["pages merge into 2 MiB", [[SZ_2M - K4, PA]], [BIG], "0-512"],
    ["pages merge into 64 KiB", [[SZ_64K - K4, PA]], [[SZ_64K, PA]], "0-15"],
    ["part of a 64 KiB page", [[SZ_64K, PA]], [[K4, PA + SZ_1G]], "0-16"],
  ])("%s", (_name, before, after, expected) => {
    if (before.length > 0) map(V, ...before);
    space.flush();
    expect(flushed(() => map(V, ...after))).toBe(expected);
  });

  test("directory change with the same leaves: hints for a compact table and back", () => {
    space = new TableSpace();
    map(V, ...pieces().slice(0, 16));
    map(V + SZ_2M / 2, ...pieces().slice(16));
    space.flush();
    expect(entries(() => space.tables.collapse(V, V + SZ_2M))).toEqual([32, 1]);
    space = new TableSpace();
    map(V, ...pieces().slice(0, 16));
    map(V + SZ_2M / 2, ...pieces().slice(16));
    space.flush();
    expect(flushed(() => space.tables.collapse(V, V + SZ_2M))).toBe(null);
    expect(sizes()).toBe("32x64K");
  });

  test("present to not present: what was there, and a second zap nothing", () => {
    map(V + K4, ...scattered(4));
    space.flush();
    expect(flushed(() => space.tables.zap(V, V + SZ_2M, 2))).toBe("1-5");
    expect(flushed(() => space.tables.zap(V, V + SZ_2M, 2))).toBe(null);
    expect(flushed(() => space.tables.unmap(V, V + SZ_2M))).toBe(null);
    map(V, ...scattered(512));
    space.flush();
    expect(flushed(() => space.tables.zap(V, V + SZ_2M, 2))).toBe("0-512");
  });

  test.each([
    ["a page", [K4, PA], "5-6"],
    ["64 KiB", [SZ_64K, PA], "16-32"],
  ] satisfies [string, Run, string][])("scratch to real, where the table stands: %s", (_name, run, expected) => {
    space = new TableSpace(ALL_SIZES, { scratch: true });
    map(V, [K4, PA + SZ_1G]);
    space.flush();
    expect(flushed(() => map(V + (run[0] === K4 ? 5 * K4 : SZ_64K), run))).toBe(expected);
  });

  test("several updates are flushed as one interval", () => {
    map(V, [SZ_2M, PA], [SZ_2M, PA + SZ_1G], ...scattered(9));
    space.flush();
    const both = (): void => {
      space.tables.zap(V + 2 * SZ_2M + 4 * K4, V + 2 * SZ_2M + 5 * K4, 2);
      space.tables.zap(V + SZ_2M, V + 2 * SZ_2M, 2);
    };
    expect(flushed(both)).toBe("512-1029");
  });

  test("an unmap at the edge of a table that leaves flushes no more than it was asked for", () => {
    map(V + SZ_2M - 4 * K4, ...scattered(8));
    space.flush();
    expect(flushed(() => space.tables.unmap(V + SZ_2M - 4 * K4, V + SZ_2M + 4 * K4))).toBe("508-516");
  });
});

describe("the order of writes", () => {
  const order = (update: () => unknown): string[] =>
    space.done(update).events.map((e) => (e.kind === "write" ? `write ${e.words.length / 2}` : e.kind));

  test("a split: the new table, the entry, the flush", () => {
    map(V, [SZ_2M, PA]);
    space.flush();
    expect(order(() => space.tables.split(V + K4, V + SZ_2M))).toEqual(["alloc", "write 512", "write 1", "invalidate"]);
    expect(sizes()).toBe("16x4K 31x64K");
  });

  test("a split at 64 KiB takes a compact table", () => {
    map(V, [SZ_2M, PA]);
    space.flush();
    expect(order(() => space.tables.split(V + SZ_64K, V + SZ_2M))).toEqual([
      "alloc",
      "write 32",
      "write 1",
      "invalidate",
    ]);
    expect(sizes()).toBe("32x64K");
  });

  test("a split at 64 KiB where compact tables are not wanted takes an ordinary one", () => {
    space = new TableSpace(ALL_SIZES, { compact: false });
    map(V, [SZ_2M, PA]);
    expect(entries(() => space.tables.split(V + SZ_64K, V + SZ_2M)).slice(-2)).toEqual([512, 1]);
    expect(sizes()).toBe("32x64K");
  });

  test("a split of 1 GiB goes down to where the cut is", () => {
    map(V, [SZ_1G, PA]);
    space.flush();
    const cut = V + 5 * SZ_2M + SZ_64K;
    expect(order(() => space.tables.split(cut, V + SZ_1G))).toEqual([
      "alloc",
      "alloc",
      "write 512",
      "write 32",
      "write 1",
      "invalidate",
    ]);
    expect(sizes()).toBe("5x2M 32x64K 506x2M");
  });

  test("a split where leaves end already does nothing", () => {
    map(V, [SZ_2M, PA], [SZ_64K, PA]);
    space.flush();
    expect(order(() => space.tables.split(V, V + SZ_2M))).toEqual([]);
    expect(order(() => space.tables.split(V + SZ_2M, V + SZ_2M + SZ_64K))).toEqual([]);
  });

  test("a collapse: the leaf, the flush, and then the table is free", () => {
    map(V, [SZ_2M, PA]);
    space.tables.split(V + K4, V + SZ_2M);
    space.flush();
    expect(order(() => space.tables.collapse(V, V + SZ_2M))).toEqual(["write 1", "invalidate", "free"]);
    expect(sizes()).toBe("2M");
  });

  test("a collapse of 1 GiB frees all its tables, and holes are left alone", () => {
    map(V, [SZ_1G, PA]);
    space.tables.split(V + K4, V + SZ_2M + SZ_64K);
    space.tables.collapse(V, V + SZ_1G);
    space.flush();
    expect([sizes(), tableCount()]).toEqual(["1G", 3 - 1]);
    space.tables.split(V + K4, V + SZ_2M + SZ_64K);
    space.tables.zap(V, V + K4, 2);
    space.tables.collapse(V, V + SZ_1G);
    expect(sizes()).toBe("15x4K 31x64K 511x2M");
  });

  test("tables that leave are used again only behind the flush", () => {
    map(V, ...scattered(8));
    map(V + SZ_1G, ...scattered(8));
    space.flush();
    const held = tableCount();
    space.take();
    space.tables.unmap(V, V + 8 * K4);
    map(V + 8 * SZ_2M, ...scattered(8));
    space.flush();
    const kinds = space.take().map((e) => e.kind);
    expect(kinds.lastIndexOf("alloc")).toBeLessThan(kinds.indexOf("invalidate"));
    expect(kinds.indexOf("invalidate")).toBeLessThan(kinds.indexOf("free"));
    expect(tableCount()).toBe(held);
  });

  test("a zap never frees a table", () => {
    map(V, [SZ_1G + SZ_2M, PA + SZ_64K], ...scattered(600));
    const held = tableCount();
    expect(order(() => space.tables.zap(V, V + 2 * SZ_1G, 2))).not.toContain("free");
    expect([tableCount(), sizes()]).toEqual([held, ""]);
    space.tables.unmap(V, V + 2 * SZ_1G);
    space.flush();
    expect(tableCount()).toBe(1);
  });
});

describe("tables that a zap of all above them left behind", () => {
  beforeEach(() => {
    // 1 GiB in 2 MiB leaves but for the first two, which have tables of their own.
    map(V, [SZ_1G, PA + SZ_2M]);
    map(V, ...scattered(512, PA + 2 * SZ_1G));
    map(V + SZ_2M, ...pieces(PA + 3 * SZ_1G));
    space.flush();
    expect(entries(() => space.tables.zap(V, V + SZ_1G, REASON_EVICTED))).toEqual([1]);
  });

  test("come back with their old content where the same is mapped again, and the rest keeps its reason", () => {
    const held = tableCount();
    expect(entries(() => map(V, ...scattered(512, PA + 2 * SZ_1G)))).toEqual([511, 1]);
    expect([sizes(), tableCount()]).toEqual(["512x4K", held]);
    for (const at of [SZ_2M, SZ_1G - K4]) {
      expect(space.tables.lookup(V + at)).toEqual({ kind: "not-present", level: 1, reason: REASON_EVICTED });
    }
    expect(entries(() => map(V + SZ_2M, ...pieces(PA + 3 * SZ_1G)))).toEqual([1]);
    expect(tableCount()).toBe(held);
  });

  test("leave where a big leaf takes their place", () => {
    const held = tableCount();
    map(V, [SZ_2M, PA]);
    space.flush();
    expect(tableCount()).toBe(held - 1);
    map(V, [SZ_1G, PA]);
    space.flush();
    expect([sizes(), tableCount()]).toEqual(["1G", held - 3]);
    space.tables.unmap(V, V + SZ_1G);
    space.flush();
    expect([tableCount(), space.used]).toEqual([1, 1]);
  });

  test("leave with an unmap, and with the address space", () => {
    space.tables.unmap(V, V + SZ_1G);
    space.flush();
    expect([tableCount(), space.used]).toEqual([1, 1]);
    map(V, [SZ_1G, PA + SZ_64K]);
    space.tables.zap(V, V + SZ_1G, REASON_EVICTED);
    space.tables.destroy();
    expect(space.used).toBe(0);
  });
});

describe("bounds", () => {
  test("four levels end at 48 bits, five where numbers do", () => {
    const five = new TableSpace(ALL_SIZES, { levels: 5 });
    expect([space.tables.levels, space.tables.vaEnd]).toEqual([4, 2 ** 48]);
    expect([five.tables.levels, five.tables.vaEnd]).toEqual([5, 2 ** 53]);
    expect(map(2 ** 48 - K4, [K4, PA])).toBe(0);
    expect(() => map(2 ** 48, [K4, PA])).toThrow(InvariantError);
    space = five;
    expect(map(2 ** 48, [K4, PA])).toBe(0);
    expect(map(2 ** 53 - K4, [K4, PA])).toBe(0);
    expect(five.tables.lookup(2 ** 53 - 1)).toMatchObject({ pa: PA });
    expect(tableCount()).toBe(9);
  });

  test("a part of a big leaf cannot be taken away before it was split", () => {
    map(V, [SZ_2M, PA]);
    map(V + SZ_1G, [SZ_1G, PA]);
    for (const at of [V, V + SZ_1G]) {
      expect(() => space.tables.zap(at, at + SZ_64K, 0)).toThrow(InvariantError);
      expect(() => space.tables.unmap(at, at + SZ_64K)).toThrow(InvariantError);
    }
    expect(sizes()).toBe("2M 1G");
  });

  test("what was mapped can be taken away again without a split, whatever it was mapped over", () => {
    map(V, [SZ_1G, PA]);
    map(V + SZ_64K, [SZ_64K, PA + SZ_64K]);
    space.tables.zap(V + SZ_64K, V + 2 * SZ_64K, 0);
    map(V + 5 * SZ_2M + K4, [K4, PA + 5 * SZ_2M + K4]);
    expect(space.tables.unmap(V + 5 * SZ_2M + K4, V + 5 * SZ_2M + 2 * K4)).toBe(1);
    expect(sizes(V, V + SZ_2M)).toBe("31x64K");
  });

  test("a full aperture: -ENOMEM, nothing changes, and what needs no table still works", () => {
    let at = V;
    while (map(at, [K4, PA]) === 0) at += SZ_2M;
    const writes = space.done(() => expect(map(at, [K4, PA])).toBe(ENOMEM)).writes;
    expect(writes).toEqual([]);
    expect(map(V + K4, [K4, PA])).toBe(0);
    expect(map(at, [SZ_2M, PA])).toBe(0);
    expect(space.tables.split(at + K4, at + SZ_2M)).toBe(ENOMEM);
    expect(space.tables.lookup(at)).toMatchObject({ size: SZ_2M });
    space.tables.unmap(V, V + SZ_2M);
    space.flush();
    expect(space.tables.split(at + K4, at + SZ_2M)).toBe(0);
  });
});

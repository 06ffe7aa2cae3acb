import { describe, expect, it } from "vitest";
import { Random } from "../../src/base/random.ts";
import { choiceOf } from "../../src/bench/auto-choice.ts";
import { COPY_PATHS, makeTransfer } from "../../src/device/paths/index.ts";
import type { Layout } from "../../src/device/paths/index.ts";

const paths = (samples: Record<string, readonly number[]>) => new Map(Object.entries(samples));

describe("how good a choice is", () => {
  it("is 1 for the best path, whatever its noise", () => {
    expect(choiceOf("a", "pinned", paths({ a: [1, 3, 1, 3, 2, 2], b: [9, 9, 9, 9, 9, 9] }))).toEqual({
      way: "a",
      table: "pinned",
      best: "a",
      ratio: 1,
    });
  });

  it("is the median of the ratios within each repetition, so that a busy moment counts once for both", () => {
    const b = [1, 1, 40, 40, 1, 1, 1, 1];
    const a = b.map((ms) => 1.5 * ms);
    expect(choiceOf("a", "pinned", paths({ a, b }))).toEqual({ way: "a", table: "pinned", best: "b", ratio: 1.5 });
  });

  it("does not hold against a path that others were lucky: the best is picked in one half and compared in the other", () => {
    // c is the quickest in the even repetitions, d in the odd ones, by luck; all are the same.
    const even = (ms: number, other: number) => Array.from({ length: 20 }, (_, i) => (i % 2 === 0 ? ms : other));
    const { best, ratio } = choiceOf("a", "pinned", paths({ a: even(1, 1), c: even(0.8, 1.25), d: even(1.25, 0.8) }))!;
    expect(best).toMatch(/[acd]/);
    // Compared where they were lucky, the ratio would be 1.25.
    expect(ratio).toBe(0.8);
  });

  it.each([
    ["with fewer than 4 repetitions", "a", { a: [1, 1, 1], b: [1, 1, 1] }],
    ["without the chosen path", "c", { a: [1, 1, 1, 1] }],
    ["without any path", "a", {}],
  ])("is unknown %s", (_, way, samples) => expect(choiceOf(way, "pinned", paths(samples))).toBeNull());
});

describe("paths that do exactly the same for a transfer", () => {
  const sameAs = (name: string, layout: Layout, bytes: number) =>
    COPY_PATHS.find((path) => path.name === name)!.sameAs!(makeTransfer(layout, bytes, new Random(1)));
  it.each([
    ["copy per page + map", "random", 65536, "copy per run + map"],
    ["clearBuffer per page", "strided", 65536, "clearBuffer per run"],
    ["writeBuffer per page", "contiguous", 4096, "writeBuffer per run"],
    ["writeBuffer per page", "contiguous", 8192, null],
    ["ring: copy + map", "contiguous", 4 << 20, "copy per run + map"],
    ["ring: copy + map", "contiguous", (4 << 20) + 4096, null],
  ] as const)("%s, %s, %i bytes: %s", (name, layout, bytes, same) => expect(sameAs(name, layout, bytes)).toBe(same));
});

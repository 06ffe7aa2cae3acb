import { describe, expect, it } from "vitest";
import { Random } from "../../src/base/random.ts";
import { compareResults } from "../../src/bench/compare.ts";
import type { BenchRow } from "../../src/bench/result.ts";
import { medianInterval, summarize } from "../../src/bench/stats.ts";
import { resultOf, row } from "./bench-result.ts";

const verdictOf = (before: BenchRow, after: BenchRow) =>
  compareResults(resultOf([before]), resultOf([after])).changes[0]!.verdict;

describe("what changed beyond the noise", () => {
  it.each([
    { to: 1.2, verdict: "slower" },
    { to: 1.06, verdict: "slower" },
    // Beyond the noise, but not worth a word.
    { to: 1.04, verdict: "same" },
    { to: 1, verdict: "same" },
    { to: 1 / 1.04, verdict: "same" },
    { to: 1 / 1.06, verdict: "faster" },
    { to: 0.5, verdict: "faster" },
  ])("a time that becomes $to of what it was is $verdict", ({ to, verdict }) => {
    expect(verdictOf(row("x", 2), row("x", 2 * to))).toBe(verdict);
  });

  it("is not a difference of medians that lies inside the scatter", () => {
    const wide = (shift: number) => {
      const samples = Array.from({ length: 30 }, (_, i) => 1 + i / 10 + shift);
      return row("x", 1, { samples, ms: summarize(samples) });
    };
    expect(verdictOf(wide(0), wide(0.3))).toBe("same");
    expect(verdictOf(wide(0), wide(3))).toBe("slower");
  });

  it("is judged by the 95 % interval where the files have no samples", () => {
    const { samples: _, ...bare } = row("x", 2);
    expect(verdictOf(bare, { ...bare, ms: row("x", 3).ms })).toBe("slower");
    expect(verdictOf(bare, bare)).toBe("same");
  });

  it.each([
    { n: 8, verdict: "unclear" },
    { n: 9, verdict: "slower" },
  ])("is $verdict from $n samples, however far they are apart", ({ n, verdict }) => {
    const few = (around: number) => {
      const samples = row("x", around).samples!.slice(0, n);
      return row("x", around, { samples, ms: summarize(samples) });
    };
    expect(verdictOf(few(1), few(10))).toBe(verdict);
    expect(verdictOf(few(1), few(1))).toBe("same");
  });

  it("is seldom found between two runs of the same", () => {
    const random = new Random(5);
    const noisy = () => {
      // Skewed, as times are.
      const samples = Array.from({ length: 30 }, () => 1 / (0.1 + random.below(1000) / 1000));
      return row("x", 1, { samples, ms: summarize(samples) });
    };
    let found = 0;
    for (let i = 0; i < 1000; i++) if (verdictOf(noisy(), noisy()) !== "same") found++;
    expect(found).toBeLessThanOrEqual(10);
  });

  it("names a self-check that fails now, and one that failed before", () => {
    const wrong = row("x", 2, { error: "the word at 0 is wrong" });
    expect(verdictOf(row("x", 2), wrong)).toBe("broken");
    expect(verdictOf(wrong, row("x", 2))).toBe("mended");
    expect(verdictOf(row("x", 2), row("x", 2, { ms: null, error: "out of memory" }))).toBe("broken");
  });
});

describe("two results", () => {
  it("are joined by path, size, layout and mode", () => {
    const before = [row("x", 1), row("x", 1, { bytes: 4096 }), row("x", 1, { layout: "random" }), row("gone", 1)];
    const after = [row("x", 1), row("x", 1, { mode: "first touch" }), row("x", 1, { layout: "random" })];
    const { changes, onlyBefore, onlyAfter } = compareResults(resultOf(before), resultOf(after));
    expect(changes.map(({ id }) => id)).toEqual(["paths/upload/x/64KiB/contiguous", "paths/upload/x/64KiB/random"]);
    expect(onlyBefore).toEqual(["paths/upload/x/4KiB/contiguous", "paths/upload/gone/64KiB/contiguous"]);
    expect(onlyAfter).toEqual(["paths/upload/x/64KiB/contiguous/first touch"]);
  });

  it("tell how the bounds changed, which depend on no path", () => {
    const bound = (ms: number) => row("JavaScript memory copy", ms, { kind: "bound" });
    const { bound: ratio } = compareResults(resultOf([bound(1), row("x", 1)]), resultOf([bound(1.5), row("x", 1)]));
    expect(ratio).toBeCloseTo(1.5);
    expect(compareResults(resultOf([row("x", 1)]), resultOf([row("x", 1)])).bound).toBeNull();
  });

  it("tell under which conditions they differ; what one does not know is not compared", () => {
    const one = resultOf([row("x", 1)]);
    const { environment } = one;
    const other = resultOf([row("x", 1)], {
      options: { ...one.options, limits: "default" },
      environment: { ...environment!, cores: 8, browser: { version: "157.0.1.2", args: [] } },
    });
    expect(compareResults(one, other).conditions).toEqual([
      "browser: 156.0 before, 157.0 after",
      "cores: 2 before, 8 after",
      "limits: adapter before, default after",
    ]);
    const inPage = resultOf([row("x", 1)], { environment: { ...environment!, browser: null } });
    expect(compareResults(one, inPage).conditions).toEqual([]);
  });
});

describe("the interval of the median", () => {
  // Ranks counted from 1, by the binomial distribution: P(B(n, 1/2) < first rank) is at most half of what is left over.
  it.each([
    { n: 5, level: 0.95, ranks: [1, 5] },
    { n: 6, level: 0.95, ranks: [1, 6] },
    { n: 9, level: 0.95, ranks: [2, 8] },
    { n: 15, level: 0.95, ranks: [4, 12] },
    { n: 20, level: 0.95, ranks: [6, 15] },
    { n: 60, level: 0.95, ranks: [22, 39] },
    { n: 15, level: 0.99, ranks: [3, 13] },
    { n: 60, level: 0.99, ranks: [20, 41] },
  ])("of $n samples at $level", ({ n, level, ranks }) => {
    const sorted = Float64Array.from({ length: n }, (_, i) => i + 1);
    const { low, high } = medianInterval(sorted, level);
    expect([low, high]).toEqual(ranks);
  });

  it("stays an interval where 2 to the power of minus n is no number any more", () => {
    const { low, high } = medianInterval(
      Float64Array.from({ length: 4000 }, (_, i) => i),
      0.95,
    );
    expect(low).toBeGreaterThan(1900);
    expect(low).toBeLessThan(1950);
    expect(high).toBe(3999 - low);
  });
});

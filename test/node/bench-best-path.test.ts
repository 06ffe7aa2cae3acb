import { expect, test } from "vitest";
import { Random } from "../../src/base/random.ts";
import { summarize } from "../../src/bench/stats.ts";
import { bestOfAll } from "../../src/bench/best-path.ts";

function samplesOf(random: Random, n: number, base: number): number[] {
  return Array.from({ length: n }, () => base + random.below(1000) / 1000);
}

test("the path with the least median is the best, and its samples count", () => {
  const random = new Random(3);
  const paths = [samplesOf(random, 21, 9), samplesOf(random, 21, 2), samplesOf(random, 21, 5)];
  const best = bestOfAll(paths);
  expect(best.index).toBe(1);
  expect(best.samples.toSorted()).toEqual(paths[1]!.toSorted());
});

test("of many equal paths the best is not better than any of them", () => {
  const random = new Random(5);
  let picked = 0;
  let least = 0;
  const trials = 400;
  for (let trial = 0; trial < trials; trial++) {
    const paths = Array.from({ length: 6 }, () => samplesOf(random, 21, 0));
    picked += summarize(bestOfAll(paths).samples).median / trials;
    least += Math.min(...paths.map((samples) => summarize(samples).median)) / trials;
  }
  // All have the median 0.5.
  expect(picked).toBeGreaterThan(0.485);
  expect(picked).toBeLessThan(0.515);
  expect(least).toBeLessThan(0.4);
});

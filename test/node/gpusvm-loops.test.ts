import { expect, test } from "vitest";
import { runGpusvmLoops } from "../../src/bench/gpusvm-loops.ts";

test("the loops of the C comparison run without waiting and find the ranges that the kernel's code finds", () => {
  let time = 0;
  // A clock that only counts: the loops themselves compare counts of notifiers and the sum of what they found.
  const results = runGpusvmLoops({ now: () => (time += 1), sizes: [1000], repetitions: 1 });
  expect(results.map(({ name, n, operations, checksum }) => ({ name, n, operations, checksum }))).toEqual([
    { name: "insert", n: 1000, operations: 1000, checksum: null },
    { name: "hit", n: 1000, operations: 1000000, checksum: 16777715539848 },
    { name: "churn", n: 1000, operations: 200000, checksum: null },
    { name: "find+remove", n: 1000, operations: 1000, checksum: null },
  ]);
  expect(results.every(({ ratio }) => ratio > 0)).toBe(true);
}, 60000);

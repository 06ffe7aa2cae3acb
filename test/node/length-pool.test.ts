import { describe, expect, test } from "vitest";
import { LengthPool, clearArray } from "../../src/base/length-pool.ts";

describe("a pool by length", () => {
  test("gives back what was given for that length, each to one", () => {
    const pool = new LengthPool<string>();
    pool.give(1, "a");
    pool.give(2, "b");
    pool.give(2, "c");
    expect([pool.take(2), pool.take(2), pool.take(2)].sort()).toEqual(["b", "c", undefined]);
    expect([pool.take(1), pool.take(1), pool.take(3)]).toEqual(["a", undefined, undefined]);
  });

  test("keeps so many and no more, and nothing that is long", () => {
    const pool = new LengthPool<number>();
    for (let i = 0; i < 100; i++) pool.give(512, i);
    let kept = 0;
    while (pool.take(512) !== undefined) kept += 1;
    expect(kept).toBe(32);
    pool.give(513, 1);
    expect(pool.take(513)).toBeUndefined();
  });
});

test.each([0, 1, 2, 16, 17, 1000])("an array of %i elements is cleared whole", (length) => {
  for (const array of [new Uint8Array(length), new Uint32Array(length), new Float64Array(length)]) {
    array.fill(7);
    clearArray(array);
    expect(array.every((element) => element === 0)).toBe(true);
  }
});

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import {
  BIND_EXAMPLES,
  BIND_SITES,
  ExampleSpace,
  RandomSpace,
  failEverywhere,
  randomCalls,
} from "./bind-conformance.ts";

/** Spec section 9, X9, on the reference engine; test/gpu/bind.test.ts drives the same on WebGPU. */
describe.each([
  ["pages", 1, 48 as const, 1],
  ["64 KiB", 16, 48 as const, 1],
  ["pages of a 5-level address space", 1, 57 as const, 1],
  ["pages on two tiles", 1, 48 as const, 2],
])("worked examples, units of %s", (_name, unit, vaBits, tiles) => {
  let examples: ExampleSpace;
  beforeAll(async () => {
    examples = await ExampleSpace.create(REFERENCE_ENGINE, unit, vaBits, tiles);
  });
  afterAll(() => examples.space.close());

  test.each(BIND_EXAMPLES)("%i %s: %s; %s", async (...example) => {
    await examples.run(example);
  });
});

test.each([
  [1, 48 as const, 1],
  [2, 48 as const, 1],
  [3, 57 as const, 1],
  [4, 48 as const, 2],
])("random calls, seed %i, %i bits, tiles: %i", { timeout: 60000 }, async (seed, vaBits, tiles) => {
  const random = await RandomSpace.create(REFERENCE_ENGINE, seed, vaBits, tiles);
  try {
    expect(await randomCalls(random, 30)).toBeGreaterThan(2);
  } finally {
    await random.space.close();
  }
});

test.each([1, 2])(
  "a call fails at each of its steps and leaves no trace, tiles: %i",
  { timeout: 60000 },
  async (tiles) => {
    const failures = await failEverywhere(REFERENCE_ENGINE, tiles);
    for (const site of BIND_SITES) expect([site, (failures.get(site) ?? 0) > 0]).toEqual([site, true]);
  },
);

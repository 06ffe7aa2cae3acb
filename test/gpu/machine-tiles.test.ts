import { afterAll, beforeAll, describe } from "vitest";
import type { Engine } from "../../src/machine/machine.ts";
import { machineTilesBehaviour } from "../machine-tiles-behaviour.ts";
import { LIMITS_NAME, MIB, testEngine } from "./support.ts";

describe("a device of two tiles on WebGPU", () => {
  let engine: Engine;
  beforeAll(async () => {
    // Kernels bind the segments of both tiles: two of each is what fits.
    engine = await testEngine(LIMITS_NAME === "small" ? { minSegments: 1, maxSegBytes: 8 * MIB } : {});
  });
  afterAll(() => engine.destroy());
  machineTilesBehaviour(() => engine, [1, 2]);
});

import { afterAll, beforeAll, describe } from "vitest";
import type { Engine } from "../../src/machine/machine.ts";
import { devicesBehaviour } from "../devices-behaviour.ts";
import { LIMITS_NAME, MIB, testEngine } from "./support.ts";

describe("two devices on WebGPU", () => {
  let engine: Engine;
  beforeAll(async () => {
    // Two devices in more segments than one kernel can bind are not linked: two of each, then.
    engine = await testEngine(LIMITS_NAME === "small" ? { minSegments: 1, maxSegBytes: 4 * MIB } : {});
  });
  afterAll(() => engine.destroy());
  devicesBehaviour(() => engine, [1, 2]);
});

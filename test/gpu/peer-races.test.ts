import { afterAll, beforeAll, expect, test } from "vitest";
import type { Engine } from "../../src/machine/machine.ts";
import { teardown } from "../../src/scenario/peer/p07-hmm-anon-teardown.ts";
import { runScenarioModule } from "../../src/scenario/run.ts";
import { testEngine } from "./support.ts";

let engine: Engine;
beforeAll(async () => {
  engine = await testEngine();
});
afterAll(() => engine.destroy());

test("p07 on WebGPU, 64 of its 320 interleavings: munmap while the GPU reads", { timeout: 120_000 }, async () => {
  const result = await runScenarioModule({ default: (s) => teardown(s, 2) }, { engine });
  expect(result.error).toBeNull();
  expect(result.checks.filter((c) => !c.ok)).toEqual([]);
});

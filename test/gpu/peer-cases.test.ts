import { afterAll, beforeAll, expect, test } from "vitest";
import type { Engine } from "../../src/machine/machine.ts";
import { BUILTIN_SCENARIOS } from "../../src/scenario/builtin.ts";
import { runScenarioModule } from "../../src/scenario/run.ts";
import { testEngine } from "./support.ts";

let engine: Engine;
beforeAll(async () => {
  engine = await testEngine();
});
afterAll(() => engine.destroy());

// Those that say most about what the device does with binds, entries and copies; `npm run scenario` runs all of them.
const CASES = BUILTIN_SCENARIOS.filter(({ id }) => ["p13", "p16", "p22", "p24", "p25", "p29"].includes(id));

test.each(CASES)("$id on WebGPU: $title", { timeout: 60_000 }, async ({ module }) => {
  const result = await runScenarioModule(module, { engine });
  expect(result.error).toBeNull();
  expect(result.checks.filter((c) => !c.ok)).toEqual([]);
});

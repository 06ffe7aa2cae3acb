import { afterAll, beforeAll, expect, test } from "vitest";
import { prepareEngine } from "../../src/machine/engine.ts";
import type { Engine } from "../../src/machine/machine.ts";
import { BUILTIN_SCENARIOS } from "../../src/scenario/builtin.ts";
import { runScenarioModule } from "../../src/scenario/run.ts";

let engine: Engine;
beforeAll(async () => {
  engine = await prepareEngine("webgpu");
});
afterAll(() => engine.destroy());

test.each(BUILTIN_SCENARIOS)("$id on WebGPU: $title", async ({ module }) => {
  const result = await runScenarioModule(module, { engine });
  expect(result.error).toBeNull();
  expect(result.checks.filter((c) => !c.ok)).toEqual([]);
  expect(result.must.passed).toBeGreaterThan(0);
});

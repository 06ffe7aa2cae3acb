import { expect, test, vi } from "vitest";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { BUILTIN_SCENARIOS } from "../../src/scenario/builtin.ts";
import { teardown } from "../../src/scenario/peer/p07-hmm-anon-teardown.ts";
import { type ScenarioModule, runScenarioModule } from "../../src/scenario/run.ts";

vi.setConfig({ testTimeout: 120_000 });

async function run(module: ScenarioModule, seed?: number): Promise<void> {
  const result = await runScenarioModule(module, { engine: REFERENCE_ENGINE, ...(seed === undefined ? {} : { seed }) });
  expect(result.error).toBeNull();
  expect(result.checks.filter((c) => !c.ok)).toEqual([]);
  expect(result.must.passed).toBeGreaterThan(0);
}

// The cases about VRAM alone take longer than they tell here; they run on WebGPU.
const CASES = BUILTIN_SCENARIOS.filter(({ id }) => !["p15", "p31", "p32"].includes(id));
test.each(CASES)("$id on the reference engine: $title", ({ module }) => run(module));

test("p07 on the reference engine, 64 seeds: munmap while the GPU reads", () =>
  run({ default: (s) => teardown(s, 2) }));

test.each([2, 3, 4])("p12 on the reference engine, another 64 seeds (%i)", (seed) => {
  return run(BUILTIN_SCENARIOS.find(({ id }) => id === "p12")!.module, seed);
});

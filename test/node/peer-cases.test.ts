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

test("all 32 peer cases come with the project, under their names", () => {
  const ids = BUILTIN_SCENARIOS.map(({ id }) => id).filter((id) => /^p\d\d$/.test(id));
  expect(ids).toEqual(Array.from({ length: 32 }, (_, i) => `p${String(i + 1).padStart(2, "0")}`));
});

// p07 has 320 interleavings of its own; 64 of them here, all of them by `npm run scenario -- p07 --device reference`.
const CASES = BUILTIN_SCENARIOS.filter(({ id }) => id !== "p07");
test.each(CASES)("$id on the reference engine: $title", ({ module }) => run(module));

test("p07 on the reference engine, 64 seeds: munmap while the GPU reads", () =>
  run({ default: (s) => teardown(s, 2) }));

test.each([2, 3, 4])("p12 on the reference engine, another 64 seeds (%i)", (seed) => {
  return run(BUILTIN_SCENARIOS.find(({ id }) => id === "p12")!.module, seed);
});

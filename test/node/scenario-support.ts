import { expect } from "vitest";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { runScenarioModule } from "../../src/scenario/run.ts";
import type { Scenario, ScenarioConfig } from "../../src/scenario/verbs.ts";

export const MIB = 1 << 20;

/** Runs `body` as a scenario on the reference engine; what it throws is thrown. */
export async function scenario(
  body: (s: Scenario) => Promise<void>,
  config: Partial<ScenarioConfig> = {},
): Promise<void> {
  const module = { default: body, meta: { config } };
  const result = await runScenarioModule(module, { engine: REFERENCE_ENGINE, ram: 64 * MIB });
  if (result.error !== null) throw result.error;
  expect(result.checks.filter((c) => !c.ok)).toEqual([]);
}

/** "OK", or the code of what was thrown or rejected; what has none is thrown on. */
export async function code(x: Promise<unknown> | (() => unknown)): Promise<string> {
  try {
    await (typeof x === "function" ? x() : x);
    return "OK";
  } catch (error) {
    if (error instanceof Error && "code" in error && typeof error.code === "string") return error.code;
    throw error;
  }
}

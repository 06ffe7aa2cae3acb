import { prepareEngine } from "../../machine/engine.ts";
import { findCases } from "./cases.ts";
import { CORE } from "./core.ts";
import { runMatrix } from "./run-matrix.ts";
import type { CaseOutcome } from "./run-matrix.ts";

/** Names and reasons of the cases that a pattern finds; of the core for `"matrix"`. */
export function namesOf(pattern: string): { name: string; skip: string | null }[] {
  const cases = pattern === "matrix" ? CORE : findCases(pattern);
  return cases.map(({ name, skip }) => ({ name, skip }));
}

/** Runs the named cases, in Node or in the page; each outcome is reported as it comes. scripts/scenario.mjs calls it. */
export async function runNamed(
  names: readonly string[],
  options: { device: "webgpu" | "reference"; seed: number | null },
  report: (outcome: CaseOutcome) => void,
): Promise<void> {
  const engine = await prepareEngine(options.device);
  await runMatrix(names.flatMap(findCases), { engine, seed: options.seed ?? 1, onCase: report });
}

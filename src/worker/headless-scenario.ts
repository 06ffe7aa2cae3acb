import { prepareEngine } from "../machine/engine.ts";
import { runScenarioModule } from "../scenario/run.ts";
import type { ScenarioModule, ScenarioResult } from "../scenario/run.ts";
import type { Check } from "../scenario/verbs.ts";

/** What of a scenario's result can leave the page. */
export interface ScenarioOutcome extends Pick<ScenarioResult, "title" | "passed" | "must" | "cfg"> {
  /** What the scenario threw. */
  readonly error: { readonly text: string; readonly stack: string } | null;
}

/** Imports the module at `url` and runs it; each check is reported as it is made. scripts/scenario.mjs calls it. */
export async function runScenarioAt(
  url: string,
  options: { device: "webgpu" | "reference"; seed: number | null },
  report: (check: Check) => void,
): Promise<ScenarioOutcome> {
  const module = (await import(/* @vite-ignore */ url)) as ScenarioModule;
  const { title, passed, must, cfg, error } = await runScenarioModule(module, {
    engine: await prepareEngine(options.device),
    ...(options.seed === null ? {} : { seed: options.seed }),
    onCheck: report,
  });
  return { title, passed, must, cfg, error: error === null ? null : { text: textOf(error), stack: error.stack ?? "" } };
}

function textOf(error: Error): string {
  return error.name === "Error" ? error.message : `${error.name}: ${error.message}`;
}

import { prepareEngine } from "../machine/engine.ts";
import type { Machine } from "../machine/machine.ts";
import { runScenarioModule } from "../scenario/run.ts";
import type { ScenarioModule, ScenarioResult } from "../scenario/run.ts";
import type { Check } from "../scenario/verbs.ts";
import { post } from "./post.ts";

/** What of a scenario's result can leave the page. */
export interface ScenarioOutcome extends Pick<ScenarioResult, "title" | "passed" | "must" | "cfg"> {
  /** What the scenario threw. */
  readonly error: { readonly text: string; readonly stack: string } | null;
}

/** Events of a scenario that its trace keeps. */
const TRACE_EVENTS = 1 << 19;

/**
 * Imports the module at `url` and runs it; each check is reported as it is made. Takes the Perfetto trace of the run, also of
 * one that fails, to `traceUrl`. scripts/scenario.mjs calls it.
 */
export async function runScenarioAt(
  url: string,
  options: { device: "webgpu" | "reference"; seed: number | null; traceUrl: string | null },
  report: (check: Check) => void,
): Promise<ScenarioOutcome> {
  const module = (await import(/* @vite-ignore */ url)) as ScenarioModule;
  const { traceUrl } = options;
  const machines: Machine[] = [];
  const { title, passed, must, cfg, error } = await runScenarioModule(module, {
    engine: await prepareEngine(options.device),
    ...(options.seed === null ? {} : { seed: options.seed }),
    ...(traceUrl === null ? {} : { traceEvents: TRACE_EVENTS }),
    onCheck: report,
    onMachine: (machine) => machines.push(machine),
  });
  if (traceUrl !== null) for (const machine of machines) await post(traceUrl, machine.perfettoTrace());
  return { title, passed, must, cfg, error: error === null ? null : { text: textOf(error), stack: error.stack ?? "" } };
}

function textOf(error: Error): string {
  return error.name === "Error" ? error.message : `${error.name}: ${error.message}`;
}

import { ConfigError } from "../base/errors.ts";
import { DEFAULT_RAM, DEFAULT_VM_CONFIG, DEFAULT_VRAM, Machine } from "../machine/machine.ts";
import type { Engine } from "../machine/machine.ts";
import { configOf } from "../machine/policies.ts";
import { Scenario } from "./verbs.ts";
import type { Check, ScenarioConfig } from "./verbs.ts";

/** A scenario module: an async function of the machine, and what it says of itself. */
export interface ScenarioModule {
  default: (s: Scenario) => Promise<void>;
  meta?: { title?: string; tags?: readonly string[]; config?: Partial<ScenarioConfig> };
}

export interface RunOptions {
  engine: Engine;
  /** Overrides the module's seed. */
  seed?: number;
  vram?: number;
  /** Bytes of RAM of the machine. */
  ram?: number;
  /** Events that the machine keeps for a trace. Default: as the machine's. */
  traceEvents?: number;
  onCheck?: (check: Check) => void;
  /** Called with the machine before the scenario begins. */
  onMachine?: (machine: Machine, scenario: Scenario) => void;
}

export interface ScenarioResult {
  readonly title: string;
  /** Every `must` held and nothing was thrown. */
  readonly passed: boolean;
  readonly must: { passed: number; failed: number };
  readonly cfg: { passed: number; failed: number };
  readonly checks: readonly Check[];
  /** What the scenario threw, if it did. */
  readonly error: Error | null;
}

/** Runs one scenario on a machine of its own, to the end, with all deferred work settled. */
export async function runScenarioModule(module: ScenarioModule, options: RunOptions): Promise<ScenarioResult> {
  if (typeof module.default !== "function") {
    throw new ConfigError("scenario", "the module's default export is wanted to be an async function of one argument");
  }
  const config: ScenarioConfig = {
    ...configOf(DEFAULT_VM_CONFIG, module.meta?.config ?? {}),
    vram: DEFAULT_VRAM,
    p2p: false,
    seed: 1,
    ...module.meta?.config,
    ...(options.seed === undefined ? {} : { seed: options.seed }),
    ...(options.vram === undefined ? {} : { vram: options.vram }),
  };
  const machine = new Machine({
    engine: options.engine,
    ram: options.ram ?? DEFAULT_RAM,
    config,
    seed: config.seed,
    ...(options.traceEvents === undefined ? {} : { traceEvents: options.traceEvents }),
  });
  const scenario = new Scenario(machine, config, options.onCheck ?? (() => undefined));
  let error: Error | null = null;
  try {
    options.onMachine?.(machine, scenario);
    await module.default(scenario);
    await machine.settle();
  } catch (thrown) {
    error = thrown instanceof Error ? thrown : new Error(String(thrown));
  } finally {
    await machine.close();
  }
  const count = (kind: Check["kind"]) => {
    const of = scenario.checks.filter((c) => c.kind === kind);
    const passed = of.filter((c) => c.ok).length;
    return { passed, failed: of.length - passed };
  };
  const must = count("must");
  return {
    title: module.meta?.title ?? "untitled",
    passed: error === null && must.failed === 0,
    must,
    cfg: count("cfg"),
    checks: scenario.checks,
    error,
  };
}

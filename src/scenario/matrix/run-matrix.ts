import { DEFAULT_VM_CONFIG, DEFAULT_VRAM, Machine } from "../../machine/machine.ts";
import type { Engine } from "../../machine/machine.ts";
import type { Device } from "../../machine/device.ts";
import { Scenario } from "../verbs.ts";
import type { MatrixCase } from "./cases.ts";
import { runCase } from "./matrix.ts";
import { ramFor } from "./room.ts";

export interface CaseOutcome {
  readonly name: string;
  /** Why the original does nothing here; such a case is neither passed nor failed. */
  readonly skip: string | null;
  readonly passed: boolean;
  readonly must: { passed: number; failed: number };
  readonly cfg: { passed: number; failed: number };
  /** What did not hold, and what was thrown. */
  readonly failures: readonly string[];
  /** Milliseconds. */
  readonly time: number;
}

/** Cases on one machine, after which a fresh one is made: processes leave a little behind. */
const CASES_PER_MACHINE = 50;

/**
 * Runs cases one after the other, each in fresh processes and address spaces. They share a machine and its device, because
 * to make these takes longer than most cases; so each also shows that the one before has left nothing behind.
 */
export async function runMatrix(
  cases: readonly MatrixCase[],
  options: { engine: Engine; seed: number; onCase?: (outcome: CaseOutcome) => void },
): Promise<CaseOutcome[]> {
  const outcomes: CaseOutcome[] = [];
  let rig: Rig | null = null;
  for (const test of cases) {
    let outcome = skipped(test);
    if (test.skip === null) {
      const ram = ramFor(test);
      if (rig !== null && (rig.ram !== ram || rig.cases === CASES_PER_MACHINE)) {
        await rig.machine.close();
        rig = null;
      }
      rig ??= openRig(options.engine, ram);
      rig.cases += 1;
      outcome = await runOne(rig, test, options.seed);
      if (!outcome.passed) {
        // What it has left is not to be held against the next one.
        await rig.machine.close().catch(() => undefined);
        rig = null;
      }
    }
    outcomes.push(outcome);
    options.onCase?.(outcome);
  }
  await rig?.machine.close();
  return outcomes;
}

interface Rig {
  readonly machine: Machine;
  readonly device: Device;
  readonly ram: number;
  cases: number;
}

function openRig(engine: Engine, ram: number): Rig {
  const machine = new Machine({ engine, ram });
  return { machine, device: machine.createDevice(), ram, cases: 0 };
}

async function runOne({ machine, device }: Rig, test: MatrixCase, seed: number): Promise<CaseOutcome> {
  const config = { ...DEFAULT_VM_CONFIG, vram: DEFAULT_VRAM, p2p: false, seed };
  const s = new Scenario(machine, config, () => undefined);
  const start = machine.sched.now();
  const free = machine.phys.freePages;
  let thrown: string | null = null;
  try {
    await runCase(s, device, test);
    s.must(machine.phys.freePages === free, `all RAM is given back (${free - machine.phys.freePages} pages are not)`);
  } catch (error) {
    thrown = `threw ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`;
  }
  const count = (kind: "must" | "cfg") => {
    const of = s.checks.filter((check) => check.kind === kind);
    const passed = of.filter(({ ok }) => ok).length;
    return { passed, failed: of.length - passed };
  };
  const failures = s.checks.filter(({ ok }) => !ok).map(({ kind, text }) => (kind === "cfg" ? `(cfg) ${text}` : text));
  if (thrown !== null) failures.push(thrown);
  const must = count("must");
  return {
    ...{ name: test.name, skip: null, must, cfg: count("cfg"), failures },
    passed: thrown === null && must.failed === 0 && must.passed > 0,
    time: machine.sched.now() - start,
  };
}

function skipped({ name, skip }: MatrixCase): CaseOutcome {
  const none = { passed: 0, failed: 0 };
  return { name, skip, passed: false, must: none, cfg: none, failures: [], time: 0 };
}

import { type Mutation, mutate } from "../base/mutation.ts";
import type { Case } from "./case.ts";
import { CASES, programOf } from "./cases.ts";
import type { Host } from "./rig.ts";
import { Explorer, type Outcome } from "./schedule.ts";
import type { Violation } from "./world.ts";

/** A seed of a case that shows a violation. */
export interface Finding {
  readonly of: Case;
  readonly seed: number;
  readonly violation: Violation;
  /** Schedules run until then, this one included. */
  readonly schedules: number;
  /** The seed alone gives it, on a machine of its own. */
  readonly isRepeatable: boolean;
}

export interface Exploration {
  readonly schedules: number;
  /** Scheduling steps, each followed by a check of all invariants. */
  readonly steps: number;
  readonly findings: readonly Finding[];
}

export function caseByName(name: string): Case | null {
  return CASES.find((each) => each.name === name) ?? null;
}

/** What a run is about: seeds `from`, `from + stride`, … below `end` of each case. */
export interface Request {
  readonly cases: readonly Case[];
  readonly from: number;
  readonly end: number;
  readonly stride: number;
  /** Findings after which a case is given up. */
  readonly maxFindings: number;
}

/** Goes through the seeds of the cases; `report` hears of each batch of schedules as it is done. */
export async function explore(
  request: Request,
  host: Host,
  report: (schedules: number, steps: number, findings: readonly Finding[]) => void | Promise<void> = () => undefined,
): Promise<Exploration> {
  const explorer = new Explorer(host);
  const findings: Finding[] = [];
  const found = new Map<Case, number>();
  let schedules = 0;
  let steps = 0;
  for (let seed = request.from; seed < request.end; seed += request.stride) {
    const before = { schedules, steps, findings: findings.length };
    for (const of of request.cases) {
      if ((found.get(of) ?? 0) >= request.maxFindings) continue;
      if (request.cases.length > 1 && seed % (of.every ?? 1) !== 0) continue;
      const outcome = await explorer.run(programOf(of, seed), seed);
      schedules += 1;
      steps += outcome.steps;
      if (outcome.violation === null) continue;
      found.set(of, (found.get(of) ?? 0) + 1);
      findings.push(await confirm(explorer, of, seed, outcome.violation, schedules));
    }
    await report(schedules - before.schedules, steps - before.steps, findings.slice(before.findings));
  }
  return { schedules, steps, findings };
}

async function confirm(
  explorer: Explorer,
  of: Case,
  seed: number,
  violation: Violation,
  schedules: number,
): Promise<Finding> {
  const again = await explorer.run(programOf(of, seed), seed, "fresh");
  return { of, seed, violation: again.violation ?? violation, schedules, isRepeatable: again.violation !== null };
}

/** One seed of one case on a machine of its own. */
export function runSeed(of: Case, seed: number, host: Host): Promise<Outcome> {
  return new Explorer(host).run(programOf(of, seed), seed, "fresh");
}

/** With a fault of the stack switched on: the first seed that shows it, trying each case in turn; null: none did. */
export async function findMutation(
  mutation: Mutation,
  cases: readonly Case[],
  seeds: number,
  host: Host,
): Promise<Finding | null> {
  mutate(mutation);
  try {
    const explorer = new Explorer(host);
    let schedules = 0;
    for (let seed = 1; seed <= seeds; seed++) {
      for (const of of cases) {
        schedules += 1;
        const { violation } = await explorer.run(programOf(of, seed), seed, "fresh");
        if (violation !== null) return { of, seed, violation, schedules, isRepeatable: true };
      }
    }
    return null;
  } finally {
    mutate(null);
  }
}

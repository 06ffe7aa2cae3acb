import type { Host } from "./rig.ts";
import type { Op, Program } from "./program.ts";
import { Explorer } from "./schedule.ts";
import type { Violation } from "./world.ts";

/** A program from which nothing can be left out, and an order of its steps that still shows the violation. */
export interface Shrunk {
  readonly program: Program;
  readonly seed: number;
  readonly violation: Violation;
  /** Schedules run to get there. */
  readonly attempts: number;
}

/** Orders tried of each smaller program, since what is left out changes what the seed means. */
const ORDERS = 24;
const MAX_ATTEMPTS = 4000;

/** Leaves out activities, operations and pages, as long as some order of what is left still fails in the same way. */
export async function shrink(program: Program, seed: number, violation: Violation, host: Host): Promise<Shrunk> {
  const explorer = new Explorer(host);
  let best: Shrunk = { program, seed, violation, attempts: 0 };
  let attempts = 0;
  const fails = async (candidate: Program): Promise<boolean> => {
    for (let order = 0; order < ORDERS && attempts < MAX_ATTEMPTS; order++) {
      attempts += 1;
      const trySeed = order === 0 ? best.seed : order;
      const outcome = await explorer.run(candidate, trySeed, "fresh");
      if (outcome.violation === null || kindOf(outcome.violation) !== kindOf(violation)) continue;
      best = { program: candidate, seed: trySeed, violation: outcome.violation, attempts };
      return true;
    }
    return false;
  };
  for (let isSmaller = true; isSmaller;) {
    isSmaller = false;
    for (const candidate of smallerThan(best.program)) {
      if (!(await fails(candidate))) continue;
      isSmaller = true;
      break;
    }
  }
  return { ...best, attempts };
}

/** What is wrong, without where. */
function kindOf({ message }: Violation): string {
  return message.replace(/0x[0-9a-f]+|\d+/g, "#");
}

/** Programs with one thing less, the largest parts first. */
function* smallerThan(program: Program): Generator<Program> {
  const { activities, setup } = program;
  for (let i = 0; i < activities.length; i++) yield { ...program, activities: without(activities, i) };
  for (let i = 0; i < activities.length; i++) {
    for (let k = 0; k < activities[i]!.length; k++) {
      yield { ...program, activities: activities.with(i, without(activities[i]!, k)) };
    }
  }
  for (let k = 0; k < setup.length; k++) yield { ...program, setup: without(setup, k) };
  yield* plainerThan(program);
  for (let i = 0; i < activities.length; i++) {
    for (const [k, op] of activities[i]!.entries()) {
      for (const less of lessOf(op)) yield { ...program, activities: activities.with(i, activities[i]!.with(k, less)) };
    }
  }
}

/** Without one of its policies, or with private anonymous memory. */
function* plainerThan(program: Program): Generator<Program> {
  const { memory, tail, policies = {}, ...rest } = program;
  const names = Object.entries(policies);
  for (const entry of names) yield { ...program, policies: Object.fromEntries(names.filter((each) => each !== entry)) };
  if (memory !== undefined || tail !== undefined) yield { ...rest, policies };
}

function without<T>(list: readonly T[], index: number): T[] {
  return list.filter((_, i) => i !== index);
}

/** The same operation on half the pages, or for half as long. */
function* lessOf(op: Op): Generator<Op> {
  if ("pages" in op && op.pages > 1) yield { ...op, pages: Math.floor(op.pages / 2) };
  if ("points" in op && op.points > 0) yield { ...op, points: Math.floor(op.points / 2) };
}

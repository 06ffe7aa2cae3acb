import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Engine } from "../../src/machine/machine.ts";
import { HUGE, type Op, SMALL, type World, randomProgram, shrink } from "../mm-model/programs.ts";
import { ProgramRun } from "../mm-model/runner.ts";
import { testEngine } from "./support.ts";

let engine: Engine;
beforeAll(async () => {
  engine = await testEngine();
});
afterAll(() => engine.destroy());

const LENGTH = 200;
/** Programs that the reference engine runs too: test/node/mm-programs.test.ts. */
const SEEDS = Array.from({ length: 48 }, (_, i) => i + 1);
const HUGE_SEEDS = [1, 2];

async function failure(program: readonly Op[], world: World): Promise<Error | null> {
  try {
    await new ProgramRun(engine, world).run(program);
    return null;
  } catch (error) {
    return error as Error;
  }
}

async function check(seed: number, world: World): Promise<void> {
  const program = randomProgram(seed, LENGTH, world);
  const error = await failure(program, world);
  if (error === null) return;
  const short = await shrink(program, async (part) => (await failure(part, world)) !== null, 30);
  expect.fail(`seed ${seed}: ${error.message}\n${short.map((op) => JSON.stringify(op)).join("\n")}`);
}

describe(`random programs of ${LENGTH} system calls, CPU and GPU accesses and migrations equal a flat model`, () => {
  test.each(SEEDS)("of single pages, seed %i", (seed) => check(seed, SMALL));
  test.each(HUGE_SEEDS)("of huge pages, seed %i", (seed) => check(seed, HUGE));
});

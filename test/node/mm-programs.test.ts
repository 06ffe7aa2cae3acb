import { describe, expect, test, vi } from "vitest";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { HUGE, type Op, SMALL, type World, randomProgram, shrink } from "../mm-model/programs.ts";
import { ProgramRun } from "../mm-model/runner.ts";

vi.setConfig({ testTimeout: 600_000 });

/** Programs in the suite; `MM_PROGRAMS=2000` runs as many as are wanted when the memory manager has changed. */
const PROGRAMS = Number(process.env["MM_PROGRAMS"] ?? 300);
/** One of huge pages costs as much as eight others. */
const HUGE_PROGRAMS = Math.ceil(PROGRAMS / 50);
const FIRST = Number(process.env["MM_SEED"] ?? 1);
const LENGTH = 200;

async function failure(program: readonly Op[], world: World): Promise<Error | null> {
  try {
    await new ProgramRun(REFERENCE_ENGINE, world).run(program);
    return null;
  } catch (error) {
    return error as Error;
  }
}

async function runAll(count: number, world: World): Promise<void> {
  for (let seed = FIRST; seed < FIRST + count; seed++) {
    const program = randomProgram(seed, LENGTH, world);
    const error = await failure(program, world);
    if (error === null) continue;
    const short = await shrink(program, async (part) => (await failure(part, world)) !== null);
    const why = await failure(short, world);
    const steps = short.map((op) => `  ${JSON.stringify(op)}`).join("\n");
    expect.fail(
      `seed ${seed}: ${why?.message ?? error.message}\n${steps}\n${why?.cause instanceof Error ? why.cause.stack : ""}`,
    );
  }
}

describe(`random programs of ${LENGTH} system calls, CPU and GPU accesses and migrations equal a flat model`, () => {
  test(`of single pages (${PROGRAMS - HUGE_PROGRAMS} programs)`, () => runAll(PROGRAMS - HUGE_PROGRAMS, SMALL));
  test(`of huge pages (${HUGE_PROGRAMS} programs)`, () => runAll(HUGE_PROGRAMS, HUGE));
});

const SEEDS = Array.from({ length: 64 }, (_, i) => i + 1);
test.each(SEEDS)(
  "a parent and its child, interleaved at every await, do not disturb each other (seed %i)",
  async (seed) => {
    const run = new ProgramRun(REFERENCE_ENGINE, SMALL);
    await run.race(seed, [randomProgram(seed, 40, SMALL), randomProgram(seed + 1000, 40, SMALL)]);
  },
);

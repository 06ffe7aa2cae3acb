import type { JobOp, Vm } from "../../machine/vm.ts";
import type { Scenario } from "../verbs.ts";

export const meta = {
  title: "Xe multi-GPU, concurrent-access-basic: two GPUs add to one word 200 times each, in 64 interleavings",
  tags: ["multi", "conc", "migrate"],
};

const SEEDS = 64;
const ADDS = 200;
/** Additions of one submission: one in the first interleaving, so that every one is on its own; more in the others. */
const PER_JOB = 25;

export default async function (s: Scenario): Promise<void> {
  const p = s.proc();
  const [m0, m1] = [s.device().vm(p), s.device().vm(p)];
  const a = await p.mmap(s.pages(1));
  let wrong = 0;
  let repeated = 0;
  for (let i = 0; i < SEEDS; i++) {
    await p.st(a, 0);
    const perJob = i === 0 ? 1 : PER_JOB;
    const seen = await s.race(
      s.seed * SEEDS + i,
      () => add(m0, a, perJob),
      () => add(m1, a, perJob),
    );
    if ((await p.ld(a)) !== 2 * ADDS) wrong += 1;
    if (new Set(seen.flat()).size !== 2 * ADDS) repeated += 1;
  }
  s.must(wrong === 0, `twice 200 additions make 400 (${wrong} of ${SEEDS} times not)`);
  s.must(repeated === 0, `no two of them saw the same value (${repeated} of ${SEEDS} times some did)`);
}

/** The old values. */
async function add(m: Vm, a: number, perJob: number): Promise<number[]> {
  const job = Array.from({ length: perJob }, (): JobOp => ["inc", a]);
  const seen: number[] = [];
  for (let n = 0; n < ADDS; n += perJob) seen.push(...(await m.job(job)));
  return seen;
}

import type { Scenario } from "../verbs.ts";

export const meta = {
  title: "Xe madvise, atomic-global: CPU and GPU add to one word, in 64 interleavings",
  tags: ["madvise", "conc", "migrate"],
};

const SEEDS = 64;
const CPU_ADDS = 100;

export default async function (s: Scenario): Promise<void> {
  const d = s.device();
  const p = s.proc();
  const m = d.vm(p);
  const a = await p.mmap(s.pages(1));
  await m.attr(a, s.pages(1), { atomic: "GLOBAL" });
  let wrong = 0;
  let repeated = 0;
  for (let i = 0; i < SEEDS; i++) {
    await p.st(a, 0);
    const seen: number[] = [];
    await s.race(
      s.seed * SEEDS + i,
      async () => {
        for (let n = 0; n < CPU_ADDS; n++) seen.push(await p.inc(a));
      },
      async () => {
        seen.push(await m.ginc(a));
      },
    );
    if ((await p.ld(a)) !== CPU_ADDS + 1) wrong += 1;
    if (new Set(seen).size !== CPU_ADDS + 1) repeated += 1;
  }
  s.must(wrong === 0, `100 CPU increments and one of the GPU make 101 (${wrong} of ${SEEDS} times not)`);
  s.must(repeated === 0, `no two of them saw the same value (${repeated} of ${SEEDS} times some did)`);
}

import { requestGpuDevice } from "../device/index.ts";
import { openWaitProbe, WAIT_ENDS, WAIT_WORKS } from "../device/paths/index.ts";
import type { WaitEnd, WaitProbe, WaitWork } from "../device/paths/index.ts";
import type { BenchContext, BenchGroup } from "./group.ts";
import { type Case, measure } from "./harness.ts";
import type { BenchRow, RowKey } from "./result.ts";

/**
 * How long it takes to hear that the GPU is done with next to nothing: what small transfers and rounds of faults cost, whatever
 * they move. Left to the browser, and nudged as all waits of the engine are (device/nudge.ts). Before each wait the GPU has
 * nothing to do for a moment, as in a program that has something else to do too: in a row without pauses waits end sooner.
 */
const GROUP = "wait";
const SAMPLES = 60;
const PAUSE_MS = 3;
const NAMES: Readonly<Record<WaitEnd, string>> = { onSubmittedWorkDone: "work done", mapAsync: "mapAsync" };

interface Wait {
  readonly key: RowKey;
  readonly work: WaitWork;
  readonly end: WaitEnd;
  readonly nudged: boolean;
}

const WAITS: readonly Wait[] = WAIT_WORKS.flatMap((work) =>
  WAIT_ENDS.flatMap((end) =>
    [false, true].map((nudged): Wait => {
      const name = nudged ? `${NAMES[end]}, nudged` : NAMES[end];
      return { key: { group: GROUP, kind: work, name, bytes: 0, layout: "" }, work, end, nudged };
    }),
  ),
);

export const waits: BenchGroup = {
  name: GROUP,
  async run(context) {
    const wanted = WAITS.filter(({ key }) => context.selected(key));
    if (wanted.length === 0) return [];
    const acquired = await requestGpuDevice();
    context.gpu(acquired);
    const probe = await openWaitProbe(acquired);
    try {
      return await measureWaits(probe, wanted, context);
    } finally {
      probe.close();
    }
  },
};

async function measureWaits(probe: WaitProbe, wanted: readonly Wait[], context: BenchContext): Promise<BenchRow[]> {
  const wrong: (string | null)[] = wanted.map(() => null);
  let dispatches = 0;
  const cases = wanted.map(({ key, work, end, nudged }, i): Case => ({
    name: key.name,
    before: () => new Promise((resolve) => setTimeout(resolve, PAUSE_MS)),
    run: async () => {
      if (work === "dispatch") dispatches += 1;
      const word = await probe.run(work, end, nudged);
      if (word !== null && word !== dispatches) wrong[i] ??= `the GPU counts ${word} dispatches, not ${dispatches}`;
    },
  }));
  const outcomes = await measure(cases, {
    random: context.random,
    now: context.now,
    warmUps: 5,
    samples: context.quick ? SAMPLES / 2 : SAMPLES,
    minSamples: 10,
    timeBoxMs: context.quick ? 1000 : 4000,
    onProgress: (done) => context.progress(done, "waits"),
  });
  return wanted.map(({ key }, i) => {
    const outcome = outcomes[i]!;
    if ("error" in outcome) return { ...key, ms: null, error: String(outcome.error) };
    return { ...key, ...outcome, error: wrong[i]! };
  });
}

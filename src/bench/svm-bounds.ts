import { COPY_PATHS } from "../device/paths/index.ts";
import type { CopyPath, Direction, PathLab, PreparedCopy, Transfer } from "../device/paths/index.ts";
import { bestOfAll } from "./best-path.ts";
import type { BenchContext } from "./group.ts";
import { type Case, measure, type Outcome } from "./harness.ts";
import { summarize } from "./stats.ts";
import type { Summary } from "./stats.ts";

/** What a quick run leaves out: paths whose kernels take longer to compile than it has. */
const SLOW_TO_PREPARE = /scatter|gather/;
/** Paths that take longer than this, times the quickest, in a first look are measured no further. */
const HOPELESS = 1.5;

interface Ready {
  readonly path: CopyPath;
  readonly copy: PreparedCopy;
}

/**
 * The raw copy paths of one direction for one transfer, as cases to be measured beside what they bound. All are tried (in a
 * quick run those without kernels); those that can be the best go on.
 */
export class RawCopies {
  readonly #lab: PathLab;
  readonly #ready: readonly Ready[];

  private constructor(lab: PathLab, ready: readonly Ready[]) {
    this.#lab = lab;
    this.#ready = ready;
  }

  static async prepare(
    lab: PathLab,
    direction: Direction,
    transfer: Transfer,
    context: BenchContext,
  ): Promise<RawCopies> {
    const ready: Ready[] = [];
    for (const path of COPY_PATHS) {
      if (path.direction !== direction || !lab.supports(path)) continue;
      if (context.quick && SLOW_TO_PREPARE.test(path.name)) continue;
      ready.push({ path, copy: await lab.prepare(path, transfer) });
    }
    const { random, now } = context;
    const looks = await measure(casesOf(lab, ready), {
      random,
      now,
      warmUps: 1,
      samples: 2,
      minSamples: 2,
      timeBoxMs: 0,
    });
    const times = looks.map((look) => ("ms" in look ? look.ms.min : Infinity));
    const limit = Math.min(...times) * HOPELESS;
    for (const [i, { copy }] of ready.entries()) if (times[i]! > limit) copy.dispose();
    return new RawCopies(
      lab,
      ready.filter((_, i) => times[i]! <= limit),
    );
  }

  get cases(): Case[] {
    return casesOf(this.#lab, this.#ready);
  }

  /** The quickest, by the outcomes of its cases in their order; as it was where it was not picked (best-path.ts). */
  best(outcomes: readonly Outcome[]): { name: string; ms: Summary } {
    const samples = outcomes.map((outcome) => {
      if ("error" in outcome) throw outcome.error;
      return outcome.samples;
    });
    const best = bestOfAll(samples);
    return { name: this.#ready[best.index]!.path.name, ms: summarize(best.samples) };
  }

  dispose(): void {
    for (const { copy } of this.#ready) copy.dispose();
  }
}

/** Each begins at rest: what the copy before it has left behind for the next submission is not its business. */
function casesOf(lab: PathLab, ready: readonly Ready[]): Case[] {
  return ready.map(({ path, copy }) => ({ name: path.name, before: () => lab.roundTrip(), run: () => copy.run() }));
}

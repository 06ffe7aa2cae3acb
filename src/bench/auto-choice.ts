import type { BenchRow } from "./result.ts";
import { medianOf } from "./stats.ts";

/** What an `auto` row, which takes the path that the copy engine chooses, has to say about the choice. */
export type Choice = NonNullable<BenchRow["choice"]>;

/** The samples of a path, one per repetition; all paths of a comparison have as many. */
export type SamplesByPath = ReadonlyMap<string, readonly number[]>;

/**
 * The time of the path that was chosen over that of the best one.
 *
 * The least of several medians is smaller than the best path's true one, the more so the more paths and the fewer samples
 * there are. So the repetitions are halved (even, odd): the path with the least median in one half is compared in the other,
 * as the median of the ratios within each repetition, in which the machine was equally busy; the result is the geometric
 * mean of both ways round. A path is as quick as itself, so a choice of the best one has the ratio 1. Null with fewer than 4
 * repetitions, or where the chosen path was not measured.
 */
export function choiceOf(way: string, table: Choice["table"], paths: SamplesByPath): Choice | null {
  const chosen = paths.get(way);
  if (chosen === undefined || chosen.length < 4) return null;
  const [first, second] = [0, 1].map((half) => {
    const best = halfOf(paths.get(bestOf(paths, 1 - half))!, half);
    return medianOfAll(halfOf(chosen, half).map((ms, i) => ms / best[i]!));
  });
  const whole = [...paths].map(([name, samples]) => ({ name, median: medianOfAll(samples) }));
  const best = whole.reduce((a, b) => (b.median < a.median ? b : a)).name;
  return { way, table, best, ratio: Math.round(Math.sqrt(first! * second!) * 1e3) / 1e3 };
}

function bestOf(paths: SamplesByPath, half: number): string {
  let best = "";
  let least = Infinity;
  for (const [name, samples] of paths) {
    const median = medianOfAll(halfOf(samples, half));
    if (median < least) [best, least] = [name, median];
  }
  return best;
}

function halfOf(samples: readonly number[], half: number): readonly number[] {
  return samples.filter((_, i) => i % 2 === half);
}

function medianOfAll(samples: readonly number[]): number {
  return medianOf(Float64Array.from(samples).sort());
}

import { bestInHalf, halfOf, medianOfAll, quickest } from "./best-path.ts";
import type { Samples } from "./best-path.ts";
import type { BenchRow } from "./result.ts";

/** What an `auto` row, which takes the path that the copy engine chooses, has to say about the choice. */
export type Choice = NonNullable<BenchRow["choice"]>;

/** The samples of a path, one per repetition; all paths of a comparison have as many. */
export type SamplesByPath = ReadonlyMap<string, Samples>;

/**
 * The time of the path that was chosen over that of the best one.
 *
 * The path with the least median in one half of the repetitions is compared in the other (best-path.ts), as the median of the ratios within each repetition, in which the machine was equally busy; the result is the geometric
 * mean of both ways round. A path is as quick as itself, so a choice of the best one has the ratio 1. Null with fewer than 4
 * repetitions, or where the chosen path was not measured.
 */
export function choiceOf(way: string, table: Choice["table"], paths: SamplesByPath): Choice | null {
  const chosen = paths.get(way);
  if (chosen === undefined || chosen.length < 4) return null;
  const samples = [...paths.values()];
  const [first, second] = [0, 1].map((half) => {
    const best = bestInHalf(samples, half);
    return medianOfAll(halfOf(chosen, half).map((ms, i) => ms / best[i]!));
  });
  const best = [...paths.keys()][quickest(samples)]!;
  return { way, table, best, ratio: Math.round(Math.sqrt(first! * second!) * 1e3) / 1e3 };
}

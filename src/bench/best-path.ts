import { medianOf } from "./stats.ts";

/**
 * Which of several paths is the quickest, given the samples of each, one per repetition.
 *
 * The least of several medians is smaller than the best path's true one, the more so the more paths and the fewer samples there
 * are. So who compares with the best picks it in one half of the repetitions (even, odd) and looks at it in the other.
 */
export type Samples = readonly number[];

/** The index of the path with the least median. */
export function quickest(paths: readonly Samples[]): number {
  const medians = paths.map(medianOfAll);
  return medians.indexOf(Math.min(...medians));
}

/** The repetitions of even (0) or odd (1) number. */
export function halfOf(samples: Samples, half: number): Samples {
  return samples.filter((_, i) => i % 2 === half);
}

/** The path that is the quickest in the other half than `half`, as it was in this one. */
export function bestInHalf(paths: readonly Samples[], half: number): Samples {
  return halfOf(paths[quickest(paths.map((samples) => halfOf(samples, 1 - half)))]!, half);
}

/** `index`: the path with the least median of all; `samples`: those of the best path, picked and taken both ways round. */
export function bestOfAll(paths: readonly Samples[]): { index: number; samples: number[] } {
  return { index: quickest(paths), samples: [...bestInHalf(paths, 0), ...bestInHalf(paths, 1)] };
}

export function medianOfAll(samples: Samples): number {
  return medianOf(Float64Array.from(samples).sort());
}

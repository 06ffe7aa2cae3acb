/** What a set of samples says. All values are in the samples' unit. */
export interface Summary {
  readonly n: number;
  readonly median: number;
  /** 95 % confidence interval of the median, from the order of the samples; no distribution is assumed. */
  readonly low: number;
  readonly high: number;
  readonly min: number;
  readonly p95: number;
}

const LEVEL = 0.95;

/** @param samples at least one; not changed. */
export function summarize(samples: readonly number[]): Summary {
  const sorted = Float64Array.from(samples).sort();
  const n = sorted.length;
  const { low, high } = medianInterval(sorted, LEVEL);
  return { n, median: medianOf(sorted), low, high, min: sorted[0]!, p95: sorted[Math.ceil(0.95 * n) - 1]! };
}

/** @param sorted ascending, at least one. */
export function medianOf(sorted: Float64Array): number {
  const n = sorted.length;
  return n % 2 === 1 ? sorted[(n - 1) / 2]! : (sorted[n / 2 - 1]! + sorted[n / 2]!) / 2;
}

/**
 * The interval between two order statistics that holds the median of what the samples were drawn from with at least the
 * probability `level`: the number of samples below the true median is binomial with p = 1/2, whatever the distribution
 * (David and Nagaraja, Order Statistics, 7.1; the interval that Hoefler and Belli, Scientific Benchmarking of Parallel
 * Computing Systems, SC '15, ask for). Below 6 samples no interval reaches 95 %; it is then the whole range.
 *
 * @param sorted ascending, at least one.
 */
export function medianInterval(sorted: Float64Array, level: number): { low: number; high: number } {
  const rank = lowerRank(sorted.length, level);
  return { low: sorted[rank]!, high: sorted[sorted.length - 1 - rank]! };
}

/** How many samples lie below the interval, and as many above it. */
function lowerRank(n: number, level: number): number {
  // In logarithms, because 2^-n is zero to a double from n = 1075 on.
  let logTerm = -n * Math.LN2;
  let tail = Math.exp(logTerm);
  let rank = 0;
  while (rank < (n - 1) / 2) {
    logTerm += Math.log((n - rank) / (rank + 1));
    tail += Math.exp(logTerm);
    if (2 * tail > 1 - level) break;
    rank += 1;
  }
  return rank;
}

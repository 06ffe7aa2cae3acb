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

/** @param samples at least one; not changed. */
export function summarize(samples: readonly number[]): Summary {
  const sorted = Float64Array.from(samples).sort();
  const n = sorted.length;
  // The median lies between these ranks with 95 % probability (binomial, normal approximation).
  const half = 0.98 * Math.sqrt(n);
  const low = Math.max(0, Math.floor(n / 2 - half));
  const high = Math.min(n - 1, Math.ceil(n / 2 + half) - 1);
  return {
    n,
    median: n % 2 === 1 ? sorted[(n - 1) / 2]! : (sorted[n / 2 - 1]! + sorted[n / 2]!) / 2,
    low: sorted[low]!,
    high: sorted[Math.max(high, low)]!,
    min: sorted[0]!,
    p95: sorted[Math.min(n - 1, Math.ceil(0.95 * n) - 1)]!,
  };
}

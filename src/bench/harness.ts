import type { Random } from "../base/random.ts";
import { summarize, type Summary } from "./stats.ts";

/**
 * Overview. Cases that are to be compared are measured together: each repetition runs every case once, in an order
 * drawn anew, so that a machine that gets slower for a second slows them all. Timing a case ends when its promise
 * resolves. The first repetitions warm up and are dropped.
 */
export interface Case {
  readonly name: string;
  /** Runs per sample, where one is too short for the clock; a sample is their mean. */
  readonly repeat?: number;
  /** Transfers that one run makes at the same time; a sample is a run's time over their number. Default 1. */
  readonly transfers?: number;
  /** Runs before each sample and is not timed. */
  before?(): Promise<void>;
  run(): Promise<void> | void;
}

export interface MeasureOptions {
  readonly random: Random;
  readonly now: () => number;
  readonly warmUps: number;
  /** Repetitions wanted. */
  readonly samples: number;
  /** No repetition begins after this time, once there are `minSamples`. */
  readonly timeBoxMs: number;
  readonly minSamples: number;
  /** After every repetition: 0 to 1. */
  readonly onProgress?: (done: number) => void;
}

/** A case's summary and the samples in the order in which they were taken, or what it threw; it is not run again then. */
export type Outcome = { readonly ms: Summary; readonly samples: readonly number[] } | { readonly error: unknown };

/** One outcome per case, in the order given. */
export async function measure(cases: readonly Case[], options: MeasureOptions): Promise<Outcome[]> {
  const samples: number[][] = cases.map(() => []);
  const errors = new Map<number, unknown>();
  const total = options.warmUps + options.samples;
  let measuredSince = options.now();
  for (let repetition = 0; repetition < total; repetition++) {
    if (repetition === options.warmUps) measuredSince = options.now();
    const measured = repetition - options.warmUps;
    if (measured >= options.minSamples && options.now() - measuredSince > options.timeBoxMs) break;
    for (const i of shuffled(cases.length, options.random)) {
      if (errors.has(i)) continue;
      try {
        const ms = await timeOnce(cases[i]!, options.now);
        if (measured >= 0) samples[i]!.push(ms);
      } catch (error) {
        errors.set(i, error);
      }
    }
    options.onProgress?.((repetition + 1) / total);
  }
  return cases.map((_, i) =>
    errors.has(i) ? { error: errors.get(i) } : { ms: summarize(samples[i]!), samples: samples[i]! },
  );
}

async function timeOnce(measured: Case, now: () => number): Promise<number> {
  const { repeat = 1, transfers = 1 } = measured;
  if (measured.before !== undefined) await measured.before();
  const start = now();
  for (let i = 0; i < repeat; i++) {
    const running = measured.run();
    if (running !== undefined) await running;
  }
  return (now() - start) / repeat / transfers;
}

function shuffled(n: number, random: Random): number[] {
  const order = Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  return order;
}

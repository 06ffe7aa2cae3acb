import { ConfigError } from "../base/errors.ts";
import { Random } from "../base/random.ts";
import type { BenchContext } from "./group.ts";
import { GROUPS } from "./groups.ts";
import { type BenchResult, type BenchRow, type Environment, rowId } from "./result.ts";

export interface BenchOptions {
  /** Fewer sizes and samples: a few seconds instead of minutes. */
  readonly quick?: boolean;
  /** Measures only rows whose id contains this text, upper and lower case alike. */
  readonly filter?: string;
  /** Order of the repetitions, and the data. */
  readonly seed?: number;
  readonly browser?: Environment["browser"];
}

export interface BenchProgress {
  /** 0 to 1. */
  readonly done: number;
  readonly text: string;
}

/** Runs the benchmarks in this page or worker. @throws ConfigError when the filter leaves nothing to measure. */
export async function runBench(options: BenchOptions, report: (progress: BenchProgress) => void): Promise<BenchResult> {
  const { quick = false, filter = "", seed = 1, browser = null } = options;
  const needle = filter.toLowerCase();
  const rows: BenchRow[] = [];
  let gpu: Environment["gpu"] = null;
  for (const [i, group] of GROUPS.entries()) {
    const context: BenchContext = {
      quick,
      seed,
      random: new Random(seed),
      now: () => performance.now(),
      selected: (row) => rowId(row).toLowerCase().includes(needle),
      progress: (done, text) => report({ done: (i + done) / GROUPS.length, text: `${group.name}: ${text}` }),
      gpu: (info) => {
        gpu = info;
      },
    };
    rows.push(...(await group.run(context)));
  }
  if (rows.length === 0) throw new ConfigError("filter", `no benchmark has "${filter}" in its name`);
  return {
    format: "webgpu-svm-bench",
    version: 1,
    date: new Date().toISOString(),
    options: { quick, filter, seed },
    environment: {
      userAgent: navigator.userAgent,
      cores: navigator.hardwareConcurrency,
      crossOriginIsolated,
      browser,
      gpu,
    },
    rows,
  };
}

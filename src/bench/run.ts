import { ConfigError } from "../base/errors.ts";
import { Random } from "../base/random.ts";
import { copyPaths } from "./copy-paths.ts";
import type { BenchContext, BenchGroup } from "./group.ts";
import { GROUPS } from "./groups.ts";
import { type BenchResult, type BenchRow, type Environment, rowId, type Selection } from "./result.ts";
import { selects } from "./selection.ts";

export interface BenchOptions {
  /** Fewer sizes and samples: a few seconds instead of minutes. */
  readonly quick?: boolean;
  /** Measures only rows whose id contains this text, upper and lower case alike. */
  readonly filter?: string;
  /** Measures of the copy paths exactly this; `quick` then only means fewer samples. */
  readonly selection?: Selection;
  /** Order of the repetitions, and the data. */
  readonly seed?: number;
  /** The limits to ask for: the adapter's, which is the default, or WebGPU's defaults. */
  readonly limits?: "adapter" | "default";
  readonly browser?: Environment["browser"];
}

export interface BenchProgress {
  /** 0 to 1. */
  readonly done: number;
  readonly text: string;
  /** Rows that were measured since the last report. */
  readonly rows: readonly BenchRow[];
  /** With rows: where they were measured. */
  readonly environment: Environment | null;
}

/** Runs the benchmarks in this page or worker. @throws ConfigError when the filter leaves nothing to measure. */
export async function runBench(options: BenchOptions, report: (progress: BenchProgress) => void): Promise<BenchResult> {
  const { quick = false, filter = "", seed = 1, limits = "adapter", selection, browser = null } = options;
  const needle = filter.toLowerCase();
  const rows: BenchRow[] = [];
  let gpu: Environment["gpu"] = null;
  const environment = (): Environment => ({
    userAgent: navigator.userAgent,
    cores: navigator.hardwareConcurrency,
    crossOriginIsolated,
    browser,
    gpu,
  });
  const groups = groupsOf(needle, selection);
  for (const [i, group] of groups.entries()) {
    let told = { done: 0, text: group.name };
    const reported = new Set<BenchRow>();
    const tell = (found: readonly BenchRow[]) => {
      for (const row of found) reported.add(row);
      report({
        done: (i + told.done) / groups.length,
        text: `${group.name}: ${told.text}`,
        rows: found,
        environment: found.length > 0 ? environment() : null,
      });
    };
    const context: BenchContext = {
      quick,
      chosen: selection !== undefined,
      limits,
      seed,
      random: new Random(seed),
      now: () => performance.now(),
      selected: (row) =>
        rowId(row).toLowerCase().includes(needle) && (selection === undefined || selects(selection, row)),
      progress: (done, text) => {
        told = { done, text };
        tell([]);
      },
      found: tell,
      gpu: (info) => {
        gpu = info;
      },
    };
    const measured = await group.run(context);
    rows.push(...measured);
    const rest = measured.filter((row) => !reported.has(row));
    if (rest.length > 0) tell(rest);
  }
  if (rows.length === 0) {
    if (selection !== undefined) throw new ConfigError("selection", "it leaves nothing to measure");
    throw new ConfigError("filter", `no benchmark has "${filter}" in its name`);
  }
  return {
    format: "webgpu-svm-bench",
    version: 1,
    date: new Date().toISOString(),
    options: { quick, filter, seed, limits, ...(selection !== undefined && { selection }) },
    environment: environment(),
    rows,
  };
}

/** A selection is one of copy paths; a filter that begins with a group's name and a slash wants no other group. */
function groupsOf(needle: string, selection: Selection | undefined): readonly BenchGroup[] {
  if (selection !== undefined) return [copyPaths];
  const named = GROUPS.filter((group) => needle.startsWith(`${group.name}/`));
  return named.length > 0 ? named : GROUPS;
}

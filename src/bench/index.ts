/**
 * Benchmarks: how fast bytes move between JavaScript, staging and device memory, and what the engine makes of it.
 *
 * Overview. `runBench` runs the groups of groups.ts and gives one result (result.ts). `harness.ts` measures,
 * `copy-paths.ts` is the group of the raw paths. The Node program scripts/bench.mjs prints the result.
 *
 * Example.
 *   const result = await runBench({ quick: true, filter: "paths/upload" }, ({ done, text }) => show(done, text));
 *   for (const row of result.rows) console.log(rowId(row), row.ms?.median, row.error);
 */
export { runBench } from "./run.ts";
export type { BenchOptions, BenchProgress } from "./run.ts";
export { formatBytes, rowId } from "./result.ts";
export type { BenchResult, BenchRow, Environment } from "./result.ts";
export type { BenchContext, BenchGroup } from "./group.ts";

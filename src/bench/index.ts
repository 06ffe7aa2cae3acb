/**
 * Benchmarks: how fast bytes move between JavaScript, staging and device memory, and what the engine makes of it.
 *
 * Overview. `runBench` runs the groups of groups.ts and gives one result (result.ts). `harness.ts` measures,
 * `copy-paths.ts` is the group of the raw paths, `cells.ts` its plan. A result is read from a file by `result-file.ts`,
 * compared with another by `compare.ts`, and drawn by `plot.ts`; `csv.ts` writes it for spreadsheets. The Node program
 * scripts/bench.mjs prints it, the page src/app/bench-page.tsx shows it.
 *
 * Example.
 *   const result = await runBench({ quick: true, filter: "paths/upload" }, ({ done, text }) => show(done, text));
 *   for (const row of result.rows) console.log(rowId(row), row.ms?.median, row.error);
 */
export { runBench } from "./run.ts";
export type { BenchOptions, BenchProgress } from "./run.ts";
export { formatBytes, isBound, MEMORY_COPY, rateOf, ROUND_TRIP, rowId } from "./result.ts";
export type { BenchResult, BenchRow, Environment, RowKey, Selection } from "./result.ts";
export type { BenchContext, BenchGroup } from "./group.ts";
export { adapterOf, compareResults } from "./compare.ts";
export type { Change, Comparison } from "./compare.ts";
export { parseResult } from "./result-file.ts";
export { toCsv } from "./csv.ts";

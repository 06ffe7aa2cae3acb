/** The benchmark's own worker: ending it ends a run at once, and its device goes with it. */
import { expose } from "comlink";
import { runBench } from "../bench/run.ts";
import type { BenchOptions, BenchProgress } from "../bench/run.ts";
import type { BenchResult } from "../bench/result.ts";
import { toPlainError } from "../worker/plain-error.ts";
import type { Result } from "../worker/protocol.ts";

export interface BenchApi {
  run(options: BenchOptions, report: (progress: BenchProgress) => void): Promise<Result<BenchResult>>;
}

const api: BenchApi = {
  async run(options, report) {
    try {
      return { ok: true, value: await runBench(options, report) };
    } catch (error) {
      return { ok: false, error: toPlainError(error) };
    }
  },
};
expose(api);

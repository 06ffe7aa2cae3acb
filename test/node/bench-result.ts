import type { BenchResult, BenchRow } from "../../src/bench/result.ts";
import { summarize } from "../../src/bench/stats.ts";

/** A row whose samples are `around` with 1 % to either side. */
export function row(name: string, around: number, change: Partial<BenchRow> = {}): BenchRow {
  const samples = Array.from({ length: 30 }, (_, i) => around * (0.99 + (0.02 * ((i * 7) % 30)) / 29));
  return {
    group: "paths",
    kind: "upload",
    name,
    bytes: 65536,
    layout: "contiguous",
    ms: summarize(samples),
    error: null,
    samples,
    ...change,
  };
}

export function resultOf(rows: readonly BenchRow[], change: Partial<BenchResult> = {}): BenchResult {
  return {
    format: "webgpu-svm-bench",
    version: 1,
    date: "2026-01-02T03:04:05.678Z",
    options: { quick: true, filter: "", seed: 1, limits: "adapter" },
    environment: {
      userAgent:
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36",
      cores: 2,
      crossOriginIsolated: true,
      browser: { version: "156.0.1.2", args: ["--enable-unsafe-webgpu"] },
      gpu: {
        adapter: { vendor: "acme", architecture: "one", description: "", fallback: false },
        limits: { maxBufferSize: 1 << 28 },
        features: ["timestamp-query"],
      },
    },
    rows,
    ...change,
  };
}

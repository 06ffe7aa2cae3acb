import { batch, computed, signal } from "@preact/signals";
import { proxy, wrap } from "comlink";
import { PATHS } from "../bench/cells.ts";
import { type Change, compareResults } from "../bench/compare.ts";
import { toCsv } from "../bench/csv.ts";
import { bandwidthPlot, heatPlot, latencyPlot } from "../bench/plot.ts";
import { parseResult } from "../bench/result-file.ts";
import type { BenchResult, BenchRow } from "../bench/result.ts";
import { type Facet, facetsOf } from "../bench/series.ts";
import { toPlainError } from "../worker/plain-error.ts";
import type { PlainError } from "../worker/protocol.ts";
import { choice, limits, selection, thorough } from "./bench-choice.ts";
import type { BenchApi } from "./bench-worker.ts";

/** A run under way: 0 to 1, and what it is at. */
export const progress = signal<{ readonly done: number; readonly text: string } | null>(null);
export const failure = signal<PlainError | null>(null);

/** What the page shows: the rows of a run under way as they come, those of the last run, or of a loaded file. */
export const shown = signal<BenchResult | null>(null);
/** Where `shown` comes from. */
export const origin = signal("");
/** What it is compared with, and the file's name. */
export const baseline = signal<{ readonly name: string; readonly result: BenchResult } | null>(null);

export const comparison = computed(() =>
  shown.value === null || baseline.value === null ? null : compareResults(baseline.value.result, shown.value),
);
/** Changes beyond the noise, worst first. */
export const changes = computed<readonly Change[]>(() => {
  const found = comparison.value?.changes.filter(({ verdict }) => verdict !== "same" && verdict !== "unclear") ?? [];
  return found.toSorted((a, b) => Math.abs(Math.log(b.ratio?.value ?? 1)) - Math.abs(Math.log(a.ratio?.value ?? 1)));
});

export const rows = computed<readonly BenchRow[]>(() => shown.value?.rows ?? []);
export const facets = computed(() => facetsOf(rows.value));
const wanted = signal<Facet>({ kind: "upload", layout: "contiguous", mode: undefined });
/** The facet of the charts: the wanted one, or of those that are there the nearest. */
export const facet = computed<Facet | null>(() => {
  const near = ({ kind, layout, mode }: Facet) =>
    4 * Number(kind === wanted.value.kind) +
    2 * Number(mode === wanted.value.mode) +
    Number(layout === wanted.value.layout);
  return facets.value.reduce<Facet | null>(
    (best, next) => (best === null || near(next) > near(best) ? next : best),
    null,
  );
});
/** Size of the latency chart, bytes; the nearest that is there is shown. */
export const chosenSize = signal(64 * 1024);
export const facetSizes = computed(() => {
  const { value } = facet;
  if (value === null) return [];
  const same = rows.value.filter(
    (row) => row.kind === value.kind && row.layout === value.layout && row.mode === value.mode,
  );
  return [...new Set(same.map(({ bytes }) => bytes))].sort((a, b) => a - b);
});
export const latencySize = computed(() => {
  const off = (bytes: number) => Math.abs(Math.log(bytes / chosenSize.value));
  return facetSizes.value.reduce<number | null>((best, n) => (best === null || off(n) < off(best) ? n : best), null);
});
/** The sizes that charts have room for: those that are there, and while a run is under way those to come. */
export function columns(sizes: readonly number[]): number[] {
  const coming = progress.value === null ? [] : choice.value.sizes;
  return [...new Set([...sizes, ...coming])].sort((a, b) => a - b);
}

/** The path that the pointer is on, in whatever chart. */
export const pointedPath = signal<string | null>(null);

export function show(change: Partial<Facet>): void {
  wanted.value = { ...(facet.peek() ?? wanted.peek()), ...change };
}

/** Where a path stands in its direction's list: colours follow it, so that they stay the same in every chart. */
export function colorIndexOf(kind: string, name: string): number {
  return PATHS.filter((path) => path.kind === kind).findIndex((path) => path.name === name);
}

let worker: Worker | null = null;

/** Measures what is chosen. What was shown becomes nothing, row by row. */
export async function runChosen(): Promise<void> {
  const options = { quick: !thorough.peek(), selection: selection.peek(), limits: limits.peek(), seed: 1 };
  const began: BenchResult = {
    format: "webgpu-svm-bench",
    version: 1,
    date: new Date().toISOString(),
    options: { ...options, filter: "" },
    environment: null,
    rows: [],
  };
  batch(() => {
    failure.value = null;
    shown.value = began;
    origin.value = "this run";
    progress.value = { done: 0, text: "starting" };
  });
  const own = new Worker(new URL("./bench-worker.ts", import.meta.url), { type: "module", name: "webgpu-svm bench" });
  worker = own;
  const died = new Promise<PlainError>((resolve) =>
    own.addEventListener("error", ({ message }) => resolve(toPlainError(new Error(message || "the worker failed")))),
  );
  const report = proxy(({ done, text, rows: found }: { done: number; text: string; rows: readonly BenchRow[] }) => {
    if (worker !== own) return;
    batch(() => {
      progress.value = { done, text: text.replace(/^paths: /, "") };
      if (found.length > 0) shown.value = { ...shown.peek()!, rows: [...shown.peek()!.rows, ...found] };
    });
  });
  const finished = wrap<BenchApi>(own).run(options, report);
  const outcome = await Promise.race([finished, died.then((error) => ({ ok: false as const, error }))]);
  if (worker !== own) return;
  end();
  if (outcome.ok) shown.value = outcome.value;
  else failure.value = outcome.error;
}

/** Ends the run; what was measured stays. */
export function cancel(): void {
  if (worker === null) return;
  end();
  origin.value = "a run that was cancelled";
}

function end(): void {
  worker?.terminate();
  worker = null;
  progress.value = null;
}

/** Takes a result file, to show it or to compare with it. */
export async function load(file: File, as: "shown" | "baseline"): Promise<void> {
  try {
    const result = parseResult(await file.text(), file.name);
    batch(() => {
      failure.value = null;
      if (as === "baseline") baseline.value = { name: file.name, result };
      else {
        shown.value = result;
        origin.value = file.name;
      }
    });
  } catch (error) {
    failure.value = toPlainError(error);
  }
}

/** The files that the user may take away, by their ending. */
export const EXPORTS = {
  json: { type: "application/json", text: (result: BenchResult) => `${JSON.stringify(result)}\n` },
  csv: { type: "text/csv", text: toCsv },
  "bandwidth.svg": { type: "image/svg+xml", text: (result: BenchResult) => bandwidthPlot(result, facet.peek()!) },
  "paths.svg": {
    type: "image/svg+xml",
    text: (result: BenchResult) => {
      const { layout, mode } = facet.peek()!;
      return heatPlot(
        result,
        facets.peek().filter((other) => other.layout === layout && other.mode === mode),
      );
    },
  },
  "times.svg": {
    type: "image/svg+xml",
    text: (result: BenchResult) => latencyPlot(result, facet.peek()!, latencySize.peek()!),
  },
} as const;

export function save(ending: keyof typeof EXPORTS): void {
  const result = shown.peek();
  if (result === null) return;
  const { type, text } = EXPORTS[ending];
  const url = URL.createObjectURL(new Blob([text(result)], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = `copy-paths-${result.date.slice(0, 19).replaceAll(":", "")}.${ending}`;
  link.click();
  URL.revokeObjectURL(url);
}

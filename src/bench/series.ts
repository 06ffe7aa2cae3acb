import { type BenchRow, isBound, MEMORY_COPY, rateOf } from "./result.ts";

/** What a chart compares: rows of one direction, shape and mode. */
export interface Facet {
  readonly kind: string;
  readonly layout: string;
  readonly mode: BenchRow["mode"];
}

/** Bandwidth by size. */
export interface BandwidthSeries {
  /** Bytes, ascending. */
  readonly sizes: readonly number[];
  readonly lines: readonly BandwidthLine[];
  /** The memory copy of JavaScript, which no path that begins or ends there can beat; null for others. */
  readonly bound: BandwidthLine | null;
}

export interface BandwidthLine {
  readonly name: string;
  /** Bytes per second, one for each size; null where it was not measured or was wrong. */
  readonly rates: readonly (number | null)[];
}

export function inFacet(row: BenchRow, facet: Facet): boolean {
  return row.group === "paths" && row.layout === facet.layout && row.mode === facet.mode;
}

/** The facets that a result has, in the order of its rows. */
export function facetsOf(rows: readonly BenchRow[]): Facet[] {
  const facets = new Map<string, Facet>();
  for (const { group, kind, layout, mode } of rows) {
    if (group !== "paths" || kind === "bound") continue;
    const key = `${kind}/${layout}/${mode}`;
    if (!facets.has(key)) facets.set(key, { kind, layout, mode });
  }
  return [...facets.values()];
}

export function bandwidthOf(rows: readonly BenchRow[], facet: Facet): BandwidthSeries {
  const members = rows.filter((row) => inFacet(row, facet) && row.kind === facet.kind);
  const sizes = [...new Set(members.map(({ bytes }) => bytes))].sort((a, b) => a - b);
  const line = (name: string, from: readonly BenchRow[]): BandwidthLine => ({
    name,
    rates: sizes.map((bytes) => {
      const row = from.find((candidate) => candidate.name === name && candidate.bytes === bytes);
      return row === undefined || row.error !== null ? null : rateOf(row);
    }),
  });
  const names = [...new Set(members.map(({ name }) => name))];
  const bounds = rows.filter((row) => isBound(row) && inFacet(row, facet));
  const throughJs = ["upload", "readback", "access"].includes(facet.kind);
  return {
    sizes,
    lines: names.map((name) => line(name, members)),
    bound: throughJs && bounds.length > 0 ? line(MEMORY_COPY, bounds) : null,
  };
}

/** For a heat map: every path's share, 0 to 1, of the best of its direction at that size. */
export function sharesOf(series: BandwidthSeries): (number | null)[][] {
  const best = series.sizes.map((_, i) => Math.max(...series.lines.map(({ rates }) => rates[i] ?? 0)));
  return series.lines.map(({ rates }) => rates.map((rate, i) => (rate === null ? null : rate / best[i]!)));
}

/** The rows that a latency chart shows: all paths of a facet at one size, quickest first. */
export function latenciesOf(rows: readonly BenchRow[], facet: Facet, bytes: number): BenchRow[] {
  return rows
    .filter((row) => inFacet(row, facet) && row.kind === facet.kind && row.bytes === bytes && row.ms !== null)
    .sort((a, b) => a.ms!.median - b.ms!.median);
}

/** `"1.45 GB/s"`, decimal units, as rates are quoted. */
export function formatRate(bytesPerSecond: number): string {
  const mb = bytesPerSecond / 1e6;
  if (mb >= 1000) return `${(mb / 1000).toFixed(mb >= 10000 ? 1 : 2)} GB/s`;
  return `${mb >= 100 ? mb.toFixed(0) : mb.toPrecision(2)} MB/s`;
}

/** `"1.45 ms"`, `"72 µs"`. */
export function formatTime(ms: number): string {
  if (ms < 1) return `${+(ms * 1000).toPrecision(3)} µs`;
  return ms < 1000 ? `${+ms.toPrecision(3)} ms` : `${(ms / 1000).toFixed(2)} s`;
}

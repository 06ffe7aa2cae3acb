import { adapterOf, browserOf } from "./compare.ts";
import { type BenchResult, formatBytes } from "./result.ts";
import { bandwidthOf, type Facet, formatRate, formatTime, latenciesOf, sharesOf } from "./series.ts";
import { Svg } from "./svg.ts";

/** One colour per path of a direction, in the order of the tables; both sets are told apart on their background. */
export const PATH_COLORS = {
  light: ["#1f5fd0", "#c2387d", "#0e726c", "#925700", "#7043d9", "#2e8f4f", "#c22727", "#088fbe", "#4b5563", "#a15c9b"],
  dark: ["#6ea3ff", "#ea6aa8", "#38b2a6", "#e0a13c", "#a58bff", "#58b877", "#ff7369", "#3fc3ea", "#a3adba", "#d9a3d4"],
} as const;

/** Dashes for the colours of `PATH_COLORS`: a line is known without seeing its colour. */
export const PATH_DASHES: readonly (readonly number[])[] = [[], [], [], [], [], [7, 3], [7, 3], [7, 3], [7, 3], [2, 3]];

const WIDTH = 860;

/** `"upload, random, 8 in flight"`. */
export function titleOf({ kind, layout, mode }: Facet): string {
  return [kind, layout, mode ?? ""].filter((part) => part !== "").join(", ");
}

/** Bandwidth by size, both logarithmic, a line per path, the bound dashed. */
export function bandwidthPlot(result: BenchResult, facet: Facet): string {
  const { sizes, lines, bound } = bandwidthOf(result.rows, facet);
  const height = 400;
  const area = { left: 62, top: 44, right: 640, bottom: height - 50 };
  const svg = new Svg(WIDTH, height, `Bandwidth by size: ${titleOf(facet)}`);
  const rates = [...lines, ...(bound === null ? [] : [bound])].flatMap((line) => line.rates.filter((r) => r !== null));
  const [low, high] = decades(rates);
  const x = logScale(sizes[0]!, sizes.at(-1)!, area.left + 10, area.right - 10);
  const y = logScale(low, high, area.bottom, area.top);
  svg.text(16, 24, `Bandwidth by size: ${titleOf(facet)}`, "title");
  for (let rate = low; rate <= high; rate *= 10) {
    svg.line([area.left, y(rate), area.right, y(rate)], "grid");
    svg.text(area.left - 6, y(rate) + 4, formatRate(rate).replace(/\.0+ /, " "), "tick end");
  }
  for (const size of sizes) svg.text(x(size), area.bottom + 18, formatBytes(size), "tick middle");
  if (bound !== null) svg.path(points(bound.rates, sizes, x, y), "bound");
  for (const [i, line] of lines.entries()) {
    svg.path(points(line.rates, sizes, x, y), `line c${i % 10}`);
    for (const [k, rate] of line.rates.entries()) if (rate !== null) svg.dot(x(sizes[k]!), y(rate), 2.4, `c${i % 10}`);
  }
  // The key in the order of the lines' ends, so that the eye need not search.
  const last = (line: { rates: readonly (number | null)[] }) => line.rates.findLast((rate) => rate !== null) ?? 0;
  const order = lines.map((line, i) => ({ line, i })).sort((a, b) => last(b.line) - last(a.line));
  let at = area.top + 8;
  if (bound !== null) {
    svg.path(
      [
        [area.right + 16, at - 4],
        [area.right + 40, at - 4],
      ],
      "bound",
    );
    svg.text(area.right + 48, at, bound.name, "key");
    at += 22;
  }
  for (const { line, i } of order) {
    svg.path(
      [
        [area.right + 16, at - 4],
        [area.right + 40, at - 4],
      ],
      `line c${i % 10}`,
    );
    svg.text(area.right + 48, at, line.name, "key");
    at += 20;
  }
  return svg.done(footerOf(result), PATH_COLORS, PATH_DASHES);
}

/** Path by size: the figure is the bandwidth, the shade its share of the best of its direction at that size. */
export function heatPlot(result: BenchResult, facets: readonly Facet[]): string {
  const tables = facets.map((facet) => ({ facet, series: bandwidthOf(result.rows, facet) }));
  const sizes = [...new Set(tables.flatMap(({ series }) => series.sizes))].sort((a, b) => a - b);
  const count = tables.reduce((sum, { series }) => sum + series.lines.length + 1, 0);
  const cell = { width: Math.floor((WIDTH - 212) / Math.max(1, sizes.length)), height: 20 };
  const height = 66 + count * cell.height + 34;
  const svg = new Svg(WIDTH, height, "Copy paths by size");
  const shape = facets.length === 0 ? "" : [facets[0]!.layout, facets[0]!.mode ?? ""].filter(Boolean).join(", ");
  svg.text(16, 24, `Bandwidth of every path, by size: ${shape}`, "title");
  for (const [i, size] of sizes.entries()) {
    svg.text(196 + (i + 0.5) * cell.width, 50, formatBytes(size), "tick middle");
  }
  let top = 58;
  for (const { facet, series } of tables) {
    svg.text(16, top + 15, facet.kind, "group");
    top += cell.height;
    const shares = sharesOf(series);
    for (const [row, line] of series.lines.entries()) {
      svg.text(28, top + 14, line.name, "key");
      for (const [i, bytes] of series.sizes.entries()) {
        const rate = line.rates[i]!;
        const share = shares[row]![i]!;
        if (rate === null || share === null) continue;
        const left = 196 + sizes.indexOf(bytes) * cell.width;
        svg.cell({ x: left, y: top, width: cell.width - 2, height: cell.height - 2 }, share);
        svg.text(left + cell.width / 2 - 1, top + 13.5, formatRate(rate), `figure middle${share > 0.87 ? " on" : ""}`);
      }
      top += cell.height;
    }
  }
  return svg.done(`${footerOf(result)}; shade: share of the best of its direction and size`, PATH_COLORS, PATH_DASHES);
}

/** Every single time of one size, a row per path; the bar is the median, the box its 95 % interval. */
export function latencyPlot(result: BenchResult, facet: Facet, bytes: number): string {
  const rows = latenciesOf(result.rows, facet, bytes);
  const height = 64 + rows.length * 24 + 48;
  const title = `Time of one transfer: ${titleOf(facet)}, ${formatBytes(bytes)}`;
  const svg = new Svg(WIDTH, height, title);
  const area = { left: 196, top: 44, right: WIDTH - 96, bottom: height - 54 };
  const times = rows.flatMap(({ samples, ms }) => [...(samples ?? []), ms!.low, ms!.high]);
  const x = logScale(Math.min(...times) * 0.9, Math.max(...times) * 1.1, area.left, area.right);
  svg.text(16, 24, title, "title");
  for (const tick of timeTicks(Math.min(...times) * 0.9, Math.max(...times) * 1.1)) {
    svg.line([x(tick), area.top, x(tick), area.bottom], "grid");
    svg.text(x(tick), area.bottom + 18, formatTime(tick), "tick middle");
  }
  for (const [i, { name, ms, samples }] of rows.entries()) {
    const y = area.top + 14 + i * 24;
    svg.text(28, y + 4, name, "key");
    for (const [k, sample] of (samples ?? []).entries()) svg.dot(x(sample), y + ((k * 5) % 9) - 4, 1.7, "sample");
    svg.cell({ x: x(ms!.low), y: y - 8, width: Math.max(1, x(ms!.high) - x(ms!.low)), height: 16 }, null);
    svg.line([x(ms!.median), y - 9, x(ms!.median), y + 9], "median");
    svg.text(area.right + 8, y + 4, formatTime(ms!.median), "figure");
  }
  return svg.done(footerOf(result), PATH_COLORS, PATH_DASHES);
}

/** A logarithmic scale from values to pixels. */
export function logScale(low: number, high: number, from: number, to: number): (value: number) => number {
  const span = Math.log(high / low) || 1;
  return (value) => from + (Math.log(value / low) / span) * (to - from);
}

/** 1, 2 and 5 times powers of ten, or only powers where these were too many. */
export function timeTicks(low: number, high: number): number[] {
  const ticks: number[] = [];
  const steps = high / low > 50 ? [1] : high / low > 8 ? [1, 3] : [1, 1.5, 2, 3, 5, 7];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    for (const step of steps) {
      const tick = step * 10 ** power;
      if (tick >= low && tick <= high) ticks.push(tick);
    }
  }
  return ticks;
}

/** The powers of ten around all values. */
export function decades(values: readonly number[]): [low: number, high: number] {
  if (values.length === 0) return [1e6, 1e9];
  const low = 10 ** Math.floor(Math.log10(Math.min(...values)));
  const high = 10 ** Math.ceil(Math.log10(Math.max(...values)));
  return [low, Math.max(high, low * 10)];
}

function points(
  rates: readonly (number | null)[],
  sizes: readonly number[],
  x: (value: number) => number,
  y: (value: number) => number,
): [number, number][] {
  return rates.flatMap((rate, i): [number, number][] => (rate === null ? [] : [[x(sizes[i]!), y(rate)]]));
}

function footerOf(result: BenchResult): string {
  const { options, date } = result;
  const browser = browserOf(result) === "" ? "" : `browser ${browserOf(result)}`;
  const limits = options.limits === "default" ? "WebGPU's default limits" : "the adapter's limits";
  return [adapterOf(result), browser, limits, date.slice(0, 10)].filter((part) => part !== "").join("; ");
}

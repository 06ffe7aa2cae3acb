import { effect, useSignal } from "@preact/signals";
import type { Signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { decades, PATH_COLORS, PATH_DASHES } from "../bench/plot.ts";
import { bandwidthOf, type BandwidthSeries, formatRate } from "../bench/series.ts";
import { colorIndexOf, columns, facet, pointedPath, rows } from "./bench-session.ts";
import { chunk } from "./format.ts";
import { Panel } from "./panel.tsx";
import { dark, palette } from "./theme.ts";

const FONT = '11px "Segoe UI", Inter, Roboto, "Noto Sans", "DejaVu Sans Condensed", sans-serif';

/** Bandwidth by size, a line per path, the memory copy of JavaScript drawn in as the bound. */
export function BenchBandwidth() {
  const box = useRef<HTMLDivElement>(null);
  /** Index of the size that the pointer is nearest to; the last one when it is elsewhere. */
  const at = useSignal<number | null>(null);
  useEffect(() => {
    let plot: uPlot | null = null;
    // Kept: the observer may call once more when the page is left and the reference is gone.
    const target = box.current!;
    const size = () => ({ width: target.clientWidth, height: target.clientHeight });
    const stopData = effect(() => {
      plot?.destroy();
      plot = null;
      if (facet.value === null) return;
      const series = bandwidthOf(rows.value, facet.value);
      plot = new uPlot(options(series, facet.value.kind, size(), at), dataOf(series), target);
    });
    const stopFocus = effect(() => {
      const names = [null, ...(facet.value === null ? [] : bandwidthOf(rows.value, facet.value).lines)];
      const index = names.findIndex((line) => line !== null && line.name === pointedPath.value);
      if (index > 0) plot?.setSeries(index, { focus: true });
      else plot?.setSeries(null, { focus: false });
    });
    const observer = new ResizeObserver(() => plot?.setSize(size()));
    observer.observe(target);
    return () => {
      observer.disconnect();
      stopData();
      stopFocus();
      plot?.destroy();
    };
  }, []);
  return (
    <Panel title="Bandwidth by size" class="bench-bandwidth">
      <div class="bench-plot">
        <div ref={box} class="bench-canvas" data-testid="bench-bandwidth" />
        <Legend at={at} />
      </div>
    </Panel>
  );
}

/** Every line, quickest first at the size that the pointer is at. */
function Legend({ at }: { at: Signal<number | null> }) {
  if (facet.value === null) return null;
  const { kind } = facet.value;
  const series = bandwidthOf(rows.value, facet.value);
  const index = Math.min(at.value ?? series.sizes.length - 1, series.sizes.length - 1);
  const lines = series.lines.toSorted((a, b) => (b.rates[index] ?? 0) - (a.rates[index] ?? 0));
  const colors = PATH_COLORS[dark.value ? "dark" : "light"];
  const rateOf = (rates: readonly (number | null)[]) => (rates[index] == null ? "–" : formatRate(rates[index]));
  return (
    <div class="bench-legend">
      <p class="muted">at {chunk(series.sizes[index]!)}</p>
      <ul>
        {series.bound !== null && (
          <li
            class="bound"
            title="A copy of the same bytes in JavaScript's memory: no path that begins or ends there is faster"
          >
            <i style={{ "--line": "var(--text)" }} class="dotted" />
            memory copy
            <b>{rateOf(series.bound.rates)}</b>
          </li>
        )}
        {lines.map(({ name, rates }) => (
          <li
            key={name}
            class={pointedPath.value === name ? "pointed" : ""}
            onPointerEnter={() => (pointedPath.value = name)}
            onPointerLeave={() => (pointedPath.value = null)}
          >
            <i
              class={PATH_DASHES[colorIndexOf(kind, name) % PATH_DASHES.length]!.length > 0 ? "dashed" : ""}
              style={{ "--line": colors[colorIndexOf(kind, name) % colors.length] }}
            />
            {name}
            <b>{rateOf(rates)}</b>
          </li>
        ))}
      </ul>
    </div>
  );
}

function dataOf({ sizes, lines, bound }: BandwidthSeries): uPlot.AlignedData {
  const all = [...lines, ...(bound === null ? [] : [bound])];
  return [[...sizes], ...all.map(({ rates }) => [...rates])] as uPlot.AlignedData;
}

function options(
  series: BandwidthSeries,
  kind: string,
  size: { width: number; height: number },
  at: Signal<number | null>,
): uPlot.Options {
  const colors = palette.value;
  const paths = PATH_COLORS[dark.value ? "dark" : "light"];
  const axis: uPlot.Axis = {
    stroke: colors.muted,
    font: FONT,
    grid: { stroke: colors.line, width: 1 },
    ticks: { show: false },
  };
  const { lines, bound } = series;
  const sizes = columns(series.sizes);
  const rates = [...lines, ...(bound === null ? [] : [bound])].flatMap((line) => line.rates.filter((r) => r !== null));
  const [low, high] = decades(rates);
  return {
    ...size,
    padding: [10, 14, 0, 0],
    cursor: { drag: { x: false, y: false }, focus: { prox: 24 }, y: false },
    focus: { alpha: 0.22 },
    legend: { show: false },
    scales: {
      x: { time: false, distr: 3, log: 2, range: [sizes[0]! / 1.3, sizes.at(-1)! * 1.3] },
      y: { distr: 3, log: 10, range: [low, high] },
    },
    axes: [
      {
        ...axis,
        size: 26,
        grid: { show: false },
        splits: () => [...sizes],
        filter: (_, splits) => splits,
        values: (_, ticks) => ticks.map(chunk),
      },
      {
        ...axis,
        size: 66,
        splits: () => powers(low, high),
        filter: (_, splits) => splits,
        values: (_, ticks) => ticks.map((tick) => formatRate(tick).replace(/\.0+ /, " ")),
      },
    ],
    series: [
      {},
      ...lines.map(({ name }): uPlot.Series => {
        const index = colorIndexOf(kind, name);
        const stroke = paths[index % paths.length]!;
        const dash = [...PATH_DASHES[index % PATH_DASHES.length]!];
        return { label: name, stroke, width: 1.8, dash, spanGaps: true, points: { show: true, size: 5, fill: stroke } };
      }),
      ...(bound === null
        ? []
        : [{ label: bound.name, stroke: colors.text, width: 1.4, dash: [2, 3], points: { show: false } }]),
    ],
    hooks: {
      setCursor: [(plot) => (at.value = plot.cursor.idx ?? null)],
      setSeries: [
        (_, index) => {
          const line = index === null ? undefined : lines[index - 1];
          if ((line?.name ?? null) !== pointedPath.peek()) pointedPath.value = line?.name ?? null;
        },
      ],
    },
  };
}

function powers(low: number, high: number): number[] {
  const result: number[] = [];
  for (let power = low; power <= high * 1.001; power *= 10) result.push(power);
  return result;
}

import { effect } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { COUNTER } from "../worker/protocol.ts";
import { bytes } from "./format.ts";
import { Key, Panel } from "./panel.tsx";
import { frame, rounds } from "./session.ts";
import { palette } from "./theme.ts";
import type { Palette } from "./theme.ts";

const MIB = 2 ** 20;
/** Rounds in view; older ones leave to the left. */
const SHOWN = 300;
const FONT = '11px "Segoe UI", Inter, Roboto, "Noto Sans", "DejaVu Sans Condensed", sans-serif';

/** Bytes that every round moved: into VRAM above the line, out of it below. */
export function Throughput() {
  const box = useRef<HTMLDivElement>(null);
  useEffect(() => {
    let plot: uPlot | null = null;
    // Kept: the observer may call once more when the page has left the workbench and the reference is gone.
    const target = box.current!;
    const size = () => ({ width: target.clientWidth, height: target.clientHeight });
    const stopTheme = effect(() => {
      plot?.destroy();
      plot = new uPlot(options(palette.value, size()), series(), target);
    });
    const stopData = effect(() => {
      if (frame.value !== null) plot!.setData(series());
    });
    const observer = new ResizeObserver(() => plot!.setSize(size()));
    observer.observe(target);
    return () => {
      observer.disconnect();
      stopData();
      stopTheme();
      plot?.destroy();
    };
  }, []);
  return (
    <Panel
      title="Traffic per round"
      class="throughput"
      legend={
        <>
          <Key color="in" label="into VRAM" />
          <Key color="out" label="out of VRAM" />
        </>
      }
      actions={<LastRound />}
    >
      <div ref={box} class="fill inset chart" data-testid="throughput" />
    </Panel>
  );
}

function LastRound() {
  if (frame.value === null || rounds.count === 0) return null;
  const last = rounds.count - 1;
  const moved = (counter: number) => bytes(rounds.value(last, counter));
  return (
    <span class="muted">
      last round {moved(COUNTER.bytesIn)} in, {moved(COUNTER.bytesOut)} out
    </span>
  );
}

function series(): uPlot.AlignedData {
  const first = Math.max(0, rounds.count - SHOWN);
  const x: number[] = [];
  const into: number[] = [];
  const out: number[] = [];
  for (let i = first; i < rounds.count; i++) {
    x.push(i + 1);
    into.push(rounds.value(i, COUNTER.bytesIn) / MIB);
    out.push(-rounds.value(i, COUNTER.bytesOut) / MIB);
  }
  return [x, into, out];
}

/** Zero, and the largest powers of two of a MiB that fit on either side. */
function ticksBetween(low: number, high: number): number[] {
  const power = (most: number) => 2 ** Math.floor(Math.log2(most));
  return [...(low < 0 ? [-power(-low)] : []), 0, ...(high > 0 ? [power(high)] : [])];
}

function options(colors: Palette, size: { width: number; height: number }): uPlot.Options {
  const axis: uPlot.Axis = {
    stroke: colors.muted,
    font: FONT,
    grid: { stroke: colors.line, width: 1 },
    ticks: { show: false },
  };
  const bars = uPlot.paths.bars!({ size: [0.8, 14], gap: 1 });
  return {
    ...size,
    padding: [8, 8, 0, 0],
    cursor: { drag: { x: false, y: false }, points: { show: false }, y: false },
    legend: { show: false },
    scales: {
      x: { time: false, range: (_, low, high) => [(low ?? 1) - 1, Math.max(high ?? 1, (low ?? 1) + 29) + 0.5] },
      y: { range: (_, low, high) => [Math.min(low ?? 0, -1) * 1.1, Math.max(high ?? 0, 1) * 1.1] },
    },
    axes: [
      {
        ...axis,
        size: 24,
        grid: { show: false },
        values: (_, ticks) => ticks.map((t) => (Number.isInteger(t) && t > 0 ? String(t) : "")),
      },
      {
        ...axis,
        size: 56,
        splits: (_, __, low, high) => ticksBetween(low, high),
        values: (_, ticks) => ticks.map((t) => bytes(Math.abs(t) * MIB)),
      },
    ],
    series: [
      {},
      { label: "in", fill: colors.in, width: 0, points: { show: false }, paths: bars },
      { label: "out", fill: colors.out, width: 0, points: { show: false }, paths: bars },
    ],
  };
}

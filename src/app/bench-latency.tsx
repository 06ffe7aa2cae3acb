import { logScale, PATH_COLORS, timeTicks } from "../bench/plot.ts";
import { formatTime, latenciesOf } from "../bench/series.ts";
import { chosenSize, colorIndexOf, facet, facetSizes, latencySize, pointedPath, rows } from "./bench-session.ts";
import { useCanvas } from "./canvas.ts";
import type { Surface } from "./canvas.ts";
import { chunk } from "./format.ts";
import { Panel } from "./panel.tsx";
import { dark, palette } from "./theme.ts";

const NAME_WIDTH = 142;
const FIGURE_WIDTH = 62;
const FONT = '11px "Segoe UI", Inter, Roboto, "Noto Sans", "DejaVu Sans Condensed", sans-serif';

/** Every single time of one size, a row per path: how sure a median is, and how long one may have to wait. */
export function BenchLatency() {
  const canvas = useCanvas(draw);
  return (
    <Panel
      title="Time of one transfer"
      class="bench-latency"
      actions={
        <label class="field">
          <span>Size</span>
          <select
            aria-label="Size of the transfer"
            value={String(latencySize.value)}
            onChange={(event) => (chosenSize.value = Number(event.currentTarget.value))}
          >
            {facetSizes.value.map((size) => (
              <option key={size} value={String(size)}>
                {chunk(size)}
              </option>
            ))}
          </select>
        </label>
      }
    >
      <canvas ref={canvas} class="fill" data-testid="bench-latency" role="img" aria-label={summary()} />
    </Panel>
  );
}

function members() {
  const chosen = facet.value;
  const size = latencySize.value;
  return chosen === null || size === null ? [] : latenciesOf(rows.value, chosen, size);
}

function summary(): string {
  const found = members();
  return found.map(({ name, ms }) => `${name}: ${formatTime(ms!.median)}`).join("; ") || "nothing measured";
}

function draw({ ctx, width, height }: Surface): void {
  const colors = palette.value;
  const paths = PATH_COLORS[dark.value ? "dark" : "light"];
  ctx.clearRect(0, 0, width, height);
  const found = members();
  if (found.length === 0) return;
  const times = found.flatMap(({ samples, ms }) => [...(samples ?? []), ms!.low, ms!.high]);
  const [low, high] = [Math.min(...times) * 0.9, Math.max(...times) * 1.1];
  const x = logScale(low, high, NAME_WIDTH, width - FIGURE_WIDTH);
  const bottom = height - 24;
  const row = Math.min(28, (bottom - 8) / found.length);
  ctx.font = FONT;
  ctx.textBaseline = "middle";
  ctx.textAlign = "center";
  let free = 0;
  for (const tick of timeTicks(low, high)) {
    ctx.strokeStyle = colors.line;
    line(ctx, x(tick), 8, x(tick), bottom);
    if (x(tick) < free) continue;
    ctx.fillStyle = colors.muted;
    ctx.fillText(formatTime(tick), x(tick), bottom + 11);
    free = x(tick) + 52;
  }
  for (const [i, { kind, name, ms, samples }] of found.entries()) {
    const y = 8 + (i + 0.5) * row;
    const color = paths[colorIndexOf(kind, name) % paths.length]!;
    const faded = pointedPath.value !== null && pointedPath.value !== name;
    ctx.globalAlpha = faded ? 0.35 : 1;
    ctx.textAlign = "left";
    ctx.fillStyle = colors.text;
    ctx.fillText(name, 12, y, NAME_WIDTH - 18);
    ctx.fillStyle = color;
    ctx.globalAlpha = faded ? 0.12 : 0.5;
    for (const [k, sample] of (samples ?? []).entries()) {
      ctx.beginPath();
      ctx.arc(x(sample), y + ((((k * 5) % 9) - 4) / 9) * row * 0.7, 1.8, 0, 2 * Math.PI);
      ctx.fill();
    }
    ctx.globalAlpha = faded ? 0.12 : 0.28;
    ctx.fillRect(x(ms!.low), y - row * 0.38, Math.max(1, x(ms!.high) - x(ms!.low)), row * 0.76);
    ctx.globalAlpha = faded ? 0.35 : 1;
    ctx.lineWidth = 2;
    ctx.strokeStyle = colors.text;
    line(ctx, x(ms!.median), y - row * 0.42, x(ms!.median), y + row * 0.42);
    ctx.lineWidth = 1;
    ctx.textAlign = "right";
    ctx.fillStyle = colors.text;
    ctx.fillText(formatTime(ms!.median), width - 10, y);
    ctx.globalAlpha = 1;
  }
}

function line(ctx: CanvasRenderingContext2D, x1: number, y1: number, x2: number, y2: number): void {
  ctx.beginPath();
  ctx.moveTo(x1, y1);
  ctx.lineTo(x2, y2);
  ctx.stroke();
}

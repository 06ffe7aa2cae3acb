import { useSignal } from "@preact/signals";
import { PATHS } from "../bench/cells.ts";
import { bandwidthOf, type BandwidthSeries, type Facet, formatRate, formatTime, sharesOf } from "../bench/series.ts";
import { baseline, chosenSize, columns, facet, facets, latencySize, pointedPath, rows, show } from "./bench-session.ts";
import { MONO, useCanvas } from "./canvas.ts";
import type { Surface } from "./canvas.ts";
import { chunk } from "./format.ts";
import { dark, palette } from "./theme.ts";
import { type Tip, Tooltip } from "./tooltip.tsx";

const NAME_WIDTH = 168;
const ROW = 21;
const HEAD = 24;
const FONT = '12px "Segoe UI", Inter, Roboto, "Noto Sans", "DejaVu Sans Condensed", sans-serif';

interface Line {
  readonly top: number;
  readonly kind: string;
  /** Null for the head of a direction. */
  readonly name: string | null;
  readonly rates: readonly (number | null)[];
  readonly shares: readonly (number | null)[];
}

/** What the map shows: all directions of the chosen pages and mode. */
interface Layout {
  readonly sizes: readonly number[];
  readonly lines: readonly Line[];
  readonly height: number;
}

/** Path by size: the figure is the bandwidth, the shade its share of the best of its direction at that size. */
export function BenchHeat() {
  const tip = useSignal<Tip | null>(null);
  const layout = layoutOf();
  const canvas = useCanvas((surface) => draw(surface, layoutOf()));
  const at = (event: PointerEvent | MouseEvent) => {
    const box = canvas.current!.getBoundingClientRect();
    const line = layout.lines.find(({ top }) => event.clientY - box.top >= top && event.clientY - box.top < top + ROW);
    const column = columnAt(event.clientX - box.left, box.width, layout.sizes.length);
    return line === undefined || line.name === null ? null : { line, column };
  };
  return (
    <div class="bench-heat">
      <canvas
        ref={canvas}
        data-testid="bench-heat"
        role="img"
        aria-label={summaryOf(layout)}
        style={{ height: `${layout.height}px` }}
        onPointerMove={(event) => {
          const hit = at(event);
          pointedPath.value = hit?.line.name ?? null;
          tip.value = hit === null ? null : { x: event.clientX, y: event.clientY, lines: tipOf(hit, layout) };
        }}
        onPointerLeave={() => {
          tip.value = null;
          pointedPath.value = null;
        }}
        onClick={(event) => {
          const hit = at(event);
          if (hit === null) return;
          show({ kind: hit.line.kind });
          if (hit.column !== null) chosenSize.value = layout.sizes[hit.column]!;
        }}
      />
      <Tooltip tip={tip} />
    </div>
  );
}

function columnAt(x: number, width: number, columns: number): number | null {
  const column = Math.floor(((x - NAME_WIDTH) / (width - NAME_WIDTH)) * columns);
  return column >= 0 && column < columns ? column : null;
}

function layoutOf(): Layout {
  const chosen = facet.value;
  if (chosen === null) return { sizes: [], lines: [], height: HEAD };
  const tables = facets.value
    .filter(({ layout, mode }) => layout === chosen.layout && mode === chosen.mode)
    .map((member): [Facet, BandwidthSeries] => [member, bandwidthOf(rows.value, member)]);
  const sizes = columns(tables.flatMap(([, series]) => series.sizes));
  const lines: Line[] = [];
  let top = HEAD;
  for (const [{ kind }, series] of tables) {
    lines.push({ top, kind, name: null, rates: [], shares: [] });
    top += ROW;
    const shares = sharesOf(series);
    for (const [i, { name, rates }] of series.lines.entries()) {
      const spread = <T,>(values: readonly T[]) => sizes.map((size) => values[series.sizes.indexOf(size)] ?? null);
      lines.push({ top, kind, name, rates: spread(rates), shares: spread(shares[i]!) });
      top += ROW;
    }
    top += 4;
  }
  return { sizes, lines, height: top + 4 };
}

function draw({ ctx, width, height }: Surface, { sizes, lines }: Layout): void {
  const colors = palette.value;
  // From here on the background's colour is read better on the shade than the text's.
  const onShade = dark.value ? 0.82 : 0.9;
  const cell = (width - NAME_WIDTH) / Math.max(1, sizes.length);
  ctx.clearRect(0, 0, width, height);
  ctx.textBaseline = "middle";
  ctx.font = FONT;
  ctx.textAlign = "center";
  ctx.fillStyle = colors.muted;
  for (const [i, size] of sizes.entries()) ctx.fillText(chunk(size), NAME_WIDTH + (i + 0.5) * cell, HEAD / 2);
  for (const { top, kind, name, rates, shares } of lines) {
    const middle = top + ROW / 2;
    ctx.font = name === null ? `600 ${FONT}` : FONT;
    ctx.textAlign = "left";
    ctx.fillStyle = name === null ? colors.muted : colors.text;
    ctx.fillText(name ?? kind, name === null ? 12 : 20, middle, NAME_WIDTH - 24);
    ctx.font = MONO;
    ctx.textAlign = "center";
    for (const [i, rate] of rates.entries()) {
      if (rate === null) continue;
      const share = shares[i]!;
      const left = NAME_WIDTH + i * cell;
      ctx.globalAlpha = 0.06 + 0.94 * share ** 1.5;
      ctx.fillStyle = colors.in;
      ctx.fillRect(left + 1, top + 1, cell - 2, ROW - 2);
      ctx.globalAlpha = 1;
      ctx.fillStyle = share > onShade ? colors.surface : colors.text;
      ctx.fillText(cell < 66 ? shortRate(rate) : formatRate(rate), left + cell / 2, middle, cell - 6);
      if (kind === facet.value?.kind && sizes[i] === latencySize.value) {
        ctx.strokeStyle = colors.accent;
        ctx.strokeRect(left + 0.5, top + 0.5, cell - 1, ROW - 1);
      }
    }
  }
}

/** Where the columns are narrow: `"1.2 G"`. */
function shortRate(rate: number): string {
  return formatRate(rate).replace("B/s", "").trim();
}

function tipOf({ line, column }: { line: Line; column: number | null }, { sizes }: Layout): string[] {
  const how = PATHS.find(({ kind, name }) => kind === line.kind && name === line.name)?.how ?? "";
  if (column === null) return [line.name!, how];
  const chosen = facet.peek()!;
  const find = (from: typeof rows.value) =>
    from.find(
      (row) =>
        row.name === line.name &&
        row.kind === line.kind &&
        row.bytes === sizes[column] &&
        row.layout === chosen.layout &&
        row.mode === chosen.mode,
    );
  const row = find(rows.peek());
  if (row?.ms == null) return [line.name!, how, row?.error ?? "not measured"];
  const { median, low, high, n } = row.ms;
  const old = find(baseline.peek()?.result.rows ?? []);
  return [
    `${line.name}, ${chunk(sizes[column]!)}`,
    how,
    `${formatTime(median)} (95 %: ${formatTime(low)} to ${formatTime(high)}, ${n} samples)`,
    ...(row.gpu === undefined ? [] : [`GPU's own time: ${formatTime(row.gpu.median)}`]),
    ...(old?.ms == null ? [] : [`before: ${formatTime(old.ms.median)}`]),
    ...(row.error === null ? [] : [`WRONG: ${row.error}`]),
  ];
}

/** The best of each direction at the largest size, for whoever does not see the map. */
function summaryOf({ sizes, lines }: Layout): string {
  const last = sizes.length - 1;
  const kinds = [...new Set(lines.map(({ kind }) => kind))];
  const best = kinds.map((kind) => {
    const members = lines.filter((line) => line.kind === kind && line.name !== null && line.rates[last] != null);
    const top = members.toSorted((a, b) => b.rates[last]! - a.rates[last]!)[0];
    return top === undefined ? `${kind}: none` : `${kind}: ${top.name}, ${formatRate(top.rates[last]!)}`;
  });
  return sizes.length === 0 ? "nothing measured" : `Best at ${chunk(sizes[last]!)}: ${best.join("; ")}`;
}

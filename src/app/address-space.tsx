import { signal, useComputed, useSignal } from "@preact/signals";
import { useRef } from "preact/hooks";
import { RANGE_INVALID, RANGE_IN_VRAM, RANGE_STRIDE, VMA_ANONYMOUS, VMA_READ, VMA_WRITE } from "../worker/protocol.ts";
import { HEADER, ROW, layOut } from "./address-layout.ts";
import type { AddressLayout, Area, Row } from "./address-layout.ts";
import { MONO, hatch, useCanvas } from "./canvas.ts";
import type { Surface } from "./canvas.ts";
import { address, bytes, chunk } from "./format.ts";
import { Key, Panel } from "./panel.tsx";
import { frame, highlight, pointed } from "./session.ts";
import { palette } from "./theme.ts";
import type { Palette } from "./theme.ts";
import { Tooltip } from "./tooltip.tsx";
import type { Tip } from "./tooltip.tsx";

const GUTTER = 118;
const RIGHT = 12;
const EMPTY = new Float64Array(0);

const zoom = signal(0);
const scrollTop = signal(0);
const boxHeight = signal(240);
const PLACES = ["invalid: not mapped for the GPU", "in VRAM", "in system memory"];

/** The address space of the processes: VMAs as areas, GPU SVM ranges in them by place and chunk size. */
export function AddressSpace() {
  const tip = useSignal<Tip | null>(null);
  const layout = useComputed<AddressLayout>(() =>
    layOut(frame.value?.vmas ?? EMPTY, frame.value?.ranges ?? EMPTY, boxHeight.value - 12, zoom.value),
  );
  const box = useRef<HTMLDivElement>(null);
  const canvas = useCanvas((surface) => {
    boxHeight.value = surface.height;
    draw(surface, layout.value, frame.value?.ranges ?? EMPTY, scrollTop.value);
  });
  const move = (event: PointerEvent) => {
    const y = event.offsetY + scrollTop.peek();
    const found = hit(layout.peek(), event.offsetX, y, canvas.current!.clientWidth);
    const range = found && rangeAt(found.area.process, found.va, frame.peek()?.ranges ?? EMPTY);
    pointed.value = range && { start: range.start, end: range.end };
    tip.value = found && { x: event.clientX, y: event.clientY, lines: describe(found, range) };
  };
  const leave = () => {
    pointed.value = null;
    tip.value = null;
  };
  const empty = useComputed(() => (frame.value?.vmas.length ?? 0) === 0);
  return (
    <Panel
      title="Address space"
      class="address-space"
      legend={
        <>
          <Key color="in" label="in VRAM" />
          <Key color="cpu" label="in RAM" />
          <Key color="invalid" label="invalid" hatched />
          <span class="chunk-key" title="The height of a range tells its chunk size">
            <i class="chunk-2m" /> 2M <i class="chunk-64k" /> 64K <i class="chunk-4k" /> 4K
          </span>
        </>
      }
      actions={
        <div class="zoom" role="group" aria-label="Zoom">
          <button
            type="button"
            class="icon"
            aria-label="Zoom out"
            onClick={() => (zoom.value = Math.max(-8, zoom.value - 1))}
          >
            −
          </button>
          <button type="button" class="icon wide" title="Fit the used areas" onClick={() => (zoom.value = 0)}>
            Fit
          </button>
          <button
            type="button"
            class="icon"
            aria-label="Zoom in"
            onClick={() => (zoom.value = Math.min(14, zoom.value + 1))}
          >
            +
          </button>
        </div>
      }
    >
      <div
        class="scroll"
        ref={box}
        tabIndex={0}
        role="img"
        aria-label="Address space of the process with its VMAs and GPU ranges"
        onScroll={(event) => (scrollTop.value = event.currentTarget.scrollTop)}
      >
        <canvas
          ref={canvas}
          class="fill sticky"
          data-testid="address-space"
          onPointerMove={move}
          onPointerLeave={leave}
        />
        <Spacer layout={layout} />
        {empty.value && <p class="hint">Nothing is mapped. Run a scenario, or drop a file on the page.</p>}
      </div>
      <Tooltip tip={tip} />
    </Panel>
  );
}

/** Makes the box as tall as the layout; the canvas stays in view and draws the part scrolled to. */
function Spacer(props: { layout: { readonly value: AddressLayout } }) {
  return <div style={{ height: `${Math.max(0, props.layout.value.height - boxHeight.value)}px` }} />;
}

function xOf(va: number, row: Row, area: Area, width: number): number {
  return GUTTER + ((va - row.start) / (area.span * row.folded)) * (width - GUTTER - RIGHT);
}

function draw({ ctx, width, height }: Surface, layout: AddressLayout, ranges: Float64Array, top: number): void {
  const colors = palette.value;
  ctx.clearRect(0, 0, width, height);
  ctx.font = MONO;
  ctx.textBaseline = "middle";
  const invalid = hatch(ctx, colors.invalid);
  const mark = highlight.value;
  for (const area of layout.areas) {
    drawHeader(ctx, area, area.y - top, width, colors);
    for (const row of area.rows) {
      const y = row.y - top;
      if (y + ROW < 0 || y > height) continue;
      drawRow(ctx, area, row, y, width, colors);
    }
    drawRanges(ctx, area, ranges, top, width, height, colors, invalid);
    if (mark !== null) {
      for (const row of area.rows) {
        const start = Math.max(mark.start, row.start, area.start);
        const end = Math.min(mark.end, row.start + area.span * row.folded, area.end);
        if (start >= end) continue;
        const x = xOf(start, row, area, width);
        ctx.strokeStyle = colors.text;
        ctx.lineWidth = 2;
        ctx.strokeRect(x, row.y - top + 1, Math.max(3, xOf(end, row, area, width) - x), ROW - 3);
      }
    }
  }
}

function drawHeader(ctx: CanvasRenderingContext2D, area: Area, y: number, width: number, colors: Palette): void {
  const middle = y + HEADER / 2 + 2;
  ctx.textAlign = "left";
  ctx.fillStyle = colors.text;
  ctx.fillText(title(area), GUTTER, middle);
  ctx.fillStyle = colors.muted;
  const left = GUTTER + ctx.measureText(title(area)).width + 14;
  ctx.fillText(
    `${bytes(area.end - area.start)} · ${area.ranges} ${area.ranges === 1 ? "range" : "ranges"}`,
    left,
    middle,
  );
  ctx.textAlign = "right";
  ctx.fillText(`${chunk(area.span)} per row`, width - RIGHT, middle);
  ctx.fillText(`process ${area.process}`, GUTTER - 12, middle);
}

function title(area: Area): string {
  if (area.flags === -1) return "unmapped, not yet collected";
  const prot = `${area.flags & VMA_READ ? "r" : "-"}${area.flags & VMA_WRITE ? "w" : "-"}`;
  return `${prot} ${area.flags & VMA_ANONYMOUS ? "anonymous" : "mapped"}`;
}

function drawRow(ctx: CanvasRenderingContext2D, area: Area, row: Row, y: number, width: number, colors: Palette): void {
  ctx.fillStyle = colors.muted;
  ctx.textAlign = "right";
  ctx.fillText(address(row.start), GUTTER - 12, y + ROW / 2);
  const from = xOf(Math.max(area.start, row.start), row, area, width);
  const to = xOf(Math.min(area.end, row.start + area.span * row.folded), row, area, width);
  ctx.fillStyle = colors.track;
  ctx.fillRect(from, y + 1, to - from, ROW - 3);
  if (row.folded > 1) {
    ctx.fillStyle = colors.muted;
    ctx.textAlign = "center";
    ctx.fillText(`⋯  ${bytes(row.folded * area.span)} without ranges  ⋯`, (from + to) / 2, y + ROW / 2);
  }
}

function drawRanges(
  ctx: CanvasRenderingContext2D,
  area: Area,
  ranges: Float64Array,
  top: number,
  width: number,
  height: number,
  colors: Palette,
  invalid: CanvasPattern,
): void {
  const fills = [invalid, colors.in, colors.cpu];
  const origin = area.rows[0]!.start;
  for (let at = 0; at < ranges.length; at += RANGE_STRIDE) {
    const start = ranges[at + 2]!;
    const end = ranges[at + 3]!;
    if (ranges[at] !== area.process || end <= area.start || start >= area.end) continue;
    const size = end - start;
    const tall = size >= 2 ** 21 ? ROW - 3 : size >= 2 ** 16 ? 12 : 7;
    for (let i = rowIndex(area, Math.max(start, origin)); i < area.rows.length; i++) {
      const row = area.rows[i]!;
      if (row.start >= end) break;
      const y = row.y - top;
      if (y + ROW < 0 || y > height) continue;
      const x = xOf(Math.max(start, row.start), row, area, width);
      const right = xOf(Math.min(end, row.start + area.span * row.folded), row, area, width);
      const wide = Math.max(1, right - x - (right - x > 3 ? 1 : 0));
      const place = ranges[at + 4]!;
      ctx.fillStyle = fills[place]!;
      ctx.fillRect(x, y + ROW - 2 - tall, wide, tall);
      if (place === RANGE_INVALID) {
        ctx.strokeStyle = colors.invalid;
        ctx.lineWidth = 1;
        if (wide > 3) ctx.strokeRect(x + 0.5, y + ROW - 1.5 - tall, wide - 1, tall - 1);
      }
      if (wide > 30 && tall >= 12) {
        ctx.fillStyle = place === RANGE_INVALID ? colors.text : colors.surface;
        ctx.textAlign = "center";
        ctx.fillText(chunk(size), x + wide / 2, y + ROW - 1.5 - tall / 2);
      }
    }
  }
}

/** The last row that begins at or before `va`. */
function rowIndex(area: Area, va: number): number {
  let lo = 0;
  let hi = area.rows.length - 1;
  while (lo < hi) {
    const mid = (lo + hi + 1) >> 1;
    if (area.rows[mid]!.start <= va) lo = mid;
    else hi = mid - 1;
  }
  return lo;
}

function hit(layout: AddressLayout, x: number, y: number, width: number): { area: Area; va: number } | null {
  for (const area of layout.areas) {
    for (const row of area.rows) {
      if (y < row.y || y >= row.y + ROW) continue;
      const va = row.start + ((x - GUTTER) / (width - GUTTER - RIGHT)) * area.span * row.folded;
      return va >= area.start && va < area.end ? { area, va } : null;
    }
  }
  return null;
}

interface RangeHit {
  readonly vm: number;
  readonly start: number;
  readonly end: number;
  readonly place: number;
}

function rangeAt(process: number, va: number, ranges: Float64Array): RangeHit | null {
  for (let at = 0; at < ranges.length; at += RANGE_STRIDE) {
    const start = ranges[at + 2]!;
    const end = ranges[at + 3]!;
    if (ranges[at] === process && va >= start && va < end)
      return { vm: ranges[at + 1]!, start, end, place: ranges[at + 4]! };
  }
  return null;
}

function describe(found: { area: Area; va: number }, range: RangeHit | null): string[] {
  const page = address(Math.floor(found.va / 4096) * 4096);
  const area = `${title(found.area)}, ${address(found.area.start)} – ${address(found.area.end)}`;
  if (range === null) return [page, area, "no GPU range here"];
  const size = `${chunk(range.end - range.start)} range of VM ${range.vm}`;
  const place = range.place === RANGE_IN_VRAM ? "in VRAM" : PLACES[range.place]!;
  return [page, `${size}, ${place}`, `${address(range.start)} – ${address(range.end)}`, area];
}

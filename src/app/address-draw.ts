import { RANGE_INVALID, RANGE_STRIDE, VMA_ANONYMOUS, VMA_READ, VMA_WRITE } from "../worker/protocol.ts";
import { HEADER, ROW } from "./address-layout.ts";
import type { AddressLayout, Area, Row } from "./address-layout.ts";
import { MONO, hatch } from "./canvas.ts";
import type { Surface } from "./canvas.ts";
import { address, bytes, chunk } from "./format.ts";
import type { Palette } from "./theme.ts";

/** Space left of the rows for their addresses, and right of them, CSS pixels. */
export const GUTTER = 118;
export const RIGHT = 12;

/** What the view shows now. */
export interface AddressScene {
  readonly layout: AddressLayout;
  readonly ranges: Float64Array;
  /** Scrolled by so many pixels. */
  readonly top: number;
  /** Addresses to frame. */
  readonly mark: { readonly start: number; readonly end: number } | null;
  readonly colors: Palette;
}

export function drawAddressSpace({ ctx, width, height }: Surface, scene: AddressScene): void {
  const { layout, top, mark, colors } = scene;
  ctx.clearRect(0, 0, width, height);
  ctx.font = MONO;
  ctx.textBaseline = "middle";
  const invalid = hatch(ctx, colors.invalid);
  for (const area of layout.areas) {
    drawHeader(ctx, area, area.y - top, width, colors);
    for (const row of area.rows) {
      const y = row.y - top;
      if (y + ROW < 0 || y > height) continue;
      drawRow(ctx, area, row, y, width, colors);
    }
    drawRanges(ctx, area, scene, width, height, invalid);
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
  ctx.fillText(areaTitle(area), GUTTER, middle);
  ctx.fillStyle = colors.muted;
  const left = GUTTER + ctx.measureText(areaTitle(area)).width + 14;
  ctx.fillText(
    `${bytes(area.end - area.start)} · ${area.ranges} ${area.ranges === 1 ? "range" : "ranges"}`,
    left,
    middle,
  );
  ctx.textAlign = "right";
  ctx.fillText(`${chunk(area.span)} per row`, width - RIGHT, middle);
  ctx.fillText(`process ${area.process}`, GUTTER - 12, middle);
}

export function areaTitle(area: Area): string {
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
  { ranges, top, colors }: AddressScene,
  width: number,
  height: number,
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
      // A range that is not mapped is there, but stands back.
      ctx.globalAlpha = place === RANGE_INVALID ? 0.6 : 1;
      ctx.fillRect(x, y + ROW - 2 - tall, wide, tall);
      if (place === RANGE_INVALID && wide > 3) {
        ctx.strokeStyle = colors.invalid;
        ctx.lineWidth = 1;
        ctx.strokeRect(x + 0.5, y + ROW - 1.5 - tall, wide - 1, tall - 1);
      }
      ctx.globalAlpha = 1;
      if (wide > 30 && tall >= 12 && place !== RANGE_INVALID) {
        ctx.fillStyle = colors.surface;
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

function xOf(va: number, row: Row, area: Area, width: number): number {
  return GUTTER + ((va - row.start) / (area.span * row.folded)) * (width - GUTTER - RIGHT);
}

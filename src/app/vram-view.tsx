import { useComputed, useSignal } from "@preact/signals";
import { useRef } from "preact/hooks";
import {
  BLOCK_STRIDE,
  PAGE_FREE,
  PAGE_FRESH,
  PAGE_OBJECT,
  PAGE_RANGE,
  PAGE_RESERVED,
  PAGE_TABLE,
  PAGE_ZEROED,
} from "../worker/protocol.ts";
import type { DeviceSize } from "../worker/protocol.ts";
import { useCanvas } from "./canvas.ts";
import type { Surface } from "./canvas.ts";
import { address, bytes } from "./format.ts";
import { Key, Panel } from "./panel.tsx";
import { frame, highlight, pointed } from "./session.ts";
import { palette } from "./theme.ts";
import type { PaletteName } from "./theme.ts";
import { Tooltip } from "./tooltip.tsx";
import type { Tip } from "./tooltip.tsx";
import { GRID_CELL, NAME_HEIGHT, TILE_PAGES, layOutVram, pageAt, tileOrigin } from "./vram-layout.ts";
import type { DeviceBand, VramLayout } from "./vram-layout.ts";

/** How each class of page looks and what it is called, in the order of the legend. */
const CLASSES: readonly { readonly page: number; readonly color: PaletteName; readonly label: string }[] = [
  { page: PAGE_RANGE, color: "in", label: "range data" },
  { page: PAGE_FRESH, color: "fresh", label: "in use this round" },
  { page: PAGE_OBJECT, color: "object", label: "buffer object" },
  { page: PAGE_TABLE, color: "aperture", label: "page tables" },
  { page: PAGE_RESERVED, color: "reserved", label: "reserved" },
  { page: PAGE_ZEROED, color: "zeroed", label: "free, zeroed" },
  { page: PAGE_FREE, color: "free", label: "free" },
];
const COLOR_OF: readonly PaletteName[] = CLASSES.toSorted((a, b) => a.page - b.page).map(({ color }) => color);
/** Percent of the background mixed into the colour of range data, from low to high addresses. */
const SHADES = [42, 36, 30, 24, 18, 12, 6, 0];
const NO_PAGES = new Uint8Array(0);
const NO_BLOCKS = new Float64Array(0);
const NO_DEVICES: readonly DeviceSize[] = [];

/** VRAM by page, of every device: one tile per 2 MiB, coloured by what each page holds. */
export function VramView() {
  const tip = useSignal<Tip | null>(null);
  const layout = useRef<VramLayout | null>(null);
  const canvas = useCanvas((surface) => {
    const pages = frame.value?.vram ?? NO_PAGES;
    const devices = frame.value?.devices ?? NO_DEVICES;
    layout.current = layOutVram(devices, surface.width, surface.height, surface.ratio);
    draw(surface, layout.current, pages, frame.value?.blocks ?? NO_BLOCKS);
  });
  const totals = useComputed(() => {
    const sums = new Array<number>(CLASSES.length).fill(0);
    for (const page of frame.value?.vram ?? NO_PAGES) sums[page]! += 4096;
    return sums;
  });
  const move = (event: PointerEvent) => {
    const pages = frame.peek()?.vram ?? NO_PAGES;
    const bands = layout.current?.bands ?? [];
    const page = layout.current === null ? -1 : pageAt(layout.current, event.offsetX, event.offsetY);
    if (page < 0 || page >= pages.length) return leave();
    const owner = blockAt(frame.peek()?.blocks ?? NO_BLOCKS, page);
    pointed.value = owner === null || owner.va < 0 ? null : { start: owner.va, end: owner.va + owner.pages * 4096 };
    tip.value = { x: event.clientX, y: event.clientY, lines: describe(bands, page, pages[page]!, owner) };
  };
  const leave = () => {
    pointed.value = null;
    tip.value = null;
  };
  const total = frame.value?.vram.length ?? 0;
  const devices = frame.value?.devices.length ?? 0;
  return (
    <Panel
      title="VRAM"
      class="vram"
      legend={CLASSES.filter(({ page }) => totals.value[page]! > 0 || page === PAGE_RANGE).map(
        ({ page, color, label }) => (
          <Key key={page} color={color} label={label} value={bytes(totals.value[page]!)} />
        ),
      )}
      actions={
        total > 0 && (
          <span class="muted" title="A tile is 2 MiB of VRAM. Range data is the paler, the lower its virtual address.">
            {bytes(total * 4096)}
            {devices > 1 ? ` on ${devices} devices` : ""}, tiles of 2 MiB
          </span>
        )
      }
    >
      <canvas
        ref={canvas}
        class="fill inset"
        role="img"
        aria-label="Map of VRAM by page"
        data-testid="vram"
        onPointerMove={move}
        onPointerLeave={leave}
      />
      {total === 0 && <p class="hint">The map appears when a machine has been built.</p>}
      <Tooltip tip={tip} />
    </Panel>
  );
}

function draw(
  { ctx, width, height, ratio }: Surface,
  layout: VramLayout,
  pages: Uint8Array,
  blocks: Float64Array,
): void {
  const colors = palette.value;
  const mark = highlight.value;
  ctx.clearRect(0, 0, width, height);
  if (layout.bands.length > 1) drawNames(ctx, layout.bands, colors.muted);
  const shades = ownerShades(blocks, pages.length);
  const ramp = (color: string) => SHADES.map((share) => `color-mix(in srgb, ${color}, ${colors.surface} ${share}%)`);
  const ramps: Readonly<Record<number, string[]>> = { [PAGE_RANGE]: ramp(colors.in), [PAGE_FRESH]: ramp(colors.fresh) };
  const colorOf = (page: number) => {
    const kind = pages[page]!;
    return ramps[kind]?.[shades[page]!] ?? colors[COLOR_OF[kind]!];
  };
  drawRuns(ctx, ratio, layout, pages.length, colorOf, 0, pages.length);
  if (mark === null) return;
  for (let at = 0; at < blocks.length; at += BLOCK_STRIDE) {
    const va = blocks[at + 2]!;
    const first = blocks[at]! + Math.max(0, (mark.start - va) / 4096);
    const end = blocks[at]! + Math.min(blocks[at + 1]!, (mark.end - va) / 4096);
    if (va < 0 || first >= end) continue;
    // Whole tiles are framed, so that their colour stays visible; single pages would vanish under a frame.
    for (let page = Math.floor(first); page < end;) {
      const next = Math.min(Math.ceil(end), (Math.floor(page / TILE_PAGES) + 1) * TILE_PAGES);
      if (next - page === TILE_PAGES) frameTile(ctx, layout, page / TILE_PAGES, colors.text);
      else drawRuns(ctx, ratio, layout, pages.length, () => colors.text, page, next);
      page = next;
    }
  }
}

function drawNames(ctx: CanvasRenderingContext2D, bands: readonly DeviceBand[], color: string): void {
  ctx.fillStyle = color;
  ctx.font = "11px system-ui, sans-serif";
  ctx.textBaseline = "middle";
  for (const { name, top } of bands) ctx.fillText(name, 0, top - NAME_HEIGHT / 2);
}

/**
 * For every page the place of its owner in the order of virtual addresses, as an index into SHADES: neighbours in VRAM
 * that belong to different ranges can be told apart, and a sequential pass shows as a wave.
 */
function ownerShades(blocks: Float64Array, pages: number): Uint8Array {
  const shades = new Uint8Array(pages);
  const order = Array.from({ length: blocks.length / BLOCK_STRIDE }, (_, i) => i * BLOCK_STRIDE)
    .filter((at) => blocks[at + 2]! >= 0)
    .sort((a, b) => blocks[a + 3]! - blocks[b + 3]! || blocks[a + 2]! - blocks[b + 2]!);
  const total = order.reduce((sum, at) => sum + blocks[at + 1]!, 0);
  let before = 0;
  for (const at of order) {
    const held = blocks[at + 1]!;
    const height = total > held ? before / (total - held) : 1;
    shades.fill(Math.round(Math.min(1, height) * (SHADES.length - 1)), blocks[at]!, blocks[at]! + held);
    before += held;
  }
  return shades;
}

/** Fills pages `[from, to)`, a rectangle per run of equal colour in a cell row. */
function drawRuns(
  ctx: CanvasRenderingContext2D,
  ratio: number,
  layout: VramLayout,
  pages: number,
  colorOf: (page: number) => string,
  from: number,
  to: number,
): void {
  const { cell, columns, pagesPerCell } = layout;
  const rowPages = columns * pagesPerCell;
  const apart = cell >= GRID_CELL;
  for (let rowStart = Math.floor(from / rowPages) * rowPages; rowStart < Math.min(to, pages); rowStart += rowPages) {
    const tile = Math.floor(rowStart / TILE_PAGES);
    const { x, y } = tileOrigin(layout, tile);
    const top = y + ((rowStart % TILE_PAGES) / rowPages) * cell;
    const begin = Math.max(0, Math.floor((from - rowStart) / pagesPerCell));
    const end = Math.min(columns, Math.ceil((Math.min(to, pages) - rowStart) / pagesPerCell));
    for (let column = begin; column < end;) {
      const color = colorOf(rowStart + column * pagesPerCell);
      let next = column + 1;
      while (!apart && next < end && colorOf(rowStart + next * pagesPerCell) === color) next += 1;
      ctx.fillStyle = color;
      if (apart) ctx.fillRect(x + column * cell, top, cell - 1, cell - 1);
      else fillSnapped(ctx, x + column * cell, top, x + next * cell, top + cell, ratio);
      column = next;
    }
  }
}

function frameTile(ctx: CanvasRenderingContext2D, layout: VramLayout, tile: number, color: string): void {
  const { x, y } = tileOrigin(layout, tile);
  ctx.strokeStyle = color;
  ctx.lineWidth = 3;
  ctx.strokeRect(x + 0.5, y + 0.5, layout.columns * layout.cell - 1, layout.rows * layout.cell - 1);
}

/** A rectangle whose edges are moved to whole device pixels, so that neighbours neither overlap nor leave a seam. */
function fillSnapped(
  ctx: CanvasRenderingContext2D,
  x0: number,
  y0: number,
  x1: number,
  y1: number,
  ratio: number,
): void {
  const snap = (at: number) => Math.round(at * ratio) / ratio;
  ctx.fillRect(snap(x0), snap(y0), snap(x1) - snap(x0), snap(y1) - snap(y0));
}

interface Block {
  readonly first: number;
  readonly pages: number;
  readonly va: number;
  readonly process: number;
}

/** The allocation that page `page` belongs to; blocks ascend. */
function blockAt(blocks: Float64Array, page: number): Block | null {
  for (let at = 0; at < blocks.length; at += BLOCK_STRIDE) {
    const first = blocks[at]!;
    const pages = blocks[at + 1]!;
    if (page >= first && page < first + pages) return { first, pages, va: blocks[at + 2]!, process: blocks[at + 3]! };
  }
  return null;
}

function describe(bands: readonly DeviceBand[], page: number, kind: number, owner: Block | null): string[] {
  const label = CLASSES.find((c) => c.page === kind)!.label;
  const band = bands.findLast(({ firstPage }) => firstPage <= page);
  const first = band?.firstPage ?? 0;
  const where = band !== undefined && bands.length > 1 ? ` of ${band.name}` : "";
  const lines = [`page ${page - first}${where} at ${address((page - first) * 4096)}`, label];
  if (owner === null) return lines;
  if (owner.va >= 0) lines.push(`holds ${address(owner.va + (page - owner.first) * 4096)} of process ${owner.process}`);
  lines.push(`block of ${bytes(owner.pages * 4096)} from page ${owner.first - first}`);
  return lines;
}

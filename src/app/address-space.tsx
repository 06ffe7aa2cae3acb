import { signal, useComputed, useSignal } from "@preact/signals";
import { useRef } from "preact/hooks";
import { RANGE_STRIDE } from "../worker/protocol.ts";
import { GUTTER, RIGHT, areaTitle, drawAddressSpace } from "./address-draw.ts";
import { ROW, layOut } from "./address-layout.ts";
import type { AddressLayout, Area } from "./address-layout.ts";
import { useCanvas } from "./canvas.ts";
import { address, chunk } from "./format.ts";
import { Key, Panel } from "./panel.tsx";
import { frame, highlight, pointed } from "./session.ts";
import { palette } from "./theme.ts";
import { Tooltip } from "./tooltip.tsx";
import type { Tip } from "./tooltip.tsx";

const EMPTY = new Float64Array(0);

const zoom = signal(0);
const scrollTop = signal(0);
const boxHeight = signal(240);
/** By RANGE_*. */
const PLACES = ["not mapped for the GPU", "in VRAM", "mapped in system memory"];

/** The address space of the processes: VMAs as areas, GPU SVM ranges in them by place and chunk size. */
export function AddressSpace() {
  const tip = useSignal<Tip | null>(null);
  const layout = useComputed<AddressLayout>(() =>
    layOut(frame.value?.vmas ?? EMPTY, frame.value?.ranges ?? EMPTY, boxHeight.value - 12, zoom.value),
  );
  const box = useRef<HTMLDivElement>(null);
  const canvas = useCanvas((surface) => {
    boxHeight.value = surface.height;
    drawAddressSpace(surface, {
      layout: layout.value,
      ranges: frame.value?.ranges ?? EMPTY,
      top: scrollTop.value,
      mark: highlight.value,
      colors: palette.value,
    });
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
          <Key color="invalid" label="not mapped" hatched />
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
  const area = `${areaTitle(found.area)}, ${address(found.area.start)} – ${address(found.area.end)}`;
  if (range === null) return [page, area, "no GPU range here"];
  const size = `${chunk(range.end - range.start)} range of VM ${range.vm}`;
  return [page, `${size}, ${PLACES[range.place]}`, `${address(range.start)} – ${address(range.end)}`, area];
}

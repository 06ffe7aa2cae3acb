import { SZ_2M, alignDown } from "../base/addr.ts";
import { RANGE_INVALID, RANGE_STRIDE, VMA_STRIDE } from "../worker/protocol.ts";

/** Heights in CSS pixels. */
export const ROW = 20;
export const HEADER = 22;
const BELOW = 8;
/** The finest scale: pages stay some twenty pixels wide. */
const FINEST = 128 * 1024;
/** VMAs that share the space when the scale is fitted; what lies below is reached by scrolling. */
const FITTED = 24;
/** Runs of rows without ranges longer than this are drawn as one. */
const QUIET_ROWS = 3;

/** One VMA, or the ranges that have lost theirs. */
export interface Area {
  readonly process: number;
  readonly start: number;
  readonly end: number;
  /** VMA_*; -1 where no VMA is left and only ranges wait for the collector. */
  readonly flags: number;
  /** Bytes in one row. */
  readonly span: number;
  readonly y: number;
  readonly rows: readonly Row[];
  readonly ranges: number;
}

export interface Row {
  readonly y: number;
  /** First address of the row, which may lie before the area. */
  readonly start: number;
  /** Rows of the span that this one stands for. */
  readonly folded: number;
}

export interface AddressLayout {
  readonly areas: readonly Area[];
  readonly height: number;
}

/** Parts that one VMA is cut into at most. */
const MOST_PIECES = 5;

interface Extent {
  process: number;
  start: number;
  end: number;
  flags: number;
  ranges: { start: number; end: number }[];
}

/**
 * Lays the used parts of the address space out as rows of equal span, area by area; what lies between areas is left
 * out. Every area has a scale of its own, the finest with which all of them fit into `height`; `zoom` halves (positive)
 * or doubles the span that many times on top.
 */
export function layOut(vmas: Float64Array, ranges: Float64Array, height: number, zoom: number): AddressLayout {
  const extents = collect(vmas, ranges);
  const spans = extents.map((e) => powerAbove(e.end - alignDown(e.start, SZ_2M)));
  let used = extents.reduce((sum, e, i) => sum + areaHeight(e, spans[i]!), 0);
  const growing = new Set(extents.slice(0, FITTED).map((_, i) => i));
  while (growing.size > 0) {
    // The coarsest area gets the next rows.
    let at = -1;
    for (const i of growing) if (at < 0 || spans[i]! > spans[at]!) at = i;
    const finer = spans[at]! / 2;
    const more = areaHeight(extents[at]!, finer) - areaHeight(extents[at]!, spans[at]!);
    if (finer < FINEST || used + more > height) {
      growing.delete(at);
      continue;
    }
    used += more;
    spans[at] = finer;
  }
  let y = 0;
  const areas = extents.map((extent, i): Area => {
    const span = Math.max(FINEST, spans[i]! / 2 ** zoom);
    const rows = rowsOf(extent, span, y + HEADER);
    const area: Area = { ...extent, span, y, rows, ranges: extent.ranges.length };
    y = rows[rows.length - 1]!.y + ROW + BELOW;
    return area;
  });
  return { areas, height: y };
}

/** VMAs with their ranges, and areas for ranges that stand outside every VMA. */
function collect(vmas: Float64Array, ranges: Float64Array): Extent[] {
  const extents: Extent[] = [];
  for (let at = 0; at < vmas.length; at += VMA_STRIDE) {
    extents.push({ process: vmas[at]!, start: vmas[at + 1]!, end: vmas[at + 2]!, flags: vmas[at + 3]!, ranges: [] });
  }
  for (let at = 0; at < ranges.length; at += RANGE_STRIDE) {
    const process = ranges[at]!;
    const start = ranges[at + 2]!;
    const end = ranges[at + 3]!;
    if (ranges[at + 4] === RANGE_INVALID && start === end) continue;
    let home = extents.find((e) => e.process === process && start < e.end && end > e.start);
    if (home === undefined) {
      home = { process, start, end, flags: -1, ranges: [] };
      extents.push(home);
    } else if (home.flags === -1) {
      home.start = Math.min(home.start, start);
      home.end = Math.max(home.end, end);
    }
    home.ranges.push({ start, end });
  }
  return extents.flatMap(split).sort((a, b) => a.process - b.process || a.start - b.start);
}

/**
 * Cuts an area where chunks of 2 MiB and smaller ones live side by side, so that each part gets a scale at which its
 * ranges can be seen. Not where they alternate too often.
 */
function split(extent: Extent): Extent[] {
  const small = extent.ranges.filter(({ start, end }) => end - start < SZ_2M);
  const frames = [...new Set(small.map(({ start }) => alignDown(start, SZ_2M)))].sort((a, b) => a - b);
  const cuts: number[] = [];
  for (const [i, frame] of frames.entries()) {
    if (frame !== frames[i - 1]! + SZ_2M) cuts.push(frame);
    if (frame + SZ_2M !== frames[i + 1]) cuts.push(frame + SZ_2M);
  }
  const inside = cuts.filter((at) => at > extent.start && at < extent.end);
  if (inside.length === 0 || inside.length >= MOST_PIECES) return [extent];
  const bounds = [extent.start, ...inside, extent.end];
  return bounds.slice(1).map((end, i) => {
    const start = bounds[i]!;
    return { ...extent, start, end, ranges: extent.ranges.filter((range) => range.start < end && range.end > start) };
  });
}

function powerAbove(size: number): number {
  return 2 ** Math.max(17, Math.ceil(Math.log2(size)));
}

/** Rows begin at multiples of the span, or of 2 MiB where the span is larger, so that chunks align from row to row. */
function origin(extent: Extent, span: number): number {
  return alignDown(extent.start, Math.min(span, SZ_2M));
}

function areaHeight(extent: Extent, span: number): number {
  return HEADER + BELOW + ROW * Math.ceil((extent.end - origin(extent, span)) / span);
}

function rowsOf(extent: Extent, span: number, top: number): Row[] {
  const first = origin(extent, span);
  const count = Math.ceil((extent.end - first) / span);
  if (count <= QUIET_ROWS)
    return Array.from({ length: count }, (_, i) => ({ y: top + i * ROW, start: first + i * span, folded: 1 }));
  const busy = new Set<number>([0, count - 1]);
  for (const { start, end } of extent.ranges) {
    const last = Math.floor((end - 1 - first) / span);
    for (let row = Math.max(0, Math.floor((start - first) / span)); row <= last; row++) busy.add(row);
  }
  const rows: Row[] = [];
  const used = [...busy].sort((a, b) => a - b);
  let y = top;
  let next = 0;
  for (const row of used) {
    const quiet = row - next;
    const folded = quiet > QUIET_ROWS ? [quiet] : Array<number>(quiet).fill(1);
    for (const n of [...folded, 1]) {
      rows.push({ y, start: first + next * span, folded: n });
      next += n;
      y += ROW;
    }
  }
  return rows;
}

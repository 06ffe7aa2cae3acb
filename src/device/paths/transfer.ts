import { assert } from "../../base/assert.ts";
import { PAGE_SIZE } from "../../base/addr.ts";
import type { Random } from "../../base/random.ts";

/** Where the pages of a transfer lie: side by side, every second page, or anywhere, on both sides. */
export type Layout = "contiguous" | "strided" | "random";

/** Words per run: source page, destination page, number of pages. */
export const RUN_STRIDE = 3;

/** A list of page runs to move between two regions of equal size. No page occurs twice on a side. */
export interface Transfer {
  readonly layout: Layout;
  /** Bytes moved; a multiple of 4096. */
  readonly bytes: number;
  readonly runs: Uint32Array;
  /** All pages lie below this number, on both sides. */
  readonly regionPages: number;
}

/** Bytes of the region in which a transfer's pages lie: scattered pages have twice their size to lie in. */
export function regionBytesOf(layout: Layout, bytes: number): number {
  return layout === "contiguous" ? bytes : bytes * 2;
}

export function makeTransfer(layout: Layout, bytes: number, random: Random): Transfer {
  const pages = bytes / PAGE_SIZE;
  assert(Number.isInteger(pages) && pages > 0, "a transfer moves whole pages");
  if (layout === "contiguous") return { layout, bytes, runs: Uint32Array.of(0, 0, pages), regionPages: pages };
  const regionPages = regionBytesOf(layout, bytes) / PAGE_SIZE;
  const source = layout === "strided" ? everySecond(pages) : someOf(regionPages, pages, random);
  const destination = layout === "strided" ? everySecond(pages) : someOf(regionPages, pages, random);
  const runs = new Uint32Array(pages * RUN_STRIDE);
  for (let i = 0; i < pages; i++) runs.set([source[i]!, destination[i]!, 1], i * RUN_STRIDE);
  return { layout, bytes, runs, regionPages };
}

function everySecond(pages: number): Uint32Array {
  return Uint32Array.from({ length: pages }, (_, i) => 2 * i);
}

/** `count` different numbers below `n`, in random order. */
function someOf(n: number, count: number, random: Random): Uint32Array {
  const all = Uint32Array.from({ length: n }, (_, i) => i);
  for (let i = 0; i < count; i++) {
    const j = i + random.below(n - i);
    const swapped = all[i]!;
    all[i] = all[j]!;
    all[j] = swapped;
  }
  return all.subarray(0, count);
}

/** The same runs cut into pieces of at most `pieceBytes`, in order. */
export function splitTransfer(transfer: Transfer, pieceBytes: number): Transfer[] {
  const limit = pieceBytes / PAGE_SIZE;
  const pieces: Transfer[] = [];
  let runs: number[] = [];
  let room = limit;
  const close = () => {
    if (runs.length === 0) return;
    const { layout, regionPages } = transfer;
    pieces.push({ layout, bytes: (limit - room) * PAGE_SIZE, runs: Uint32Array.from(runs), regionPages });
    runs = [];
    room = limit;
  };
  for (let at = 0; at < transfer.runs.length; at += RUN_STRIDE) {
    let [source, destination, pages] = transfer.runs.subarray(at, at + RUN_STRIDE) as unknown as [
      number,
      number,
      number,
    ];
    while (pages > 0) {
      const taken = Math.min(pages, room);
      runs.push(source, destination, taken);
      source += taken;
      destination += taken;
      pages -= taken;
      room -= taken;
      if (room === 0) close();
    }
  }
  close();
  return pieces;
}

/** The same pages in runs of one page. */
export function perPage(transfer: Transfer): Transfer {
  const runs = new Uint32Array((transfer.bytes / PAGE_SIZE) * RUN_STRIDE);
  let to = 0;
  for (let at = 0; at < transfer.runs.length; at += RUN_STRIDE) {
    for (let i = 0; i < transfer.runs[at + 2]!; i++, to += RUN_STRIDE) {
      runs[to] = transfer.runs[at]! + i;
      runs[to + 1] = transfer.runs[at + 1]! + i;
      runs[to + 2] = 1;
    }
  }
  return { ...transfer, runs };
}

/** Which side of a transfer is replaced by staging memory that holds its pages one after the other. */
export type Packed = "source" | "destination";

/** The transfer with one side packed into pages 0, 1, 2… of staging memory. */
export function packed(transfer: Transfer, side: Packed): Transfer {
  const runs = transfer.runs.slice();
  let next = 0;
  for (let at = 0; at < runs.length; at += RUN_STRIDE) {
    runs[at + (side === "source" ? 0 : 1)] = next;
    next += runs[at + 2]!;
  }
  return { ...transfer, runs };
}

/** (source page, destination page) of every page, for the page kernels. */
export function pagePairs(transfer: Transfer): Uint32Array<ArrayBuffer> {
  const pairs = new Uint32Array((transfer.bytes / PAGE_SIZE) * 2);
  let to = 0;
  for (let at = 0; at < transfer.runs.length; at += RUN_STRIDE) {
    for (let i = 0; i < transfer.runs[at + 2]!; i++) {
      pairs[to++] = transfer.runs[at]! + i;
      pairs[to++] = transfer.runs[at + 1]! + i;
    }
  }
  return pairs;
}

/** Copies the runs between two byte arrays; the bound of every path that starts or ends in JavaScript's memory. */
export function copyRuns(transfer: Transfer, source: Uint8Array, destination: Uint8Array): void {
  const { runs } = transfer;
  for (let at = 0; at < runs.length; at += RUN_STRIDE) {
    const from = runs[at]! * PAGE_SIZE;
    destination.set(source.subarray(from, from + runs[at + 2]! * PAGE_SIZE), runs[at + 1]! * PAGE_SIZE);
  }
}

import { SZ_2M } from "../../base/addr.ts";
import type { Va } from "../../base/addr.ts";
import { DensityTree } from "./density-tree.ts";
import type { Interval, PrefetchName, PrefetchPolicy, PrefetchView } from "./policy.ts";

export function prefetchPolicy(name: PrefetchName): PrefetchPolicy {
  switch (name) {
    case "none":
      return NONE;
    case "sequential":
      return new Sequential();
    case "density":
      return new DensityTree();
  }
}

const NONE: PrefetchPolicy = { name: "none", afterBatch: () => [] };

/** First look-ahead, and the largest: it doubles while the stream goes on. Bytes. */
const FIRST_AHEAD = SZ_2M;
const LARGEST_AHEAD = 8 * SZ_2M;
/** Pieces of one batch, near each other, that are the front of a stream. */
const FRONT = 4;
/** Streams told apart; the oldest gives way. */
const STREAMS = 16;

interface Stream {
  /** Where it faults next if it goes on: what has been brought ends there. */
  next: Va;
  ahead: number;
}

/**
 * Read-ahead: a fault that begins where the memory brought last ends is a stream, and what follows comes with it. Like
 * Linux's readahead, and the sequential prefetch of the literature on GPU oversubscription.
 *
 * Many items run at once, so a batch shows a stream's front and not its tip. Pieces that follow each other in it count like
 * as many batches, and where FRONT of them lie with gaps no larger than themselves, the gaps are filled.
 */
class Sequential implements PrefetchPolicy {
  readonly name = "sequential";
  /** Least recently seen first. */
  readonly #streams: Stream[] = [];

  afterBatch(moved: readonly Interval[], view: PrefetchView): Interval[] {
    const wanted: Interval[] = [];
    for (const { start, end, pieces, gaps } of frontsOf(moved)) {
      for (const gap of gaps) {
        const to = endOf(gap.start, gap.end - gap.start, view);
        if (to > gap.start) wanted.push({ start: gap.start, end: to });
      }
      const found = this.#streams.findIndex(({ next }) => next === start);
      const known = found < 0 ? null : this.#streams.splice(found, 1)[0]!;
      const inARow = known === null ? pieces - 1 : pieces;
      let next = end;
      let ahead = known?.ahead ?? FIRST_AHEAD;
      if (inARow > 0) {
        ahead = Math.min(LARGEST_AHEAD, ahead * 2 ** (inARow - 1));
        next = endOf(end, ahead, view);
        if (next > end) wanted.push({ start: end, end: next });
        ahead = Math.min(LARGEST_AHEAD, ahead * 2);
      }
      this.#add({ next: Math.max(next, end), ahead });
    }
    return wanted;
  }

  #add(stream: Stream): void {
    this.#streams.push(stream);
    if (this.#streams.length > STREAMS) this.#streams.shift();
  }
}

/** Pieces that follow each other. */
interface Front extends Interval {
  pieces: number;
  readonly gaps: readonly Interval[];
}

/** In the order of addresses. */
function frontsOf(moved: readonly Interval[]): Front[] {
  const fronts: Front[] = [];
  const sorted = moved.toSorted((a, b) => a.start - b.start);
  for (let i = 0; i < sorted.length;) {
    let to = i + 1;
    while (to < sorted.length && isNear(sorted[to - 1]!, sorted[to]!)) to += 1;
    const near = sorted.slice(i, to);
    if (near.length >= FRONT) fronts.push({ ...hull(near), gaps: gapsOf(near) });
    else fronts.push(...rowsOf(near));
    i = to;
  }
  return fronts;
}

/** What lies between them is no larger than the smaller of them. */
function isNear(a: Interval, b: Interval): boolean {
  return b.start - a.end <= Math.min(a.end - a.start, b.end - b.start);
}

function hull(pieces: readonly Interval[]): Interval & { pieces: number } {
  return { start: pieces[0]!.start, end: pieces.at(-1)!.end, pieces: pieces.length };
}

function gapsOf(pieces: readonly Interval[]): Interval[] {
  const gaps: Interval[] = [];
  for (let i = 1; i < pieces.length; i++) {
    const gap = { start: pieces[i - 1]!.end, end: pieces[i]!.start };
    if (gap.end > gap.start) gaps.push(gap);
  }
  return gaps;
}

/** Those without a gap between them. */
function rowsOf(pieces: readonly Interval[]): Front[] {
  const rows: Front[] = [];
  for (const { start, end } of pieces) {
    const last = rows.at(-1);
    if (last?.end === start) rows[rows.length - 1] = { start: last.start, end, pieces: last.pieces + 1, gaps: [] };
    else rows.push({ start, end, pieces: 1, gaps: [] });
  }
  return rows;
}

/** `ahead` bytes behind `from`, as far as blocks follow each other. */
function endOf(from: Va, ahead: number, view: PrefetchView): Va {
  const limit = from + ahead;
  let at = from;
  while (at < limit) {
    const block = view.blockAt(at);
    if (block === null || block.end <= at) break;
    at = Math.min(limit, block.end);
  }
  return at;
}

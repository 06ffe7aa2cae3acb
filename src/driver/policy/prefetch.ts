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
 */
class Sequential implements PrefetchPolicy {
  readonly name = "sequential";
  /** Least recently seen first. */
  readonly #streams: Stream[] = [];

  afterBatch(moved: readonly Interval[], view: PrefetchView): Interval[] {
    const wanted: Interval[] = [];
    for (const { start, end } of moved) {
      const found = this.#streams.findIndex(({ next }) => next === start);
      if (found < 0) {
        this.#add({ next: end, ahead: FIRST_AHEAD });
        continue;
      }
      const [stream] = this.#streams.splice(found, 1);
      const to = endOf(end, stream!.ahead, view);
      if (to > end) wanted.push({ start: end, end: to });
      this.#add({ next: Math.max(to, end), ahead: Math.min(LARGEST_AHEAD, stream!.ahead * 2) });
    }
    return wanted;
  }

  #add(stream: Stream): void {
    this.#streams.push(stream);
    if (this.#streams.length > STREAMS) this.#streams.shift();
  }
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

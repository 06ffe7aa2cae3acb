import { PAGE_SIZE, SZ_2M, SZ_64K, alignDown, alignUp } from "../../base/addr.ts";
import type { Va } from "../../base/addr.ts";
import type { Interval, PrefetchPolicy, PrefetchView } from "./policy.ts";

/** Share of a subtree's pages that must be there, in percent: more than this. @kernel uvm_perf_prefetch_threshold */
export const DENSITY_THRESHOLD = 51;

/**
 * The density prefetcher of NVIDIA's UVM driver. Each block of 2 MiB is a binary tree over its pages; a page is set where
 * it lies on the device or has just been brought. A faulted page grows first to its 64 KiB; then, for each, the largest
 * subtree around it of whose pages more than 51 % are set comes as a whole.
 *
 *     64 KiB leaves   # # # .  . . . .     3 of 4 are more than 51 %: the left half comes; then
 *                     [ # # # + ] . . .    4 of 8 are not more than 51 %: the right half does not.
 *
 * The block is clipped to its area; a subtree that reaches beyond counts the pages that exist.
 * @kernel uvm_perf_prefetch_prenotify_fault_migrations, compute_prefetch_region, grow_fault_granularity
 */
export class DensityTree implements PrefetchPolicy {
  readonly name = "density";

  afterBatch(moved: readonly Interval[], view: PrefetchView): Interval[] {
    const wanted: Interval[] = [];
    for (const [block, faulted] of byBlock(moved, view)) wanted.push(...prefetchIn(block, faulted, view));
    return wanted;
  }
}

function byBlock(moved: readonly Interval[], view: PrefetchView): Map<Interval, Interval[]> {
  const blocks = new Map<Va, { block: Interval; faulted: Interval[] }>();
  for (const chunk of moved) {
    // A chunk of a whole block leaves nothing to bring.
    if (chunk.end - chunk.start >= SZ_2M) continue;
    const block = view.blockAt(chunk.start);
    if (block === null) continue;
    const known = blocks.get(block.start);
    if (known === undefined) blocks.set(block.start, { block, faulted: [chunk] });
    else known.faulted.push(chunk);
  }
  return new Map([...blocks.values()].map(({ block, faulted }) => [block, faulted]));
}

function prefetchIn(block: Interval, faulted: readonly Interval[], view: PrefetchView): Interval[] {
  const set = view.resident(block.start, block.end);
  const pageOf = (addr: Va): number => (addr - block.start) / PAGE_SIZE;
  for (const { start, end } of faulted) {
    // Big pages: the rest of the 64 KiB comes with the page, and counts.
    const from = Math.max(block.start, alignDown(start, SZ_64K));
    const to = Math.min(block.end, alignUp(end, SZ_64K));
    set.fill(1, pageOf(from), pageOf(to));
  }
  const counts = runningCount(set);
  const regions: Interval[] = [];
  for (const { start } of faulted) {
    const region = densest(start, block, counts);
    const last = regions.at(-1);
    if (last === undefined || region.end > last.end || region.start < last.start) regions.push(region);
    if (region.end === block.end && region.start === block.start) return [block];
  }
  return regions;
}

/** The largest subtree around `addr` that is dense enough; at least its 64 KiB. */
function densest(addr: Va, block: Interval, counts: Uint16Array): Interval {
  let best: Interval | null = null;
  for (let size = SZ_64K; size <= SZ_2M; size *= 2) {
    const start = Math.max(block.start, alignDown(addr, size));
    const end = Math.min(block.end, alignDown(addr, size) + size);
    const pages = (end - start) / PAGE_SIZE;
    const present = counts[(end - block.start) / PAGE_SIZE]! - counts[(start - block.start) / PAGE_SIZE]!;
    if (best === null || present * 100 > pages * DENSITY_THRESHOLD) best = { start, end };
  }
  return best!;
}

/** `[i]`: how many of the first `i` pages are set. */
function runningCount(set: Uint8Array): Uint16Array {
  const counts = new Uint16Array(set.length + 1);
  for (let i = 0; i < set.length; i++) counts[i + 1] = counts[i]! + set[i]!;
  return counts;
}

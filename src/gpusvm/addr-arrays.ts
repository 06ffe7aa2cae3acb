import { PagemapAddrArray } from "../pagemap/pagemap-addr.ts";
import type { GpuSvmPages } from "./pages.ts";

/** Larger arrays are left to the garbage collector, and so is what comes when so many of one length are kept. */
const MOST_PAGES = 512;
const KEEP = 32;

const kept = new Map<number, PagemapAddrArray[]>();

/**
 * An empty array for `npages`, mostly one that was dropped: pages that are mapped, unmapped and mapped again would have a
 * browser make and collect 6 KiB each time, which takes longer than to fill them.
 */
export function takeAddrs(npages: number): PagemapAddrArray {
  return kept.get(npages)?.pop() ?? new PagemapAddrArray(npages);
}

/** The mappings are undone, and nobody looks at their addresses any more. */
export function dropAddrs(pages: GpuSvmPages): void {
  const addrs = pages.dmaAddr;
  pages.dmaAddr = null;
  if (addrs === null || addrs.capacity > MOST_PAGES) return;
  addrs.clear();
  const others = kept.get(addrs.capacity);
  if (others === undefined) kept.set(addrs.capacity, [addrs]);
  else if (others.length < KEEP) others.push(addrs);
}

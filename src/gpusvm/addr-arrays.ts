import { LengthPool } from "../base/length-pool.ts";
import { PagemapAddrArray } from "../pagemap/pagemap-addr.ts";
import type { GpuSvmPages } from "./pages.ts";

const kept = new LengthPool<PagemapAddrArray>();

/**
 * An empty array for `npages`, mostly one that was dropped: pages that are mapped, unmapped and mapped again would have a
 * browser make and collect 6 KiB each time, which takes longer than to fill them.
 */
export function takeAddrs(npages: number): PagemapAddrArray {
  return kept.take(npages) ?? new PagemapAddrArray(npages);
}

/** The mappings are undone, and nobody looks at their addresses any more. */
export function dropAddrs(pages: GpuSvmPages): void {
  const addrs = pages.dmaAddr;
  pages.dmaAddr = null;
  if (addrs === null) return;
  addrs.clear();
  kept.give(addrs.capacity, addrs);
}

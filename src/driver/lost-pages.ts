import { PAGE_SIZE } from "../base/addr.ts";
import type { Va } from "../base/addr.ts";
import type { Mm } from "../mm/mm.ts";
import type { PhysMemory } from "../mm/phys-mem.ts";
import type { MigrateMm } from "../mm/types.ts";
import { drmPagemapPageToDpagemap } from "../pagemap/pagemap.ts";
import type { SvmDevice } from "./device.ts";
import type { StaleFrames } from "./stale-frames.ts";
import { VramRegion } from "./vram-region.ts";

/** What of an address space went with a device. Page addresses, ascending. */
export interface LostPages {
  /** Pages that lay in VRAM alone: every CPU access fails (SIGBUS) until they are unmapped or discarded. */
  readonly vram: Va[];
  /** Pages that are there as they were earlier. */
  readonly stale: StalePage[];
}

export interface StalePage {
  readonly addr: Va;
  /**
   * The round of the device whose result the bytes are, 0 for those from before the first (write-back mode); null: as the CPU
   * saw the page last, before the GPU wrote it in place in the system window.
   */
  readonly round: number | null;
}

/**
 * After `device` was lost: where the data of `mm` is gone, or older than it was. A page whose shadow was exact is in
 * neither list, and so is one that has been discarded, or has moved on, since.
 */
export function lostPages(device: SvmDevice, staleFrames: StaleFrames, mm: Mm): LostPages {
  const vram: Va[] = [];
  const stale: StalePage[] = [];
  if (!device.gpu.isLost) return { vram, stale };
  const { phys } = device;
  const pgmaps = device.regions.map((region) => region.pgmap);
  const { writeBack } = device.region;
  writeBack?.countWrites();
  for (const vma of mm.vmas.all()) {
    for (let at = vma.start; at < vma.end; at += PAGE_SIZE) {
      const page = mm.pageAt(at);
      if (page.kind === "none") continue;
      if (!phys.isZoneDevice(page.pfn)) {
        if (staleFrames.has(page.pfn)) stale.push({ addr: at, round: staleFrames.roundOf(page.pfn) });
      } else if (pgmaps.some((pgmap) => phys.pgmapOf(page.pfn) === pgmap)) {
        const copy = writeBack?.copyOf(page.pfn) ?? null;
        if (copy === null) vram.push(at);
        else if (copy !== "exact") stale.push({ addr: at, round: copy });
      }
    }
  }
  return { vram, stale };
}

/**
 * The first page of `[start, end)` of `mm` whose only copy went with a device, whichever; null if there is none. Nothing
 * but unmapping or discarding it helps.
 */
export function firstLostPage(phys: PhysMemory, mm: MigrateMm, start: Va, end: Va): Va | null {
  for (let at = start; at < end; at += PAGE_SIZE) {
    const pfn = mm.devicePfnAt(at);
    if (pfn < 0) continue;
    const region = drmPagemapPageToDpagemap(phys, pfn)?.drm;
    if (region instanceof VramRegion && region.gpu.isLost && (region.writeBack?.copyOf(pfn) ?? null) === null)
      return at;
  }
  return null;
}

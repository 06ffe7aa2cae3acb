import { PAGE_SIZE } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { EFAULT, type Errno } from "../base/errno.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import { type Steps, run, wait } from "../mm/steps.ts";
import type { PhysMem } from "../mm/types.ts";
import type { DrmPagemapDevmem } from "./devmem.ts";
import { DMA_FROM_DEVICE, DMA_TO_DEVICE, type DmaDirection, PagemapAddrArray } from "./pagemap-addr.ts";
import type { DrmPagemap } from "./pagemap.ts";
import { pageZoneDeviceData } from "./zdd.ts";

/** The copies of one migration to device memory. One slot per page. */
export interface CopyIn {
  readonly phys: PhysMem;
  /** The allocation that is filled. */
  readonly devmem: DrmPagemapDevmem;
  /** Its frames. */
  readonly pages: Uint32Array;
  /** Frames to copy from, RAM or device; 0: a hole. */
  readonly from: Uint32Array;
  /** For the addresses to copy from; all 0 on entry. */
  readonly addrs: Float64Array;
  /** Pages that lie in a peer's memory are sent by the peer's copy engine; otherwise they are fetched by ours. */
  readonly sourcePeerMigrates: boolean;
}

/**
 * Runs of pages that one copy engine moves, one after the other. Usually all is one run of the destination's engine:
 *
 *     source    RAM  RAM  hole  RAM | peer A  peer A | RAM | peer B
 *     engine    ours                | A's            | ours| B's
 *
 * The first copy gets the fence of the fresh memory; what comes later is queued behind it.
 */
export function copyIn(copy: CopyIn): MaybePromise<0 | Errno> {
  const { devmem, pages } = copy;
  const engine = engineOf(copy, 0);
  const isOneRun = engine === devmem && endOfRun(copy, 0, engine) === pages.length;
  return isOneRun ? fetchRun(copy, 0, pages.length, devmem.preMigrateFence) : run(copyRuns(copy));
}

function* copyRuns(copy: CopyIn): Steps<0 | Errno> {
  const { devmem, pages } = copy;
  let fence = devmem.preMigrateFence;
  for (let start = 0; start < pages.length;) {
    const engine = engineOf(copy, start);
    const end = endOfRun(copy, start, engine);
    const err = yield* wait(
      engine === devmem ? fetchRun(copy, start, end, fence) : sendRun(copy, engine, start, end, fence),
    );
    if (err !== 0) return err;
    fence = null;
    start = end;
  }
  return 0;
}

/** Slots from `start` on that `engine` copies. */
function endOfRun(copy: CopyIn, start: number, engine: DrmPagemapDevmem): number {
  let end = start + 1;
  while (end < copy.pages.length && engineOf(copy, end) === engine) end += 1;
  return end;
}

/** The allocation whose operations copy slot `i`: the destination, or that of a peer's page. */
function engineOf({ phys, devmem, from, sourcePeerMigrates }: CopyIn, i: number): DrmPagemapDevmem {
  const pfn = from[i];
  if (!sourcePeerMigrates || pfn === 0 || !phys.isZoneDevice(pfn)) return devmem;
  if (phys.pgmapOf(pfn) === devmem.dpagemap.pagemap) return devmem;
  return allocationOf(phys, pfn);
}

function allocationOf(phys: PhysMem, pfn: number): DrmPagemapDevmem {
  const zdd = pageZoneDeviceData(phys, pfn);
  assert(zdd !== null, () => `device frame ${pfn} belongs to no migration`);
  return zdd.devmemAllocation;
}

/** Our engine copies `[start, end)`: from RAM by frame, from device memory by the address that its page map gives us. */
function fetchRun(
  { phys, devmem, pages, from, addrs }: CopyIn,
  start: number,
  end: number,
  fence: Promise<void> | null,
): MaybePromise<0 | Errno> {
  const npages = end - start;
  const dev = devmem.dpagemap.drm;
  const isAll = npages === pages.length;
  const to = isAll ? addrs : addrs.subarray(start, end);
  let mappings: PeerMappings | null = null;
  for (let k = 0; k < npages; k++) {
    const pfn = from[start + k];
    if (pfn === 0) continue;
    if (!phys.isZoneDevice(pfn)) {
      to[k] = pfn * PAGE_SIZE;
      continue;
    }
    mappings ??= new PeerMappings(npages);
    if (!mappings.map(allocationOf(phys, pfn).dpagemap, dev, pfn, DMA_TO_DEVICE, to, k)) {
      mappings.unmapAll(dev);
      return EFAULT;
    }
  }
  const slots = isAll ? pages : pages.subarray(start, end);
  const copied = devmem.ops.copyToDevmem(devmem, slots, to, npages, fence, mappings?.protos ?? null);
  return mappings === null ? copied : run(unmapAfter(copied, mappings, dev));
}

/** A peer's engine copies its pages of `[start, end)` to ours, by the addresses that our page map gives it. */
function sendRun(
  { devmem, pages, from, addrs }: CopyIn,
  peer: DrmPagemapDevmem,
  start: number,
  end: number,
  fence: Promise<void> | null,
): MaybePromise<0 | Errno> {
  const npages = end - start;
  const to = addrs.subarray(start, end);
  const mappings = new PeerMappings(npages);
  const dev = peer.dpagemap.drm;
  for (let k = 0; k < npages; k++) {
    if (mappings.map(devmem.dpagemap, dev, pages[start + k], DMA_FROM_DEVICE, to, k)) continue;
    mappings.unmapAll(dev);
    return EFAULT;
  }
  const slots = from.subarray(start, end);
  const copied = peer.ops.copyToRam(peer, slots, to, npages, fence, mappings.protos);
  return run(unmapAfter(copied, mappings, dev));
}

function* unmapAfter(copied: MaybePromise<0 | Errno>, mappings: PeerMappings, dev: unknown): Steps<0 | Errno> {
  const err = yield* wait(copied);
  mappings.unmapAll(dev);
  return err;
}

/** What has been mapped for one run of a copy between devices. */
class PeerMappings {
  /** Protocol of each address, 0 for RAM; null while there is nothing but RAM. */
  protos: Uint32Array | null = null;
  readonly #npages: number;
  #entries: PagemapAddrArray | null = null;
  readonly #owners: DrmPagemap[] = [];

  constructor(npages: number) {
    this.#npages = npages;
  }

  /**
   * Makes one page of `dpagemap` reachable for `dev`, whose address goes into slot `k`; false if it cannot be. RAM needs
   * none of this. @kernel drm_pagemap_migrate_map_pages, drm_pagemap_migrate_map_device_pages
   */
  map(dpagemap: DrmPagemap, dev: unknown, pfn: number, dir: DmaDirection, addrs: Float64Array, k: number): boolean {
    const entries = (this.#entries ??= new PagemapAddrArray(this.#npages));
    const protos = (this.protos ??= new Uint32Array(this.#npages));
    if (dpagemap.ops.deviceMap(dpagemap, dev, pfn, 0, dir, entries) !== 0) return false;
    const at = entries.count - 1;
    assert(entries.addr[at] !== 0, "a page map gave a device address 0");
    addrs[k] = entries.addr[at];
    protos[k] = entries.proto(at);
    this.#owners.push(dpagemap);
    return true;
  }

  /** @kernel drm_pagemap_migrate_unmap_pages */
  unmapAll(dev: unknown): void {
    for (const [at, dpagemap] of this.#owners.entries()) {
      dpagemap.ops.deviceUnmap?.(dpagemap, dev, this.#entries!, at);
    }
  }
}

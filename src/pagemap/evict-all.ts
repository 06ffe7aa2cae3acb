import type { Pfn } from "../base/addr.ts";
import { EBUSY, type Errno } from "../base/errno.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import { type Steps, run, wait } from "../mm/steps.ts";
import type { PhysMem } from "../mm/types.ts";
import type { DrmPagemapDevmem } from "./devmem.ts";
import { drmPagemapEvictToRam } from "./evict-to-ram.ts";
import type { DrmPagemap } from "./pagemap.ts";
import { pageZoneDeviceData } from "./zdd.ts";

/** Rounds over the memory; between two, what a round left behind may come free. */
const ROUNDS = 4;

/**
 * Brings everything home that lives in this memory, of whatever process: before the device is unbound. Nothing may migrate
 * there any more (`populate_mm` is -ENODEV then). 0: no page of it is in use, and the run of frames can be removed.
 * -EBUSY, or what the last copy said: some pages could not be moved; they stay valid, and the page map lives as long.
 *
 * The kernel leaves this to the driver, which walks its buffers; here the frames themselves say what is left.
 */
export function drmPagemapEvictAll(dpagemap: DrmPagemap, phys: PhysMem): MaybePromise<0 | Errno> {
  return run(evictAll(dpagemap, phys));
}

function* evictAll(dpagemap: DrmPagemap, phys: PhysMem): Steps<0 | Errno> {
  let err: 0 | Errno = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const left = allocationsIn(dpagemap, phys);
    if (left.size === 0) return 0;
    err = 0;
    for (const devmem of left) {
      const evicted = yield* wait(drmPagemapEvictToRam(devmem));
      if (evicted !== 0) err = evicted;
    }
    // A process that is exiting frees its pages by itself.
    yield* wait(dpagemap.scheduler.sleep(0));
  }
  return allocationsIn(dpagemap, phys).size === 0 ? 0 : err === 0 ? EBUSY : err;
}

/** The allocations that have live pages. */
function allocationsIn({ pagemap }: DrmPagemap, phys: PhysMem): Set<DrmPagemapDevmem> {
  const found = new Set<DrmPagemapDevmem>();
  const end: Pfn = pagemap.firstPfn + pagemap.npages;
  for (let pfn = pagemap.firstPfn; pfn < end; pfn++) {
    if (phys.refcount(pfn) === 0) continue;
    const zdd = pageZoneDeviceData(phys, pfn);
    if (zdd !== null) found.add(zdd.devmemAllocation);
  }
  return found;
}

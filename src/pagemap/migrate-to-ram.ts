import { alignDown, isPowerOfTwo, pagesIn } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { type Errno, isErr } from "../base/errno.ts";
import { mutated } from "../base/mutation.ts";
import { type Steps, run, wait } from "../mm/steps.ts";
import {
  type DevPagemapOps,
  MIGRATE_VMA_SELECT_COMPOUND,
  MIGRATE_VMA_SELECT_DEVICE_COHERENT,
  MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
  type MigrateVma,
  type PhysMem,
  VM_FAULT_SIGBUS,
  type VmFault,
} from "../mm/types.ts";
import { migratePopulateRamPfn } from "./populate-ram-pfn.ts";
import { unlockPutPages } from "./unlock-put-pages.ts";
import { type Zdd, pageZoneDeviceData } from "./zdd.ts";

/** Longest wait for a time slice in one fault, ms. The fault holds the mmap lock, so it must let others in between. */
const TIMESLICE_NAP_MS = 1;

/**
 * The operations that the mm calls on device frames; one table serves any number of page maps of one machine.
 * @kernel drm_pagemap_pagemap_ops_get, drm_gpusvm_pagemap_ops_get, drm_pagemap_folio_free, drm_pagemap_folio_split
 */
export function drmPagemapPagemapOpsGet(phys: PhysMem): DevPagemapOps {
  return {
    folioFree: (pfn) => zddOf(phys, pfn).put(),
    // The pages that a split makes hold what the folio held: each is one more of the migration's live pages.
    folioSplit: (_head, tail) => void zddOf(phys, tail).get(),
    migrateToRam: (vmf) => run(migrateToRam(vmf)),
  };
}

function zddOf(phys: PhysMem, pfn: number): Zdd {
  const zdd = pageZoneDeviceData(phys, pfn);
  assert(zdd !== null, () => `device frame ${pfn} belongs to no migration`);
  return zdd;
}

/**
 * The CPU touched a device page: brings home the window around the address that one allocation covers, as far as it
 * lies in the VMA. Only the faulting page is promised to move, so the window may hold pages of other migrations, holes
 * and RAM. Returns 0 to try the access again, also when it lost a race or waited for a time slice.
 * @kernel drm_pagemap_migrate_to_ram
 */
function* migrateToRam(vmf: VmFault): Steps<0 | typeof VM_FAULT_SIGBUS> {
  const zdd = zddOf(vmf.mm.phys, vmf.pfn);
  const { scheduler } = zdd.dpagemap;
  const remaining = zdd.devmemAllocation.timesliceExpiration - scheduler.now();
  if (remaining > 0 && !mutated("time-slice-ignored")) {
    // Returning at once would make the access and its fault spin; the fault comes back until the slice is over.
    yield* wait(scheduler.sleep(Math.min(remaining, TIMESLICE_NAP_MS)));
    return 0;
  }
  const err = yield* migrateWindow(vmf, zdd);
  return err === 0 ? 0 : VM_FAULT_SIGBUS;
}

function* migrateWindow(vmf: VmFault, zdd: Zdd): Steps<0 | Errno> {
  const { mm, vma, address } = vmf;
  const devmem = zdd.devmemAllocation;
  const { scheduler } = zdd.dpagemap;
  assert(isPowerOfTwo(devmem.size), "an allocation whose size is not a power of two");
  const window = alignDown(address, devmem.size);
  const start = Math.max(window, vma.start);
  const end = Math.min(window + devmem.size, vma.end);
  const npages = pagesIn(start, end);
  const migration: MigrateVma = {
    vma,
    start,
    end,
    src: new Uint32Array(npages),
    dst: new Uint32Array(npages),
    flags: MIGRATE_VMA_SELECT_DEVICE_PRIVATE | MIGRATE_VMA_SELECT_DEVICE_COHERENT | MIGRATE_VMA_SELECT_COMPOUND,
    pgmapOwner: zdd.dpagemap.pagemap.owner,
    faultPage: vmf.pfn,
    cpages: 0,
  };
  let err = yield* wait(mm.migrateVmaSetup(migration));
  if (err !== 0 || migration.cpages === 0) return err;
  yield* wait(scheduler.point("pagemap:migrate_to_ram:after_setup"));

  const { src, dst } = migration;
  const pages = new Uint32Array(npages);
  const addrs = new Float64Array(npages);
  const mpages = migratePopulateRamPfn(mm.phys, { src, dst, pages, addrs }, zdd);
  if (isErr(mpages)) err = mpages;
  else {
    err = yield* wait(devmem.ops.copyToRam(devmem, pages, addrs, npages, null, null));
    yield* wait(scheduler.point("pagemap:migrate_to_ram:after_copy"));
    if (err !== 0) unlockPutPages(mm.phys, dst);
  }
  yield* wait(mm.migrateVmaPages(migration));
  mm.migrateVmaFinalize(migration);
  return err;
}

import { PTE_DM, PTE_NULL, PTE_PAT, PTE_PAT_POS, PTE_W } from "../abi/pte.ts";
import { PAGE_SIZE } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { IntervalTreeNode } from "../base/interval-tree.ts";
import { HmmLookup } from "../gpusvm/hmm-lookup.ts";
import { HMM_PFN_ERROR, HMM_PFN_VALID, HMM_PFN_WRITE, type MmuIntervalNotifier } from "../mm/types.ts";
import type { Vm } from "./vm.ts";

/** How a device sees one CPU page without faulting it in. */
export interface PageSnapshot {
  /** A hole, or memory without access. */
  readonly error: boolean;
  /** Nothing is there yet. */
  readonly none: boolean;
  readonly read: boolean;
  readonly write: boolean;
  /** Part of one CPU mapping of 2 MiB. */
  readonly large: boolean;
  /** In the memory of this device, or of another. */
  readonly local: boolean;
  readonly remote: boolean;
}

/** A look-up that nothing can run beside needs no registered interval. */
class Unregistered extends IntervalTreeNode implements MmuIntervalNotifier {
  invalidateSeq = 0;
  invalidate(): boolean {
    return true;
  }
}

/** The pages of `[a, a + l)` as an HMM look-up without a request finds them: nothing is faulted, nothing waits. */
export function snapPages(vm: Vm, a: number, l: number): PageSnapshot[] {
  const { mm } = vm.process;
  const pgmaps = vm.device.driver.regions.map((region) => region.pgmap);
  const start = a - (a % PAGE_SIZE);
  const end = Math.ceil((a + l) / PAGE_SIZE) * PAGE_SIZE;
  const hmm = new HmmLookup(new Unregistered(start, end - 1), start, end, 0, pgmaps[0]!.owner);
  const result = mm.hmmRangeFault(hmm);
  assert(result === 0, "a look-up that asks for nothing always succeeds");
  return Array.from(hmm.flags, (flags, i) => {
    const page = mm.pageAt(start + i * PAGE_SIZE);
    const error = (flags & HMM_PFN_ERROR) !== 0;
    const valid = (flags & HMM_PFN_VALID) !== 0;
    const isDevice = page.kind === "device-private";
    const remote = !error && isDevice && !pgmaps.some((pgmap) => pgmap === mm.phys.pgmapOf(page.pfn));
    return {
      error,
      none: !error && !valid && !remote,
      read: valid || remote,
      write: valid ? (flags & HMM_PFN_WRITE) !== 0 : remote && page.writable,
      large: hmm.orders[i]! > 0,
      local: valid && isDevice && !remote,
      remote,
    };
  });
}

/** A valid leaf of the GPU's page tables; `place`: this device's memory, the system window, or the scratch page. */
export interface LeafView {
  readonly va: number;
  readonly size: number;
  readonly place: "VRAM" | "SYS" | "NULL";
  readonly write: boolean;
  readonly pa: number;
  /** Index of its memory attributes. */
  readonly pat: number;
}

/** The leaves that touch `[lo, hi)`, ascending, in the tables of the tile that `vm` runs on. */
export function leavesOf(vm: Vm, lo: number, hi: number): LeafView[] {
  const { tables } = vm.svm;
  return Array.from(tables.forEachLeaf(lo, Math.min(hi, tables.vaEnd), vm.tile), ({ va, size, pa, flags }) => ({
    va,
    size,
    place: (flags & PTE_NULL) !== 0 ? "NULL" : (flags & PTE_DM) !== 0 ? "VRAM" : "SYS",
    write: (flags & PTE_W) !== 0,
    pa,
    pat: (flags & PTE_PAT) >> PTE_PAT_POS,
  }));
}

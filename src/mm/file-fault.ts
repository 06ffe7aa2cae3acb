import { PAGE_SIZE, type Va, alignDown } from "../base/addr.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import { mapNewAnonPage } from "./anon.ts";
import type { MemFile } from "./file.ts";
import { PG_DEVICE_WRITTEN } from "./frame-table.ts";
import type { Mm } from "./mm.ts";
import { PTE_PRESENT, PTE_SHIFT, PTE_WRITE, pteIndex } from "./page-table.ts";
import { VM_FAULT_OOM, VM_FAULT_SIGBUS } from "./types.ts";
import type { Vma } from "./vma.ts";

/**
 * A fault where a file is mapped and nothing is: maps the page of the file, or for a write to a private mapping a copy
 * of it. No event: nobody maps a hole. The area permits the access; mmap lock held. 0 or VM_FAULT_*: a page that lies
 * wholly beyond the end of the file is a bus error. @kernel do_fault
 */
export function doFilePage(mm: Mm, vma: Vma, vpn: number, write: boolean): MaybePromise<number> {
  if (isBehindFile(vma, vpn * PAGE_SIZE)) return VM_FAULT_SIGBUS;
  const file = vma.file!;
  const index = vma.offsetOf(vpn * PAGE_SIZE) / PAGE_SIZE;
  return write && !vma.shared ? doCowFault(mm, vma, file, vpn, index) : doSharedFault(mm, vma, file, vpn, index);
}

/** Whether the page of `addr` lies wholly beyond the end of the file that the area maps. */
export function isBehindFile(vma: Vma, addr: Va): boolean {
  return vma.file !== null && vma.offsetOf(alignDown(addr, PAGE_SIZE)) >= vma.file.size;
}

/** Only stores through a shared mapping reach the file. @kernel do_read_fault, do_shared_fault */
function doSharedFault(mm: Mm, vma: Vma, file: MemFile, vpn: number, index: number): number {
  const pfn = file.page(index);
  if (pfn < 0) return VM_FAULT_OOM;
  const { phys } = mm;
  phys.getPage(pfn);
  phys.frames.mapcount[pfn]! += 1;
  phys.rmap.add(pfn, mm.id, vpn);
  const write = vma.shared && vma.writable ? PTE_WRITE : 0;
  mm.tables.make(vpn * PAGE_SIZE)[pteIndex(vpn * PAGE_SIZE)] = (pfn << PTE_SHIFT) | PTE_PRESENT | write;
  return 0;
}

/** @kernel do_cow_fault */
function doCowFault(mm: Mm, vma: Vma, file: MemFile, vpn: number, index: number): MaybePromise<number> {
  const { phys } = mm;
  const source = file.cachedPage(index);
  if (source !== 0 && (phys.frames.flags[source]! & PG_DEVICE_WRITTEN) !== 0) {
    // Some GPU stored to the file's page: the copy has to wait for its bytes.
    const home = phys.syncForCpu(source);
    if (home !== undefined) return home.then(() => 0);
  }
  const pfn = source === 0 ? phys.allocZeroedPage() : phys.allocPage();
  if (pfn < 0) return VM_FAULT_OOM;
  if (source !== 0) phys.copyPage(pfn, source);
  mm.tables.make(vpn * PAGE_SIZE)[pteIndex(vpn * PAGE_SIZE)] = mapNewAnonPage(mm, vma, pfn, vpn);
  return 0;
}

import { PAGE_SIZE, hex } from "../base/addr.ts";
import { InvariantError } from "../base/assert.ts";
import { SvmBo } from "../driver/svm-bo.ts";
import type { SvmRange } from "../driver/svm-range.ts";
import type { SvmVm } from "../driver/vm.ts";
import { headOf, isCompound } from "../mm/folio.ts";
import { checkInvariants } from "../mm/invariants.ts";
import { DRM_INTERCONNECT_SYSTEM } from "../pagemap/pagemap-addr.ts";
import { Zdd } from "../pagemap/zdd.ts";
import { FAULTS, translationOf } from "./hardware.ts";
import type { Rig } from "./rig.ts";
import type { World } from "./world.ts";

const EVERYTHING = Number.MAX_SAFE_INTEGER;

function broken(what: string): never {
  throw new InvariantError(what);
}

/**
 * The invariants of spec/gpusvm.md 6.3 that can be seen between two steps, whoever is in the middle of what. Those of the
 * mm (I1, I23, I33 and its own) are in src/mm/invariants.ts; that bytes are right (I21, I26, I27) the oracle sees.
 */
export function checkWorld(world: World): void {
  checkInvariants(world.rig.phys);
  let isCallbackRunning = false;
  let entries = 0;
  for (const { svm } of world.vms) {
    checkTree(svm);
    if (svm.gpusvm.notifierLock.isWriteHeld) isCallbackRunning = true;
    else entries += checkRanges(world, svm);
  }
  if (!isCallbackRunning) checkDma(world, entries);
  checkDevicePages(world.rig);
}

/** I7, I8, I13 (its first half), I15. */
function checkTree(svm: SvmVm): void {
  for (const notifier of svm.gpusvm.forEachNotifier(0, EVERYTHING)) {
    // Who makes or removes the first or last range of a notifier holds the driver's lock.
    if (notifier.rangeCount === 0 && !svm.lock.isWriteHeld) broken("a notifier without ranges (I8)");
    let end = notifier.start;
    for (const range of notifier.forEachRange(0, EVERYTHING)) {
      if (range.start < end || range.end > notifier.end) broken(`range ${hex(range.start)} is out of place (I7)`);
      end = range.end;
      if (range.notifier !== notifier) broken(`range ${hex(range.start)} does not know its notifier (I7)`);
      const pages = range.pagesIfAny;
      if ((pages !== null && pages.dpagemap !== null) !== range.hasDevmemPages) {
        broken(`range ${hex(range.start)} disagrees with its page map (I15)`);
      }
      if ((range.tileInvalidated & ~range.tilePresent) !== 0)
        broken(`range ${hex(range.start)} lost what it never had (I22)`);
    }
  }
}

/** What the GPU may reach now, by page from the first of the area. One for all checks: none of them waits. */
let reach = new Float64Array(0);

/** No callback is running: I11, I13, I14, I18, I20. How many pages of the system window the ranges map. */
function checkRanges(world: World, svm: SvmVm): number {
  const pages = world.awayPages + world.program.pages;
  if (reach.length < pages) reach = new Float64Array(pages);
  reach.fill(FAULTS);
  let inWindow = 0;
  for (const notifier of svm.gpusvm.forEachNotifier(0, EVERYTHING)) {
    for (const range of notifier.forEachRange(0, EVERYTHING)) {
      const at = `range ${hex(range.start)} of vm ${svm.asid}`;
      if (range.isBound && !svm.isClosed && !range.hasDmaMapping) broken(`${at} is bound without a mapping (I18)`);
      if (!range.hasDmaMapping) continue;
      if (range.unmapped) broken(`${at} is dead and mapped (I11)`);
      inWindow += checkMapping(world, svm, range, at);
    }
  }
  checkReach(world, svm);
  return inWindow;
}

/** Every slot is the page that the CPU has there now. How many of them are in the system window. */
function checkMapping(world: World, svm: SvmVm, range: SvmRange, at: string): number {
  const { mm } = world.processes[0]!;
  const addrs = range.pages.dmaAddr;
  if (addrs === null) return broken(`${at} has a mapping without addresses (I13)`);
  const firstPfn = world.rig.device.region.pgmap.firstPfn;
  let inWindow = 0;
  let va = range.start;
  for (let j = 0; j < addrs.count; j++) {
    const isSystem = addrs.proto(j) === DRM_INTERCONNECT_SYSTEM;
    for (let k = 0; k < 2 ** addrs.order(j); k++, va += PAGE_SIZE) {
      const page = mm.pageAt(va);
      const addr = addrs.addr[j]! + k * PAGE_SIZE;
      const pfn = isSystem ? (world.rig.dmaLive.get(addr)?.pfn ?? -1) : firstPfn + addr / PAGE_SIZE;
      if (page.kind !== (isSystem ? "present" : "device-private") || page.pfn !== pfn) {
        broken(`${at} maps page ${pfn} at ${hex(va)}, where the CPU has ${page.kind} ${page.pfn} (I14)`);
      }
      if (isSystem) inWindow += 1;
      if (!range.isBound || svm.isClosed) continue;
      if (!page.writable && !range.readOnly) broken(`${at} may write ${hex(va)}, which the CPU may not (I14)`);
      reach[(va - world.base) / PAGE_SIZE] = translationOf(addr, !isSystem, !range.readOnly);
    }
  }
  if (va !== range.end) broken(`${at} maps ${(va - range.start) / PAGE_SIZE} pages of ${range.size / PAGE_SIZE} (I13)`);
  return inWindow;
}

/** The tables hold exactly these translations, and the TLB no others. */
function checkReach(world: World, { asid }: SvmVm): void {
  const { base, awayPages, program, rig } = world;
  const { inTables, inTlb } = rig.hardware.view(asid);
  for (let i = 0; i < awayPages + program.pages; i++) {
    const inTable = inTables[i]!;
    if (inTable === reach[i] && inTable === inTlb[i]) continue;
    const at = `${hex(base + i * PAGE_SIZE)} of vm ${asid}`;
    if (inTable !== reach[i]) broken(`the GPU reaches ${inTable} at ${at}, which should be ${reach[i]} (I18, I20)`);
    broken(`a TLB may still have ${inTlb[i]} for ${at}, now ${inTable} (I20)`);
  }
}

/** I16: what is mapped in the window is what the ranges map. */
function checkDma(world: World, entries: number): void {
  let live = 0;
  for (const { count } of world.rig.dmaLive.values()) live += count;
  if (live !== entries) broken(`${live} pages of the window are mapped, the ranges know of ${entries} (I16)`);
}

/** I24, I25: live device pages belong to live allocations, which count them. */
function checkDevicePages({ phys, device, gpu, heapBytes }: Rig): void {
  const { firstPfn } = device.region.pgmap;
  const heap = firstPfn + gpu.info.ptBytes / PAGE_SIZE;
  const counts = new Map<Zdd, number>();
  let lastHead = -1;
  for (let pfn = heap; pfn < heap + heapBytes / PAGE_SIZE; pfn++) {
    if (phys.refcount(pfn) === 0) continue;
    const zdd = phys.zoneDeviceData(pfn);
    if (!(zdd instanceof Zdd)) return broken(`device page ${pfn} belongs to no migration (I25)`);
    // A folio of 2 MiB counts once, whatever is left of it.
    const head = isCompound(phys, pfn) ? headOf(pfn) : pfn;
    if (head !== lastHead) counts.set(zdd, (counts.get(zdd) ?? 0) + 1);
    lastHead = head;
    const bo = zdd.devmemAllocation;
    const at = (pfn - firstPfn) * PAGE_SIZE;
    const isInside = bo instanceof SvmBo && bo.blocks.some(({ offset, size }) => at >= offset && at < offset + size);
    if (!isInside) broken(`device page ${pfn} is outside its allocation (I25)`);
    if (bo.detached.isDone) broken(`device page ${pfn} outlives its allocation (I24)`);
  }
  for (const [zdd, pages] of counts) {
    // One more while the migration that made it runs.
    if (zdd.refcount !== pages && zdd.refcount !== pages + 1) {
      broken(`a migration has ${zdd.refcount} references and ${pages} live pages (I24)`);
    }
  }
}

import { PAGE_SIZE, hex } from "../base/addr.ts";
import { InvariantError } from "../base/assert.ts";
import { SvmBo } from "../driver/svm-bo.ts";
import type { SvmRange } from "../driver/svm-range.ts";
import type { SvmVm } from "../driver/vm.ts";
import type { VramRegion } from "../driver/vram-region.ts";
import { headOf, isCompound } from "../mm/folio.ts";
import { checkInvariants } from "../mm/invariants.ts";
import type { PhysMemory } from "../mm/phys-mem.ts";
import { DRM_INTERCONNECT_SYSTEM } from "../pagemap/pagemap-addr.ts";
import { Zdd } from "../pagemap/zdd.ts";
import type { ExploredDevice } from "./cards.ts";
import { FAULTS, translationOf } from "./hardware.ts";
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
  for (const on of world.rig.devices) checkDevice(world, on);
}

function checkDevice(world: World, on: ExploredDevice): void {
  let isCallbackRunning = false;
  let entries = 0;
  for (const { svm } of world.vms) {
    if (svm.device !== on.device) continue;
    checkTree(svm);
    if (svm.gpusvm.notifierLock.isWriteHeld) isCallbackRunning = true;
    else entries += checkRanges(world, on, svm);
  }
  if (!isCallbackRunning) checkDma(on, entries);
  for (const region of on.device.regions) checkDevicePages(world.rig.phys, region);
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

/** What each tile may reach now, by page from the first of the area. One for all checks: none of them waits. */
const reaches: Float64Array[] = [];

/** No callback is running: I11, I13, I14, I18, I20. How many pages of the system window the ranges map. */
function checkRanges(world: World, on: ExploredDevice, svm: SvmVm): number {
  const pages = world.awayPages + world.program.pages;
  for (let tile = 0; tile < on.hardware.tiles.length; tile++) {
    const reach = reaches[tile];
    if (reach !== undefined && reach.length >= pages) reach.fill(FAULTS);
    else reaches[tile] = new Float64Array(pages).fill(FAULTS);
  }
  let inWindow = 0;
  for (const notifier of svm.gpusvm.forEachNotifier(0, EVERYTHING)) {
    for (const range of notifier.forEachRange(0, EVERYTHING)) {
      const at = `range ${hex(range.start)} of vm ${svm.asid}`;
      if (range.isBound && !svm.isClosed && !range.hasDmaMapping) broken(`${at} is bound without a mapping (I18)`);
      if (!range.hasDmaMapping) continue;
      if (range.unmapped) broken(`${at} is dead and mapped (I11)`);
      inWindow += checkMapping(world, on, svm, range, at);
    }
  }
  for (let tile = 0; tile < on.hardware.tiles.length; tile++) checkReach(world, on, svm, tile);
  return inWindow;
}

/** Every slot is the page that the CPU has there now. How many of them are in the system window. */
function checkMapping(world: World, on: ExploredDevice, svm: SvmVm, range: SvmRange, at: string): number {
  const { mm } = world.processes[0]!;
  const addrs = range.pages.dmaAddr;
  if (addrs === null) return broken(`${at} has a mapping without addresses (I13)`);
  const boundOn = svm.isClosed ? 0 : range.tilePresent & ~range.tileInvalidated;
  let inWindow = 0;
  let va = range.start;
  for (let j = 0; j < addrs.count; j++) {
    const isSystem = addrs.proto(j) === DRM_INTERCONNECT_SYSTEM;
    const firstPfn = isSystem ? -1 : on.vramPfnAt(addrs.proto(j), addrs.addr[j]!);
    for (let k = 0; k < 2 ** addrs.order(j); k++, va += PAGE_SIZE) {
      const page = mm.pageAt(va);
      const addr = addrs.addr[j]! + k * PAGE_SIZE;
      const pfn = isSystem ? (on.dmaLive.get(addr)?.pfn ?? -1) : firstPfn + k;
      if (page.kind !== (isSystem ? "present" : "device-private") || page.pfn !== pfn) {
        broken(`${at} maps page ${pfn} at ${hex(va)}, where the CPU has ${page.kind} ${page.pfn} (I14)`);
      }
      if (isSystem) inWindow += 1;
      if (boundOn === 0) continue;
      if (!page.writable && !range.readOnly) broken(`${at} may write ${hex(va)}, which the CPU may not (I14)`);
      const translation = translationOf(addr, !isSystem, !range.readOnly);
      for (let tile = 0; boundOn >>> tile !== 0; tile++) {
        if (((boundOn >>> tile) & 1) !== 0) reaches[tile]![(va - world.base) / PAGE_SIZE] = translation;
      }
    }
  }
  if (va !== range.end) broken(`${at} maps ${(va - range.start) / PAGE_SIZE} pages of ${range.size / PAGE_SIZE} (I13)`);
  return inWindow;
}

/** The tables of a tile hold exactly these translations, and its TLB no others. */
function checkReach(world: World, { hardware }: ExploredDevice, { asid }: SvmVm, tile: number): void {
  const { base, awayPages, program } = world;
  const { inTables, inTlb } = hardware.tiles[tile]!.view(asid);
  const reach = reaches[tile]!;
  for (let i = 0; i < awayPages + program.pages; i++) {
    const inTable = inTables[i]!;
    if (inTable === reach[i] && inTable === inTlb[i]) continue;
    const at = `${hex(base + i * PAGE_SIZE)} of vm ${asid}, tile ${tile}`;
    if (inTable !== reach[i]) broken(`the GPU reaches ${inTable} at ${at}, which should be ${reach[i]} (I18, I20)`);
    broken(`a TLB may still have ${inTlb[i]} for ${at}, now ${inTable} (I20)`);
  }
}

/** I16: what is mapped in the window of a device is what its ranges map. */
function checkDma({ dmaLive }: ExploredDevice, entries: number): void {
  let live = 0;
  for (const { count } of dmaLive.values()) live += count;
  if (live !== entries) broken(`${live} pages of the window are mapped, the ranges know of ${entries} (I16)`);
}

/** I24, I25: live device pages of a tile belong to live allocations there, which count them. */
function checkDevicePages(phys: PhysMemory, region: VramRegion): void {
  const { firstPfn } = region.pgmap;
  const { heapBytes } = region;
  const heap = firstPfn + region.gpu.info.ptBytes / PAGE_SIZE;
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
    const isHere = bo instanceof SvmBo && bo.region === region;
    if (!isHere || !bo.blocks.some(({ offset, size }) => at >= offset && at < offset + size))
      broken(`device page ${pfn} is outside its allocation (I25)`);
    if (bo.detached.isDone) broken(`device page ${pfn} outlives its allocation (I24)`);
  }
  for (const [zdd, pages] of counts) {
    // One more while the migration that made it runs.
    if (zdd.refcount !== pages && zdd.refcount !== pages + 1) {
      broken(`a migration has ${zdd.refcount} references and ${pages} live pages (I24)`);
    }
  }
}

import { InvariantError, assert } from "../base/assert.ts";
import { type Pfn, alignUp } from "../base/addr.ts";
import type { FrameAllocator } from "./frame-allocator.ts";
import {
  type FrameTable,
  HPAGE_PAGES,
  PG_COMPOUND,
  PG_DEVICE_COHERENT,
  PG_DEVICE_PRIVATE,
  PG_LOCKED,
} from "./frame-table.ts";
import { MAX_PFN } from "./page-table.ts";
import type { DevPagemap } from "./types.ts";

const DEVICE_ALIGN = HPAGE_PAGES;

interface RegisteredPagemap {
  readonly pgmap: DevPagemap;
  readonly zoneDeviceData: unknown[];
}

/**
 * The zones of device memory: which frames belong to which `DevPagemap`.
 *
 * Device-private frames are numbers above RAM, for memory that the CPU cannot reach. Device-coherent frames are ones that
 * it can: they are carved out of RAM, as the kernel's own test device takes them from memory set aside by the firmware,
 * and their bytes are where RAM's are.
 */
export class DeviceFrames {
  readonly #frames: FrameTable;
  readonly #ramPages: number;
  readonly #allocator: FrameAllocator;
  /** By `FrameTable.pgmap`; a freed number is reused. */
  readonly #pagemaps: (RegisteredPagemap | null)[] = [null];
  /** Live frames of each large device folio, by its head. */
  readonly #folios = new Map<Pfn, number>();

  constructor(frames: FrameTable, ramPages: number, allocator: FrameAllocator) {
    this.#frames = frames;
    this.#ramPages = ramPages;
    this.#allocator = allocator;
  }

  add(pgmap: DevPagemap): void {
    const isPrivate = pgmap.type === "private";
    const first = isPrivate ? this.#findRun(pgmap.npages) : this.#allocator.allocRun(pgmap.npages);
    assert(first > 0, () => `RAM has no ${pgmap.npages} frames in a row for memory that CPU and device share`);
    assert(first + pgmap.npages <= MAX_PFN, "the frame numbers of all devices do not fit");
    let index = this.#pagemaps.indexOf(null, 1);
    if (index < 0) index = this.#pagemaps.length;
    assert(index < 256, "more than 255 runs of device frames");
    this.#pagemaps[index] = { pgmap, zoneDeviceData: new Array<unknown>(pgmap.npages).fill(null) };
    pgmap.firstPfn = first;
    const end = first + pgmap.npages;
    this.#frames.grow(end);
    this.#frames.pgmap.fill(index, first, end);
    this.#frames.flags.fill(isPrivate ? PG_DEVICE_PRIVATE : PG_DEVICE_COHERENT, first, end);
  }

  remove(pgmap: DevPagemap): void {
    const index = this.#pagemaps.findIndex((p) => p?.pgmap === pgmap);
    assert(index > 0, "the run of device frames is not registered");
    const end = pgmap.firstPfn + pgmap.npages;
    for (let pfn = pgmap.firstPfn; pfn < end; pfn++) {
      assert(this.#frames.refcount[pfn] === 0, () => `device page ${pfn} is in use while its run is removed`);
    }
    this.#frames.pgmap.fill(0, pgmap.firstPfn, end);
    this.#frames.flags.fill(0, pgmap.firstPfn, end);
    this.#pagemaps[index] = null;
    if (pgmap.type === "private") return;
    for (let pfn = pgmap.firstPfn; pfn < end; pfn++) this.#allocator.free(pfn);
  }

  /** The lowest gap above RAM for `npages`. */
  #findRun(npages: number): Pfn {
    const taken = this.#pagemaps.flatMap((p) => (p === null || p.pgmap.type === "coherent" ? [] : [p.pgmap]));
    taken.sort((a, b) => a.firstPfn - b.firstPfn);
    let first = alignUp(this.#ramPages, DEVICE_ALIGN);
    for (const pgmap of taken) {
      if (first + npages <= pgmap.firstPfn) break;
      first = alignUp(pgmap.firstPfn + pgmap.npages, DEVICE_ALIGN);
    }
    return first;
  }

  #of(pfn: Pfn): RegisteredPagemap {
    const owner = this.#pagemaps[this.#frames.pgmap[pfn]!] ?? null;
    assert(owner !== null, () => `page ${pfn} is not a device page`);
    return owner;
  }

  pgmapOf(pfn: Pfn): DevPagemap {
    return this.#of(pfn).pgmap;
  }

  zoneDeviceData(pfn: Pfn): unknown {
    const owner = this.#of(pfn);
    return owner.zoneDeviceData[pfn - owner.pgmap.firstPfn];
  }

  /** See `PhysMemory.zoneDeviceRun`. */
  zoneDeviceRun(first: Pfn, count: number): number {
    const { pgmap, zoneDeviceData } = this.#of(first);
    const from = first - pgmap.firstPfn;
    const end = Math.min(from + count, pgmap.npages);
    let at = from + 1;
    while (at < end && zoneDeviceData[at] === zoneDeviceData[from]) at += 1;
    return at - from;
  }

  /** Frames that were free get `data`, a reference and the lock each; 512 that begin at a multiple become one folio. */
  init(first: Pfn, count: number, data: unknown): void {
    const { refcount, flags } = this.#frames;
    const { pgmap, zoneDeviceData } = this.#of(first);
    const folio = count === HPAGE_PAGES ? PG_COMPOUND : 0;
    if (folio !== 0) {
      assert(first % HPAGE_PAGES === 0, () => `device page ${first} cannot head a large folio`);
      this.#folios.set(first, count);
    }
    for (let pfn = first; pfn < first + count; pfn++) {
      if (refcount[pfn] !== 0) throw new InvariantError(`device page ${pfn} is in use`);
      refcount[pfn] = 1;
      flags[pfn]! |= PG_LOCKED | folio;
      zoneDeviceData[pfn - pgmap.firstPfn] = data;
    }
  }

  /** The frame lost its last reference. The owner hears of a large folio once, when all of it is free. */
  free(pfn: Pfn, wasCompound: boolean): void {
    if (wasCompound) this.#freeOfFolio(headOf(pfn), 1);
    else this.#free(pfn, 1);
  }

  /** `free` for each of `count` frames in a row, which all were parts of folios or none. */
  freeRun(first: Pfn, count: number, wasCompound: boolean): void {
    for (let pfn = first; pfn < first + count;) {
      const pages = wasCompound ? Math.min(headOf(pfn) + HPAGE_PAGES, first + count) - pfn : 1;
      if (wasCompound) this.#freeOfFolio(headOf(pfn), pages);
      else this.#free(pfn, 1);
      pfn += pages;
    }
  }

  #freeOfFolio(head: Pfn, pages: number): void {
    const left = this.#folios.get(head)! - pages;
    this.#folios.set(head, left);
    if (left > 0) return;
    this.#folios.delete(head);
    this.#free(head, HPAGE_PAGES);
  }

  #free(first: Pfn, count: number): void {
    const { pgmap, zoneDeviceData } = this.#of(first);
    pgmap.ops.folioFree(first);
    for (let pfn = first; pfn < first + count; pfn++) zoneDeviceData[pfn - pgmap.firstPfn] = null;
  }

  /** The live frames of the folio are single pages from now on; the owner counts each of them. @kernel folio_split */
  split(head: Pfn): void {
    const { refcount } = this.#frames;
    const { pgmap, zoneDeviceData } = this.#of(head);
    this.#folios.delete(head);
    // The owner counts the folio once: that is now its first live page, and the others come on top.
    let isFirst = true;
    for (let pfn = head; pfn < head + HPAGE_PAGES; pfn++) {
      if (refcount[pfn] === 0) zoneDeviceData[pfn - pgmap.firstPfn] = null;
      else if (isFirst) isFirst = false;
      else pgmap.ops.folioSplit?.(head, pfn);
    }
  }
}

function headOf(pfn: Pfn): Pfn {
  return pfn - (pfn % HPAGE_PAGES);
}

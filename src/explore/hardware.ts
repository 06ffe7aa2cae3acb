import { PAGE_SIZE, type Pa, type Va } from "../base/addr.ts";
import { PTE_COMPACT, PTE_DM, PTE_P, PTE_PS, PTE_W } from "../abi/pte.ts";
import { tileBase, tileOf } from "../abi/tiles.ts";
import { PeerGpu } from "../driver/peer-gpu.ts";
import { ASID_VALID, type Gpu } from "../hal/gpu.ts";

const LEVELS = 4;
/** What a translation says: the physical address, and in its low bits whether it is in VRAM and may be written. */
const IN_VRAM = 1;
const WRITABLE = 2;

/** The translation of an address that has one. */
export function translationOf(pa: Pa, vram: boolean, writable: boolean): number {
  return pa + (vram ? IN_VRAM : 0) + (writable ? WRITABLE : 0);
}

/** No translation. */
export const FAULTS = -1;

/**
 * What the GPU of a device can reach at any moment, by tile, from what the driver has told it. Looks over the driver's
 * shoulder: it wraps the calls of a `Gpu` and asks nothing of the driver's own books.
 */
export class Hardware {
  readonly tiles: readonly HardwareTile[];

  constructor(gpu: Gpu) {
    const firstTile = gpu instanceof PeerGpu ? gpu.place.tile : 0;
    const tiles = gpu.info.tileBytes.map((_, i) => new HardwareTile(gpu.info.ptBytes, tileBase(firstTile + i)));
    this.tiles = tiles;
    const ptWrite = gpu.ptWrite.bind(gpu);
    gpu.ptWrite = (pa, words) => {
      tiles[tileOf(pa) - firstTile]!.ptWrite(pa, words);
      ptWrite(pa, words);
    };
    const asidSet = gpu.asidSet.bind(gpu);
    gpu.asidSet = (asid, root, flags, tile = 0) => {
      tiles[tile]!.asidSet(asid, root, flags);
      asidSet(asid, root, flags, tile);
    };
    const tlbInvalidate = gpu.tlbInvalidate.bind(gpu);
    gpu.tlbInvalidate = (asid, start, last, tile = 0) => {
      tiles[tile]!.tlbInvalidate(asid, start, last);
      return tlbInvalidate(asid, start, last, tile);
    };
    const tlbInvalidateAsid = gpu.tlbInvalidateAsid.bind(gpu);
    gpu.tlbInvalidateAsid = (asid, tile = 0) => {
      tiles[tile]!.tlbInvalidateAsid(asid);
      return tlbInvalidateAsid(asid, tile);
    };
  }

  /** The pages to look at from now on; everything before is forgotten. */
  lookAt(start: Va, pages: number): void {
    for (const tile of this.tiles) tile.lookAt(start, pages);
  }
}

/** One tile: the page tables as written, and a TLB that has cached every translation since its last invalidation. */
export class HardwareTile {
  readonly #tables: Uint32Array;
  /** PA of its first byte. */
  readonly #base: Pa;
  readonly #roots = new Map<number, Pa>();
  readonly #views = new Map<number, View>();
  #start: Va = 0;
  #pages = 0;
  /** Goes up with every change of tables, roots and TLB. */
  #version = 0;

  constructor(ptBytes: number, base: Pa) {
    this.#tables = new Uint32Array(ptBytes / 4);
    this.#base = base;
  }

  ptWrite(pa: Pa, words: Uint32Array): void {
    this.#tables.set(words, (pa - this.#base) / 4);
    this.#version += 1;
  }

  asidSet(asid: number, root: Pa, flags: number): void {
    if ((flags & ASID_VALID) === 0) this.#roots.delete(asid);
    else this.#roots.set(asid, root);
    this.#version += 1;
  }

  tlbInvalidate(asid: number, start: Va, last: Va): void {
    const from = Math.max(0, Math.floor((start - this.#start) / PAGE_SIZE));
    const to = Math.max(from, Math.floor((last - this.#start) / PAGE_SIZE) + 1);
    this.#views.get(asid)?.inTlb.fill(FAULTS, from, to);
    this.#version += 1;
  }

  tlbInvalidateAsid(asid: number): void {
    this.#views.get(asid)?.inTlb.fill(FAULTS);
    this.#version += 1;
  }

  /** See `Hardware.lookAt`. */
  lookAt(start: Va, pages: number): void {
    this.#start = start;
    this.#pages = pages;
    this.#views.clear();
  }

  /** One address space as the hardware has it now. */
  view(asid: number): View {
    let view = this.#views.get(asid);
    if (view === undefined) {
      const none = () => new Float64Array(this.#pages).fill(FAULTS);
      view = { inTables: none(), inTlb: none(), version: -1 };
      this.#views.set(asid, view);
    }
    if (view.version !== this.#version) {
      view.version = this.#version;
      for (let i = 0; i < this.#pages; i++) {
        const translation = this.#translate(asid, this.#start + i * PAGE_SIZE);
        view.inTables[i] = translation;
        if (translation !== FAULTS && view.inTlb[i] === FAULTS) view.inTlb[i] = translation;
      }
    }
    return view;
  }

  /** What the tables say of the page at `va`. */
  #translate(asid: number, va: Va): number {
    let table = this.#roots.get(asid);
    if (table === undefined) return FAULTS;
    for (let level = LEVELS - 1; level >= 0; level--) {
      const span = 2 ** (12 + 9 * level);
      const at = (table - this.#base) / 4 + (Math.floor(va / span) % 512) * 2;
      const lo = this.#tables[at]!;
      if ((lo & PTE_P) === 0) return FAULTS;
      const address: Pa = (this.#tables[at + 1]! & 0x3fff) * 2 ** 32 + ((lo & 0xfffff000) >>> 0);
      if (level === 0) return leaf(address, lo);
      if ((lo & PTE_PS) !== 0) return leaf(address + (va % span), lo);
      if (level === 1 && (lo & PTE_COMPACT) !== 0) return this.#compact(address, va);
      table = address;
    }
    return FAULTS;
  }

  /** A table of 64 KiB leaves. */
  #compact(table: Pa, va: Va): number {
    const at = (table - this.#base) / 4 + (Math.floor(va / 65536) % 32) * 2;
    const lo = this.#tables[at]!;
    if ((lo & PTE_P) === 0) return FAULTS;
    return leaf((this.#tables[at + 1]! & 0x3fff) * 2 ** 32 + ((lo & 0xfffff000) >>> 0) + (va % 65536), lo);
  }
}

function leaf(pa: Pa, lo: number): number {
  return translationOf(pa, (lo & PTE_DM) !== 0, (lo & PTE_W) !== 0);
}

/** By page, from the first that is looked at. */
interface View {
  readonly inTables: Float64Array;
  /** What a TLB may still have. */
  readonly inTlb: Float64Array;
  version: number;
}

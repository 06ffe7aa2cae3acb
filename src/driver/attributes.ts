import type { Va } from "../base/addr.ts";
import type { SvmDevice } from "./device.ts";

/** Nothing is asked: the device may use atomics where its memory and its placement allow. @kernel DRM_XE_ATOMIC_UNDEFINED */
export const ATOMIC_UNDEFINED = 0;
/** Only the device does atomics here. @kernel DRM_XE_ATOMIC_DEVICE */
export const ATOMIC_DEVICE = 1;
/** CPU and devices do atomics on the same words: a device's want its own memory. @kernel DRM_XE_ATOMIC_GLOBAL */
export const ATOMIC_GLOBAL = 2;
/** Only the CPU does: a device's fault. @kernel DRM_XE_ATOMIC_CPU */
export const ATOMIC_CPU = 3;
export type AtomicAccess = typeof ATOMIC_UNDEFINED | typeof ATOMIC_DEVICE | typeof ATOMIC_GLOBAL | typeof ATOMIC_CPU;

/**
 * Where memory had best lie: "device" is that of who asks, as the policy decides; "system" stays in RAM; or the memory of
 * one device. @kernel DRM_XE_PREFERRED_LOC_DEFAULT_DEVICE, DRM_XE_PREFERRED_LOC_DEFAULT_SYSTEM, xe_vma_preferred_loc
 */
export type PreferredLoc = "device" | "system" | SvmDevice;

/** What has been advised about memory. @kernel xe_vma_mem_attr */
export interface MemAttr {
  /** @kernel DRM_XE_MEM_RANGE_ATTR_PREFERRED_LOC */
  readonly loc: PreferredLoc;
  /** With a device as `loc`: of which tile; null: of whichever it comes to. @kernel drm_xe_madvise.preferred_mem_loc.region_instance */
  readonly tile: number | null;
  /** @kernel DRM_XE_MEM_RANGE_ATTR_ATOMIC */
  readonly atomic: AtomicAccess;
  /** Index of the memory attributes of entries; null: that of the mirror mapping. @kernel DRM_XE_MEM_RANGE_ATTR_PAT */
  readonly pat: number | null;
}

/** `[start, end)` has these attributes, as has no neighbour. */
export interface AttrPiece extends MemAttr {
  readonly start: Va;
  readonly end: Va;
}

export const DEFAULT_ATTR: MemAttr = { loc: "device", tile: null, atomic: ATOMIC_UNDEFINED, pat: null };

/**
 * The advice about an address space, by address.
 *
 * It belongs to addresses, not to SVM ranges: ranges come and go with faults, partial unmaps and the collector, and the
 * advice stays. It goes with the mirror mapping of the GPU's address space, and, where `attrAutoReset` is set, with the
 * process's area.
 *
 * Form. The pieces that differ from the default, ascending and disjoint; touching pieces differ. Few are expected (one
 * per piece of advice), so they stand in an array, found by bisection; without any a look-up costs one comparison.
 *
 * Locking. The VM's lock: for read to look up, for write to change.
 */
export class MemAttributes {
  #pieces: AttrPiece[] = [];

  /** Nothing has been advised. */
  get isEmpty(): boolean {
    return this.#pieces.length === 0;
  }

  /** What holds at `addr`. */
  at(addr: Va): MemAttr {
    const pieces = this.#pieces;
    if (pieces.length === 0) return DEFAULT_ATTR;
    const piece = pieces[this.#firstEndingAfter(addr)];
    return piece !== undefined && piece.start <= addr ? piece : DEFAULT_ATTR;
  }

  /** The largest stretch of `[lo, hi)` around `addr` that has the same attributes as `addr`. */
  pieceAt(addr: Va, lo: Va, hi: Va): AttrPiece {
    const pieces = this.#pieces;
    if (pieces.length === 0) return defaultPiece(lo, hi);
    const i = this.#firstEndingAfter(addr);
    const next = pieces[i];
    if (next !== undefined && next.start <= addr) {
      return { ...next, start: Math.max(lo, next.start), end: Math.min(hi, next.end) };
    }
    const start = Math.max(lo, pieces[i - 1]?.end ?? lo);
    return defaultPiece(start, Math.min(hi, next?.start ?? hi));
  }

  /** Pieces that tile `[start, end)`, clipped to it, ascending; neighbours differ. */
  pieces(start: Va, end: Va): AttrPiece[] {
    const tiles: AttrPiece[] = [];
    for (let at = start; at < end;) {
      const piece = this.pieceAt(at, start, end);
      tiles.push(piece);
      at = piece.end;
    }
    return tiles;
  }

  /** Sets what `change` names (`tile` goes with `loc`) in `[start, end)`; the stretches that have other attributes than before, ascending. */
  set(start: Va, end: Va, change: Partial<MemAttr>): { start: Va; end: Va }[] {
    const changed: { start: Va; end: Va }[] = [];
    const inside: AttrPiece[] = [];
    for (const old of this.pieces(start, end)) {
      const fresh = {
        start: old.start,
        end: old.end,
        loc: change.loc ?? old.loc,
        tile: change.loc === undefined ? old.tile : (change.tile ?? null),
        atomic: change.atomic ?? old.atomic,
        pat: change.pat === undefined ? old.pat : change.pat,
      };
      inside.push(fresh);
      if (!isSame(old, fresh)) changed.push({ start: old.start, end: old.end });
    }
    if (changed.length > 0) this.#replace(start, end, inside);
    return changed;
  }

  /** `[start, end)` has the default attributes again. */
  reset(start: Va, end: Va): void {
    if (this.#pieces.length > 0) this.set(start, end, DEFAULT_ATTR);
  }

  #replace(start: Va, end: Va, inside: readonly AttrPiece[]): void {
    const joined: AttrPiece[] = [];
    const add = (piece: AttrPiece): void => {
      const last = joined.at(-1);
      if (isSame(piece, DEFAULT_ATTR) || piece.start >= piece.end) return;
      if (last === undefined || last.end !== piece.start || !isSame(last, piece)) joined.push(piece);
      else joined[joined.length - 1] = { ...last, end: piece.end };
    };
    for (const piece of this.#pieces) if (piece.start < start) add({ ...piece, end: Math.min(piece.end, start) });
    for (const piece of inside) add(piece);
    for (const piece of this.#pieces) if (piece.end > end) add({ ...piece, start: Math.max(piece.start, end) });
    this.#pieces = joined;
  }

  /** Index of the first piece that ends behind `addr`. */
  #firstEndingAfter(addr: Va): number {
    let from = 0;
    let to = this.#pieces.length;
    while (from < to) {
      const middle = (from + to) >>> 1;
      if (this.#pieces[middle]!.end <= addr) from = middle + 1;
      else to = middle;
    }
    return from;
  }
}

/** Field by field: every fault asks. */
function defaultPiece(start: Va, end: Va): AttrPiece {
  const { loc, tile, atomic, pat } = DEFAULT_ATTR;
  return { start, end, loc, tile, atomic, pat };
}

function isSame(a: MemAttr, b: MemAttr): boolean {
  return a.loc === b.loc && a.tile === b.tile && a.atomic === b.atomic && a.pat === b.pat;
}

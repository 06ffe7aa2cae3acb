import { fromHiLo, hi32, lo32 } from "../base/addr.ts";
import {
  ACCESS_ATOMIC,
  ACCESS_READ,
  FATAL_BAD_ASID,
  FATAL_MALFORMED,
  FATAL_NONCANONICAL,
  FATAL_PHYS_RANGE,
  FAULT_ATOMIC_VIOLATION,
  FAULT_FATAL,
  FAULT_NOT_PRESENT,
  FAULT_WRITE_VIOLATION,
  LEVEL_NONE,
} from "../abi/fault.ts";
import { CLASS_1G, CLASS_2M, CLASS_SHIFT, decodePte } from "../abi/pte.ts";
import {
  ASID_LEVELS_POS,
  INFO_AE,
  INFO_W,
  NASID,
  STATUS_FAULT,
  STATUS_NULL,
  STATUS_VRAM,
  STATUS_WINDOW,
} from "../abi/tables.ts";
import { tileBase } from "../abi/tiles.ts";
import type { VramSpace } from "../abi/tiles.ts";
import { TLB_AE, TLB_CLASS_POS, TLB_DM, TLB_NULL, TLB_VALID, TLB_W } from "../abi/tlb.ts";
import { ASID_BANNED, ASID_VALID } from "../hal/gpu.ts";
import type { TlbModel } from "./tlb-model.ts";

/** Words per ASID entry: flags and levels, root lo, root hi, generation, 4 reserved. */
export const ASID_WORDS = 8;

/** What a translation depends on. */
export interface WalkerState {
  /** VRAM of the tile as words; only its page-table aperture is read. */
  readonly vram: Uint32Array;
  /** Bytes of VRAM of the tile; of a device with several tiles `space` decides what exists. */
  readonly vramBytes: number;
  readonly ptBytes: number;
  /** The tile that walks. Default 0. */
  readonly tile?: number;
  readonly space?: VramSpace;
  readonly syswBytes: number;
  /** The ASID table as in `ctl`. */
  readonly asids: Uint32Array;
  /** Null: TLB disabled. */
  readonly tlb: TlbModel | null;
  readonly systemAtomics: boolean;
}

/** Outcome of a translation: the result words of spec/device.md 3.1 and, for a fault, its parts. */
export interface Translation {
  /** STATUS_*. */
  status: number;
  /** Physical address; 0 for NULL and faults. */
  pa: number;
  /** Word 3 of the result. */
  info: number;
  faultType: number;
  reason: number;
  level: number;
}

/** One leaf, from a table or the TLB. */
interface Leaf {
  sizeClass: number;
  pa: number;
  w: boolean;
  ae: boolean;
  vram: boolean;
  isNull: boolean;
  level: number;
}

/**
 * The translation algorithm (spec/device.md 3.2) over a snapshot of VRAM: the oracle of the WGSL walkers, and the walker
 * of this engine. Appends to the fill log of `state.tlb` when it walks; writes nothing else. `into` is returned.
 */
export function translateModel(
  state: WalkerState,
  asid: number,
  vaLo: number,
  vaHi: number,
  access: number,
  into: Translation = newTranslation(),
): Translation {
  const entry = asid * ASID_WORDS;
  const flags = asid < NASID ? state.asids[entry]! : 0;
  const levels = (flags >>> ASID_LEVELS_POS) & 15;
  if ((flags & ASID_VALID) === 0 || (flags & ASID_BANNED) !== 0 || (levels !== 4 && levels !== 5)) {
    return fault(into, FAULT_FATAL, FATAL_BAD_ASID, LEVEL_NONE);
  }
  if (vaHi >= (levels === 4 ? 0x10000 : 0x2000000)) return fault(into, FAULT_FATAL, FATAL_NONCANONICAL, LEVEL_NONE);

  const pageLo = (vaLo & 0xfffff000) >>> 0;
  const generation = state.asids[entry + 3]!;
  const cached = state.tlb === null ? -1 : state.tlb.lookup(pageLo, vaHi, asid, generation);
  if (cached >= 0) {
    const leaf = leafOfTlb(state.tlb!, cached);
    if (violation(state, leaf, access) < 0) return finish(state, leaf, vaLo, access, into);
  }

  const leaf = walk(state, entry, levels, vaLo, vaHi, into);
  if (leaf === null) return into;
  finish(state, leaf, vaLo, access, into);
  if (into.status !== STATUS_FAULT && state.tlb !== null) {
    const bits =
      TLB_VALID |
      (leaf.w ? TLB_W : 0) |
      (leaf.ae ? TLB_AE : 0) |
      (leaf.isNull ? TLB_NULL : 0) |
      (leaf.vram ? TLB_DM : 0);
    const word0 = bits | (leaf.sizeClass << TLB_CLASS_POS);
    state.tlb.log(pageLo, vaHi, asid, generation, word0, lo32(leaf.pa), hi32(leaf.pa));
  }
  return into;
}

export function newTranslation(): Translation {
  return { status: STATUS_FAULT, pa: 0, info: 0, faultType: 0, reason: 0, level: 0 };
}

/** The leaf of an address, or null with the fault in `into`. */
function walk(
  state: WalkerState,
  entry: number,
  levels: number,
  lo: number,
  hi: number,
  into: Translation,
): Leaf | null {
  const base = tileBase(state.tile ?? 0);
  // Below, tables count from the start of the tile's memory.
  let table = fromHiLo(state.asids[entry + 2]!, state.asids[entry + 1]!) - base;
  let compact = false;
  for (let level = levels - 1; ; level--) {
    if (table <= 0 || table % 4096 !== 0 || table >= state.ptBytes) return malformed(into, level);
    const at = table / 4 + 2 * (compact ? (lo >>> 16) & 31 : indexAt(lo, hi, level));
    const pte = decodePte(state.vram[at]!, state.vram[at + 1]!, level, compact, lo);
    switch (pte.kind) {
      case "not-present":
        fault(into, FAULT_NOT_PRESENT, pte.reason, level);
        return null;
      case "malformed":
        return malformed(into, level);
      case "leaf":
        return { ...pte, level };
      case "directory":
        table = pte.table - base;
        compact = pte.compact;
    }
  }
}

function indexAt(lo: number, hi: number, level: number): number {
  switch (level) {
    case 0:
      return (lo >>> 12) & 511;
    case 1:
      return (lo >>> 21) & 511;
    case 2:
      return ((lo >>> 30) | (hi << 2)) & 511;
    case 3:
      return (hi >>> 7) & 511;
    default:
      return (hi >>> 16) & 511;
  }
}

function leafOfTlb(tlb: TlbModel, at: number): Leaf {
  const flags = tlb.flags(at);
  const sizeClass = (flags >>> TLB_CLASS_POS) & 3;
  return {
    sizeClass,
    pa: tlb.pa(at),
    w: (flags & TLB_W) !== 0,
    ae: (flags & TLB_AE) !== 0,
    vram: (flags & TLB_DM) !== 0,
    isNull: (flags & TLB_NULL) !== 0,
    level: sizeClass === CLASS_1G ? 2 : sizeClass === CLASS_2M ? 1 : 0,
  };
}

/** Steps (10) and (11): the address must exist, then the access must be allowed. */
function finish(state: WalkerState, leaf: Leaf, lo: number, access: number, into: Translation): Translation {
  const pa = leaf.isNull ? 0 : leaf.pa + (lo % 2 ** CLASS_SHIFT[leaf.sizeClass]!);
  if (!leaf.isNull && !(leaf.vram ? hasVram(state, pa) : pa < state.syswBytes)) {
    return fault(into, FAULT_FATAL, FATAL_PHYS_RANGE, leaf.level);
  }
  const denied = violation(state, leaf, access);
  if (denied >= 0) return fault(into, denied, 0, leaf.level);
  into.status = leaf.isNull ? STATUS_NULL : leaf.vram ? STATUS_VRAM : STATUS_WINDOW;
  into.pa = pa;
  into.info = leaf.sizeClass | (leaf.w ? INFO_W : 0) | (leaf.ae ? INFO_AE : 0);
  return into;
}

function hasVram(state: WalkerState, pa: number): boolean {
  return state.space === undefined ? pa < state.vramBytes : state.space.contains(pa, 1);
}

/** The type of fault that `access` to the leaf is, or -1 when it is allowed. */
function violation(state: WalkerState, leaf: Leaf, access: number): number {
  if (access !== ACCESS_READ && !leaf.w) return FAULT_WRITE_VIOLATION;
  if (access !== ACCESS_ATOMIC || leaf.isNull) return -1;
  return leaf.ae && (leaf.vram || state.systemAtomics) ? -1 : FAULT_ATOMIC_VIOLATION;
}

function malformed(into: Translation, level: number): null {
  fault(into, FAULT_FATAL, FATAL_MALFORMED, level);
  return null;
}

function fault(into: Translation, type: number, reason: number, level: number): Translation {
  into.status = STATUS_FAULT;
  into.pa = 0;
  into.info = type | (reason << 4) | (level << 8);
  into.faultType = type;
  into.reason = reason;
  into.level = level;
  return into;
}

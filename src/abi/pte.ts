import { fromHiLo, hi32, lo32 } from "../base/addr.ts";
import type { Pa, Va } from "../base/addr.ts";

/**
 * Page-table entries: 8 bytes, 512 to a table, bit positions of Intel Xe (spec/device.md 2.1, 2.2).
 *
 *     bit  0 P   1 W   3, 4 PAT   6 compact (directory of level 1)   7 PS (leaf of level 1, 2)   8 PS64   9 NULL   10 AE   11 DM
 *     bits 12..45 physical address; 52..60 free for software; the rest must be zero
 */
export const PTE_P = 1 << 0;
export const PTE_W = 1 << 1;
/** Lowest bit of the PAT index, the memory attributes of a leaf: kept in it, without effect. */
export const PTE_PAT_POS = 3;
/** Indexes that leaves of every size have room for. @kernel xe_device.pat.n_entries */
export const PAT_ENTRIES = 4;
/** The bits of the index. */
export const PTE_PAT = (PAT_ENTRIES - 1) << PTE_PAT_POS;
export const PTE_COMPACT = 1 << 6;
export const PTE_PS = 1 << 7;
export const PTE_PS64 = 1 << 8;
export const PTE_NULL = 1 << 9;
export const PTE_AE = 1 << 10;
/** Set: VRAM. Clear: system window. */
export const PTE_DM = 1 << 11;

/** Bits that must be zero in a present entry, low word, by kind; high word for all kinds. */
export const MBZ_LEAF_4K = 0x064;
export const MBZ_LEAF_BIG = 0x164;
export const MBZ_DIRECTORY_1 = 0xf24;
export const MBZ_DIRECTORY_2 = 0xf64;
export const MBZ_DIRECTORY_UP = 0xfe4;
export const MBZ_HI = 0x800fc000;

/** Size classes of leaves. */
export const CLASS_4K = 0;
export const CLASS_64K = 1;
export const CLASS_2M = 2;
export const CLASS_1G = 3;
export const CLASS_SHIFT: readonly number[] = [12, 16, 21, 30];

/** Why an entry is not present (bits 3:1); advice for statistics, the service decides from the VA manager. */
export const REASON_NEVER_MAPPED = 0;
export const REASON_EVICTED = 1;
export const REASON_ZAPPED = 2;
export const REASON_DEFERRED = 3;
export const REASON_MIGRATING = 4;
export const REASON_POISONED = 5;

/**
 * Writes the leaf for `pa` to `words[at]`, `words[at + 1]`. `flags`: any of W, PAT, PS64, NULL, AE, DM; P and, above level 0,
 * PS are added.
 */
export function encodeLeafInto(words: Uint32Array, at: number, pa: Pa, flags: number, level: number): void {
  words[at] = (lo32(pa) | flags | PTE_P | (level > 0 ? PTE_PS : 0)) >>> 0;
  words[at + 1] = hi32(pa);
}

export function encodeLeaf(pa: Pa, flags: number, level: number): Uint32Array {
  const words = new Uint32Array(2);
  encodeLeafInto(words, 0, pa, flags, level);
  return words;
}

/** The entry that points to the table at `pa`. `compact`: the child is a compact table of 64 KiB leaves (level 1 only). */
export function encodeDirectory(pa: Pa, compact = false): Uint32Array {
  return new Uint32Array([(lo32(pa) | PTE_P | PTE_W | (compact ? PTE_COMPACT : 0)) >>> 0, hi32(pa)]);
}

/** A not-present entry that says why. */
export function encodeNotPresent(reason: number): Uint32Array {
  return new Uint32Array([reason << 1, 0]);
}

export type DecodedPte =
  | { readonly kind: "not-present"; readonly reason: number }
  | { readonly kind: "malformed" }
  | { readonly kind: "directory"; readonly table: Pa; readonly compact: boolean }
  | {
      readonly kind: "leaf";
      readonly sizeClass: number;
      /** Start of the leaf's page. */
      readonly pa: Pa;
      readonly w: boolean;
      readonly ae: boolean;
      readonly vram: boolean;
      readonly isNull: boolean;
    };

/** What an entry means at `level`, in a `compact` table or not, for the walk of `va` (PS64 wants its bits 15:12). */
export function decodePte(lo: number, hi: number, level: number, compact: boolean, va: Va): DecodedPte {
  if ((lo & PTE_P) === 0) return { kind: "not-present", reason: (lo >>> 1) & 7 };
  const isLeaf = level === 0 || ((level === 1 || level === 2) && (lo & PTE_PS) !== 0);
  if ((lo & mustBeZero(level, compact, isLeaf)) !== 0 || (hi & MBZ_HI) !== 0) return { kind: "malformed" };
  const address = fromHiLo(hi & 0x3fff, (lo & 0xfffff000) >>> 0);
  if (!isLeaf) return { kind: "directory", table: address, compact: level === 1 && (lo & PTE_COMPACT) !== 0 };
  const hint = level === 0 && !compact && (lo & PTE_PS64) !== 0;
  const sizeClass = level === 2 ? CLASS_1G : level === 1 ? CLASS_2M : compact || hint ? CLASS_64K : CLASS_4K;
  const isNull = (lo & PTE_NULL) !== 0;
  const size = 2 ** CLASS_SHIFT[sizeClass]!;
  if (!isNull) {
    const inside = address % size;
    if (inside !== (hint ? (va % size) - (va % 4096) : 0)) return { kind: "malformed" };
  }
  return {
    kind: "leaf",
    sizeClass,
    pa: isNull ? 0 : address - (address % size),
    w: (lo & PTE_W) !== 0,
    ae: !isNull && (lo & PTE_AE) !== 0,
    vram: (lo & PTE_DM) !== 0,
    isNull,
  };
}

function mustBeZero(level: number, compact: boolean, isLeaf: boolean): number {
  if (isLeaf) return level === 0 && !compact ? MBZ_LEAF_4K : MBZ_LEAF_BIG;
  return level === 1 ? MBZ_DIRECTORY_1 : level === 2 ? MBZ_DIRECTORY_2 : MBZ_DIRECTORY_UP;
}

/** Index of `va` in a table of `level` (0..4), or in a compact table. */
export function ptIndex(va: Va, level: number, compact = false): number {
  if (compact) return Math.floor(va / 65536) % 32;
  return Math.floor(va / 2 ** (12 + 9 * level)) % 512;
}

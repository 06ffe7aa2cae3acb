import { hi32, lo32 } from "../base/addr.ts";
import type { Va } from "../base/addr.ts";
import { mix32 } from "./mix32.ts";
import { CLASS_SHIFT } from "./pte.ts";

/** Geometry of the TLB (spec/device.md 0.3, 3.3): four classes, four ways, 1600 entries. */
export const TLB_WAYS = 4;
export const TLB_SETS: readonly number[] = [256, 64, 64, 16];
export const TLB_CLASS_BASE: readonly number[] = [0, 1024, 1280, 1536];
export const TLB_ENTRIES = 1600;
export const TLB_TOTAL_SETS = 400;

/** Bits of word 0 of an entry; the class is in bits 6:5. */
export const TLB_VALID = 1 << 0;
export const TLB_W = 1 << 1;
export const TLB_AE = 1 << 2;
export const TLB_NULL = 1 << 3;
export const TLB_DM = 1 << 4;
export const TLB_CLASS_POS = 5;

/** Invalidation request flags. */
export const INVAL_ALL = 1;
export const INVAL_ASID_ALL = 2;
/** Requests that fit the invalidation queue. */
export const INVAL_CAP = 64;

/** The set of class `sizeClass` that may hold `va` of `asid`. */
export function tlbSet(va: Va, asid: number, sizeClass: number): number {
  const shift = CLASS_SHIFT[sizeClass]!;
  const sets = TLB_SETS[sizeClass]!;
  const v = ((lo32(va) >>> shift) | (hi32(va) << (32 - shift))) >>> 0;
  return ((v ^ mix32(Math.floor(v / sets) ^ Math.imul(asid, 0x85ebca6b))) & (sets - 1)) >>> 0;
}

export const TLB_SEQNO_MAX = 0xfffff;

/** Sequence numbers run 1..0xFFFFF and wrap to 1. */
export function tlbSeqnoNext(seqno: number): number {
  return seqno === TLB_SEQNO_MAX ? 1 : seqno + 1;
}

/** True when invalidation `seqno` is complete, given the last number that was stored. */
export function tlbSeqnoPast(seqno: number, received: number): boolean {
  const d = seqno - received;
  if (d < -0x80000) return false;
  if (d > 0x80000) return true;
  return received >= seqno;
}

import { fromHiLo, hi32, lo32 } from "../base/addr.ts";
import type { Va } from "../base/addr.ts";
import { mix32 } from "./mix32.ts";

/** Faults and their records; words 0 to 3 have the layout of the Xe firmware message (spec/device.md 3.5). */
export const FAULT_NOT_PRESENT = 0;
export const FAULT_WRITE_VIOLATION = 1;
export const FAULT_ATOMIC_VIOLATION = 2;
export const FAULT_FATAL = 3;

export const FATAL_BAD_ASID = 1;
export const FATAL_NONCANONICAL = 2;
export const FATAL_MALFORMED = 3;
export const FATAL_PHYS_RANGE = 4;

/** Level of a fault that met no entry. */
export const LEVEL_NONE = 7;

export const ACCESS_READ = 0;
export const ACCESS_WRITE = 1;
export const ACCESS_ATOMIC = 2;

/** Engine classes. */
export const ENGINE_COPY = 3;
export const ENGINE_COMPUTE = 4;

export const FAULT_RECORD_WORDS = 8;
/** Upper 24 bits of the validity stamp: "FLT". */
export const FAULT_STAMP = 0x464c5400;

export interface FaultFields {
  va: Va;
  asid: number;
  access: number;
  type: number;
  level: number;
  /** Not-present reason, or which fatal fault. */
  reason: number;
  prefetch: boolean;
  engineClass: number;
  engineInstance: number;
  /** Work item or workgroup. */
  work: number;
  epoch: number;
}

export function encodeFault(f: FaultFields): Uint32Array {
  const lo = lo32(f.va);
  return new Uint32Array([
    f.level | (f.engineInstance << 19) | (f.engineClass << 25),
    f.asid << 12,
    f.access | (f.type << 2) | (lo & 0xfffff000),
    hi32(f.va),
    (lo & 0xfff) | (f.reason << 12) | (f.prefetch ? 1 << 16 : 0),
    f.work,
    f.epoch,
    FAULT_STAMP + (f.epoch & 255),
  ]);
}

/** The record at word `at` of `words`. */
export function decodeFault(words: Uint32Array, at = 0): FaultFields {
  const w0 = words[at]!;
  const w2 = words[at + 2]!;
  const w4 = words[at + 4]!;
  return {
    level: w0 & 7,
    engineInstance: (w0 >>> 19) & 63,
    engineClass: (w0 >>> 25) & 7,
    asid: words[at + 1]! >>> 12,
    access: w2 & 3,
    type: (w2 >>> 2) & 3,
    va: fromHiLo(words[at + 3]!, ((w2 & 0xfffff000) | (w4 & 0xfff)) >>> 0),
    reason: (w4 >>> 12) & 15,
    prefetch: ((w4 >>> 16) & 1) === 1,
    work: words[at + 5]!,
    epoch: words[at + 6]!,
  };
}

export function isFaultStamped(words: Uint32Array, at = 0): boolean {
  return words[at + 7] === (FAULT_STAMP + (words[at + 6]! & 255)) >>> 0;
}

/** Key of the dedup table (3.6); 0 means an empty slot and is never a key. */
export function faultKey(va: Va, asid: number, access: number, prefetch: boolean): number {
  const page = lo32(va) >>> 12;
  const key = mix32(
    page ^ Math.imul(hi32(va), 0x9e3779b1) ^ Math.imul(asid, 0x85ebca6b) ^ (access << 30) ^ (prefetch ? 1 << 29 : 0),
  );
  return key === 0 ? 1 : key;
}

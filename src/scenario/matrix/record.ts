import { hi32, lo32 } from "../../base/addr.ts";

/** The record of one exec: 160 bytes, as the original lays it out. */
export const RECORD_BYTES = 160;
/** 32 words of commands. */
export const BATCH_BYTES = 128;
/** The fence of the exec, where it lies in the record: 8 bytes. */
export const RECORD_FENCE = 144;
/** The word that the GPU stores, and the value that is expected there. */
export const RECORD_DATA = 152;
export const RECORD_EXPECTED = 156;

/** Low and high word of a signalled fence. */
export const FENCE_WORDS = [0xdeadbeef, 0xdeadbeef] as const;

/** Stores an immediate word: the command (MI_STORE_DWORD_IMM), address low and high, the word. */
export const STORE_WORD = 0x10000002;
/** MI_BATCH_BUFFER_END. */
export const BATCH_END = 0x05000000;
/** Stores that one batch may hold. */
export const MAX_STORES = 4;

/** The commands that store `value` at each of `targets`. */
export function batchOf(targets: readonly number[], value: number): Uint32Array {
  const words = targets.flatMap((at) => [STORE_WORD, lo32(at), hi32(at), value]);
  return Uint32Array.from([...words, BATCH_END]);
}

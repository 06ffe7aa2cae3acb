import { PAGE_SIZE, alignDown, alignUp, hi32, lo32, pagesIn } from "../base/addr.ts";
import { ConfigError } from "../base/errors.ts";
import { BUFFER_ACCESS_POS, MAX_BUFFERS } from "../abi/tables.ts";
import type { LaunchBuffer } from "./gpu.ts";

/** The areas of a launch as the hardware has them: four words each, as in `LaunchParams.buffers`. */
export interface BufferTable {
  readonly words: Uint32Array;
  readonly count: number;
  /** Pages of all of them: words of the table that `svm_at` reads. */
  readonly pages: number;
}

/** @throws ConfigError for areas that cannot be described. */
export function bufferTable(buffers: readonly LaunchBuffer[] = []): BufferTable {
  if (buffers.length > MAX_BUFFERS) {
    throw new ConfigError("buffers", `${buffers.length} areas; ${MAX_BUFFERS} are possible`);
  }
  const words = new Uint32Array(MAX_BUFFERS * 4);
  let pages = 0;
  for (const [i, { at, bytes, access }] of buffers.entries()) {
    if (!Number.isSafeInteger(at) || at < 0 || !Number.isSafeInteger(bytes) || bytes <= 0 || bytes > 2 ** 32) {
      throw new ConfigError(`buffers[${i}]`, `an area of 1 to 2^32 bytes is wanted, not ${bytes} at ${at}`);
    }
    if (access !== 0 && access !== 1 && access !== 2) {
      throw new ConfigError(`buffers[${i}].access`, `0 read, 1 write or 2 atomic is wanted, not ${access}`);
    }
    const n = pagesIn(alignDown(at, PAGE_SIZE), alignUp(at + bytes, PAGE_SIZE));
    words.set([lo32(at), hi32(at), pages, n + access * 2 ** BUFFER_ACCESS_POS], i * 4);
    pages += n;
  }
  return { words, count: buffers.length, pages };
}

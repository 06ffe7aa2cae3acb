import { PAGE_SIZE } from "../../base/addr.ts";
import type { Direction } from "./path.ts";
import { RUN_STRIDE, type Transfer } from "./transfer.ts";

const PAGE_WORDS = PAGE_SIZE / 4;

/** What a destination must hold after a transfer. */
export interface Expectation {
  readonly direction: Direction;
  readonly transfer: Transfer;
  /** Words of the source's region. */
  readonly source: Uint32Array;
  /** What stands where nothing was copied. */
  readonly untouched: number;
}

/** Looks at every word of the destination's region; null, or one sentence on the first that is wrong. */
export function firstWrong(expected: Expectation, found: Uint32Array): string | null {
  const { direction, transfer, source, untouched } = expected;
  /** What turns the source's word into the destination's. */
  const flip = direction === "access" ? 0xffffffff : 0;
  const zeroes = direction === "fill";
  const cameFrom = sourcePages(transfer);
  for (let page = 0; page < transfer.regionPages; page++) {
    const from = cameFrom[page]! * PAGE_WORDS;
    for (let i = 0; i < PAGE_WORDS; i++) {
      const right = from < 0 ? untouched : zeroes ? 0 : (source[from + i]! ^ flip) >>> 0;
      const is = found[page * PAGE_WORDS + i]!;
      if (is !== right) {
        const offset = page * PAGE_SIZE + i * 4;
        return `the word at ${offset} of the destination is 0x${is.toString(16)}, not 0x${right.toString(16)}`;
      }
    }
  }
  return null;
}

/** Source page of every destination page, -1 where nothing was to be copied. */
function sourcePages({ runs, regionPages }: Transfer): Int32Array {
  const cameFrom = new Int32Array(regionPages).fill(-1);
  for (let at = 0; at < runs.length; at += RUN_STRIDE) {
    for (let i = 0; i < runs[at + 2]!; i++) cameFrom[runs[at + 1]! + i] = runs[at]! + i;
  }
  return cameFrom;
}

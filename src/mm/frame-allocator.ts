import { assert } from "../base/assert.ts";
import type { Pfn } from "../base/addr.ts";

/** Frames per block; a chunk of 2 MiB that lies in one block is one run for the copy engine. */
const BLOCK = 512;
const WORDS = BLOCK / 32;

/**
 * Free RAM frames.
 *
 * How well copies coalesce is decided here: a chunk whose frames ascend without a gap is one transfer, one whose frames
 * are scattered is 512. So frames are handed out in ascending order from one block until it is exhausted, frames freed
 * behind the cursor wait, and the next block is the one with the most free frames.
 */
export class FrameAllocator {
  /** One bit per frame, set = free. */
  readonly #bitmap: Uint32Array;
  readonly #blockFree: Uint16Array;
  readonly #blocks: number;
  /** Next frame to look at. It never goes back inside a block. */
  #cursor: number;
  #free = 0;

  /** Frames `[first, end)`. */
  constructor(first: Pfn, end: Pfn) {
    this.#blocks = Math.ceil(end / BLOCK);
    this.#bitmap = new Uint32Array(this.#blocks * WORDS);
    this.#blockFree = new Uint16Array(this.#blocks);
    for (let pfn = first; pfn < end; pfn++) this.free(pfn);
    this.#cursor = first;
  }

  get freeFrames(): number {
    return this.#free;
  }

  /** A free frame, or 0 when there is none. */
  alloc(): Pfn {
    if (this.#free === 0) return 0;
    let pfn = this.#takeFrom(this.#cursor);
    if (pfn === 0) pfn = this.#takeFrom(this.#roomiestBlock() * BLOCK);
    assert(pfn !== 0, "the free count of a block disagrees with its bitmap");
    return pfn;
  }

  /** Moves on to an untouched block when the current one cannot give `count` frames in a row. */
  wantRun(count: number): void {
    if (this.#canRun(Math.min(count, BLOCK))) return;
    const block = this.#roomiestBlock();
    if (this.#blockFree[block] === BLOCK) this.#cursor = block * BLOCK;
  }

  /** A block of 512 frames for a large folio, the last that is wholly free; 0 when there is none. */
  allocBlock(): Pfn {
    for (let block = this.#blocks - 1; block > 0; block--) {
      if (this.#blockFree[block] !== BLOCK) continue;
      this.#takeBlock(block);
      return block * BLOCK;
    }
    return 0;
  }

  /** `count` frames in a row that begin a block, as high as can be; 0 when there are none. */
  allocRun(count: number): Pfn {
    for (let block = this.#blocks - 1; block > 0; block--) {
      const first = block * BLOCK;
      if (!this.#isFreeRun(first, count)) continue;
      for (let pfn = first; pfn < first + count; pfn++) this.#take(pfn);
      return first;
    }
    return 0;
  }

  /** The highest free frame above `floor`; 0 when there is none. */
  allocHighest(floor: Pfn): Pfn {
    for (let block = this.#blocks - 1; block >= Math.floor(floor / BLOCK); block--) {
      if (this.#blockFree[block] === 0) continue;
      for (let pfn = (block + 1) * BLOCK - 1; pfn >= block * BLOCK && pfn > floor; pfn--) {
        if (!this.isFree(pfn)) continue;
        this.#take(pfn);
        return pfn;
      }
    }
    return 0;
  }

  free(pfn: Pfn): void {
    const bit = 1 << (pfn & 31);
    assert((this.#bitmap[pfn >>> 5]! & bit) === 0, () => `frame ${pfn} was freed twice`);
    this.#bitmap[pfn >>> 5]! |= bit;
    this.#blockFree[pfn >>> 9]! += 1;
    this.#free += 1;
  }

  /** `free` for each of `count` frames in a row. */
  freeRun(first: Pfn, count: number): void {
    const bitmap = this.#bitmap;
    for (let pfn = first; pfn < first + count;) {
      const from = pfn & 31;
      const bits = Math.min(32 - from, first + count - pfn);
      const mask = ((0xffffffff >>> (32 - bits)) << from) >>> 0;
      assert((bitmap[pfn >>> 5]! & mask) === 0, () => `a frame of ${pfn} to ${pfn + bits - 1} was freed twice`);
      bitmap[pfn >>> 5]! |= mask;
      this.#blockFree[pfn >>> 9]! += bits;
      pfn += bits;
    }
    this.#free += count;
  }

  isFree(pfn: Pfn): boolean {
    return (this.#bitmap[pfn >>> 5]! & (1 << (pfn & 31))) !== 0;
  }

  /** The first free frame in `[from, end of its block)`, taken; 0 when there is none. */
  #takeFrom(from: number): Pfn {
    const bitmap = this.#bitmap;
    const block = Math.floor(from / BLOCK);
    if (block >= this.#blocks) return 0;
    const lastWord = (block + 1) * WORDS;
    let mask = (-1 << (from & 31)) >>> 0;
    for (let word = from >>> 5; word < lastWord; word++) {
      const candidates = bitmap[word]! & mask;
      if (candidates !== 0) {
        const bit = 31 - Math.clz32(candidates & -candidates);
        const pfn = word * 32 + bit;
        bitmap[word]! &= ~(1 << bit);
        this.#blockFree[block]! -= 1;
        this.#free -= 1;
        // At the end of a block the cursor stands on the next one, so that a run may go on across the border.
        this.#cursor = pfn + 1;
        return pfn;
      }
      mask = 0xffffffff;
    }
    return 0;
  }

  /** The block with the most free frames; of equals the first after the cursor's. */
  #roomiestBlock(): number {
    const here = Math.floor(this.#cursor / BLOCK);
    let best = 0;
    let most = -1;
    for (let i = 0; i < this.#blocks; i++) {
      const block = (here + i) % this.#blocks;
      const free = this.#blockFree[block]!;
      if (free > most) {
        most = free;
        best = block;
        if (free === BLOCK) break;
      }
    }
    return best;
  }

  #canRun(count: number): boolean {
    return this.#isFreeRun(this.#cursor, count);
  }

  #isFreeRun(first: Pfn, count: number): boolean {
    const end = first + count;
    if (end > this.#blocks * BLOCK) return false;
    for (let pfn = first; pfn < end; pfn++) if (!this.isFree(pfn)) return false;
    return true;
  }

  #take(pfn: Pfn): void {
    this.#bitmap[pfn >>> 5]! &= ~(1 << (pfn & 31));
    this.#blockFree[pfn >>> 9]! -= 1;
    this.#free -= 1;
  }

  #takeBlock(block: number): void {
    this.#bitmap.fill(0, block * WORDS, (block + 1) * WORDS);
    this.#blockFree[block] = 0;
    this.#free -= BLOCK;
  }
}

/**
 * The buddy allocator of device memory.
 *
 * Overview. Memory is cut into blocks of a power of two chunks, aligned to their own size. A block that is too large is
 * split into two buddies; a freed block merges with its buddy when that is free too. Free memory is either *dirty* or
 * *clear* (known to be zero); a request may prefer clear memory, and buddies of unequal state do not merge until a
 * request could not be met otherwise. Result lists are in the order taken.
 *
 * Locking. None here: every function is synchronous. One owner per manager.
 *
 * Example (test/node/buddy.test.ts runs it):
 *
 *     const mm = DrmBuddy.create(SZ_64K, SZ_4K);
 *     if (isErr(mm)) throw KernelError.fromErrno(mm, "buddy");
 *     const blocks = mm.allocBlocks(0, mm.size, 5 * SZ_4K, SZ_4K, 0);     // 16 KiB at 0xc000, 4 KiB at 0xb000
 *     if (!isErr(blocks)) mm.freeList(blocks, BUDDY_CLEARED);
 *
 * Behaviour is that of Linux 6.18; `compat: "6.15"` gives the results of that version where they differ.
 */
import { isPowerOfTwo } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { EINVAL, ENOMEM, ENOSPC, isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { ALLOCATED, BOTH_TREES, BuddyTree, CLEAR_TREE, DIRTY_TREE, NONE, POW2, SPLIT, ilog2 } from "./buddy-tree.ts";

/** Search `[start, end)` only, lowest offset first. @kernel DRM_BUDDY_RANGE_ALLOCATION */
export const BUDDY_RANGE = 1;
/** Highest offset first. @kernel DRM_BUDDY_TOPDOWN_ALLOCATION */
export const BUDDY_TOPDOWN = 2;
/** Blocks that touch, in ascending order. @kernel DRM_BUDDY_CONTIGUOUS_ALLOCATION */
export const BUDDY_CONTIGUOUS = 4;
/** Prefer clear memory. A wish: look at `cleared` of each block. @kernel DRM_BUDDY_CLEAR_ALLOCATION */
export const BUDDY_CLEAR = 8;
/** For `freeList`: the memory has been cleared. @kernel DRM_BUDDY_CLEARED */
export const BUDDY_CLEARED = 16;
/** Keep what rounding added. @kernel DRM_BUDDY_TRIM_DISABLE */
export const BUDDY_TRIM_DISABLE = 32;

const MIN_CHUNK = 4096;

/** Bits of a block's shape: its order, log2 of the chunk size from bit 8, and whether it is cleared at bit 16. */
const SHAPE_CHUNK = 8;
const SHAPE_CLEARED = 1 << 16;
const SHAPE_FIELD = 255;

/** For the constructor of a block: `order` in chunks of `chunkSize` bytes, a power of two. */
export function blockShape(order: number, chunkSize: number, cleared: boolean): number {
  return order | (ilog2(chunkSize) << SHAPE_CHUNK) | (cleared ? SHAPE_CLEARED : 0);
}

/**
 * An allocated block. Its place is kept in chunks and the rest in one small number, because of the collector of garbage:
 * numbers above 2^31 would be objects of their own, and every field makes each allocation dearer.
 *
 * @kernel drm_buddy_block
 */
export class BuddyBlock {
  /** Node of the allocator's tree; NONE once freed. For the allocator only. */
  node: number;
  readonly #chunk: number;
  readonly #shape: number;

  /** `shape`: see blockShape. */
  constructor(node: number, chunk: number, shape: number) {
    this.node = node;
    this.#chunk = chunk;
    this.#shape = shape;
  }

  /** Bytes from the start of the memory. @kernel drm_buddy_block_offset */
  get offset(): number {
    return this.#chunk * POW2[(this.#shape >> SHAPE_CHUNK) & SHAPE_FIELD]!;
  }
  /** Bytes. @kernel drm_buddy_block_size */
  get size(): number {
    return POW2[(this.#shape & SHAPE_FIELD) + ((this.#shape >> SHAPE_CHUNK) & SHAPE_FIELD)]!;
  }
  /** Known to be zero when it was allocated. @kernel drm_buddy_block_is_clear */
  get cleared(): boolean {
    return (this.#shape & SHAPE_CLEARED) !== 0;
  }
}

export interface FreeBlock {
  readonly offset: number;
  readonly order: number;
  readonly cleared: boolean;
}

export interface BuddyOptions {
  /** Kernel version to follow; default 6.18. */
  readonly compat?: "6.15" | "6.18";
}

/** @kernel drm_buddy */
export class DrmBuddy {
  /** Bytes managed: the size asked for, rounded down to whole chunks. */
  readonly size: number;
  readonly chunkSize: number;
  /** Order of the largest root; a block of order `o` has `chunkSize << o` bytes. */
  readonly maxOrder: number;
  readonly #tree: BuddyTree;
  readonly #perChunk: number;
  /** What all blocks have in common of their shapes. */
  readonly #chunkShape: number;
  readonly #compat615: boolean;
  /** What the last failed range take had got hold of, when it was told to keep it. */
  #kept: number[] = [];

  private constructor(chunks: number, chunkSize: number, compat615: boolean) {
    this.size = chunks * chunkSize;
    this.chunkSize = chunkSize;
    this.#perChunk = 1 / chunkSize;
    this.#chunkShape = blockShape(0, chunkSize, false);
    this.#tree = new BuddyTree(chunks);
    this.maxOrder = this.#tree.maxOrder;
    this.#compat615 = compat615;
  }

  /** -EINVAL: `size` below one chunk, or `chunkSize` no power of two of at least 4096. @kernel drm_buddy_init */
  static create(size: number, chunkSize: number, options: BuddyOptions = {}): DrmBuddy | Errno {
    if (size < chunkSize || chunkSize < MIN_CHUNK || !isPowerOfTwo(chunkSize)) return EINVAL;
    return new DrmBuddy(Math.floor(size / chunkSize), chunkSize, options.compat === "6.15");
  }

  /** Free bytes. */
  get avail(): number {
    return this.#tree.freeChunks * this.chunkSize;
  }
  /** Free bytes that are known to be zero. */
  get clearAvail(): number {
    return this.#tree.clearChunks * this.chunkSize;
  }
  get rootCount(): number {
    return this.#tree.roots.length;
  }

  /**
   * Allocates `size` bytes within `[start, end)` in blocks of at least `minBlockSize`.
   * -EINVAL: unaligned or out of bounds; -ENOSPC: no such memory free. Nothing is taken then.
   * @kernel drm_buddy_alloc_blocks
   */
  allocBlocks(start: number, end: number, size: number, minBlockSize: number, flags: number): BuddyBlock[] | Errno {
    const perChunk = this.#perChunk;
    const first = start * perChunk;
    const last = end * perChunk;
    const chunks = size * perChunk;
    const minChunks = minBlockSize * perChunk;
    // A multiplication by a power of two is exact, and Math.floor is several times faster than the remainder.
    if (chunks < 1 || Math.floor(chunks) !== chunks) return EINVAL;
    if (minChunks < 1 || Math.floor(minChunks) !== minChunks || POW2[ilog2(minChunks)] !== minChunks) return EINVAL;
    if (start < 0 || Math.floor(first) !== first || Math.floor(last) !== last) return EINVAL;
    if (end > this.size || start >= this.size || start + size > this.size) return EINVAL;
    if (start + size === end) return this.#allocExact(first, chunks, minChunks);

    let wanted = chunks;
    let minOrder = ilog2(minChunks);
    if ((flags & BUDDY_CONTIGUOUS) !== 0) {
      minOrder = ilog2(chunks);
      if (POW2[minOrder] !== chunks) minOrder += 1;
      wanted = POW2[minOrder]!;
    } else if (minChunks > 1) {
      wanted = Math.ceil(chunks / minChunks) * minChunks;
    }
    const mayTryHarder = (flags & (BUDDY_CONTIGUOUS | BUDDY_RANGE)) === BUDDY_CONTIGUOUS;
    let order = ilog2(wanted);
    if (this.#compat615) {
      assert(order <= this.maxOrder, "6.15 stops in BUG_ON(order > mm->max_order)");
    } else if (order > this.maxOrder || wanted * this.chunkSize > this.size) {
      return mayTryHarder ? this.#tryHarder(chunks, minChunks) : EINVAL;
    }

    let blocks: BuddyBlock[] | null = null;
    for (let left = wanted; left > 0;) {
      order = Math.min(order, ilog2(left));
      let node = this.#allocNode(first, last, order, flags);
      while (node === NONE && order > minOrder) {
        order -= 1;
        node = this.#allocNode(first, last, order, flags);
      }
      if (node === NONE && this.#tree.clearChunks !== 0 && this.#forceMerge(first, last, minOrder) === 0) {
        node = this.#allocNode(first, last, minOrder, flags);
      }
      if (node === NONE) {
        if (mayTryHarder) return this.#tryHarder(chunks, minChunks);
        for (const block of blocks ?? []) this.freeBlock(block);
        return ENOSPC;
      }
      // A literal of one is a third of the size of an empty array that one thing is pushed to, and the usual result.
      if (blocks === null) blocks = [this.#handOut(node)];
      else blocks.push(this.#handOut(node));
      left -= POW2[order]!;
    }
    if (wanted !== chunks && (flags & BUDDY_TRIM_DISABLE) === 0) {
      const tail = [blocks!.pop()!];
      this.trim(tail, tail[0]!.size - (wanted - chunks) * this.chunkSize);
      blocks!.push(...tail);
    }
    return blocks!;
  }

  /** Frees one block and leaves its clear state. @kernel drm_buddy_free_block */
  freeBlock(block: BuddyBlock): void {
    const node = block.node;
    assert(node !== NONE && this.#tree.state(node) === ALLOCATED, "a buddy block was freed that is not allocated");
    block.node = NONE;
    this.#tree.release(node);
  }

  /**
   * Frees the blocks in order as clear (BUDDY_CLEARED) or dirty (0). The list itself is left as it is.
   * @kernel drm_buddy_free_list
   */
  freeList(blocks: readonly BuddyBlock[], flags: number): void {
    const clear = (flags & BUDDY_CLEARED) !== 0;
    for (let i = 0; i < blocks.length; i++) {
      const block = blocks[i]!;
      if (block.node !== NONE) this.#tree.setClear(block.node, clear);
      this.freeBlock(block);
    }
  }

  /**
   * Cuts the only block of the list down to `newSize` bytes from `start` (default: from its beginning); the list becomes
   * the pieces, ascending. -EINVAL: more than one block, or sizes that do not fit. @kernel drm_buddy_block_trim
   */
  trim(blocks: BuddyBlock[], newSize: number, start?: number): 0 | Errno {
    const block = blocks[0];
    if (blocks.length !== 1 || block === undefined) return EINVAL;
    const chunks = newSize * this.#perChunk;
    if (chunks <= 0 || Math.floor(chunks) !== chunks || newSize > block.size) return EINVAL;
    if (newSize === block.size) return 0;
    const from = start ?? block.offset;
    const first = from * this.#perChunk;
    if (from < block.offset || Math.floor(first) !== first || from + newSize > block.offset + block.size) return EINVAL;
    assert(this.#tree.state(block.node) === ALLOCATED, "a buddy block was trimmed that is not allocated");
    this.#tree.untake(block.node);
    const nodes: number[] = [];
    const taken = this.#takeUnder(block.node, first, first + chunks, nodes);
    assert(taken, "trim found its own block in use");
    block.node = NONE;
    blocks.length = 0;
    blocks.push(...this.#handOutAll(nodes));
    return 0;
  }

  /** Makes all free memory clear or dirty, merging what unequal states kept apart. @kernel drm_buddy_reset_clear */
  resetClear(clear: boolean): void {
    this.#mergeRoots();
    this.#tree.setAllClear(clear);
  }

  /** Tears down; the result names what was still allocated, one line per kernel warning. @kernel drm_buddy_fini */
  fini(): string[] {
    this.#mergeRoots();
    const warnings: string[] = [];
    for (const root of this.#tree.roots) {
      if (!this.#tree.isFree(root)) warnings.push(`root at chunk ${this.#tree.chunk(root)} is not free`);
    }
    if (this.avail !== this.size) warnings.push(`${this.size - this.avail} bytes are still allocated`);
    return warnings;
  }

  /** All free blocks, by order, then offset. For statistics and tests. */
  freeBlocks(): FreeBlock[] {
    const found: FreeBlock[] = [];
    const tree = this.#tree;
    tree.forEachFree((node) => {
      found.push({ offset: tree.chunk(node) * this.chunkSize, order: tree.order(node), cleared: tree.isClear(node) });
    });
    return found.sort((a, b) => a.order - b.order || a.offset - b.offset);
  }

  #handOut(node: number): BuddyBlock {
    const tree = this.#tree;
    const cleared = tree.isClear(node) ? SHAPE_CLEARED : 0;
    return new BuddyBlock(node, tree.chunk(node), tree.order(node) | this.#chunkShape | cleared);
  }

  #handOutAll(nodes: readonly number[]): BuddyBlock[] {
    return nodes.map((node) => this.#handOut(node));
  }

  /** @kernel drm_buddy_free_list_internal */
  #releaseAll(nodes: number[]): void {
    for (const node of nodes) this.#tree.release(node);
    nodes.length = 0;
  }

  #allocNode(first: number, last: number, order: number, flags: number): number {
    if ((flags & BUDDY_RANGE) === 0) return this.#allocFromFreeTree(order, flags);
    const clear = (flags & BUDDY_CLEAR) !== 0;
    const node = this.#allocInRange(first, last, order, clear);
    return node !== NONE ? node : this.#allocInRange(first, last, order, null);
  }

  /** @kernel alloc_from_freetree */
  #allocFromFreeTree(order: number, flags: number): number {
    const tree = this.#tree;
    const wish = (flags & BUDDY_CLEAR) !== 0 ? CLEAR_TREE : DIRTY_TREE;
    if ((flags & BUDDY_TOPDOWN) !== 0) {
      const node = tree.highestOfAtLeast(wish, order);
      if (node !== NONE) return tree.takeRight(node, order);
    }
    let from = wish;
    let found = tree.smallestOrder(wish, order);
    if (found === NONE) {
      from = wish === CLEAR_TREE ? DIRTY_TREE : CLEAR_TREE;
      found = tree.smallestOrder(from, order);
      if (found === NONE) return NONE;
    }
    return tree.takeRight(tree.highest(from, found), order);
  }

  /** `clear` null: of any state. @kernel __alloc_range_bias */
  #allocInRange(first: number, last: number, order: number, clear: boolean | null): number {
    for (const root of this.#tree.roots) {
      const node = this.#searchRange(root, first, last, order, clear);
      if (node !== NONE) return node;
    }
    return NONE;
  }

  #searchRange(node: number, first: number, last: number, order: number, clear: boolean | null): number {
    const tree = this.#tree;
    if (tree.order(node) < order || tree.state(node) === ALLOCATED) return NONE;
    const begin = tree.chunk(node);
    const end = tree.chunkEnd(node);
    if (end <= first || begin >= last) return NONE;
    const inside = begin >= first && end <= last;
    if (!inside) {
      const wanted = POW2[order]!;
      const lowest = Math.ceil(Math.max(begin, first) / wanted);
      const highest = Math.floor(Math.min(end, last) / wanted);
      if (highest <= lowest) return NONE;
    }
    // A split block is dirty by definition, so this also keeps a first pass for clear memory out of split blocks.
    if (clear !== null && tree.isClear(node) !== clear) return NONE;
    const split = tree.state(node) === SPLIT;
    if (inside && tree.order(node) === order) {
      if (split) return NONE;
      tree.take(node);
      return node;
    }
    if (!split) tree.split(node);
    const found = this.#searchRange(tree.left(node), first, last, order, clear);
    return found !== NONE ? found : this.#searchRange(tree.right(node), first, last, order, clear);
  }

  /** @kernel __drm_buddy_alloc_range */
  #allocExact(first: number, chunks: number, minChunks: number): BuddyBlock[] | Errno {
    if (!Number.isInteger(first / minChunks) || !Number.isInteger((first + chunks) / minChunks)) return EINVAL;
    const nodes = this.#takeRange(first, chunks);
    return isErr(nodes) ? nodes : this.#handOutAll(nodes);
  }

  /**
   * Takes precisely `chunks` chunks from `first`. On -ENOSPC all is given back, unless `keep`: then `#kept` is the run
   * taken before the first obstacle. @kernel __alloc_range
   */
  #takeRange(first: number, chunks: number, keep = false): number[] | Errno {
    const nodes: number[] = [];
    let taken = true;
    for (const root of this.#tree.roots) {
      taken = this.#takeUnder(root, first, first + chunks, nodes);
      if (!taken) break;
    }
    if (taken && this.#chunksOf(nodes) === chunks) return nodes;
    if (keep) this.#kept = nodes;
    else this.#releaseAll(nodes);
    return ENOSPC;
  }

  #takeUnder(node: number, first: number, last: number, nodes: number[]): boolean {
    const tree = this.#tree;
    const begin = tree.chunk(node);
    const end = tree.chunkEnd(node);
    if (end <= first || begin >= last) return true;
    const state = tree.state(node);
    if (state === ALLOCATED) return false;
    if (begin >= first && end <= last) {
      if (state !== SPLIT) {
        tree.take(node);
        nodes.push(node);
        return true;
      }
      // Without clear tracking a split block inside the range must contain an allocation.
      if (tree.clearChunks === 0) return false;
    }
    if (state !== SPLIT) tree.split(node);
    return (
      this.#takeUnder(tree.left(node), first, last, nodes) && this.#takeUnder(tree.right(node), first, last, nodes)
    );
  }

  #chunksOf(nodes: readonly number[]): number {
    let sum = 0;
    for (const node of nodes) sum += POW2[this.#tree.order(node)]!;
    return sum;
  }

  /** The trees in the order in which whole-memory walks visit them; 6.15 had one list for both states. */
  #treeOrder(): readonly number[] {
    return this.#compat615 ? [BOTH_TREES] : [CLEAR_TREE, DIRTY_TREE];
  }

  /** Looks for touching blocks instead of one. @kernel __alloc_contig_try_harder */
  #tryHarder(chunks: number, minChunks: number): BuddyBlock[] | Errno {
    const tree = this.#tree;
    const order = ilog2(chunks);
    if (order === 0) return ENOSPC;
    for (const which of this.#treeOrder()) {
      // What a failed attempt gives back merges to what it was, because free buddies of equal state never stay apart: so
      // the copied list stays true.
      for (const node of tree.freeDescending(which, order)) {
        const first = tree.chunk(node);
        const right = this.#takeRange(first, chunks, true);
        if (!isErr(right)) return this.#handOutAll(right);
        const rest = this.#kept;
        const missing = Math.max(chunks - this.#chunksOf(rest), minChunks);
        const leftChunks = Math.ceil(missing / minChunks) * minChunks;
        const left = first >= leftChunks ? this.#takeRange(first - leftChunks, leftChunks) : ENOSPC;
        if (!isErr(left)) return this.#handOutAll(left.concat(rest));
        this.#releaseAll(rest);
      }
    }
    return ENOSPC;
  }

  /**
   * Merges free buddies of unequal state inside `[first, last)` until a block of `minOrder` comes out (0).
   * -ENOMEM: none did; -EINVAL: there is no such order. @kernel __force_merge
   */
  #forceMerge(first: number, last: number, minOrder: number): 0 | Errno {
    const tree = this.#tree;
    if (minOrder === 0) return ENOMEM;
    if (minOrder > this.maxOrder) return EINVAL;
    for (const which of this.#treeOrder()) {
      for (let order = minOrder - 1; order >= 0; order--) {
        for (const node of tree.freeDescending(which, order)) {
          // Gone as the buddy of an earlier one.
          if (!tree.isFree(node)) continue;
          const buddy = tree.buddy(node);
          if (buddy === NONE || tree.chunk(node) < first || tree.chunkEnd(node) > last || !tree.isFree(buddy)) continue;
          if (tree.order(tree.forceMerge(node)) >= minOrder) return 0;
        }
      }
    }
    return ENOMEM;
  }

  #mergeRoots(): void {
    const chunks = this.size * this.#perChunk;
    for (const root of this.#tree.roots) this.#forceMerge(this.#tree.chunk(root), chunks, this.#tree.order(root));
  }
}

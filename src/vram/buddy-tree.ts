/**
 * The tree of buddies behind the allocator: which aligned power-of-two blocks exist, and where the free ones are.
 *
 * The kernel keeps a red-black tree of free blocks per order and clear state beside the buddy tree. Here the buddy tree
 * is its own index: every node carries, per clear state, a bit set of the orders that have a free block at or below it.
 * A search walks down guided by the sets, a change walks up until a set does not change, and blocks come out ordered by
 * offset because the tree is. It needs no rebalancing and no memory besides the nodes.
 *
 * Memory layout. A node is `NODE_WORDS` words of one Int32Array; its id is the index of its first word. Two children are
 * made and dropped together and lie side by side, so the buddy of a node is `node ^ NODE_WORDS`. Offsets are kept in
 * chunks, in a Float64Array, because they may need more than 32 bits.
 *
 *     [0] parent, NONE for a root   [1] left child, NONE unless SPLIT   [2] state | order << 8   [3] 1 clear, 0 dirty
 *     [4..5] orders with a dirty free block, 64 bits                    [6..7] the same, clear
 */
const PARENT = 0;
const CHILD = 1;
const HEADER = 2;
const CLEARED = 3;
const SETS = 4;
export const NODE_WORDS = 8;
export const NONE = -1;

/** @kernel DRM_BUDDY_FREE, DRM_BUDDY_ALLOCATED, DRM_BUDDY_SPLIT */
export const ALLOCATED = 1;
export const FREE = 2;
export const SPLIT = 3;

/** Which free blocks a search looks at. @kernel enum drm_buddy_free_tree */
export const DIRTY_TREE = 0;
export const CLEAR_TREE = 1;
export const BOTH_TREES = 2;

/** `floor(log2(x))` of a positive integer below 2^53. */
export function ilog2(x: number): number {
  return x < 4294967296 ? 31 - Math.clz32(x) : 63 - Math.clz32(Math.floor(x / 4294967296));
}

/** `2 ** order`. The operator calls the general power function, which would be the most expensive step of an allocation. */
export const POW2: readonly number[] = Array.from({ length: 53 }, (_, order) => 2 ** order);

export class BuddyTree {
  readonly roots: number[] = [];
  readonly maxOrder: number;
  /** Chunks in free blocks, and in clear free blocks. */
  freeChunks: number;
  clearChunks = 0;
  readonly #wide: boolean;
  #words = new Int32Array(64 * NODE_WORDS);
  #chunks = new Float64Array(64);
  #top = 0;
  #freePairs = NONE;

  /** All memory is free and dirty; roots are the powers of two of `chunks`, largest first. */
  constructor(chunks: number) {
    this.freeChunks = chunks;
    this.maxOrder = ilog2(chunks);
    this.#wide = this.maxOrder >= 32;
    for (let at = 0; at < chunks; ) {
      const order = ilog2(chunks - at);
      const root = this.#newPair();
      this.#initNode(root, NONE, order, 0, at);
      this.roots.push(root);
      at += POW2[order]!;
    }
  }

  state(node: number): number {
    return this.#words[node + HEADER]! & 0xff;
  }
  order(node: number): number {
    return this.#words[node + HEADER]! >> 8;
  }
  isFree(node: number): boolean {
    return (this.#words[node + HEADER]! & 0xff) === FREE;
  }
  isClear(node: number): boolean {
    return this.#words[node + CLEARED] === 1;
  }
  /** First chunk of the node. */
  chunk(node: number): number {
    return this.#chunks[node >> 3]!;
  }
  /** First chunk behind the node. */
  chunkEnd(node: number): number {
    return this.#chunks[node >> 3]! + POW2[this.#words[node + HEADER]! >> 8]!;
  }
  left(node: number): number {
    return this.#words[node + CHILD]!;
  }
  right(node: number): number {
    return this.#words[node + CHILD]! + NODE_WORDS;
  }
  /** The other half of the parent, or NONE for a root. */
  buddy(node: number): number {
    return this.#words[node + PARENT] === NONE ? NONE : node ^ NODE_WORDS;
  }

  /** For an ALLOCATED node; free ones are counted and indexed by their state. */
  setClear(node: number, clear: boolean): void {
    this.#words[node + CLEARED] = clear ? 1 : 0;
  }

  /** Whether a free block of at least `order`, in either tree, lies at or below the node. */
  hasFree(node: number, order: number): boolean {
    const w = this.#words;
    if (order >= 32) return ((w[node + SETS + 1]! | w[node + SETS + 3]!) & (-1 << (order - 32))) !== 0;
    const low = (w[node + SETS]! | w[node + SETS + 2]!) & (-1 << order);
    return low !== 0 || (this.#wide && (w[node + SETS + 1]! | w[node + SETS + 3]!) !== 0);
  }

  /** Smallest order of at least `order` with a free block in `tree`, or NONE. */
  smallestOrder(tree: number, order: number): number {
    let low = 0;
    let high = 0;
    for (let i = 0; i < this.roots.length; i++) {
      const at = this.roots[i]! + SETS + tree * 2;
      low |= this.#words[at]!;
      high |= this.#words[at + 1]!;
    }
    if (order < 32) {
      low &= -1 << order;
      if (low !== 0) return 31 - Math.clz32(low & -low);
    } else {
      high &= -1 << (order - 32);
    }
    return high === 0 ? NONE : 63 - Math.clz32(high & -high);
  }

  /** The free block of exactly `order` with the highest offset in a tree that has one. */
  highest(tree: number, order: number): number {
    const w = this.#words;
    const set = SETS + tree * 2 + (order >> 5);
    const bit = 1 << (order & 31);
    let i = this.roots.length - 1;
    while ((w[this.roots[i]! + set]! & bit) === 0) i -= 1;
    let node = this.roots[i]!;
    for (let child = w[node + CHILD]!; child !== NONE; child = w[node + CHILD]!) {
      node = (w[child + NODE_WORDS + set]! & bit) !== 0 ? child + NODE_WORDS : child;
    }
    return node;
  }

  /** The free block of at least `order` with the highest offset, or NONE. */
  highestOfAtLeast(tree: number, order: number): number {
    const w = this.#words;
    const set = SETS + tree * 2;
    const low = order < 32 ? -1 << order : 0;
    const high = order < 32 ? -1 : -1 << (order - 32);
    let i = this.roots.length - 1;
    while (i >= 0 && (w[this.roots[i]! + set]! & low) === 0 && (w[this.roots[i]! + set + 1]! & high) === 0) i -= 1;
    if (i < 0) return NONE;
    let node = this.roots[i]!;
    for (let child = w[node + CHILD]!; child !== NONE; child = w[node + CHILD]!) {
      const at = child + NODE_WORDS + set;
      node = (w[at]! & low) !== 0 || (w[at + 1]! & high) !== 0 ? child + NODE_WORDS : child;
    }
    return node;
  }

  /**
   * The highest free block of exactly `order` that begins below chunk `before`, or NONE. Walks a tree of blocks from the
   * top down while the caller changes it.
   */
  highestBelow(tree: number, order: number, before: number): number {
    for (let i = this.roots.length - 1; i >= 0; i--) {
      const found = this.#highestBelow(this.roots[i]!, tree, order, before);
      if (found !== NONE) return found;
    }
    return NONE;
  }

  #highestBelow(node: number, tree: number, order: number, before: number): number {
    const w = this.#words;
    const at = node + SETS + (order >> 5);
    const set = tree === BOTH_TREES ? w[at]! | w[at + 2]! : w[at + tree * 2]!;
    if ((set & (1 << (order & 31))) === 0 || this.#chunks[node >> 3]! >= before) return NONE;
    const child = w[node + CHILD]!;
    if (child === NONE) return node;
    const found = this.#highestBelow(child + NODE_WORDS, tree, order, before);
    return found !== NONE ? found : this.#highestBelow(child, tree, order, before);
  }

  /** Splits a FREE node into two FREE halves of its clear state. @kernel split_block */
  split(node: number): void {
    const clear = this.#words[node + CLEARED]!;
    this.#splitQuietly(node);
    this.#refresh(node, clear);
  }

  /** Splits the FREE `node` down to `order`, always going on with the right half, and allocates what is left. */
  takeRight(node: number, order: number): number {
    let leaf = node;
    while (this.#words[leaf + HEADER]! >> 8 !== order) leaf = this.#splitQuietly(leaf) + NODE_WORDS;
    const w = this.#words;
    const tree = w[leaf + CLEARED]!;
    this.#markAllocated(leaf);
    for (let n = leaf; n !== node; ) {
      n = w[n + PARENT]!;
      this.#joinSets(n);
    }
    this.#refresh(node, tree);
    return leaf;
  }

  /** FREE to ALLOCATED. @kernel mark_allocated */
  take(node: number): void {
    this.#markAllocated(node);
    this.#refresh(node, this.#words[node + CLEARED]!);
  }

  /** ALLOCATED to FREE without merging. @kernel mark_free */
  untake(node: number): void {
    const size = POW2[this.order(node)]!;
    this.freeChunks += size;
    if (this.isClear(node)) this.clearChunks += size;
    this.#markFree(node);
  }

  /** ALLOCATED to FREE, merged upward while the buddy is free and of the same clear state. @kernel __drm_buddy_free */
  release(node: number): void {
    const w = this.#words;
    const clear = w[node + CLEARED]!;
    const size = POW2[w[node + HEADER]! >> 8]!;
    this.freeChunks += size;
    if (clear === 1) this.clearChunks += size;
    let n = node;
    for (let parent = w[n + PARENT]!; parent !== NONE; parent = w[n + PARENT]!) {
      const buddy = n ^ NODE_WORDS;
      if ((w[buddy + HEADER]! & 0xff) !== FREE || w[buddy + CLEARED] !== clear) break;
      this.#freePair(n & buddy);
      n = parent;
      w[n + CHILD] = NONE;
    }
    w[n + CLEARED] = clear;
    this.#markFree(n);
  }

  /**
   * Merges a FREE node upward while its buddy is free, whatever the clear states; the survivor, which is returned, is
   * dirty. The buddy must be free. @kernel __drm_buddy_free with force_merge
   */
  forceMerge(node: number): number {
    const w = this.#words;
    let n = node;
    if (this.isClear(n)) this.clearChunks -= POW2[this.order(n)]!;
    for (let parent = w[n + PARENT]!; parent !== NONE; parent = w[n + PARENT]!) {
      const buddy = n ^ NODE_WORDS;
      if (!this.isFree(buddy)) break;
      if (this.isClear(buddy)) this.clearChunks -= POW2[this.order(buddy)]!;
      this.#freePair(n & buddy);
      n = parent;
      w[n + CHILD] = NONE;
    }
    w[n + CLEARED] = 0;
    this.#markFree(n);
    this.#refresh(n, CLEAR_TREE);
    return n;
  }

  /** Gives every free block the clear state. */
  setAllClear(clear: boolean): void {
    for (const root of this.roots) this.#setAllClear(root, clear ? 1 : 0);
    this.clearChunks = clear ? this.freeChunks : 0;
  }

  #setAllClear(node: number, clear: 0 | 1): void {
    const w = this.#words;
    const at = node + SETS;
    for (let i = 0; i < 2; i++) {
      const orders = w[at + i]! | w[at + 2 + i]!;
      w[at + i] = clear === 1 ? 0 : orders;
      w[at + 2 + i] = clear === 1 ? orders : 0;
    }
    if (this.isFree(node)) w[node + CLEARED] = clear;
    if (w[node + CHILD] === NONE) return;
    this.#setAllClear(w[node + CHILD]!, clear);
    this.#setAllClear(w[node + CHILD]! + NODE_WORDS, clear);
  }

  /** Calls `visit` for every node without children, by offset. */
  forEachLeaf(visit: (node: number) => void): void {
    const walk = (node: number): void => {
      if (this.state(node) !== SPLIT) return visit(node);
      walk(this.left(node));
      walk(this.right(node));
    };
    for (const root of this.roots) walk(root);
  }

  /** Returns the left half. The sets above `node` are left stale. */
  #splitQuietly(node: number): number {
    const child = this.#newPair();
    const w = this.#words;
    const order = (w[node + HEADER]! >> 8) - 1;
    const clear = w[node + CLEARED]!;
    const chunk = this.#chunks[node >> 3]!;
    this.#initNode(child, node, order, clear, chunk);
    this.#initNode(child + NODE_WORDS, node, order, clear, chunk + POW2[order]!);
    w[node + CHILD] = child;
    w[node + HEADER] = SPLIT | ((order + 1) << 8);
    w[node + CLEARED] = 0;
    this.#joinSets(node);
    return child;
  }

  /** A FREE node without children. */
  #initNode(node: number, parent: number, order: number, clear: number, chunk: number): void {
    const w = this.#words;
    w[node + PARENT] = parent;
    w[node + CHILD] = NONE;
    w[node + HEADER] = FREE | (order << 8);
    w[node + CLEARED] = clear;
    w[node + SETS] = w[node + SETS + 1] = w[node + SETS + 2] = w[node + SETS + 3] = 0;
    w[node + SETS + clear * 2 + (order >> 5)] = 1 << (order & 31);
    this.#chunks[node >> 3] = chunk;
  }

  #markAllocated(node: number): void {
    const w = this.#words;
    const order = w[node + HEADER]! >> 8;
    const size = POW2[order]!;
    this.freeChunks -= size;
    if (w[node + CLEARED] === 1) this.clearChunks -= size;
    w[node + HEADER] = ALLOCATED | (order << 8);
    w[node + SETS] = w[node + SETS + 1] = w[node + SETS + 2] = w[node + SETS + 3] = 0;
  }

  #markFree(node: number): void {
    const w = this.#words;
    const order = w[node + HEADER]! >> 8;
    w[node + HEADER] = FREE | (order << 8);
    w[node + SETS] = w[node + SETS + 1] = w[node + SETS + 2] = w[node + SETS + 3] = 0;
    w[node + SETS + w[node + CLEARED]! * 2 + (order >> 5)] = 1 << (order & 31);
    this.#refresh(node, w[node + CLEARED]!);
  }

  #joinSets(node: number): void {
    const w = this.#words;
    const left = w[node + CHILD]! + SETS;
    const right = left + NODE_WORDS;
    w[node + SETS] = w[left]! | w[right]!;
    w[node + SETS + 2] = w[left + 2]! | w[right + 2]!;
    if (this.#wide) {
      w[node + SETS + 1] = w[left + 1]! | w[right + 1]!;
      w[node + SETS + 3] = w[left + 3]! | w[right + 3]!;
    }
  }

  /** Brings the sets of one tree above `node` up to date. */
  #refresh(node: number, tree: number): void {
    this.#refreshWord(node, SETS + tree * 2);
    if (this.#wide) this.#refreshWord(node, SETS + tree * 2 + 1);
  }

  /** Nothing above a set that stays the same can have changed. */
  #refreshWord(node: number, at: number): void {
    const w = this.#words;
    let child = node;
    for (let parent = w[child + PARENT]!; parent !== NONE; parent = w[child + PARENT]!) {
      const set = w[child + at]! | w[(child ^ NODE_WORDS) + at]!;
      if (w[parent + at] === set) return;
      w[parent + at] = set;
      child = parent;
    }
  }

  #newPair(): number {
    const pair = this.#freePairs;
    if (pair !== NONE) {
      this.#freePairs = this.#words[pair + CHILD]!;
      return pair;
    }
    if (this.#top === this.#words.length) {
      const words = new Int32Array(this.#top * 2);
      words.set(this.#words);
      this.#words = words;
      const chunks = new Float64Array(this.#chunks.length * 2);
      chunks.set(this.#chunks);
      this.#chunks = chunks;
    }
    this.#top += 2 * NODE_WORDS;
    return this.#top - 2 * NODE_WORDS;
  }

  #freePair(pair: number): void {
    this.#words[pair + CHILD] = this.#freePairs;
    this.#freePairs = pair;
  }
}

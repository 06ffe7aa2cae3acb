/**
 * The blocks of the buddy allocator: which aligned power-of-two blocks exist, and the free ones among them by order.
 *
 * The kernel keeps free blocks in a red-black tree per order and clear state, ordered by offset; here each is a FreeList.
 *
 * Memory layout. A node is `NODE_WORDS` words of one Int32Array; its id is the index of its first word. Two children are
 * made and dropped together and lie side by side, so the buddy of a node is `node ^ NODE_WORDS`. Offsets are kept in
 * chunks, in a Float64Array, because they may need more than 32 bits.
 *
 *     [0] parent, NONE for a root             [1] left child, NONE unless SPLIT
 *     [2] state | clear << 2                  [3] order
 */
import { FreeList } from "./buddy-free.ts";

const PARENT = 0;
const CHILD = 1;
const HEADER = 2;
const ORDER = 3;
const NODE_WORDS = 4;
const NODE_SHIFT = 2;
export const NONE = -1;

/** @kernel DRM_BUDDY_ALLOCATED, DRM_BUDDY_FREE, DRM_BUDDY_SPLIT */
export const ALLOCATED = 1;
export const FREE = 2;
export const SPLIT = 3;
const STATE_MASK = 3;
/** @kernel DRM_BUDDY_HEADER_CLEAR */
const CLEAR = 4;

/** Which free blocks a search looks at. @kernel enum drm_buddy_free_tree */
export const DIRTY_TREE = 0;
export const CLEAR_TREE = 1;
export const BOTH_TREES = 2;
const MAX_ORDERS = 64;

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
  #words = new Int32Array(64 * NODE_WORDS);
  #chunks = new Float64Array(64);
  #top = 0;
  #freePairs = NONE;
  /** List `tree * MAX_ORDERS + order`. */
  readonly #lists: readonly FreeList[];
  /** Per tree two words: orders whose list has a member. */
  readonly #orders = new Int32Array(4);

  /** All memory is free and dirty; roots are the powers of two of `chunks`, largest first. */
  constructor(chunks: number) {
    this.freeChunks = chunks;
    this.maxOrder = ilog2(chunks);
    this.#lists = Array.from({ length: 2 * MAX_ORDERS }, () => new FreeList());
    for (let at = 0; at < chunks;) {
      const order = ilog2(chunks - at);
      const root = this.#newPair();
      this.#initNode(root, NONE, FREE, order, at);
      this.#push(root);
      this.roots.push(root);
      at += POW2[order]!;
    }
  }

  state(node: number): number {
    return this.#words[node + HEADER]! & STATE_MASK;
  }
  order(node: number): number {
    return this.#words[node + ORDER]!;
  }
  isFree(node: number): boolean {
    return (this.#words[node + HEADER]! & STATE_MASK) === FREE;
  }
  isClear(node: number): boolean {
    return (this.#words[node + HEADER]! & CLEAR) !== 0;
  }
  /** First chunk of the node. */
  chunk(node: number): number {
    return this.#chunks[node >> NODE_SHIFT]!;
  }
  /** First chunk behind the node. */
  chunkEnd(node: number): number {
    return this.#chunks[node >> NODE_SHIFT]! + POW2[this.#words[node + ORDER]!]!;
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

  /** For an ALLOCATED node; free ones are counted by their state. */
  setClear(node: number, clear: boolean): void {
    const w = this.#words;
    w[node + HEADER] = clear ? w[node + HEADER]! | CLEAR : w[node + HEADER]! & ~CLEAR;
  }

  /** Smallest order of at least `order` with a free block in `tree`, or NONE. */
  smallestOrder(tree: number, order: number): number {
    if (order < 32) {
      const low = this.#orders[tree * 2]! & (-1 << order);
      if (low !== 0) return 31 - Math.clz32(low & -low);
    }
    const high = this.#orders[tree * 2 + 1]! & (order < 32 ? -1 : -1 << (order - 32));
    return high === 0 ? NONE : 63 - Math.clz32(high & -high);
  }

  /** The free block of exactly `order` with the highest offset, in a tree that has one. */
  highest(tree: number, order: number): number {
    return this.#lists[tree * MAX_ORDERS + order]!.highest;
  }

  /** The free block of at least `order` with the highest offset, or NONE. @kernel get_maxblock */
  highestOfAtLeast(tree: number, order: number): number {
    let best = NONE;
    let bestChunk = -1;
    for (let o = this.smallestOrder(tree, order); o !== NONE; o = this.smallestOrder(tree, o + 1)) {
      const node = this.highest(tree, o);
      const chunk = this.#chunks[node >> NODE_SHIFT]!;
      if (chunk > bestChunk) {
        best = node;
        bestChunk = chunk;
      }
    }
    return best;
  }

  /** The free blocks of exactly `order`, highest offset first: a copy. */
  freeDescending(tree: number, order: number): number[] {
    if (tree !== BOTH_TREES) return this.#lists[tree * MAX_ORDERS + order]!.descending();
    const nodes = [...this.freeDescending(DIRTY_TREE, order), ...this.freeDescending(CLEAR_TREE, order)];
    return nodes.sort((a, b) => this.chunk(b) - this.chunk(a));
  }

  /** Splits a FREE node into two FREE halves of its clear state. @kernel split_block */
  split(node: number): void {
    this.#remove(node);
    const left = this.#makeHalves(node);
    this.#push(left);
    this.#push(left + NODE_WORDS);
  }

  /** Splits the FREE `node` down to `order`, always going on with the right half, and allocates what is left. */
  takeRight(node: number, order: number): number {
    this.#remove(node);
    let leaf = node;
    while (this.#words[leaf + ORDER] !== order) {
      const left = this.#makeHalves(leaf);
      this.#push(left);
      leaf = left + NODE_WORDS;
    }
    this.#markAllocated(leaf);
    return leaf;
  }

  /** FREE to ALLOCATED. @kernel mark_allocated */
  take(node: number): void {
    this.#remove(node);
    this.#markAllocated(node);
  }

  /** ALLOCATED to FREE without merging. @kernel mark_free */
  untake(node: number): void {
    this.#count(node);
    this.#setState(node, FREE);
    this.#push(node);
  }

  /** ALLOCATED to FREE, merged upward while the buddy is free and of the same clear state. @kernel __drm_buddy_free */
  release(node: number): void {
    this.#count(node);
    const w = this.#words;
    const wanted = FREE | (w[node + HEADER]! & CLEAR);
    let n = node;
    for (let parent = w[n + PARENT]!; parent !== NONE; parent = w[n + PARENT]!) {
      const buddy = n ^ NODE_WORDS;
      if ((w[buddy + HEADER]! & (STATE_MASK | CLEAR)) !== wanted) break;
      this.#remove(buddy);
      this.#freePair(n & buddy);
      n = parent;
    }
    w[n + HEADER] = wanted;
    w[n + CHILD] = NONE;
    this.#push(n);
  }

  /**
   * Merges a FREE node upward while its buddy is free, whatever the clear states; the survivor, which is returned, is
   * dirty. The buddy must be free. @kernel __drm_buddy_free with force_merge
   */
  forceMerge(node: number): number {
    const w = this.#words;
    let n = node;
    this.#remove(n);
    if (this.isClear(n)) this.clearChunks -= POW2[this.order(n)]!;
    for (let parent = w[n + PARENT]!; parent !== NONE; parent = w[n + PARENT]!) {
      const buddy = n ^ NODE_WORDS;
      if (!this.isFree(buddy)) break;
      this.#remove(buddy);
      if (this.isClear(buddy)) this.clearChunks -= POW2[this.order(buddy)]!;
      this.#freePair(n & buddy);
      n = parent;
    }
    w[n + HEADER] = FREE;
    w[n + CHILD] = NONE;
    this.#push(n);
    return n;
  }

  /** Gives every free block the clear state. */
  setAllClear(clear: boolean): void {
    for (let order = 0; order <= this.maxOrder; order++) {
      for (const node of this.freeDescending(clear ? DIRTY_TREE : CLEAR_TREE, order)) {
        this.#remove(node);
        this.setClear(node, clear);
        this.#push(node);
      }
    }
    this.clearChunks = clear ? this.freeChunks : 0;
  }

  /** Calls `visit` for every free block. */
  forEachFree(visit: (node: number) => void): void {
    for (const list of this.#lists) list.descending().forEach(visit);
  }

  /** Turns a node that is in no list into a SPLIT one; returns the left half. Neither half is in a list. */
  #makeHalves(node: number): number {
    const left = this.#newPair();
    const w = this.#words;
    const chunk = this.#chunks[node >> NODE_SHIFT]!;
    const order = w[node + ORDER]! - 1;
    const half = FREE | (w[node + HEADER]! & CLEAR);
    this.#initNode(left, node, half, order, chunk);
    this.#initNode(left + NODE_WORDS, node, half, order, chunk + POW2[order]!);
    w[node + CHILD] = left;
    w[node + HEADER] = SPLIT;
    return left;
  }

  #initNode(node: number, parent: number, header: number, order: number, chunk: number): void {
    const w = this.#words;
    w[node + PARENT] = parent;
    w[node + CHILD] = NONE;
    w[node + HEADER] = header;
    w[node + ORDER] = order;
    this.#chunks[node >> NODE_SHIFT] = chunk;
  }

  #setState(node: number, state: number): void {
    this.#words[node + HEADER] = (this.#words[node + HEADER]! & ~STATE_MASK) | state;
  }

  #markAllocated(node: number): void {
    const header = this.#words[node + HEADER]!;
    const size = POW2[this.#words[node + ORDER]!]!;
    this.freeChunks -= size;
    if ((header & CLEAR) !== 0) this.clearChunks -= size;
    this.#setState(node, ALLOCATED);
  }

  /** Counts the chunks of a node that becomes free. */
  #count(node: number): void {
    const size = POW2[this.order(node)]!;
    this.freeChunks += size;
    if (this.isClear(node)) this.clearChunks += size;
  }

  /** Number of the list that a FREE node belongs to. */
  #listOf(node: number): number {
    const isClear = (this.#words[node + HEADER]! & CLEAR) !== 0;
    return (isClear ? MAX_ORDERS : 0) + this.#words[node + ORDER]!;
  }

  #push(node: number): void {
    const number = this.#listOf(node);
    this.#orders[number >> 5]! |= 1 << (number & 31);
    this.#lists[number]!.insert(node, this.#chunks, NODE_SHIFT);
  }

  #remove(node: number): void {
    const number = this.#listOf(node);
    const list = this.#lists[number]!;
    list.remove(node, this.#chunks, NODE_SHIFT);
    if (list.isEmpty) this.#orders[number >> 5]! &= ~(1 << (number & 31));
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

  /** Nodes of a dropped pair have no state, so that a copied list of nodes can tell. */
  #freePair(pair: number): void {
    const w = this.#words;
    w[pair + HEADER] = 0;
    w[pair + NODE_WORDS + HEADER] = 0;
    w[pair + CHILD] = this.#freePairs;
    this.#freePairs = pair;
  }
}

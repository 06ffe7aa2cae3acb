import { assert } from "./assert.ts";
import { copyInts, firstAbove, firstNotBelow, type KeyArray } from "./key-array.ts";

export type { KeyArray };

/** Closed interval `[start, last]` of integers. `A` is `number`, or `bigint` where exact 64-bit values are needed. */
export interface Interval<A> {
  start: A;
  last: A;
}

/** What is kept in an `IntervalTree`: objects extend it (or just have its two fields). Constant while inserted. */
export class IntervalTreeNode implements Interval<number> {
  // Declared, not defined: a class field is undefined before it is a number, and V8 then allocates a new box for every
  // number stored in it instead of writing into the one it has (a quarter of the time of a range's insertion).
  declare start: number;
  declare last: number;

  constructor(start: number, last: number) {
    this.start = start;
    this.last = last;
  }
}

/** Slots per block, and how many of them may be used: one stays padding, so that every search in a block ends on a slot. */
const ORDER = 32;
const ORDER_SHIFT = 5;
const FULL = ORDER - 1;
/** A block that has become this empty is merged into a neighbour if the result leaves room to grow. */
const FEW = ORDER / 4;
const MERGE_LIMIT = ORDER - FEW;
const NONE = -1;
/** Block 0 is always empty: a hint that has nowhere to point points there. */
const FIRST_BLOCK = 1;

/**
 * Ordered set of intervals, overlap allowed, answering "which is the lowest entry that touches [start, last]?".
 *
 * The answers are those of the kernel's augmented red-black tree: order by `start`, equal starts in order of insertion;
 * `iterFirst` gives the first entry in that order with `entry.start <= last && start <= entry.last`. The structure is a
 * B+-tree in typed arrays, because what costs at 100,000 entries is not comparisons but cache misses, and a double in
 * a JavaScript object is one more of them (V8 boxes it). Blocks are numbers; block `b` owns the slots
 * `[b * ORDER, b * ORDER + count[b])` of every array:
 *
 *     slot          leaf block                  inner block
 *     #starts       start of the entry          lower bound of the starts below the child
 *     #maxima       largest `last` of the       largest `last` below the children
 *                   block's entries up to here  up to here
 *     #refs         place of the entry in       block number of the child
 *                   #items, 0 in unused slots
 *
 * Entries are named by number because moving objects along in an array costs a write barrier each (13 % of a map loop).
 * `#maxima` is ascending within a block whatever overlaps, so the first slot that reaches `start` is found by binary
 * search, level by level, and it is the only array that a search touches. Unused slots of `#starts` and `#maxima` hold
 * the largest value, so that the search needs no bounds and no branches (17 million a second instead of 9: the rest was
 * mispredicted branches). The slot where the last operation ended is remembered (`#hint`): `next`, `remove` of what was
 * just found, `insert` into the gap just looked up and look-ups nearby start there. It is verified, never trusted.
 *
 * Measured (Node 20, AMD EPYC, two shared cores; disjoint entries, random order; 1,000 / 10,000 / 100,000 of them):
 * find 85 / 75 / 430 ns, insert 270 / 300 / 450 ns, remove in order 80 / 95 / 110 ns, 39 bytes an entry besides the
 * entry. An augmented red-black tree of JavaScript objects, the kernel's choice, on the same kind of machine: find 216 /
 * 350 / 1,230 ns, insert 240 / 220 / 2,000 ns. The price: removing one of k entries with equal starts looks at up to k.
 *
 * @kernel interval_tree_insert, interval_tree_remove, interval_tree_iter_first, interval_tree_iter_next, INTERVAL_TREE_DEFINE
 */
export class KeyedIntervalTree<A extends number | bigint, N extends Interval<A>> {
  readonly #keys: (length: number) => KeyArray<A>;
  readonly #padding: A;
  #starts: KeyArray<A>;
  #maxima: KeyArray<A>;
  #refs: Int32Array;
  readonly #items: (N | null)[] = [null];
  /** Places in `#items` that are free again. */
  readonly #freeItems: number[] = [];
  #counts: Int32Array;
  #parents: Int32Array;
  #nexts: Int32Array;
  #prevs: Int32Array;
  /** 0 for leaves, else how far above them. */
  #levels: Uint8Array;
  #root = FIRST_BLOCK;
  #size = 0;
  #hint = 0;
  /** No two entries have overlapped since the tree was last empty: then all maxima ascend across leaves too. */
  #disjoint = true;
  /** Blocks ever used, and the head of the list (through `#nexts`) of those free again. */
  #blocks = FIRST_BLOCK + 1;
  #free = NONE;

  /** `keys` makes a key array filled with zeros or anything else; `padding` is not below any key. */
  constructor(keys: (length: number) => KeyArray<A>, padding: A) {
    const capacity = 2;
    this.#keys = keys;
    this.#padding = padding;
    this.#starts = this.#padded(capacity * ORDER);
    this.#maxima = this.#padded(capacity * ORDER);
    this.#refs = new Int32Array(capacity * ORDER);
    this.#counts = new Int32Array(capacity);
    this.#parents = new Int32Array(capacity).fill(NONE);
    this.#nexts = new Int32Array(capacity).fill(NONE);
    this.#prevs = new Int32Array(capacity).fill(NONE);
    this.#levels = new Uint8Array(capacity);
  }

  get size(): number {
    return this.#size;
  }

  /** Lowest entry that intersects `[start, last]`, both inclusive. */
  iterFirst(start: A, last: A): N | null {
    const near = this.#nearSlot(start);
    const slot = near === NONE ? this.#search(start) : near;
    if (slot === NONE) return null;
    this.#hint = slot;
    return this.#starts[slot] <= last ? this.#items[this.#refs[slot]] : null;
  }

  /** The entry after `node` that intersects `[start, last]`. */
  iterNext(node: N, start: A, last: A): N | null {
    let n = this.next(node);
    while (n !== null && n.start <= last) {
      if (start <= n.last) return n;
      n = this.next(n);
    }
    return null;
  }

  first(): N | null {
    return this.#items[this.#refs[this.#edgeLeaf("first") * ORDER]];
  }

  lastNode(): N | null {
    if (this.#size === 0) return null;
    const leaf = this.#edgeLeaf("last");
    return this.#items[this.#refs[leaf * ORDER + this.#counts[leaf] - 1]];
  }

  /** Successor of an inserted entry in address order. */
  next(node: N): N | null {
    let slot = this.#slotOf(node) + 1;
    const leaf = (slot - 1) >>> ORDER_SHIFT;
    if (slot === leaf * ORDER + this.#counts[leaf]) {
      if (this.#nexts[leaf] === NONE) return null;
      slot = this.#nexts[leaf] * ORDER;
    }
    this.#hint = slot;
    return this.#items[this.#refs[slot]];
  }

  /** Predecessor of an inserted entry in address order. */
  prev(node: N): N | null {
    let slot = this.#slotOf(node) - 1;
    const leaf = (slot + 1) >>> ORDER_SHIFT;
    if (slot < leaf * ORDER) {
      const before = this.#prevs[leaf];
      if (before === NONE) return null;
      slot = before * ORDER + this.#counts[before] - 1;
    }
    this.#hint = slot;
    return this.#items[this.#refs[slot]];
  }

  /** All entries in address order. The one just given may be removed, as may any before it. */
  *[Symbol.iterator](): IterableIterator<N> {
    let node = this.first();
    while (node !== null) {
      const following = this.next(node);
      yield node;
      node = following;
    }
  }

  /** `node` must not be in a tree. Equal starts are kept in order of insertion. */
  insert(node: N): void {
    const slot = this.#gapSlot(node);
    this.#place(node, slot === NONE ? this.#descendForInsert(node) : slot);
    this.#size += 1;
  }

  /** `node` must be in this tree, with the `start` and `last` it was inserted with. */
  remove(node: N): void {
    const slot = this.#slotOf(node);
    const leaf = slot >>> ORDER_SHIFT;
    const end = leaf * ORDER + this.#counts[leaf] - 1;
    const starts = this.#starts;
    const refs = this.#refs;
    this.#items[refs[slot]] = null;
    this.#freeItems.push(refs[slot]);
    for (let i = slot; i < end; i++) {
      starts[i] = starts[i + 1];
      refs[i] = refs[i + 1];
    }
    starts[end] = this.#padding;
    refs[end] = 0;
    this.#size -= 1;
    this.#hint = slot;
    this.#dropMaximum(leaf, slot, node.last);
    if (this.#counts[leaf] <= FEW) this.#shrink(leaf);
  }

  /**
   * First slot that reaches `start` if that is the hint or beside it, in the same leaf. Only where entries are disjoint:
   * otherwise a leaf before might hold a long one.
   */
  #nearSlot(start: A): number {
    if (!this.#disjoint) return NONE;
    const maxima = this.#maxima;
    const leaf = this.#hint >>> ORDER_SHIFT;
    const base = leaf * ORDER;
    let slot = this.#hint;
    if (maxima[slot] < start) slot += 1;
    else if (slot > base && !(maxima[slot - 1] < start)) slot -= 1;
    const isInside = slot > base && slot < base + this.#counts[leaf];
    return isInside && maxima[slot - 1] < start && !(maxima[slot] < start) ? slot : NONE;
  }

  /** First slot that reaches `start`, from the root. */
  #search(start: A): number {
    const maxima = this.#maxima;
    const refs = this.#refs;
    const root = this.#root;
    let slot = root * ORDER;
    slot += firstNotBelow(maxima, slot, start);
    // Only the root can fail to reach `start`: below it the child was chosen because it does.
    if (slot === root * ORDER + this.#counts[root]) return NONE;
    for (let level = this.#levels[this.#root]; level > 0; level--) {
      slot = refs[slot] * ORDER;
      slot += firstNotBelow(maxima, slot, start);
    }
    return slot;
  }

  /** The slot before which `node` belongs, if that is inside the leaf of the hint and nothing above it changes. */
  #gapSlot(node: N): number {
    const slot = this.#hint;
    const leaf = slot >>> ORDER_SHIFT;
    const base = leaf * ORDER;
    const count = this.#counts[leaf];
    const end = base + count;
    if (slot <= base || slot >= end || count === FULL) return NONE;
    const starts = this.#starts;
    const inGap = starts[slot - 1] <= node.start && node.start < starts[slot];
    return inGap && node.last <= this.#maxima[end - 1] ? slot : NONE;
  }

  /** Leaf slot for `node`. On the way down full blocks are split and the maxima above the slot are raised. */
  #descendForInsert(node: N): number {
    const { start, last } = node;
    if (this.#counts[this.#root] === FULL) this.#growRoot();
    let block = this.#root;
    for (let level = this.#levels[this.#root]; level > 0; level--) {
      let slot = this.#childSlot(block, start);
      if (this.#counts[this.#refs[slot]] === FULL) {
        this.#split(slot, start);
        if (start >= this.#starts[slot + 1]) slot += 1;
      }
      if (start < this.#starts[slot]) this.#starts[slot] = start;
      const end = block * ORDER + this.#counts[block];
      for (let i = slot; i < end && this.#maxima[i] < last; i++) this.#maxima[i] = last;
      block = this.#refs[slot];
    }
    return this.#upperBound(block, start);
  }

  /** Makes room at `slot` of a leaf that is not full. */
  #place(node: N, slot: number): void {
    const leaf = slot >>> ORDER_SHIFT;
    const end = leaf * ORDER + this.#counts[leaf];
    const starts = this.#starts;
    const maxima = this.#maxima;
    const refs = this.#refs;
    for (let i = end; i > slot; i--) {
      starts[i] = starts[i - 1];
      maxima[i] = maxima[i - 1];
      refs[i] = refs[i - 1];
    }
    const { start, last } = node;
    starts[slot] = start;
    const ref = this.#freeItems.pop() ?? this.#items.length;
    this.#items[ref] = node;
    refs[slot] = ref;
    maxima[slot] = slot > leaf * ORDER && maxima[slot - 1] > last ? maxima[slot - 1] : last;
    for (let i = slot + 1; i <= end && maxima[i] < last; i++) maxima[i] = last;
    this.#counts[leaf] += 1;
    this.#hint = slot;
    if (this.#disjoint) this.#disjoint = this.#isApart(leaf, slot, end);
  }

  /** The entry at `slot` of a leaf ending with slot `end` touches neither neighbour, and neither did those before. */
  #isApart(leaf: number, slot: number, end: number): boolean {
    const base = leaf * ORDER;
    const starts = this.#starts;
    const maxima = this.#maxima;
    const before = this.#prevs[leaf];
    const after = this.#nexts[leaf];
    const previous = slot > base ? slot - 1 : before === NONE ? NONE : before * ORDER + this.#counts[before] - 1;
    const following = slot < end ? slot + 1 : after === NONE ? NONE : after * ORDER;
    const item = this.#items[this.#refs[slot]]!;
    return (
      item.start <= item.last &&
      (previous === NONE || maxima[previous] < item.start) &&
      (following === NONE || item.last < starts[following])
    );
  }

  /** First slot of `block` whose start is above `start`, else the one behind its last. */
  #upperBound(block: number, start: A): number {
    const base = block * ORDER;
    // Padding is not above the very largest bigint key, hence the limit.
    return base + Math.min(firstAbove(this.#starts, base, start), this.#counts[block]);
  }

  /** Slot of the child that holds, or would hold, the last entry with this start. */
  #childSlot(block: number, start: A): number {
    const slot = this.#upperBound(block, start);
    return slot === block * ORDER ? slot : slot - 1;
  }

  #edgeLeaf(which: "first" | "last"): number {
    let block = this.#root;
    for (let level = this.#levels[this.#root]; level > 0; level--) {
      block = this.#refs[block * ORDER + (which === "first" ? 0 : this.#counts[block] - 1)];
    }
    return block;
  }

  #slotOf(node: N): number {
    const items = this.#items;
    const refs = this.#refs;
    const hint = this.#hint;
    if (items[refs[hint]] === node) return hint;
    if (hint > 0 && items[refs[hint - 1]] === node) return hint - 1;
    let block = this.#root;
    for (let level = this.#levels[this.#root]; level > 0; level--)
      block = this.#refs[this.#childSlot(block, node.start)];
    let slot = this.#upperBound(block, node.start) - 1;
    // Among equal starts only identity tells: those before are looked at one by one.
    for (;;) {
      if (slot < block * ORDER) {
        block = this.#prevs[block];
        assert(block !== NONE, "interval tree: the entry is not in this tree");
        slot = block * ORDER + this.#counts[block] - 1;
      }
      if (items[refs[slot]] === node) return slot;
      assert(this.#starts[slot] === node.start, "interval tree: the entry is not in this tree");
      slot -= 1;
    }
  }

  /**
   * Takes slot `slot`, whose own largest `last` was `last`, out of the maxima of `block`, and counts it out. What is
   * above `last` later in the block does not depend on it, so with disjoint entries the loop over values never runs.
   */
  #dropMaximum(block: number, slot: number, last: A): void {
    const maxima = this.#maxima;
    const end = block * ORDER + this.#counts[block] - 1;
    const blockMax = maxima[end];
    for (let i = slot; i < end; i++) maxima[i] = maxima[i + 1];
    maxima[end] = this.#padding;
    this.#counts[block] -= 1;
    this.#refreshMaxima(block, slot, last);
    if (end > block * ORDER && maxima[end - 1] < blockMax) this.#lowerAbove(block, blockMax);
  }

  /** Computes again the maxima of `block` from `slot` on, up to the first that is above `last`. */
  #refreshMaxima(block: number, slot: number, last: A): void {
    const maxima = this.#maxima;
    const base = block * ORDER;
    const end = base + this.#counts[block];
    for (let i = slot; i < end && maxima[i] <= last; i++) {
      const own = this.#ownMaximum(i);
      maxima[i] = i > base && maxima[i - 1] > own ? maxima[i - 1] : own;
    }
  }

  /** Largest `last` of one slot alone: of its entry, or of everything below its child. */
  #ownMaximum(slot: number): A {
    const child = this.#refs[slot];
    if (this.#levels[slot >>> ORDER_SHIFT] === 0) return this.#items[child]!.last;
    return this.#maxima[child * ORDER + this.#counts[child] - 1];
  }

  /** The largest `last` of `block` has fallen from `was`: tells the blocks above, as far as they notice. */
  #lowerAbove(block: number, was: A): void {
    for (let parent = this.#parents[block]; parent !== NONE; parent = this.#parents[block]) {
      const end = parent * ORDER + this.#counts[parent];
      this.#refreshMaxima(parent, this.#slotInParent(block), was);
      if (!(this.#maxima[end - 1] < was)) return;
      block = parent;
    }
  }

  #slotInParent(block: number): number {
    const refs = this.#refs;
    let slot = this.#parents[block] * ORDER;
    while (refs[slot] !== block) slot += 1;
    return slot;
  }

  /** `block` has few entries: removes it if empty, else merges it with a neighbour if both fit well. */
  #shrink(block: number): void {
    const parent = this.#parents[block];
    const counts = this.#counts;
    if (parent === NONE) {
      this.#lowerRoot();
      return;
    }
    const slot = this.#slotInParent(block);
    const base = parent * ORDER;
    if (counts[block] === 0) {
      this.#unlink(block);
      this.#dropChild(parent, slot);
    } else if (slot + 1 < base + counts[parent] && counts[block] + counts[this.#refs[slot + 1]] <= MERGE_LIMIT) {
      this.#merge(parent, slot);
    } else if (slot > base && counts[block] + counts[this.#refs[slot - 1]] <= MERGE_LIMIT) {
      this.#merge(parent, slot - 1);
    }
  }

  /** Takes the child at `slot` out of `parent`; the entries below it are gone or are in the child before. */
  #dropChild(parent: number, slot: number): void {
    const base = parent * ORDER;
    const end = base + this.#counts[parent] - 1;
    const blockMax = this.#maxima[end];
    const own = this.#maxima[slot];
    for (let i = slot; i < end; i++) {
      this.#starts[i] = this.#starts[i + 1];
      this.#maxima[i] = this.#maxima[i + 1];
      this.#refs[i] = this.#refs[i + 1];
    }
    this.#starts[end] = this.#padding;
    this.#maxima[end] = this.#padding;
    this.#counts[parent] -= 1;
    // Of the maxima from the slot before on, those that are not above what the child had may come from it.
    if (end > base) {
      this.#refreshMaxima(parent, slot > base ? slot - 1 : slot, own);
      if (this.#maxima[end - 1] < blockMax) this.#lowerAbove(parent, blockMax);
    }
    if (this.#counts[parent] <= FEW) this.#shrink(parent);
  }

  /** Moves everything of the child at `slot + 1` into the child at `slot`. */
  #merge(parent: number, slot: number): void {
    const left = this.#refs[slot];
    const right = this.#refs[slot + 1];
    const count = this.#counts[right];
    const to = left * ORDER + this.#counts[left];
    this.#move(right * ORDER, to, count, left);
    this.#counts[left] += count;
    const before = this.#maxima[to - 1];
    for (let i = to; i < to + count && this.#maxima[i] < before; i++) this.#maxima[i] = before;
    this.#unlink(right);
    this.#dropChild(parent, slot + 1);
  }

  /** Moves `count` slots into `block`. The slots left behind are padding, so no stale hint matches. */
  #move(from: number, to: number, count: number, block: number): void {
    const padding = this.#padding;
    const isLeaf = this.#levels[block] === 0;
    for (let i = 0; i < count; i++) {
      this.#starts[to + i] = this.#starts[from + i];
      this.#maxima[to + i] = this.#maxima[from + i];
      this.#starts[from + i] = padding;
      this.#maxima[from + i] = padding;
      const ref = this.#refs[from + i];
      this.#refs[to + i] = ref;
      this.#refs[from + i] = 0;
      if (!isLeaf) this.#parents[ref] = block;
    }
  }

  #lowerRoot(): void {
    while (this.#levels[this.#root] > 0 && this.#counts[this.#root] === 1) {
      const child = this.#refs[this.#root * ORDER];
      this.#starts[this.#root * ORDER] = this.#padding;
      this.#maxima[this.#root * ORDER] = this.#padding;
      this.#unlink(this.#root);
      this.#parents[child] = NONE;
      this.#root = child;
    }
    if (this.#size === 0) this.#disjoint = true;
  }

  #growRoot(): void {
    const child = this.#root;
    const root = this.#allocate(this.#levels[child] + 1);
    this.#refs[root * ORDER] = child;
    this.#starts[root * ORDER] = this.#starts[child * ORDER];
    this.#maxima[root * ORDER] = this.#maxima[child * ORDER + FULL - 1];
    this.#counts[root] = 1;
    this.#parents[child] = root;
    this.#root = root;
  }

  /** Splits the full child at `slot` of a parent that is not full; the upper part goes to `slot + 1`. */
  #split(slot: number, start: A): void {
    const left = this.#refs[slot];
    const isLeaf = this.#levels[left] === 0;
    const parent = slot >>> ORDER_SHIFT;
    const right = this.#allocate(this.#levels[left]);
    // Ascending insertion at the very end would leave every block half empty if cut in the middle.
    const atEnd = isLeaf && this.#nexts[left] === NONE && start >= this.#starts[left * ORDER + FULL - 1];
    const keep = atEnd ? FULL - 1 : ORDER / 2;
    const cut = left * ORDER + keep;
    for (let i = parent * ORDER + this.#counts[parent]; i > slot + 1; i--) {
      this.#starts[i] = this.#starts[i - 1];
      this.#maxima[i] = this.#maxima[i - 1];
      this.#refs[i] = this.#refs[i - 1];
    }
    this.#counts[parent] += 1;
    this.#refs[slot + 1] = right;
    this.#parents[right] = parent;
    this.#starts[slot + 1] = this.#starts[cut];
    const leftMax = this.#maxima[cut - 1];
    this.#move(cut, right * ORDER, FULL - keep, right);
    this.#counts[left] = keep;
    this.#counts[right] = FULL - keep;
    this.#maximaOfMoved(right);
    this.#maxima[slot + 1] = this.#maxima[slot];
    const before = slot > parent * ORDER ? this.#maxima[slot - 1] : leftMax;
    this.#maxima[slot] = before > leftMax ? before : leftMax;
    if (isLeaf) this.#linkAfter(left, right);
  }

  /** The maxima of a new block still count in what stayed in the old one; not with disjoint entries, where each is its own. */
  #maximaOfMoved(block: number): void {
    if (this.#disjoint) return;
    const base = block * ORDER;
    this.#maxima[base] = this.#ownMaximum(base);
    for (let i = base + 1; i < base + this.#counts[block]; i++) {
      const own = this.#ownMaximum(i);
      this.#maxima[i] = this.#maxima[i - 1] > own ? this.#maxima[i - 1] : own;
    }
  }

  #linkAfter(left: number, right: number): void {
    const after = this.#nexts[left];
    this.#nexts[left] = right;
    this.#prevs[right] = left;
    this.#nexts[right] = after;
    if (after !== NONE) this.#prevs[after] = right;
  }

  /** Takes a block out of the chain of leaves (an inner block is in none) and frees it. */
  #unlink(block: number): void {
    const before = this.#prevs[block];
    const after = this.#nexts[block];
    if (before !== NONE) this.#nexts[before] = after;
    if (after !== NONE) this.#prevs[after] = before;
    this.#counts[block] = 0;
    this.#hint = 0;
    this.#prevs[block] = NONE;
    this.#nexts[block] = this.#free;
    this.#free = block;
  }

  #allocate(level: number): number {
    let block = this.#free;
    if (block !== NONE) this.#free = this.#nexts[block];
    else {
      block = this.#blocks++;
      if (block === this.#counts.length) this.#grow();
    }
    this.#levels[block] = level;
    this.#parents[block] = NONE;
    this.#nexts[block] = NONE;
    this.#prevs[block] = NONE;
    return block;
  }

  #grow(): void {
    const old = this.#counts.length;
    const capacity = old + Math.max(2, old >>> 1);
    this.#starts = this.#copyKeys(this.#starts, capacity * ORDER);
    this.#maxima = this.#copyKeys(this.#maxima, capacity * ORDER);
    this.#refs = copyInts(this.#refs, capacity * ORDER);
    this.#counts = copyInts(this.#counts, capacity);
    this.#parents = copyInts(this.#parents, capacity);
    this.#nexts = copyInts(this.#nexts, capacity);
    this.#prevs = copyInts(this.#prevs, capacity);
    const levels = this.#levels;
    this.#levels = new Uint8Array(capacity);
    this.#levels.set(levels);
  }

  #padded(length: number): KeyArray<A> {
    const keys = this.#keys(length);
    for (let i = 0; i < length; i++) keys[i] = this.#padding;
    return keys;
  }

  #copyKeys(from: KeyArray<A>, length: number): KeyArray<A> {
    const to = this.#padded(length);
    for (let i = 0; i < from.length; i++) to[i] = from[i];
    return to;
  }
}

/** The interval tree of the product: addresses are numbers. See `KeyedIntervalTree`. */
export class IntervalTree<N extends IntervalTreeNode> extends KeyedIntervalTree<number, N> {
  constructor() {
    super((length) => new Float64Array(length), Infinity);
  }
}

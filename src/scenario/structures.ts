import { EEXIST, EINVAL, ENOENT, isErr } from "../base/errno.ts";
import { KernelError } from "../base/errors.ts";
import { IntervalTree, IntervalTreeNode } from "../base/interval-tree.ts";
import { type Num, toNumber } from "../machine/args.ts";
import { BUDDY_CONTIGUOUS, BUDDY_RANGE, type BuddyBlock, DrmBuddy } from "../vram/buddy.ts";

/** Bytes `[off, off + size)` that an allocation holds. */
export interface Block {
  readonly off: number;
  readonly size: number;
}

export interface BuddyAllocOptions {
  /** The least block, bytes. */
  min?: Num;
  /** Where, bytes. Default: anywhere. */
  start?: Num;
  end?: Num;
  /** Blocks that touch, ascending. */
  contiguous?: boolean;
}

const LEAST_BLOCK = 4096;

/** The VRAM allocator alone. Synchronous; failures are thrown as KernelError. */
export class Buddy {
  readonly #buddy: DrmBuddy;
  /** Bytes of the largest block that is handed out. */
  readonly #largest: number;
  readonly #held = new Map<number, BuddyBlock>();

  /** `min`: bytes of the smallest block; `maxOrder`: the largest has `min << maxOrder`. EINVAL. */
  constructor(size: Num, o: { min?: Num; maxOrder?: number } = {}) {
    const min = toNumber(o.min ?? LEAST_BLOCK);
    const { maxOrder = Infinity } = o;
    const buddy = Number.isSafeInteger(toNumber(size)) ? DrmBuddy.create(toNumber(size), min) : EINVAL;
    if (isErr(buddy) || maxOrder < 0 || Number.isNaN(maxOrder)) {
      throw KernelError.fromErrno(EINVAL, `buddy of ${size} bytes in blocks of ${min}`);
    }
    this.#buddy = buddy;
    this.#largest = min * 2 ** maxOrder;
  }

  /** Free bytes. */
  get avail(): number {
    return this.#buddy.avail;
  }

  /** EINVAL: a size, or a window, that is not whole blocks or reaches outside. ENOSPC: no such memory is free. */
  alloc(size: Num, o: BuddyAllocOptions = {}): Block[] {
    const bytes = toNumber(size);
    const { contiguous = false } = o;
    const start = toNumber(o.start ?? 0);
    const end = toNumber(o.end ?? this.#buddy.size);
    const min = toNumber(o.min ?? this.#buddy.chunkSize);
    const flags =
      (o.start === undefined && o.end === undefined ? 0 : BUDDY_RANGE) + (contiguous ? BUDDY_CONTIGUOUS : 0);
    const isGood =
      [bytes, start, end, min].every((n) => Number.isSafeInteger(n)) && start < end && min <= this.#largest;
    const blocks = isGood ? this.#buddy.allocBlocks(start, end, bytes, min, flags) : EINVAL;
    if (isErr(blocks)) throw KernelError.fromErrno(blocks, `buddy: ${size} bytes in [${start}, ${end})`);
    const cut = blocks.flatMap((block) => this.#cut(block));
    if (contiguous) cut.sort((a, b) => a.offset - b.offset);
    for (const block of cut) this.#held.set(block.offset, block);
    return cut.map(({ offset, size: length }) => ({ off: offset, size: length }));
  }

  /** EINVAL for what is not allocated; then nothing is freed. */
  free(blocks: readonly Block[]): void {
    const held = blocks.map(({ off, size }) => {
      const block = this.#held.get(off);
      if (block?.size === size) return block;
      throw new KernelError("EINVAL", `buddy: no block of ${size} bytes at ${off} is allocated`, { addr: off });
    });
    for (const block of new Set(held)) {
      this.#held.delete(block.offset);
      this.#buddy.freeBlock(block);
    }
  }

  /** A block above the largest is handed out in pieces. */
  #cut(block: BuddyBlock): BuddyBlock[] {
    const { offset, size } = block;
    if (size <= this.#largest) return [block];
    this.#buddy.freeBlock(block);
    const pieces: BuddyBlock[] = [];
    for (let at = offset; at < offset + size; at += this.#largest) {
      const piece = this.#buddy.allocBlocks(at, at + this.#largest, this.#largest, this.#largest, BUDDY_RANGE);
      if (!isErr(piece)) pieces.push(...piece);
    }
    return pieces;
  }
}

/** An interval `[start, last]`, both inclusive. */
export interface TreeInterval {
  readonly start: number;
  readonly last: number;
}

/** The interval container of the project alone. Synchronous; failures are thrown as KernelError. */
export class Tree {
  /** The largest address it takes. */
  readonly max = Number.MAX_SAFE_INTEGER;
  readonly #tree = new IntervalTree<IntervalTreeNode>();
  readonly #disjoint: boolean;
  readonly #nodes = new Map<TreeInterval, IntervalTreeNode>();
  readonly #intervals = new Map<IntervalTreeNode, TreeInterval>();

  /** `disjoint`: an interval that overlaps another is refused. */
  constructor(o: { disjoint?: boolean } = {}) {
    this.#disjoint = o.disjoint === true;
  }

  /** EINVAL: no interval; EEXIST: it overlaps one, in a tree of disjoint ones. */
  insert(start: Num, last: Num): TreeInterval {
    const [from, to] = this.#checked(start, last);
    if (this.#disjoint && this.#tree.iterFirst(from, to) !== null) {
      throw KernelError.fromErrno(EEXIST, `itree: [${from}, ${to}] overlaps another`, from);
    }
    const node = new IntervalTreeNode(from, to);
    const interval = { start: from, last: to };
    this.#tree.insert(node);
    this.#nodes.set(interval, node);
    this.#intervals.set(node, interval);
    return interval;
  }

  /** `interval` is what `insert` gave; ENOENT when it is not in the tree. */
  remove(interval: TreeInterval): void {
    const node = this.#nodes.get(interval);
    if (node === undefined) throw KernelError.fromErrno(ENOENT, "itree: the interval is not in the tree");
    this.#tree.remove(node);
    this.#nodes.delete(interval);
    this.#intervals.delete(node);
  }

  /** Those that intersect `[start, last]`, by ascending start. EINVAL: no interval. */
  query(start: Num, last: Num): TreeInterval[] {
    const [from, to] = this.#checked(start, last);
    const found: TreeInterval[] = [];
    for (let node = this.#tree.iterFirst(from, to); node !== null; node = this.#tree.iterNext(node, from, to)) {
      found.push(this.#intervals.get(node)!);
    }
    return found;
  }

  #checked(start: Num, last: Num): [number, number] {
    const [from, to] = [toNumber(start), toNumber(last)];
    if (Number.isSafeInteger(from) && Number.isSafeInteger(to) && from >= 0 && from <= to) return [from, to];
    throw KernelError.fromErrno(EINVAL, `itree: [${start}, ${last}] is no interval of [0, ${this.max}]`);
  }
}

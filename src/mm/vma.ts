import { assert } from "../base/assert.ts";
import { type Va, alignUp } from "../base/addr.ts";
import { IntervalTree, IntervalTreeNode } from "../base/interval-tree.ts";
import type { VmaView } from "./types.ts";

export type Prot = "NONE" | "R" | "RW";

/** First address that no process can map. @kernel TASK_SIZE */
export const TASK_SIZE = 2 ** 47 - 4096;
/** Mappings without a fixed address lie above. @kernel mmap_base */
export const MMAP_BASE = 2 ** 32;

/** An area of private anonymous memory with one protection. @kernel vm_area_struct */
export class Vma extends IntervalTreeNode implements VmaView {
  prot: Prot;

  constructor(start: Va, end: Va, prot: Prot) {
    super(start, end - 1);
    this.prot = prot;
  }

  get end(): Va {
    return this.last + 1;
  }
  get readable(): boolean {
    return this.prot !== "NONE";
  }
  get writable(): boolean {
    return this.prot === "RW";
  }
  // The kinds of area that are to come differ in these three.
  get anonymous(): boolean {
    return true;
  }
  get hugetlb(): boolean {
    return false;
  }
  get special(): boolean {
    return false;
  }
}

/** The areas of one mm: disjoint, and no two neighbours that could be one. Under the mmap lock. */
export class VmaTree {
  readonly #tree = new IntervalTree<Vma>();
  // Faults come in runs to one area.
  #lastFound: Vma | null = null;

  /** @kernel vma_lookup */
  lookup(addr: Va): Vma | null {
    const last = this.#lastFound;
    if (last !== null && last.start <= addr && addr <= last.last) return last;
    const found = this.#tree.iterFirst(addr, addr);
    if (found !== null) this.#lastFound = found;
    return found;
  }

  /** The first area that intersects `[start, end)`. @kernel find_vma_intersection */
  findIntersection(start: Va, end: Va): Vma | null {
    return start < end ? this.#tree.iterFirst(start, end - 1) : null;
  }

  /** The areas that intersect `[start, end)`, in order. Copied: they may be changed meanwhile. */
  within(start: Va, end: Va): Vma[] {
    const list: Vma[] = [];
    for (let v = this.findIntersection(start, end); v !== null; v = this.#tree.iterNext(v, start, end - 1))
      list.push(v);
    return list;
  }

  /** True when every byte of `[start, end)` is mapped. */
  covers(start: Va, end: Va): boolean {
    let at = start;
    for (const vma of this.within(start, end)) {
      if (vma.start > at) return false;
      at = vma.end;
    }
    return at >= end;
  }

  /** The lowest aligned gap of `length` bytes from `MMAP_BASE` up, or -1. @kernel vm_unmapped_area */
  findGap(length: number, align: number): Va {
    let start = alignUp(MMAP_BASE, align);
    while (start + length <= TASK_SIZE) {
      const inTheWay = this.findIntersection(start, start + length);
      if (inTheWay === null) return start;
      start = alignUp(inTheWay.end, align);
    }
    return -1;
  }

  /** Adds an area where there is none, merging it with what it continues. */
  insert(start: Va, end: Va, prot: Prot): void {
    assert(this.findIntersection(start, end) === null, "an area over another");
    const vma = new Vma(start, end, prot);
    this.#tree.insert(vma);
    this.#merge(vma);
  }

  /** Splits areas so that none crosses `start` or `end`, then takes what lies between them out. */
  remove(start: Va, end: Va): void {
    this.#splitAt(start);
    this.#splitAt(end);
    for (const vma of this.within(start, end)) this.#tree.remove(vma);
    this.#lastFound = null;
  }

  /** Gives `[start, end)`, which lies in one area, another protection. */
  protect(start: Va, end: Va, prot: Prot): void {
    this.#splitAt(start);
    this.#splitAt(end);
    const vma = this.lookup(start);
    assert(vma !== null && vma.start === start && vma.end === end, "the interval is not part of one area");
    vma.prot = prot;
    this.#merge(vma);
  }

  #splitAt(at: Va): void {
    const vma = this.lookup(at);
    if (vma === null || vma.start === at) return;
    const upper = new Vma(at, vma.end, vma.prot);
    this.#resize(vma, vma.start, at);
    this.#tree.insert(upper);
  }

  #merge(vma: Vma): void {
    const before = vma.start === 0 ? null : this.#tree.iterFirst(vma.start - 1, vma.start - 1);
    const after = this.#tree.iterFirst(vma.end, vma.end);
    let { start, end } = vma;
    if (before !== null && before.prot === vma.prot) {
      start = before.start;
      this.#tree.remove(before);
    }
    if (after !== null && after.prot === vma.prot) {
      end = after.end;
      this.#tree.remove(after);
    }
    if (start !== vma.start || end !== vma.end) this.#resize(vma, start, end);
  }

  #resize(vma: Vma, start: Va, end: Va): void {
    this.#tree.remove(vma);
    vma.start = start;
    vma.last = end - 1;
    this.#tree.insert(vma);
    this.#lastFound = null;
  }

  /** All areas in order. */
  all(): Vma[] {
    return this.within(0, TASK_SIZE);
  }
}

import { PAGE_SIZE, SZ_64K, isAligned } from "../base/addr.ts";
import type { Pa, Va } from "../base/addr.ts";
import { PTE_NULL, PTE_PAT, PTE_W } from "../abi/pte.ts";
import { LEAF_FLAGS } from "./page-table-tree.ts";

/**
 * What is to be mapped, from a start address upward: runs of pages with consecutive physical addresses and equal flags.
 * A NULL run has no memory behind it, so it has no address and no flags but W.
 */
export class PageRuns {
  /** Pages, PA and flags (PTE_W, PTE_AE, PTE_DM, PTE_NULL) of each run. */
  pages = new Float64Array(16);
  pas = new Float64Array(16);
  flags = new Uint32Array(16);
  count = 0;
  /** Pages in all runs. */
  total = 0;

  clear(): void {
    this.count = 0;
    this.total = 0;
  }

  /** Appends pages; they join the last run where they continue it. */
  push(pages: number, pa: Pa, flags: number): void {
    const isNull = (flags & PTE_NULL) !== 0;
    const kept = flags & (isNull ? PTE_NULL | PTE_W | PTE_PAT : LEAF_FLAGS);
    const last = this.count - 1;
    this.total += pages;
    if (last >= 0 && this.flags[last] === kept && (isNull || this.pas[last]! + this.pages[last]! * PAGE_SIZE === pa)) {
      this.pages[last]! += pages;
      return;
    }
    if (this.count === this.pages.length) this.#grow();
    this.pages[this.count] = pages;
    this.pas[this.count] = isNull ? 0 : pa;
    this.flags[this.count] = kept;
    this.count += 1;
  }

  /** Appends `npages` pages given one by one. */
  pushPages(npages: number, pas: Float64Array, flags: Uint32Array): void {
    for (let i = 0; i < npages;) {
      const first = i;
      const flag = flags[i]!;
      const isNull = (flag & PTE_NULL) !== 0;
      let next = pas[i]! + PAGE_SIZE;
      i += 1;
      while (i < npages && flags[i] === flag && (isNull || pas[i] === next)) {
        i += 1;
        next += PAGE_SIZE;
      }
      this.push(i - first, pas[first]!, flag);
    }
  }

  #grow(): void {
    const { pages, pas, flags } = this;
    this.pages = new Float64Array(pages.length * 2);
    this.pas = new Float64Array(pages.length * 2);
    this.flags = new Uint32Array(pages.length * 2);
    this.pages.set(pages);
    this.pas.set(pas);
    this.flags.set(flags);
  }
}

/** The run of an address; addresses are asked for in ascending order. @kernel xe_res_cursor */
export class RunCursor {
  readonly #runs: PageRuns;
  #at = 0;
  /** The run that was found. */
  start: Va;
  end: Va;
  pa: Pa;
  flags: number;

  constructor(runs: PageRuns, start: Va) {
    this.#runs = runs;
    this.start = start;
    this.end = start + runs.pages[0]! * PAGE_SIZE;
    this.pa = runs.pas[0]!;
    this.flags = runs.flags[0]!;
  }

  get isNull(): boolean {
    return (this.flags & PTE_NULL) !== 0;
  }

  seek(va: Va): void {
    if (va < this.end) return;
    const { pages, pas, flags } = this.#runs;
    let at = this.#at;
    while (va >= this.end) {
      at += 1;
      this.start = this.end;
      this.end += pages[at]! * PAGE_SIZE;
    }
    this.#at = at;
    this.pa = pas[at]!;
    this.flags = flags[at]!;
  }

  /** PA of an address of the run; 0 in a NULL run. */
  paAt(va: Va): Pa {
    return this.isNull ? 0 : this.pa + (va - this.start);
  }

  /** Whether one page of `size` bytes can stand at `va`, an aligned address of the run: NULL pages want no aligned PA. */
  isLeaf(va: Va, size: number): boolean {
    return this.end - va >= size && isAligned(this.paAt(va), size);
  }

  /** Whether 64 KiB pages alone can map `[va, end)`; `va` lies in the run. They need not adjoin. */
  isMadeOf64K(va: Va, end: Va): boolean {
    const { pages, pas } = this.#runs;
    let runStart = this.start;
    for (let at = this.#at; ; at++) {
      const from = Math.max(runStart, va);
      const pa = (this.#runs.flags[at]! & PTE_NULL) === 0 ? pas[at]! + (from - runStart) : 0;
      if (!isAligned(from, SZ_64K) || !isAligned(pa, SZ_64K)) return false;
      runStart += pages[at]! * PAGE_SIZE;
      if (runStart >= end) return isAligned(end, SZ_64K);
    }
  }
}

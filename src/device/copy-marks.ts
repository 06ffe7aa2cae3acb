import { PAGE_SIZE } from "../base/addr.ts";

/**
 * A small number per page of each memory, all forgotten at once by `begin`: values carry a base that only grows, so that
 * nothing has to be cleared between batches.
 */
export class PageMarks {
  readonly #pages: readonly (() => number)[];
  readonly #marks: (Uint32Array | undefined)[] = [];
  #base = 0;
  /** Largest value set since `begin`. */
  #top = 0;

  /** `pages`: how many pages each memory has. */
  constructor(pages: readonly (() => number)[]) {
    this.#pages = pages;
  }

  begin(): void {
    this.#base += this.#top;
    this.#top = 0;
    if (this.#base < 2 ** 31) return;
    this.#base = 0;
    for (const marks of this.#marks) marks?.fill(0);
  }

  /** Largest value of the pages that the range touches; 0 where nothing was set. */
  largest(memory: number, at: number, bytes: number): number {
    const marks = this.#of(memory);
    const end = Math.ceil((at + bytes) / PAGE_SIZE);
    let largest = this.#base;
    for (let page = Math.floor(at / PAGE_SIZE); page < end; page++) {
      if (marks[page]! > largest) largest = marks[page]!;
    }
    return largest - this.#base;
  }

  /** Sets the pages that the range touches to `value` where they have less. */
  raise(memory: number, at: number, bytes: number, value: number): void {
    const marks = this.#of(memory);
    const end = Math.ceil((at + bytes) / PAGE_SIZE);
    const mark = this.#base + value;
    for (let page = Math.floor(at / PAGE_SIZE); page < end; page++) {
      if (marks[page]! < mark) marks[page] = mark;
    }
    if (value > this.#top) this.#top = value;
  }

  #of(memory: number): Uint32Array {
    const pages = this.#pages[memory]!();
    let marks = this.#marks[memory];
    if (marks === undefined || marks.length < pages) {
      const grown = new Uint32Array(pages);
      if (marks !== undefined) grown.set(marks);
      marks = grown;
      this.#marks[memory] = marks;
    }
    return marks;
  }
}

/**
 * The free blocks of one order and clear state, by offset. What is asked for is nearly always the highest, and what is
 * freed lies nearly always among the highest, because the highest are handed out: so the list is sorted and both work at
 * its end. It is cut into runs of bounded length, so that no insertion moves more than one run.
 *
 * Members are node ids of a BuddyTree. The keys, their first chunks, belong to the tree, whose array of them is an argument
 * because it is replaced as the tree grows.
 */
const MAX_RUN = 64;

export class FreeList {
  /** Ascending, none empty but the only one. */
  readonly #runs: number[][] = [[]];
  /** The last of `#runs`, where nearly everything happens. */
  #top: number[] = this.#runs[0]!;

  get isEmpty(): boolean {
    return this.#top.length === 0;
  }

  /** The block with the highest offset; the list is not empty. */
  get highest(): number {
    return this.#top[this.#top.length - 1]!;
  }

  /** All members, highest offset first: a copy. */
  descending(): number[] {
    return this.#runs.flat().reverse();
  }

  /** `chunks[node >> shift]` is the first chunk of a node. */
  insert(node: number, chunks: Float64Array, shift: number): void {
    const chunk = chunks[node >> shift]!;
    let run = this.#top;
    if (this.#runs.length > 1 && chunks[run[0]! >> shift]! > chunk) run = this.#runs[this.#find(chunk, chunks, shift)]!;
    let i = run.length;
    run.push(node);
    for (; i > 0; i--) {
      const other = run[i - 1]!;
      if (chunks[other >> shift]! < chunk) break;
      run[i] = other;
    }
    run[i] = node;
    if (run.length > MAX_RUN) this.#cut(run);
  }

  /** `node` is a member. */
  remove(node: number, chunks: Float64Array, shift: number): void {
    let run = this.#top;
    if (run[run.length - 1] === node) {
      run.pop();
    } else {
      if (this.#runs.length > 1) run = this.#runs[this.#find(chunks[node >> shift]!, chunks, shift)]!;
      const last = run.length - 1;
      for (let i = run.indexOf(node); i < last; i++) run[i] = run[i + 1]!;
      run.pop();
    }
    if (run.length === 0 && this.#runs.length > 1) {
      this.#runs.splice(this.#runs.indexOf(run), 1);
      this.#top = this.#runs[this.#runs.length - 1]!;
    }
  }

  /** Index of the last run that begins at or below `chunk`, or of the first. */
  #find(chunk: number, chunks: Float64Array, shift: number): number {
    let low = 0;
    let high = this.#runs.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (chunks[this.#runs[middle]![0]! >> shift]! <= chunk) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  #cut(run: number[]): void {
    const at = run === this.#top ? this.#runs.length - 1 : this.#runs.indexOf(run);
    this.#runs.splice(at + 1, 0, run.splice(MAX_RUN / 2));
    this.#top = this.#runs[this.#runs.length - 1]!;
  }
}

/** Words per run: source bank, source page, destination bank, destination page, pages. */
export const BANK_RUN_WORDS = 5;
/** Stands for a bank where a side of a run is host memory, or where a fill has no source. */
export const NO_BANK = 0xffffffff;

/**
 * Runs of pages as the ways of copying take them: each side lies in one buffer (bank) or in host memory. Pages count from
 * the start of the buffer, or of host memory. Runs of one list do not depend on each other.
 */
export class BankRuns {
  words = new Uint32Array(16 * BANK_RUN_WORDS);
  count = 0;
  /** Pages in all runs. */
  pages = 0;

  clear(): void {
    this.count = 0;
    this.pages = 0;
  }

  push(sourceBank: number, sourcePage: number, bank: number, page: number, pages: number): void {
    const at = this.count * BANK_RUN_WORDS;
    if (at === this.words.length) {
      const grown = new Uint32Array(this.words.length * 2);
      grown.set(this.words);
      this.words = grown;
    }
    const { words } = this;
    words[at] = sourceBank;
    words[at + 1] = sourcePage;
    words[at + 2] = bank;
    words[at + 3] = page;
    words[at + 4] = pages;
    this.count += 1;
    this.pages += pages;
  }

  /** The same runs in lists of at most `pages` each, in order. */
  split(pages: number): BankRuns[] {
    const lists: BankRuns[] = [];
    let list = new BankRuns();
    const { words } = this;
    for (let at = 0; at < this.count * BANK_RUN_WORDS; at += BANK_RUN_WORDS) {
      const total = words[at + 4]!;
      for (let done = 0; done < total;) {
        if (list.pages === pages) {
          lists.push(list);
          list = new BankRuns();
        }
        const n = Math.min(total - done, pages - list.pages);
        list.push(words[at]!, words[at + 1]! + done, words[at + 2]!, words[at + 3]! + done, n);
        done += n;
      }
    }
    if (list.count > 0) lists.push(list);
    return lists;
  }
}

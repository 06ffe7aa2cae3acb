import { type Change, Uncertain } from "./uncertain.ts";

/** Words of a page that operations store to, each on its own. */
export const WORDS = 4;
/** Stands for all the others, which only change together. */
export const REST = WORDS;

/** What a process may do with a page. */
export type Access = "RW" | "R" | "NONE" | "HOLE";

interface Page {
  readonly words: readonly Uncertain<number>[];
  readonly access: Uncertain<Access>;
  away: boolean;
  /** An operation that changes the mapping is under way. */
  changing: boolean;
}

/** The memory of one process, flat: what each word may be, and what may be done with each page. */
export class Oracle {
  readonly #pages: Page[];

  constructor(pages: number) {
    this.#pages = Array.from({ length: pages }, () => ({
      words: Array.from({ length: WORDS + 1 }, () => new Uncertain<number>(0)),
      access: new Uncertain<Access>("RW"),
      away: false,
      changing: false,
    }));
  }

  get pages(): number {
    return this.#pages.length;
  }

  word(page: number, word: number): Uncertain<number> {
    return this.#pages[page]!.words[word]!;
  }
  access(page: number): Uncertain<Access> {
    return this.#pages[page]!.access;
  }
  isAway(page: number): boolean {
    return this.#pages[page]!.away;
  }

  /** All words of `[page, page + pages)` become `value`. */
  beginFill(page: number, pages: number, value: number): Fill {
    const changes: { readonly word: Uncertain<number>; readonly change: Change<number> }[] = [];
    for (const { words } of this.#pages.slice(page, page + pages)) {
      for (const word of words) changes.push({ word, change: word.begin(value) });
    }
    return new Fill(changes);
  }

  /** Takes the pages for a change of their mapping; false when one is taken already. */
  takeMapping(page: number, pages: number): boolean {
    const taken = this.#pages.slice(page, page + pages);
    if (taken.some(({ changing }) => changing)) return false;
    for (const each of taken) each.changing = true;
    return true;
  }

  giveMapping(page: number, pages: number): void {
    for (const each of this.#pages.slice(page, page + pages)) each.changing = false;
  }

  move(page: number, pages: number): void {
    for (const each of this.#pages.slice(page, page + pages)) each.away = !each.away;
  }

  /** The oracle of a child that is made between the call and that of the result. */
  beginFork(): () => Oracle {
    const seen = this.#pages.map(({ words, access }) => ({
      words: words.map((word) => word.observe()),
      access: access.observe(),
    }));
    return () => {
      const child = new Oracle(0);
      this.#pages.forEach((page, i) => {
        const { words, access } = seen[i]!;
        words.forEach((possible, k) => page.words[k]!.unobserve(possible));
        page.access.unobserve(access);
        child.#pages.push({
          words: words.map((possible) => new Uncertain(...possible)),
          access: new Uncertain(...access),
          away: page.away,
          changing: false,
        });
      });
      return child;
    };
  }
}

/** The change of all words of some pages. */
export class Fill {
  readonly #changes: readonly { readonly word: Uncertain<number>; readonly change: Change<number> }[];

  constructor(changes: readonly { readonly word: Uncertain<number>; readonly change: Change<number> }[]) {
    this.#changes = changes;
  }

  end(isSure: boolean): void {
    for (const { word, change } of this.#changes) {
      if (isSure) word.end(change);
      else word.endUnsure(change);
    }
  }
}

import { type AreaKinds, type Memory, contentOf, isShared, memoryOf } from "./memory.ts";
import { type Change, Uncertain } from "./uncertain.ts";

/** Words of a page that operations store to, each on its own. */
export const WORDS = 4;
/** Stands for all the others, which only change together. */
export const REST = WORDS;

/** What a process may do with a page. */
export type Access = "RW" | "R" | "NONE" | "HOLE";

interface Page {
  /** Of shared memory the same in every process. */
  readonly words: readonly Uncertain<number>[];
  readonly access: Uncertain<Access>;
  /** It lies beyond the end of the file: an access is a bus error. The same in every process. */
  readonly beyond: Uncertain<boolean>;
  away: boolean;
  /** An operation that changes the mapping is under way. */
  changing: boolean;
  /** Pages that were mapped by different calls are of different files, where each call makes one. */
  mappedBy: number;
}

/** The area is mapped by two calls where it has a tail, and each call makes a file of shared anonymous memory. */
function isSecondMap({ tail }: AreaKinds, page: number): boolean {
  return tail !== undefined && page >= tail.from && tail.memory === "shared";
}

/** The memory of one process, flat: what each word may be, and what may be done with each page. */
export class Oracle {
  readonly #kinds: AreaKinds;
  readonly #pages: Page[];
  /** Calls that have mapped shared anonymous memory, those included that made the area. */
  #maps = 1;

  constructor(pages: number, kinds: AreaKinds) {
    this.#kinds = kinds;
    this.#pages = Array.from({ length: pages }, (_, page) => ({
      words: Array.from({ length: WORDS + 1 }, (_, word) => new Uncertain<number>(this.#contentOf(page, word))),
      access: new Uncertain<Access>("RW"),
      beyond: new Uncertain(false),
      away: false,
      changing: false,
      mappedBy: isSecondMap(kinds, page) ? 1 : 0,
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
  beyond(page: number): Uncertain<boolean> {
    return this.#pages[page]!.beyond;
  }
  isAway(page: number): boolean {
    return this.#pages[page]!.away;
  }

  /** True when one call has mapped both pages, or it does not matter. */
  areOfOneFile(a: number, b: number): boolean {
    return this.#pages[a]!.mappedBy === this.#pages[b]!.mappedBy;
  }

  /** What may be done with the page from now on gathers in the result. */
  watch(page: number): Watch {
    return new Watch(this.access(page), this.beyond(page));
  }

  /** All words of `[page, page + pages)`, or those from `from` on of each, become `value`. */
  beginFill(page: number, pages: number, value: number, from = 0): Fill {
    return this.#begin(page, pages, () => value, from);
  }

  memoryOf(page: number): Memory {
    return memoryOf(this.#kinds, page);
  }

  #contentOf(page: number, word: number): number {
    return contentOf(this.memoryOf(page), page, word);
  }

  /** What the process has of its own is dropped: zeros, or what is in the file. Shared pages keep their content. All of one kind. */
  beginDiscard(page: number, pages: number): Fill {
    if (isShared(this.memoryOf(page))) return new Fill([]);
    return this.#begin(page, pages, (at, word) => this.#contentOf(at, word));
  }

  /** Memory of their one kind takes the pages' place. A shared file is itself again. */
  beginRemap(page: number, pages: number): Fill {
    if (this.memoryOf(page) !== "shared") return this.beginDiscard(page, pages);
    this.#maps += 1;
    for (const each of this.#pages.slice(page, page + pages)) each.mappedBy = this.#maps;
    return this.beginFill(page, pages, 0);
  }

  #begin(page: number, pages: number, valueOf: (page: number, word: number) => number, from = 0): Fill {
    const changes: { readonly word: Uncertain<number>; readonly change: Change<number> }[] = [];
    this.#pages.slice(page, page + pages).forEach(({ words }, i) => {
      for (let k = from; k < words.length; k++) {
        const word = words[k]!;
        changes.push({ word, change: word.begin(valueOf(page + i, k)) });
      }
    });
    return new Fill(changes);
  }

  /** The file ends with `pages` pages: those behind it lose their content, and cannot be accessed. */
  beginResize(pages: number): () => void {
    const ends = this.#pages.map(({ beyond }, i) => {
      const change = beyond.begin(i >= pages);
      return () => beyond.end(change);
    });
    const zeros = this.beginFill(pages, this.pages, 0);
    return () => {
      zeros.end(true);
      for (const end of ends) end();
    };
  }

  /** The file has at least `pages` pages. */
  beginGrow(pages: number): () => void {
    const ends = this.#pages.slice(0, pages).map(({ beyond }) => {
      const change = beyond.begin(false);
      return () => beyond.end(change);
    });
    return () => {
      for (const end of ends) end();
    };
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
      const child = new Oracle(0, this.#kinds);
      this.#pages.forEach((page, i) => {
        const { words, access } = seen[i]!;
        words.forEach((possible, k) => page.words[k]!.unobserve(possible));
        page.access.unobserve(access);
        child.#pages.push({
          words: isShared(this.memoryOf(i)) ? page.words : words.map((possible) => new Uncertain(...possible)),
          access: new Uncertain(...access),
          beyond: page.beyond,
          away: page.away,
          changing: false,
          mappedBy: page.mappedBy,
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

/** What an operation on a page may have met, from its making until `end`. */
export class Watch {
  readonly access: ReadonlySet<Access>;
  readonly #beyond: ReadonlySet<boolean>;
  readonly #end: () => void;

  constructor(access: Uncertain<Access>, beyond: Uncertain<boolean>) {
    const seenAccess = access.observe();
    const seenBeyond = beyond.observe();
    this.access = seenAccess;
    this.#beyond = seenBeyond;
    this.#end = () => {
      access.unobserve(seenAccess);
      beyond.unobserve(seenBeyond);
    };
  }

  end(): void {
    this.#end();
  }

  /** It could have been allowed. */
  mayPass(isStore: boolean): boolean {
    const allowing = isStore ? MAY_WRITE : MAY_READ;
    return this.#beyond.has(false) && allowing.some((access) => this.access.has(access));
  }

  /** It could have been refused. */
  mayBeRefused(isStore: boolean): boolean {
    const allowing = isStore ? MAY_WRITE : MAY_READ;
    return [...this.access].some((access) => !allowing.includes(access));
  }

  /** There was nothing but the end of the file to meet. */
  get isBeyond(): boolean {
    return !this.#beyond.has(false);
  }

  /** It could have met the end of the file. */
  get mayBeBeyond(): boolean {
    return this.#beyond.has(true);
  }
}

const MAY_READ: readonly Access[] = ["RW", "R"];
const MAY_WRITE: readonly Access[] = ["RW"];

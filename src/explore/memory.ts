/**
 * What the area of a program maps: anonymous memory or a file, private or shared.
 *
 *     private        zeros; a child has pages of its own
 *     shared         zeros; parent and child have the same pages
 *     private-file   what is in the file, until a store makes the page the process's own; nobody changes the file
 *     shared-file    the file's own pages, for parent and child, and for who reads and writes the file
 */
export const MEMORIES = ["private", "shared", "private-file", "shared-file"] as const;
export type Memory = (typeof MEMORIES)[number];

/** What the pages of a program's area map. */
export interface AreaKinds {
  /** Default: private anonymous memory. */
  readonly memory?: Memory;
  /** From page `from` on it is of another kind. */
  readonly tail?: { readonly from: number; readonly memory: Memory };
}

export function memoryOf({ memory = "private", tail }: AreaKinds, page: number): Memory {
  return tail !== undefined && page >= tail.from ? tail.memory : memory;
}

/** Parent and child see each other's stores. */
export function isShared(memory: Memory): boolean {
  return memory === "shared" || memory === "shared-file";
}

export function isFile(memory: Memory): boolean {
  return memory === "private-file" || memory === "shared-file";
}

/** One page in so many is a hole of the file, which has no frame and reads as zeros. */
const HOLE_EVERY = 4;
/** Above what operations store. */
const FIRST_WORD = 0xf0000000;
const WORDS_APART = 16;

/** What a word of a page is before anybody stores to it. */
export function contentOf(memory: Memory, page: number, word: number): number {
  if (!isFile(memory) || isHole(page)) return 0;
  return FIRST_WORD + page * WORDS_APART + word;
}

export function isHole(page: number): boolean {
  return page % HOLE_EVERY === HOLE_EVERY - 1;
}

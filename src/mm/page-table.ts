import type { Pfn, Va } from "../base/addr.ts";
import { SZ_2M } from "../base/addr.ts";

/**
 * Page tables of one mm: a directory of 2 MiB entries, each a table of 512 words.
 *
 *     word   31 ...... 6 | 5        | 4         | 3     | 2 0
 *            frame       | NOACCESS | EXCLUSIVE | WRITE | kind
 *            swap slot
 *
 * Huge entries. A directory entry that maps a 2 MiB folio keeps its table, as the kernel does (`pgtable_trans_huge_deposit`),
 * and the table holds the 512 words that the entry stands for: the head's word, the next frame's, and so on. So whoever
 * only reads a word need not know that the entry is huge, and splitting it means forgetting that it is. Whoever changes
 * single words splits first (huge.ts); whoever changes all 512 alike need not.
 */
export const PTE_KIND = 7;
export const PTE_NONE = 0;
export const PTE_PRESENT = 1;
/** The page is being migrated; an access waits until it is unlocked. */
export const PTE_MIGRATION = 2;
export const PTE_DEVICE_PRIVATE = 3;
/** The content lies in a swap slot, whose number stands in the frame's place. */
export const PTE_SWAP = 4;
/** A system page that one device alone may use for a while; counts as a mapping. @kernel SWP_DEVICE_EXCLUSIVE */
export const PTE_DEVICE_EXCLUSIVE = 5;
/** Present: writable. Migration, device-private: will be writable when it is present again. */
export const PTE_WRITE = 1 << 3;
/** Migration entries: the page was exclusive, which is to be restored. @kernel SWP_MIGRATION_READ_EXCLUSIVE */
export const PTE_EXCLUSIVE = 1 << 4;
/** The VMA is PROT_NONE: counts as absent for the CPU and for HMM. @kernel pte_protnone */
export const PTE_NOACCESS = 1 << 5;
export const PTE_SHIFT = 6;

export const PTES = 512;
/** Frame numbers must leave six bits of a word. */
export const MAX_PFN = 2 ** 26;

/** Table that contains the page, by virtual page number. */
export function tableIndex(vpn: number): number {
  return Math.floor(vpn / PTES);
}

export class PageTables {
  readonly #directory = new Map<number, Uint32Array>();
  /** The 2 MiB numbers whose table stands for one huge entry. */
  readonly #huge = new Set<number>();
  // The table of the last look-up: accesses and walks stay in one table for 512 pages.
  #lastIndex = -1;
  #last: Uint32Array | null = null;

  /** The table that covers `addr`, or null. The word is at `pteIndex(addr)`. */
  find(addr: Va): Uint32Array | null {
    return this.at(Math.floor(addr / SZ_2M));
  }

  /** The table of 2 MiB number `index`, or null. */
  at(index: number): Uint32Array | null {
    if (index === this.#lastIndex) return this.#last;
    this.#lastIndex = index;
    this.#last = this.#directory.get(index) ?? null;
    return this.#last;
  }

  /** As `find`, making the table. @kernel pte_alloc */
  make(addr: Va): Uint32Array {
    const found = this.find(addr);
    if (found !== null) return found;
    const table = new Uint32Array(PTES);
    this.#directory.set(this.#lastIndex, table);
    this.#last = table;
    return table;
  }

  /** The word of one page; 0 where there is no table. */
  read(vpn: number): number {
    const index = tableIndex(vpn);
    const table = this.at(index);
    return table === null ? PTE_NONE : table[vpn - index * PTES]!;
  }

  /** Replaces the word of a page whose table exists. */
  write(vpn: number, word: number): void {
    const index = tableIndex(vpn);
    this.at(index)![vpn - index * PTES] = word;
  }

  /** The word of the head of huge entry `index`; 0 where the entry is not huge. @kernel pmd_trans_huge, pmdp_get */
  pmd(index: number): number {
    return this.#huge.has(index) ? this.#directory.get(index)![0]! : PTE_NONE;
  }

  isHuge(index: number): boolean {
    return this.#huge.size > 0 && this.#huge.has(index);
  }

  /** Makes entry `index` huge; `word` is the head's. What was there has been dropped. @kernel set_pmd_at */
  setPmd(index: number, word: number): void {
    const table = this.make(index * SZ_2M);
    for (let i = 0; i < PTES; i++) table[i] = word + i * (1 << PTE_SHIFT);
    this.#huge.add(index);
  }

  /** Makes entry `index` none; the caller has read it and drops what it stood for. @kernel pmdp_huge_get_and_clear */
  clearPmd(index: number): void {
    this.at(index)?.fill(PTE_NONE);
    this.#huge.delete(index);
  }

  /** Entry `index` becomes a table of 512 entries that map what it mapped. @kernel __split_huge_pmd_locked */
  splitPmd(index: number): void {
    this.#huge.delete(index);
  }

  /** The 512 words of table `index`, which one huge entry could stand for, become one. */
  joinPmd(index: number): void {
    this.#huge.add(index);
  }

  get hugeCount(): number {
    return this.#huge.size;
  }

  /** Frees the tables that lie wholly in `[floor, ceiling)` bytes. Their entries are none. @kernel free_pgtables */
  freeTables(floor: Va, ceiling: Va): void {
    const first = Math.ceil(floor / SZ_2M);
    const end = Math.floor(ceiling / SZ_2M);
    if (end - first > this.#directory.size) {
      for (const index of this.#directory.keys()) if (index >= first && index < end) this.#freeTable(index);
    } else {
      for (let index = first; index < end; index++) this.#freeTable(index);
    }
    this.#lastIndex = -1;
  }

  #freeTable(index: number): void {
    this.#directory.delete(index);
    this.#huge.delete(index);
  }

  get tableCount(): number {
    return this.#directory.size;
  }

  /** Every table with its 2 MiB number, in no order. For checks and displays. */
  entries(): IterableIterator<[number, Uint32Array]> {
    return this.#directory.entries();
  }
}

/** Position of the page of `addr` in its table. */
export function pteIndex(addr: Va): number {
  return (addr - Math.floor(addr / SZ_2M) * SZ_2M) >>> 12;
}

/** The entry counts as a mapping of its frame and holds a reference. */
export function isMapping(word: number): boolean {
  const kind = word & PTE_KIND;
  return kind === PTE_PRESENT || kind === PTE_DEVICE_PRIVATE || kind === PTE_DEVICE_EXCLUSIVE;
}

export function ptePfn(word: number): Pfn {
  return word >>> PTE_SHIFT;
}

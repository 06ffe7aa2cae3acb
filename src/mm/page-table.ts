import type { Pfn, Va } from "../base/addr.ts";
import { SZ_2M } from "../base/addr.ts";

/**
 * Page tables of one mm: a directory of 2 MiB entries, each a table of 512 words.
 *
 *     word   31 ...... 6 | 5        | 4         | 3     | 2 0
 *            frame       | NOACCESS | EXCLUSIVE | WRITE | kind
 *
 * A directory entry is a table. A huge page would be a second kind of directory entry: `find` and `make` are the only
 * places that read one.
 */
export const PTE_KIND = 7;
export const PTE_NONE = 0;
export const PTE_PRESENT = 1;
/** The page is being migrated; an access waits until it is unlocked. */
export const PTE_MIGRATION = 2;
export const PTE_DEVICE_PRIVATE = 3;
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

  /** Frees the tables that lie wholly in `[floor, ceiling)` bytes. Their entries are none. @kernel free_pgtables */
  freeTables(floor: Va, ceiling: Va): void {
    const first = Math.ceil(floor / SZ_2M);
    const end = Math.floor(ceiling / SZ_2M);
    if (end - first > this.#directory.size) {
      for (const index of this.#directory.keys()) if (index >= first && index < end) this.#directory.delete(index);
    } else {
      for (let index = first; index < end; index++) this.#directory.delete(index);
    }
    this.#lastIndex = -1;
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

export function ptePfn(word: number): Pfn {
  return word >>> PTE_SHIFT;
}

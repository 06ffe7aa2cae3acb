import { MIGRATE_PFN_COMPOUND } from "../mm/types.ts";

/** Of a 2 MiB folio: 512 pages. @kernel HPAGE_PMD_ORDER */
export const HPAGE_PMD_ORDER = 9;

/** Its pages. @kernel HPAGE_PMD_NR */
const HPAGE_PMD_NR = 512;

/** Pages of a mapping or folio of `order`. @kernel NR_PAGES */
export function nrPages(order: number): number {
  return 2 ** order;
}

/** Pages that a migrate word stands for: those of a whole folio where it is the head of one, whose other words are 0. */
export function pagesOfWord(word: number): number {
  return (word & MIGRATE_PFN_COMPOUND) === 0 ? 1 : HPAGE_PMD_NR;
}

/** Whether the frames from slot `at` can be one folio: 512 in a row, the first a multiple of 512. */
export function canBeFolio(pfns: Uint32Array, at: number): boolean {
  const count = HPAGE_PMD_NR;
  const first = pfns[at];
  if (at + count > pfns.length || first % count !== 0) return false;
  for (let k = 1; k < count; k++) if (pfns[at + k] !== first + k) return false;
  return true;
}

/**
 * Huge pages: 2 MiB of an address space in one directory entry.
 *
 * Overview. Two kinds of area have them. In anonymous memory they are transparent: a first write to an empty, aligned
 * 2 MiB gets a large folio where the policy of the machine and the advice of the area agree; a part that is changed by
 * itself splits the entry, and `collapseHuge` (collapse.ts) makes a huge page of small ones. An area of hugetlb has nothing else, and
 * they are never split.
 *
 * Splitting an entry changes nothing that the CPU sees, but a device may have mapped the 2 MiB as one, so it is announced
 * as CLEAR. The folio stays one; `splitFolio` (folio.ts) undoes that too.
 *
 * Difference: there is no huge zero page. A first read maps single zero pages, and the 2 MiB stays small until collapsed.
 */
import { SZ_2M, type Pfn, type Va } from "../base/addr.ts";
import { announce } from "./announce.ts";
import { mapNewAnonFolio, reuseIfSole } from "./anon.ts";
import { HPAGE_PAGES, PG_ANON_EXCLUSIVE } from "./frame-table.ts";
import type { Mm } from "./mm.ts";
import { PTE_NONE, PTE_WRITE, ptePfn } from "./page-table.ts";
import type { Steps } from "./steps.ts";
import { VM_FAULT_SIGBUS } from "./types.ts";
import type { Vma } from "./vma.ts";

/**
 * Splits huge entry `index` into 512 small ones; raises CLEAR over its 2 MiB. True when the entry is not huge now; false
 * for hugetlb. The mmap lock, or a lock on the page. @kernel split_huge_pmd
 */
export function* splitHuge(mm: Mm, index: number): Steps<boolean> {
  if (!mm.tables.isHuge(index)) return true;
  const start = index * SZ_2M;
  if (mm.vmas.lookup(start)?.hugetlb === true) return false;
  yield* announce(mm, start, start + SZ_2M);
  mm.tables.splitPmd(index);
  mm.notifiers.end();
  return true;
}

/** Splits the huge entries that `[start, end)` covers only in part. The same lock. @kernel vma_adjust_trans_huge */
export function* splitHugeRange(mm: Mm, start: Va, end: Va): Steps<void> {
  if (start % SZ_2M !== 0) yield* splitHuge(mm, Math.floor(start / SZ_2M));
  if (end % SZ_2M !== 0) yield* splitHuge(mm, Math.floor(end / SZ_2M));
}

/** Whether a first write to `[start, start + 2 MiB)` of the area gets a large folio. @kernel thp_vma_allowable_order */
function wantsHuge(mm: Mm, vma: Vma, start: Va): boolean {
  if (!vma.anonymous || vma.thp === "never" || start < vma.start || start + SZ_2M > vma.end) return false;
  const policy = mm.phys.hugePages;
  return policy === "always" || (policy === "madvise" && vma.thp === "always");
}

/**
 * Maps a large folio over the empty 2 MiB around `address`. False when it is not to be, or there is none: then the page
 * alone is served. Zeroed, unless the caller overwrites all of it before it awaits. @kernel do_huge_pmd_anonymous_page
 */
export function mapHugeAnon(mm: Mm, vma: Vma, address: Va, content: "zeroed" | "any"): boolean {
  const index = Math.floor(address / SZ_2M);
  if (!wantsHuge(mm, vma, index * SZ_2M) || !isEmpty(mm, index)) return false;
  const head = mm.phys.allocHuge();
  if (head < 0) return false;
  if (content === "zeroed") mm.phys.zeroPage(head, HPAGE_PAGES);
  mapNewAnonFolio(mm, vma, head, index);
  return true;
}

/** Every entry of the table is none. */
export function isEmpty(mm: Mm, index: number): boolean {
  const table = mm.tables.at(index);
  if (table === null) return true;
  for (const word of table) if (word !== PTE_NONE) return false;
  return true;
}

/** A write to huge entry `index`, which is read-only in a writable area. @kernel do_huge_pmd_wp_page, hugetlb_wp */
export function* wpHugePage(mm: Mm, vma: Vma, index: number): Steps<number> {
  const word = mm.tables.pmd(index);
  const head = ptePfn(word);
  if ((mm.phys.frames.flags[head]! & PG_ANON_EXCLUSIVE) !== 0 || reuseIfSole(mm.phys, head, HPAGE_PAGES)) {
    mm.tables.setPmd(index, word | PTE_WRITE);
    return 0;
  }
  if (vma.hugetlb) return yield* copyHugetlb(mm, vma, index, head);
  yield* splitHuge(mm, index);
  return 0;
}

/** A first access to 2 MiB of hugetlb. No large folio is a bus error, as it is without a reservation. @kernel hugetlb_no_page */
export function hugetlbFault(mm: Mm, vma: Vma, index: number): number {
  const head = mm.phys.allocHuge();
  if (head < 0) return VM_FAULT_SIGBUS;
  mm.phys.zeroPage(head, HPAGE_PAGES);
  mapNewAnonFolio(mm, vma, head, index);
  return 0;
}

function* copyHugetlb(mm: Mm, vma: Vma, index: number, old: Pfn): Steps<number> {
  const { phys } = mm;
  const head = phys.allocHuge();
  if (head < 0) return VM_FAULT_SIGBUS;
  const start = index * SZ_2M;
  yield* announce(mm, start, start + SZ_2M);
  if (ptePfn(mm.tables.pmd(index)) === old) {
    phys.copyPage(head, old, HPAGE_PAGES);
    dropHuge(mm, index);
    mapNewAnonFolio(mm, vma, head, index);
  } else {
    phys.putPages(head, HPAGE_PAGES);
  }
  mm.notifiers.end();
  return 0;
}

/** Clears present huge entry `index` and drops its pages. */
function dropHuge(mm: Mm, index: number): void {
  const { frames, rmap } = mm.phys;
  const head = ptePfn(mm.tables.pmd(index));
  mm.tables.clearPmd(index);
  for (let i = 0; i < HPAGE_PAGES; i++) {
    rmap.remove(head + i, mm.id, index * HPAGE_PAGES + i);
    frames.mapcount[head + i]! -= 1;
    mm.phys.putPage(head + i);
  }
}

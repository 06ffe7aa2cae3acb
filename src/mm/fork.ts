import { PAGE_SIZE, type Pfn, SZ_2M, type Va } from "../base/addr.ts";
import { EINVAL, ENOMEM, type Errno } from "../base/errno.ts";
import { mutated } from "../base/mutation.ts";
import { announce } from "./announce.ts";
import { mapNewAnonFolio, mapNewAnonPage } from "./anon.ts";
import { restoreExclusiveEntry } from "./exclusive-entry.ts";
import { HPAGE_PAGES, PG_ANON_EXCLUSIVE, PG_KIND, PG_ZERO } from "./frame-table.ts";
import { splitHuge } from "./huge.ts";
import type { Mm } from "./mm.ts";
import {
  PTE_DEVICE_EXCLUSIVE,
  PTE_DEVICE_PRIVATE,
  PTE_EXCLUSIVE,
  PTE_KIND,
  PTE_MIGRATION,
  PTE_NONE,
  PTE_PRESENT,
  PTE_SHIFT,
  PTE_SWAP,
  PTE_WRITE,
  pteIndex,
} from "./page-table.ts";
import { type Steps, wait } from "./steps.ts";
import { traced } from "./traced.ts";
import { MMU_NOTIFY_PROTECTION_PAGE } from "./types.ts";
import type { Vma } from "./vma.ts";

/**
 * A second address space with the same memory. Private pages, in RAM, in swap or on a device, become common to both and
 * read-only, announced as PROTECTION_PAGE in the parent for each private area; the first store of either makes a copy.
 * Shared areas are the same files, whose pages the child faults in itself. A pinned page is the parent's alone: the child
 * gets a copy now. Nothing is locked in the child, and nobody mirrors it.
 *
 * The child, -EINVAL when the mm is exiting, or -ENOMEM when RAM has no room for the copies; then the parent is as before.
 * Takes the mmap lock for write. @kernel dup_mmap
 */
export function* dupMm(mm: Mm, createMm: () => Mm): Steps<Mm | Errno> {
  yield* wait(mm.sched.point("mm:fork"));
  const guard = yield* wait(mm.mmapLock.write());
  if (mm.isExiting) {
    guard.release();
    return EINVAL;
  }
  const child = createMm();
  const call = { kind: "fork", start: 0, end: 0, detail: child.id } as const;
  const isCopied = yield* traced(mm, call, () => copyAreas(mm, child));
  guard.release();
  if (isCopied) return child;
  yield* wait(child.exit());
  return ENOMEM;
}

/**
 * A page of `[start, end)`, in RAM or on a device, is mapped without the right to write, as a fork leaves it: in an area that
 * may be written, the first store makes a copy, or takes the page over where nobody else is left.
 */
export function mustUnshare(mm: Mm, start: Va, end: Va): boolean {
  const { flags } = mm.phys.frames;
  for (let at = start; at < end;) {
    const next = Math.min(end, (Math.floor(at / SZ_2M) + 1) * SZ_2M);
    const table = mm.tables.find(at);
    const last = table === null ? 0 : pteIndex(at) + (next - at) / PAGE_SIZE;
    for (let i = pteIndex(at); i < last; i++) {
      const word = table![i]!;
      const kind = word & PTE_KIND;
      if ((word & PTE_WRITE) !== 0 || (kind !== PTE_PRESENT && kind !== PTE_DEVICE_PRIVATE)) continue;
      if ((flags[word >>> PTE_SHIFT]! & PG_KIND) !== PG_ZERO) return true;
    }
    at = next;
  }
  return false;
}

/** False when RAM is used up. */
function* copyAreas(mm: Mm, child: Mm): Steps<boolean> {
  for (const vma of mm.vmas.all()) {
    child.vmas.insert(vma.start, vma.end, { ...vma.traits, locked: false }, vma.offset);
    if (!vma.shared && !(yield* copyArea(mm, child, vma))) return false;
  }
  return true;
}

/** False when RAM is used up. @kernel copy_page_range */
function* copyArea(mm: Mm, child: Mm, vma: Vma): Steps<boolean> {
  yield* splitPinned(mm, vma);
  yield* announce(mm, vma.start, mutated("fork-unannounced") ? 0 : vma.end, MMU_NOTIFY_PROTECTION_PAGE);
  yield* wait(mm.sched.point("mm:fork:announced"));
  let isCopied = true;
  for (let at = vma.start; at < vma.end && isCopied;) {
    const next = Math.min(vma.end, (Math.floor(at / SZ_2M) + 1) * SZ_2M);
    isCopied = copyTable(mm, child, vma, at, next);
    at = next;
  }
  mm.notifiers.end();
  return isCopied;
}

/** A transparent huge page of which somebody holds a part is shared page by page. The write lock keeps new pins away. */
function* splitPinned(mm: Mm, vma: Vma): Steps<void> {
  for (let at = vma.start; at < vma.end && mm.tables.hugeCount > 0; at = (Math.floor(at / SZ_2M) + 1) * SZ_2M) {
    const index = Math.floor(at / SZ_2M);
    if (mm.tables.isHuge(index) && hasPinned(mm, index)) yield* splitHuge(mm, index);
  }
}

function hasPinned(mm: Mm, index: number): boolean {
  const head = mm.tables.pmd(index) >>> PTE_SHIFT;
  if ((mm.tables.pmd(index) & PTE_KIND) !== PTE_PRESENT) return false;
  for (let i = 0; i < HPAGE_PAGES; i++) if (mm.phys.isPinned(head + i)) return true;
  return false;
}

/** `[start, end)` lies in one table. */
function copyTable(mm: Mm, child: Mm, vma: Vma, start: Va, end: Va): boolean {
  const table = mm.tables.find(start);
  if (table === null) return true;
  const index = Math.floor(start / SZ_2M);
  const isHuge = mm.tables.isHuge(index);
  if (isHuge && hasPinned(mm, index)) return copyHugetlb(mm, child, vma, index);
  const copy = child.tables.make(start);
  const firstVpn = index * HPAGE_PAGES;
  const to = pteIndex(start) + (end - start) / PAGE_SIZE;
  for (let i = pteIndex(start); i < to; i++) {
    if (table[i] === PTE_NONE) continue;
    if ((table[i]! & PTE_KIND) === PTE_DEVICE_EXCLUSIVE) restoreExclusiveEntry(mm, firstVpn + i);
    const word = table[i]!;
    if (isForParentAlone(mm, word)) {
      const own = copyPinnedPage(mm, child, vma, word >>> PTE_SHIFT, firstVpn + i);
      if (own === PTE_NONE) return false;
      copy[i] = own;
    } else {
      table[i] = copy[i] = shareEntry(mm, child, word, firstVpn + i);
    }
  }
  if (isHuge) child.tables.joinPmd(index);
  return true;
}

/** @kernel folio_try_dup_anon_rmap_pte */
function isForParentAlone(mm: Mm, word: number): boolean {
  const pfn = word >>> PTE_SHIFT;
  if ((word & PTE_KIND) !== PTE_PRESENT || !mm.phys.isPinned(pfn)) return false;
  return (mm.phys.frames.flags[pfn]! & PG_ANON_EXCLUSIVE) !== 0;
}

/** One more mapping of what `word` stands for; the entry for both. @kernel copy_present_pte, copy_nonpresent_pte */
function shareEntry(mm: Mm, child: Mm, word: number, vpn: number): number {
  const { phys } = mm;
  const { flags, mapcount, refcount } = phys.frames;
  const pfn = word >>> PTE_SHIFT;
  const kind = word & PTE_KIND;
  if (kind === PTE_SWAP) {
    phys.swap.get(pfn);
    return word;
  }
  if (kind === PTE_MIGRATION) {
    // It holds no reference; the end of the migration finds both by the reverse map.
    phys.rmap.add(pfn, child.id, vpn);
    return word & ~(PTE_WRITE | PTE_EXCLUSIVE);
  }
  if ((flags[pfn]! & PG_KIND) === PG_ZERO) return word;
  flags[pfn]! &= ~PG_ANON_EXCLUSIVE;
  refcount[pfn]! += 1;
  mapcount[pfn]! += 1;
  phys.rmap.add(pfn, child.id, vpn);
  return word & ~PTE_WRITE;
}

/** The entry of a copy for the child, or none when RAM is used up. The announcement has brought the bytes home. @kernel copy_present_page */
function copyPinnedPage(mm: Mm, child: Mm, vma: Vma, pfn: Pfn, vpn: number): number {
  const own = mm.phys.allocPage();
  if (own < 0) return PTE_NONE;
  mm.phys.copyPage(own, pfn);
  return mapNewAnonPage(child, vma, own, vpn);
}

/** @kernel copy_hugetlb_page_range */
function copyHugetlb(mm: Mm, child: Mm, vma: Vma, index: number): boolean {
  const own = mm.phys.allocHuge();
  if (own < 0) return false;
  mm.phys.copyPage(own, mm.tables.pmd(index) >>> PTE_SHIFT, HPAGE_PAGES);
  mapNewAnonFolio(child, vma, own, index);
  return true;
}

import { PAGE_SIZE, type Va } from "../base/addr.ts";
import { announce } from "./announce.ts";
import type { MemFile } from "./file.ts";
import { PG_FILE } from "./frame-table.ts";
import type { Mm } from "./mm.ts";
import { PTE_DEVICE_EXCLUSIVE, PTE_KIND, PTE_NONE, PTE_PRESENT, PTE_SHIFT } from "./page-table.ts";
import { type Steps, wait } from "./steps.ts";
import type { Vma } from "./vma.ts";
import { dropEntry, forEachTable } from "./zap.ts";

/** Which entries go: all, or those of the page cache, which leaves private copies. @kernel even_cows */
export type Unmapping = "all" | "cached";

/**
 * Takes the pages `[start, end)` (bytes of the file, whole pages) out of every address space, each area announced as
 * CLEAR. Holds no mmap lock, so areas may come, go and move meanwhile; when it returns nothing of them is mapped.
 * @kernel unmap_mapping_range
 */
export function* unmapMapping(file: MemFile, start: number, end: number, which: Unmapping): Steps<void> {
  for (const vma of [...file.areas]) {
    if (file.areas.has(vma)) yield* unmapIn(vma, start, end, which);
  }
  // A fault or a move may have brought some back while the announcements were awaited.
  for (let vma = stillMapped(file, start, end, which); vma !== null; vma = stillMapped(file, start, end, which)) {
    yield* unmapIn(vma, start, end, which);
  }
}

function* unmapIn(vma: Vma, start: number, end: number, which: Unmapping): Steps<void> {
  const { mm } = vma;
  const file = vma.file!;
  const [from, to] = mappedPart(vma, start, end);
  if (from >= to) return;
  yield* announce(mm, from, to);
  yield* wait(mm.sched.point("mm:file:announced"));
  for (const now of mm.vmas.within(from, to)) {
    if (now.file !== file) continue;
    const [nowFrom, nowTo] = mappedPart(now, start, end);
    zapFilePages(mm, Math.max(from, nowFrom), Math.min(to, nowTo), which);
  }
  mm.notifiers.end();
}

/** Where the area maps `[start, end)` of its file; empty where it does not. */
function mappedPart(vma: Vma, start: number, end: number): [Va, Va] {
  const shift = vma.start - vma.offset;
  return [Math.max(vma.start, start + shift), Math.min(vma.end, end + shift)];
}

/** @kernel zap_page_range_single */
function zapFilePages(mm: Mm, start: Va, end: Va, which: Unmapping): void {
  forEachTable(mm, start, end, (table, from, to, vpn) => {
    for (let i = from; i < to; i++) {
      const word = table[i]!;
      if (!goes(mm, word, which)) continue;
      table[i] = PTE_NONE;
      dropEntry(mm, word, vpn + i - from);
    }
  });
}

function goes(mm: Mm, word: number, which: Unmapping): boolean {
  if (word === PTE_NONE) return false;
  if (which === "all") return true;
  const kind = word & PTE_KIND;
  if (kind !== PTE_PRESENT && kind !== PTE_DEVICE_EXCLUSIVE) return false;
  return (mm.phys.frames.flags[word >>> PTE_SHIFT]! & PG_FILE) !== 0;
}

/** An area with an entry that has to go. */
function stillMapped(file: MemFile, start: number, end: number, which: Unmapping): Vma | null {
  for (const vma of file.areas) {
    const [from, to] = mappedPart(vma, start, end);
    let found = false;
    for (let at = from; at < to && !found; at += PAGE_SIZE) {
      found = goes(vma.mm, vma.mm.tables.read(at / PAGE_SIZE), which);
    }
    if (found) return vma;
  }
  return null;
}

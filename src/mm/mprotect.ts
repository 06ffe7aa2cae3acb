import type { Va } from "../base/addr.ts";
import { EACCES, EINVAL, ENOMEM, type Errno } from "../base/errno.ts";
import { mutated } from "../base/mutation.ts";
import { announce } from "./announce.ts";
import { PG_ANON_EXCLUSIVE } from "./frame-table.ts";
import { splitHugeRange } from "./huge.ts";
import type { Mm } from "./mm.ts";
import {
  PTE_DEVICE_EXCLUSIVE,
  PTE_DEVICE_PRIVATE,
  PTE_EXCLUSIVE,
  PTE_KIND,
  PTE_MIGRATION,
  PTE_NOACCESS,
  PTE_NONE,
  PTE_PRESENT,
  PTE_WRITE,
  ptePfn,
} from "./page-table.ts";
import { type Steps, wait } from "./steps.ts";
import { traced } from "./traced.ts";
import { MMU_NOTIFY_PROTECTION_VMA } from "./types.ts";
import { endOf, isAddress, isLengthOrZero } from "./validate.ts";
import type { Prot, Vma } from "./vma.ts";
import { forEachTable } from "./zap.ts";

/**
 * Changes the protection; removing write takes it from the entries at once, adding it lets a later fault set it but for
 * pages that may be written as they are. 0, or, with nothing changed: -EINVAL, -ENOMEM for a hole, -EACCES where a shared
 * mapping of a file that must not be changed would become writable. Takes the mmap lock for write. @kernel mprotect
 */
export function* mprotect(mm: Mm, start: Va, length: number, prot: Prot): Steps<0 | Errno> {
  if (!isAddress(start) || !isLengthOrZero(length)) return EINVAL;
  if (length === 0) return 0;
  const end = endOf(start, length);
  if (end < 0) return ENOMEM;
  yield* wait(mm.sched.point("mm:mprotect"));
  const guard = yield* wait(mm.mmapLock.write());
  const error = check(mm, start, end, prot);
  const call = { kind: "mprotect", start, end, detail: prot === "NONE" ? 0 : prot === "R" ? 1 : 2 } as const;
  if (error === 0) yield* traced(mm, call, () => mprotectLocked(mm, start, end, prot));
  guard.release();
  return error;
}

/** Linux changes what lies before a hole and then fails; here nothing changes. */
function check(mm: Mm, start: Va, end: Va, prot: Prot): 0 | Errno {
  if (!mm.vmas.covers(start, end)) return ENOMEM;
  if (!mm.vmas.canCut(start, end)) return EINVAL;
  if (prot !== "RW") return 0;
  return mm.vmas.within(start, end).some((vma) => vma.shared && vma.file?.readOnly === true) ? EACCES : 0;
}

/** @kernel mprotect_fixup */
function* mprotectLocked(mm: Mm, start: Va, end: Va, prot: Prot): Steps<void> {
  for (const vma of mm.vmas.within(start, end)) {
    if (vma.prot === prot) continue;
    const from = Math.max(start, vma.start);
    const to = Math.min(end, vma.end);
    yield* splitHugeRange(mm, from, to);
    yield* announce(mm, from, mutated("mprotect-unannounced") ? 0 : to, MMU_NOTIFY_PROTECTION_VMA);
    yield* wait(mm.sched.point("mm:mprotect:announced"));
    mm.vmas.change(from, to, { prot });
    changeProtection(mm, mm.vmas.lookup(from)!, from, to);
    mm.notifiers.end();
  }
}

/** Makes the entries of `[start, end)` agree with their area. @kernel change_protection */
function changeProtection(mm: Mm, vma: Vma, start: Va, end: Va): void {
  const { flags } = mm.phys.frames;
  const { readable, writable, shared } = vma;
  forEachTable(mm, start, end, (table, from, to) => {
    for (let i = from; i < to; i++) {
      let word = table[i]!;
      if (word === PTE_NONE) continue;
      word &= ~PTE_NOACCESS;
      if (!readable) word |= PTE_NOACCESS;
      if (!writable) {
        word = withoutWrite(word);
      } else {
        const kind = word & PTE_KIND;
        const mapped = kind === PTE_PRESENT || kind === PTE_DEVICE_PRIVATE || kind === PTE_DEVICE_EXCLUSIVE;
        if (mapped && (shared || (flags[ptePfn(word)]! & PG_ANON_EXCLUSIVE) !== 0)) word |= PTE_WRITE;
      }
      table[i] = word;
    }
  });
}

/** The entry for reading only. What is not mapped remembers that its page was ours alone; for others the frame knows. */
export function withoutWrite(word: number): number {
  const wasExclusive = (word & PTE_KIND) === PTE_MIGRATION && (word & PTE_WRITE) !== 0;
  return (word & ~PTE_WRITE) | (wasExclusive ? PTE_EXCLUSIVE : 0);
}

import { announce } from "./announce.ts";
import type { Mm } from "./mm.ts";
import { PTE_KIND, PTE_PRESENT, PTE_WRITE } from "./page-table.ts";
import { type Steps, wait } from "./steps.ts";
import { MMU_NOTIFY_SOFT_DIRTY } from "./types.ts";

/**
 * Makes the next store to every page in RAM fault again, as a checkpointer does that wants to know what is written from
 * now on; announced as SOFT_DIRTY over everything. What may be written stays writable, so the fault only sets the bit.
 * Takes the mmap lock for write. @kernel clear_refs_write
 *
 * Difference: `PageView.writable` is all that there is to ask; no dirty bits are kept.
 */
export function* clearSoftDirty(mm: Mm): Steps<void> {
  yield* wait(mm.sched.point("mm:soft-dirty"));
  const guard = yield* wait(mm.mmapLock.write());
  yield* announce(mm, 0, Number.MAX_SAFE_INTEGER, MMU_NOTIFY_SOFT_DIRTY);
  yield* wait(mm.sched.point("mm:soft-dirty:announced"));
  for (const [, table] of mm.tables.entries()) {
    for (let i = 0; i < table.length; i++) {
      if ((table[i]! & PTE_KIND) === PTE_PRESENT) table[i]! &= ~PTE_WRITE;
    }
  }
  mm.notifiers.end();
  guard.release();
}

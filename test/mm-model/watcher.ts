import { IntervalTreeNode } from "../../src/base/interval-tree.ts";
import type { Mm } from "../../src/mm/mm.ts";
import { PTE_DEVICE_PRIVATE, PTE_KIND, PTE_NOACCESS, PTE_PRESENT, PTE_WRITE } from "../../src/mm/page-table.ts";
import { MMU_NOTIFY_RELEASE, type MmuIntervalNotifier, type MmuNotifierRange } from "../../src/mm/types.ts";
import { PAGE } from "./flat-model.ts";

/**
 * Watches that no entry that a device may have mapped changes unannounced, and none before its announcement has come
 * (invariant I3). Permission may be added, and what nobody can have mapped may be filled, without a word.
 */
export class EntryWatcher extends IntervalTreeNode implements MmuIntervalNotifier {
  invalidateSeq = 0;
  readonly #mm: Mm;
  /** The entries when the last step ended. */
  readonly #known: Uint32Array;
  /** Pages that have been announced since. */
  readonly #announced: Uint8Array;
  #wrong: string | null = null;

  constructor(mm: Mm, start: number, pages: number) {
    super(start, start + pages * PAGE - 1);
    this.#mm = mm;
    this.#known = new Uint32Array(pages);
    this.#announced = new Uint8Array(pages);
    this.#learn();
  }

  invalidate(range: MmuNotifierRange, curSeq: number): boolean {
    this.#mm.setSeq(this, curSeq);
    // RELEASE says that the end is near; what goes is announced when it goes.
    if (range.event === MMU_NOTIFY_RELEASE) return true;
    const first = Math.max(0, (range.start - this.start) / PAGE);
    const end = Math.min(this.#known.length, (range.end - this.start) / PAGE);
    for (let i = first; i < end; i++) {
      this.#check(i);
      this.#announced[i] = 1;
    }
    return true;
  }

  /** At the end of a step: what went wrong in it, or null. */
  endStep(): string | null {
    for (let i = 0; i < this.#known.length; i++) this.#check(i);
    this.#announced.fill(0);
    this.#learn();
    return this.#wrong;
  }

  #word(i: number): number {
    return this.#mm.tables.read(this.start / PAGE + i);
  }

  #check(i: number): void {
    const known = this.#known[i]!;
    if (this.#announced[i] !== 0 || !canBeMirrored(known)) return;
    const word = this.#word(i);
    if (word === known || word === (known | PTE_WRITE)) return;
    this.#wrong ??= `the entry of page ${i} went from ${known.toString(16)} to ${word.toString(16)} unannounced`;
  }

  #learn(): void {
    for (let i = 0; i < this.#known.length; i++) this.#known[i] = this.#word(i);
  }
}

/** A look-up for a device may have returned the page. */
function canBeMirrored(word: number): boolean {
  const kind = word & PTE_KIND;
  return kind === PTE_DEVICE_PRIVATE || (kind === PTE_PRESENT && (word & PTE_NOACCESS) === 0);
}

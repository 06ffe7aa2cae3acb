import type { Pa } from "../base/addr.ts";
import { isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { PTE_NULL, PTE_P, PTE_PS, PTE_W, encodeDirectory } from "../abi/pte.ts";
import type { Gpu } from "../hal/gpu.ts";
import { ENTRIES } from "./page-table-tree.ts";
import type { PtTable } from "./page-table-tree.ts";
import type { TableAllocator } from "./page-table-update.ts";

/** For an entry by itself, since a view of it takes longer than its write: who writes takes a copy at once. */
const ONE = new Uint32Array(2);

function oneEntry({ words }: PtTable, from: number): Uint32Array {
  ONE[0] = words[from]!;
  ONE[1] = words[from + 1]!;
  return ONE;
}

/** The lowest level whose entries cannot be leaves. */
const FIRST_DIRECTORY_LEVEL = 3;

/**
 * What of the mirror reaches the hardware: the entries as they are, or with scratch in the place of those that are absent
 * (spec/device.md 2.2).
 *
 * Scratch. An address space in which nothing faults: stray loads read zero, stray stores are dropped. Where nothing is
 * mapped the walker finds a NULL leaf as large as the entry, and above the levels of leaves a pointer to a table that is
 * full of such, one per level for the whole address space. The mirror knows nothing of it.
 */
export class PtSink {
  readonly #gpu: Gpu;
  /** By level of the entry: low and high word of what stands for an absent one; empty without scratch. */
  readonly #scratch: readonly Uint32Array[];
  readonly #tables: readonly Pa[];

  private constructor(gpu: Gpu, scratch: readonly Uint32Array[], tables: readonly Pa[]) {
    this.#gpu = gpu;
    this.#scratch = scratch;
    this.#tables = tables;
  }

  static plain(gpu: Gpu): PtSink {
    return new PtSink(gpu, [], []);
  }

  /** -ENOMEM: no page for a scratch table. @kernel xe_vm_create_scratch */
  static withScratch(gpu: Gpu, allocator: TableAllocator, levels: number): PtSink | Errno {
    const leaf = PTE_P | PTE_W | PTE_NULL;
    const entries: Uint32Array[] = [leaf, leaf | PTE_PS, leaf | PTE_PS].map((lo) => new Uint32Array([lo, 0]));
    const tables: Pa[] = [];
    for (let level = FIRST_DIRECTORY_LEVEL; level < levels; level++) {
      const table = allocator.alloc();
      if (isErr(table)) {
        for (const pa of tables) allocator.free(pa);
        return table;
      }
      tables.push(table);
      gpu.ptWrite(table, filledWith(entries[level - 1]!));
      entries.push(encodeDirectory(table));
    }
    return new PtSink(gpu, entries, tables);
  }

  /** What is absent translates all the same, and may be cached. @kernel xe_vm_has_scratch */
  get hasScratch(): boolean {
    return this.#scratch.length > 0;
  }
  /** Tables that belong to the sink. */
  get tableCount(): number {
    return this.#tables.length;
  }

  /** Queues the write of the words `[from, to)` of a table. */
  write(table: PtTable, from: number, to: number): void {
    const words = to - from === ONE.length ? oneEntry(table, from) : table.words.subarray(from, to);
    this.#gpu.ptWrite(table.pa + from * 4, this.hasScratch ? this.#withScratch(words, table.level) : words);
  }

  /** The address space must be unreachable for the GPU already. @kernel xe_vm_free_scratch */
  free(allocator: TableAllocator): void {
    for (const pa of this.#tables) allocator.free(pa);
  }

  #withScratch(words: Uint32Array, level: number): Uint32Array {
    const filled = words.slice();
    const entry = this.#scratch[level]!;
    for (let i = 0; i < filled.length; i += 2) if ((filled[i]! & PTE_P) === 0) filled.set(entry, i);
    return filled;
  }
}

function filledWith(entry: Uint32Array): Uint32Array {
  const words = new Uint32Array(ENTRIES * 2);
  for (let i = 0; i < words.length; i += 2) words.set(entry, i);
  return words;
}

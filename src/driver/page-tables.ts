import { PAGE_SIZE, SZ_1G, SZ_2M, SZ_64K, hexRange, hi32, isAligned, lo32 } from "../base/addr.ts";
import type { Pa, Va } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { PTE_P } from "../abi/pte.ts";
import type { Gpu } from "../hal/gpu.ts";
import { stageUnmap, stageZap } from "./page-table-clear.ts";
import type { PtPolicy } from "./page-table-edit.ts";
import { stageMap } from "./page-table-map.ts";
import { PageRuns, RunCursor } from "./page-table-runs.ts";
import { PtSink } from "./page-table-sink.ts";
import { stageSplit } from "./page-table-split.ts";
import { PtTable, SPAN, entriesIn, leavesIn, lookupIn } from "./page-table-tree.ts";
import type { PtEntries, PtLeaf, PtLookup } from "./page-table-tree.ts";
import { PtAftermath, PtUpdate, applyLeaves } from "./page-table-update.ts";
import type { TableAllocator } from "./page-table-update.ts";

/** The entry that `mapRuns` sets for one page. */
const PAGE_ENTRY = new Uint32Array(2);

export interface PageTableOptions {
  /** 4: 48-bit addresses; 5: 57 bits, of which numbers here reach 53. Default 4. */
  readonly levels?: 4 | 5;
  /** Tables of 32 entries where 64 KiB pages fill a whole 2 MiB. Default: yes, if 64 KiB leaves are allowed. */
  readonly compact?: boolean;
  /**
   * Nothing faults: what is not mapped reads as zero and drops stores. For ASIDs set up with ASID_SCRATCH. Default no.
   * @kernel DRM_XE_VM_CREATE_FLAG_SCRATCH_PAGE
   */
  readonly scratch?: boolean;
}

/**
 * GPU page tables of one address space (spec/device.md section 2).
 *
 * Overview. The tables live in the page-table aperture of VRAM and are write-only for the host; this class keeps the
 * mirror and queues every change through `Gpu.ptWrite`, whole entries at a time. Each method is one update, staged and
 * then committed: it is carried out as a whole or, where a table cannot be had, not at all.
 *
 * Leaves. The largest that the addresses allow, of those that the address space may use:
 *
 *     1 GiB   level 2    aligned VA and PA, one run of memory (NULL: an aligned VA)
 *     2 MiB   level 1    the same
 *     64 KiB  level 0    compact table, where such pages fill a 2 MiB, each with a place of its own; else the hint in 16
 *                        entries of an ordinary table, which change together
 *     4 KiB   level 0
 *
 * `map` splits what sticks out of its range. `zap` and `unmap` never fail, so they never split: a caller who cuts through
 * a leaf asks for `split` first, which may.
 *
 * Invalidation. An update says what the TLB must forget, and `flush` turns all of it into one request, or none: nothing
 * that was absent is cached, and a permission more is found by walking. Until then nobody else may use what the GPU lost.
 * Tables that left are freed behind that request, in queue order.
 *
 * Locking. Callers change entries of a range under the notifier lock of its gpusvm; nothing here waits.
 *
 * Example:
 *
 *     const ret = tables.map(start, npages, pas, flags);
 *     if (isErr(ret)) return ret;
 *     tables.flush((start, end) => gpu.tlbInvalidate(asid, start, end - 1));
 */
export class GpuPageTables {
  readonly levels: number;
  readonly #sink: PtSink;
  readonly #allocator: TableAllocator;
  readonly #policy: PtPolicy;
  readonly #root: PtTable;
  readonly #runs = new PageRuns();
  #after = new PtAftermath();
  /** Tables that hold a page of the aperture. */
  #tables: number;

  private constructor(sink: PtSink, allocator: TableAllocator, policy: PtPolicy, root: PtTable) {
    this.levels = root.level + 1;
    this.#tables = 1 + sink.tableCount;
    this.#sink = sink;
    this.#allocator = allocator;
    this.#policy = policy;
    this.#root = root;
  }

  /**
   * `leafSizes`: allowed leaf sizes, bytes, of 4 KiB, 64 KiB, 2 MiB and 1 GiB; 4 KiB is always allowed, 1 GiB wants 2 MiB
   * to be split into. -ENOMEM: no page for the root, or for scratch tables.
   */
  static create(
    gpu: Gpu,
    allocator: TableAllocator,
    leafSizes: readonly number[],
    options: PageTableOptions = {},
  ): GpuPageTables | Errno {
    const hint64K = leafSizes.includes(SZ_64K);
    const leaves = [true, leafSizes.includes(SZ_2M), leafSizes.includes(SZ_1G), false, false];
    assert(leaves[1] === true || leaves[2] === false, "1 GiB leaves want 2 MiB leaves to be split into");
    const levels = options.levels ?? 4;
    const sink = options.scratch === true ? PtSink.withScratch(gpu, allocator, levels) : PtSink.plain(gpu);
    if (isErr(sink)) return sink;
    const pa = allocator.alloc();
    if (isErr(pa)) {
      sink.free(allocator);
      return pa;
    }
    const root = new PtTable(pa, 0, levels - 1, false);
    root.isStaged = false;
    sink.write(root, 0, root.words.length);
    const compact = hint64K && options.compact !== false;
    return new GpuPageTables(sink, allocator, { leaves, hint64K, compact }, root);
  }

  get root(): Pa {
    return this.#root.pa;
  }
  /** Bytes of VRAM that the tables hold, those included that wait for `flush`. */
  get bytes(): number {
    return this.#tables * PAGE_SIZE;
  }
  /** First address behind the address space, as far as numbers reach. */
  get vaEnd(): Va {
    return Math.min(SPAN[this.#root.level]! * this.#root.entries, Number.MAX_SAFE_INTEGER + 1);
  }

  /**
   * Maps `npages` pages from `start`: page `i` to `pas[i]` with the leaf flags `flags[i]` (PTE bits W, AE, DM, NULL).
   * What was mapped there is replaced. -ENOMEM when the aperture is full, with nothing changed.
   */
  map(start: Va, npages: number, pas: Float64Array, flags: Uint32Array): 0 | Errno {
    this.#runs.clear();
    this.#runs.pushPages(npages, pas, flags);
    return this.mapRuns(start, this.#runs);
  }

  /** The same for pages given as runs. @kernel xe_pt_prepare_bind, xe_pt_commit_prepare_bind, xe_pt_abort_bind */
  mapRuns(start: Va, runs: PageRuns): 0 | Errno {
    if (runs.total === 1 && this.#mapPage(start, runs)) return 0;
    return this.#carryOut(this.stageRuns(start, runs));
  }

  /**
   * Maps a single page where all there is to do is to set its entry: its table stands, and no 64 KiB page is cut. False, with
   * nothing done, where there is more. A round of scattered faults has hundreds of these, and an update would be most of the work.
   */
  #mapPage(start: Va, runs: PageRuns): boolean {
    if (!isAligned(start, PAGE_SIZE) || start < 0 || start >= this.vaEnd || this.#sink.hasScratch) return false;
    let table = this.#root;
    while (table.level > 0) {
      const child = table.linked(table.indexOf(start));
      if (child === null) return false;
      table = child;
    }
    const index = table.indexOf(start);
    if (table.compact || table.isHinted(index)) return false;
    const pa = runs.pas[0]!;
    PAGE_ENTRY[0] = lo32(pa) | runs.flags[0]! | PTE_P;
    PAGE_ENTRY[1] = hi32(pa);
    applyLeaves(this.#sink, this.#after, { table, first: index, words: PAGE_ENTRY });
    return true;
  }

  /**
   * The same, staged only: for a caller who commits it, or aborts it, together with the updates of other tables. Until then
   * these are not updated otherwise.
   */
  stageRuns(start: Va, runs: PageRuns): PtUpdate | Errno {
    const end = start + runs.total * PAGE_SIZE;
    const update = this.#begin(start, end);
    if (start === end) return update;
    return staged(update, stageMap(update, this.#root, start, end, new RunCursor(runs, start), this.#policy));
  }

  /** Makes leaves end at `start` and at `end` where they do not. -ENOMEM when the aperture is full, with nothing changed. */
  split(start: Va, end: Va): 0 | Errno {
    return this.#carryOut(this.stageSplit(start, end));
  }

  /** The same, staged only. */
  stageSplit(start: Va, end: Va): PtUpdate | Errno {
    const update = this.#begin(start, end);
    return staged(update, stageSplit(update, this.#root, [start, end], this.#policy));
  }

  /** Carries out what was staged. */
  commit(update: PtUpdate): void {
    this.#tables += update.taken;
    update.commit(this.#sink, this.#after);
  }

  /**
   * Maps what `[start, end)` maps with the largest leaves that it allows now; undoes `split`, and joins what was mapped in
   * pieces. -ENOMEM: no page for a compact table, with nothing changed.
   */
  collapse(start: Va, end: Va): 0 | Errno {
    const update = this.#begin(start, end);
    const runs = this.#runs;
    runs.clear();
    let from = start;
    let to = start;
    for (const leaf of leavesIn(this.#root, start, end)) {
      if (leaf.va !== to) {
        const ret = this.#stageRuns(update, from, to);
        if (ret !== 0) return this.#finish(update, ret);
        from = leaf.va;
      }
      runs.push(leaf.size / PAGE_SIZE, leaf.pa, leaf.flags);
      to = leaf.va + leaf.size;
    }
    return this.#finish(update, this.#stageRuns(update, from, to));
  }

  /**
   * Takes the entries of `[start, end)` away; tables stay. `reason` (REASON_*): why, for the fault record. No leaf may
   * stick out. Returns the number of leaf entries that were present.
   */
  zap(start: Va, end: Va, reason: number): number {
    const update = this.#begin(start, end);
    const zapped = stageZap(update, this.#root, start, end, reason);
    this.#finish(update, 0);
    return zapped;
  }

  /** The same for good: tables that hold nothing any more leave. @kernel xe_pt_prepare_unbind, xe_pt_commit */
  unmap(start: Va, end: Va): number {
    const update = this.#begin(start, end);
    const unmapped = stageUnmap(update, this.#root, start, end);
    this.#finish(update, 0);
    return unmapped;
  }

  /** Updates since the last flush have left something for it to do. */
  get isStale(): boolean {
    const { start, end, detached } = this.#after;
    return start < end || detached.length > 0;
  }

  /**
   * Has `invalidate` queue one TLB invalidation of all that the updates since the last flush took or changed, if they did,
   * and then frees the tables that left.
   */
  flush(invalidate: (start: Va, end: Va) => void): void {
    if (!this.isStale) return;
    const { start, end, detached } = this.#after;
    this.#after = new PtAftermath();
    if (start < end) invalidate(start, end);
    for (const table of detached) this.#freeTree(table);
  }

  /** What the tables say of an address, as the walker would find it. */
  lookup(va: Va): PtLookup {
    return lookupIn(this.#root, va);
  }

  /** The leaves that touch `[lo, hi)`, in order of address; the 16 entries of a 64 KiB page are one leaf. */
  forEachLeaf(lo: Va, hi: Va): Generator<PtLeaf> {
    return leavesIn(this.#root, lo, hi);
  }

  /** The present entries that a walk of `[lo, hi)` may read, as they are in memory. */
  entriesIn(lo: Va, hi: Va): Generator<PtEntries> {
    return entriesIn(this.#root, lo, hi);
  }

  /** Frees all tables. The address space must be unreachable for the GPU already. */
  destroy(): void {
    for (const table of this.#after.detached) this.#freeTree(table);
    this.#after = new PtAftermath();
    this.#freeTree(this.#root);
    this.#sink.free(this.#allocator);
  }

  #begin(start: Va, end: Va): PtUpdate {
    const whole = isAligned(start, PAGE_SIZE) && isAligned(end, PAGE_SIZE) && start <= end;
    assert(whole && start >= 0 && end <= this.vaEnd, () => `page tables: bad range ${hexRange(start, end)}`);
    return new PtUpdate(this.#allocator, start, end);
  }

  #finish(update: PtUpdate, ret: 0 | Errno): 0 | Errno {
    return this.#carryOut(staged(update, ret));
  }

  #carryOut(update: PtUpdate | Errno): 0 | Errno {
    if (isErr(update)) return update;
    this.commit(update);
    return 0;
  }

  /** Stages the collected runs, which map `[from, to)`, and begins anew. */
  #stageRuns(update: PtUpdate, from: Va, to: Va): 0 | Errno {
    if (from === to) return 0;
    const ret = stageMap(update, this.#root, from, to, new RunCursor(this.#runs, from), this.#policy);
    this.#runs.clear();
    return ret;
  }

  #freeTree(table: PtTable): void {
    for (const child of table.children) if (child !== null) this.#freeTree(child);
    this.#tables -= 1;
    this.#allocator.free(table.pa);
  }
}

/** The update, or why it could not be staged; then it is forgotten. */
function staged(update: PtUpdate, ret: 0 | Errno): PtUpdate | Errno {
  if (ret === 0) return update;
  update.abort();
  return ret;
}

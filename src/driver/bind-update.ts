import { assert } from "../base/assert.ts";
import { EIO } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import { type Steps, run, wait } from "../base/steps.ts";
import type { BindStep } from "../gpuvm/bind-step.ts";
import type { GpuVa } from "../gpuvm/gpuva.ts";
import type { BindUpdate } from "../gpuvm/vm-bind.ts";
import { entriesOf, forgetEntries, writeEntries } from "./bind-entries.ts";
import { BindVa } from "./bind-va.ts";
import type { PageRuns } from "./page-table-runs.ts";
import type { GpuPageTables } from "./page-tables.ts";
import { TableDemand } from "./table-reserve.ts";
import type { SvmVm } from "./vm.ts";

interface Unbind {
  readonly start: number;
  readonly end: number;
  readonly old: BindVa;
  /** Pieces of it whose entries stay. */
  readonly kept: readonly BindVa[];
}

/**
 * The page-table work of one bind call. Nothing is written until all of it is known and the tables that it can want are
 * set aside, so it is carried out as a whole, with one invalidation behind it, or leaves no trace.
 *
 * Locking. The VM's lock for write, and the reservations of all objects; `submit` takes the notifier lock for read, so that
 * memory of the process is as it was looked up, or is left to a fault.
 * @kernel xe_vma_ops, xe_pt_update_ops_prepare, xe_pt_update_ops_run, xe_pt_update_ops_abort
 */
export class TableUpdate implements BindUpdate {
  readonly #vm: SvmVm;
  readonly #work: (BindVa | Unbind)[] = [];
  readonly #mirrors: BindVa[] = [];
  submitted = false;

  constructor(vm: SvmVm) {
    this.#vm = vm;
  }

  /** A mirror has no entries of its own. */
  bind(va: GpuVa): 0 {
    (asBindVa(va).isMirror ? this.#mirrors : this.#work).push(asBindVa(va));
    return 0;
  }

  unbind(start: number, range: number, step: BindStep): 0 {
    const kept = [step.skipPrev ? step.prev : null, step.skipNext ? step.next : null];
    this.#work.push({
      start,
      end: start + range,
      old: asBindVa(step.old!),
      kept: kept.filter((va) => va !== null).map((va) => asBindVa(va)),
    });
    return 0;
  }

  /** -ENOMEM: no room for page tables. -EIO: the device is lost. Nothing has been written then. */
  submit(): MaybePromise<0 | Errno> {
    return run(this.#submit());
  }

  *#submit(): Steps<0 | Errno> {
    const vm = this.#vm;
    if (vm.device.gpu.isLost) return EIO;
    const held = yield* wait(vm.gpusvm.notifierLock.read());
    try {
      const entries = this.#work.map((work) => (work instanceof BindVa ? entriesOf(work) : null));
      const reserved = vm.reserve.reserve((tables) => this.#tablesFor(tables, entries));
      if (reserved !== 0) return reserved;
      this.submitted = true;
      for (const work of this.#work) if (work instanceof BindVa) vm.holes.clear(work.addr, work.end);
      for (const { addr, end } of this.#mirrors) vm.holes.clear(addr, end);
      this.#work.forEach((work, i) => {
        if (work instanceof BindVa) this.#bind(work, entries[i]!);
        else this.#unbind(work);
      });
      vm.flushTables();
      vm.reserve.release();
      return 0;
    } finally {
      held.release();
    }
  }

  abort(): void {
    this.#work.length = 0;
  }

  #tablesFor(tables: GpuPageTables, entries: readonly (PageRuns | null)[]): number {
    const demand = new TableDemand(tables, this.#vm.options.leafSizes);
    this.#work.forEach((work, i) => {
      if (!(work instanceof BindVa)) demand.unmap(work.start, work.end);
      else if (entries[i] !== null) demand.map(work.addr, entries[i]!);
    });
    return demand.count;
  }

  /** What cannot be reached now is left to the next fault, or to the next launch of a VM without faults. */
  #bind(va: BindVa, entries: PageRuns | null): void {
    va.invalidated = entries === null;
    if (entries === null) return;
    const written = writeEntries(va, entries);
    assert(written === 0, "the tables of a bind were set aside");
  }

  #unbind({ start, end, old, kept }: Unbind): void {
    const { tables } = this.#vm;
    const split = tables.split(start, end);
    assert(split === 0, "the tables of an unbind were set aside");
    tables.unmap(start, end);
    const wasBound = old.isBound;
    forgetEntries(old);
    for (const va of kept) {
      va.isBound = wasBound;
      va.invalidated = old.invalidated;
      if (wasBound) va.bo?.bound.add(va);
    }
  }
}

function asBindVa(va: GpuVa): BindVa {
  assert(va instanceof BindVa, "a mapping of a driver's address space");
  return va;
}

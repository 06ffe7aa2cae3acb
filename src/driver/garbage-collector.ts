import { assert } from "../base/assert.ts";
import { causedBy } from "../base/cause.ts";
import { ENOENT } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import { type Steps, run, wait } from "../base/steps.ts";
import type { SvmRange } from "./svm-range.ts";
import type { SvmVm } from "./vm.ts";

interface Dead {
  readonly range: SvmRange;
  readonly cause: number;
}

/**
 * Takes ranges that an UNMAP event has killed out of the address space. The notifier callback may only queue them, since
 * removal takes the driver's lock; the fault handler runs the collector before anything else, so that a fresh range finds
 * room. @kernel xe_svm_garbage_collector
 */
export class GarbageCollector {
  readonly #vm: SvmVm;
  #queue: Dead[] = [];
  #scheduled = false;

  constructor(vm: SvmVm) {
    this.#vm = vm;
  }

  get pending(): number {
    return this.#queue.length;
  }

  /**
   * Queues a dead range, once in its life, and schedules the worker. `cause`: the event of its death. Notifier lock held.
   */
  add(range: SvmRange, cause: number): void {
    if (range.queued) return;
    range.queued = true;
    this.#queue.push({ range, cause });
    if (this.#scheduled) return;
    this.#scheduled = true;
    this.#vm.sched.defer("driver:collect", () => this.#work());
  }

  async #work(): Promise<void> {
    this.#scheduled = false;
    if (this.#vm.isClosed) return;
    const guard = await this.#vm.lock.write();
    try {
      await this.collectLocked();
    } finally {
      guard.release();
    }
  }

  /** Removes everything queued. -ENOENT when the address space is closed. The driver lock is held for write. */
  collectLocked(): MaybePromise<0 | Errno> {
    const vm = this.#vm;
    assert(vm.lock.isWriteHeld, "the collector runs under the driver's lock");
    if (vm.isClosed) return ENOENT;
    return this.#queue.length === 0 ? 0 : run(this.#collect());
  }

  *#collect(): Steps<0> {
    const vm = this.#vm;
    for (let dead = this.#queue.shift(); dead !== undefined; dead = this.#queue.shift()) {
      const { range } = dead;
      const detail = range.partialUnmap ? 1 : 0;
      const cause = vm.trace.record("collect", vm.asid, range.start, range.end, detail, dead.cause);
      yield* wait(
        causedBy(cause, () => {
          vm.unbindRange(range);
          return vm.gpusvm.rangeRemove(range);
        }),
      );
      // As upstream the whole of a dead range, of which a part may still be mapped.
      if (vm.options.attrAutoReset === true) vm.attributes.reset(range.start, range.end);
    }
    return 0;
  }

  /** Ranges of a closing address space are removed through its tree. */
  drop(): void {
    this.#queue = [];
  }
}

import { assert } from "../base/assert.ts";
import { ENOENT } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { isPromise } from "../base/maybe-promise.ts";
import type { SvmRange } from "./svm-range.ts";
import type { SvmVm } from "./vm.ts";

/**
 * Takes ranges that an UNMAP event has killed out of the address space. The notifier callback may only queue them, since
 * removal takes the driver's lock; the fault handler runs the collector before anything else, so that a fresh range finds
 * room. @kernel xe_svm_garbage_collector
 */
export class GarbageCollector {
  readonly #vm: SvmVm;
  #queue: SvmRange[] = [];
  #scheduled = false;

  constructor(vm: SvmVm) {
    this.#vm = vm;
  }

  get pending(): number {
    return this.#queue.length;
  }

  /** Queues a dead range, once in its life, and schedules the worker. Notifier lock held. */
  add(range: SvmRange): void {
    if (range.queued) return;
    range.queued = true;
    this.#queue.push(range);
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
  async collectLocked(): Promise<0 | Errno> {
    const vm = this.#vm;
    assert(vm.lock.isWriteHeld, "the collector runs under the driver's lock");
    if (vm.isClosed) return ENOENT;
    for (let range = this.#queue.shift(); range !== undefined; range = this.#queue.shift()) {
      vm.trace.record("collect", vm.asid, range.start, range.end, range.partialUnmap ? 1 : 0);
      vm.unbindRange(range);
      const removed = vm.gpusvm.rangeRemove(range);
      if (isPromise(removed)) await removed;
    }
    return 0;
  }

  /** Ranges of a closing address space are removed through its tree. */
  drop(): void {
    this.#queue = [];
  }
}

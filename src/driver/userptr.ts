import type { Va } from "../base/addr.ts";
import { EFAULT, ENOSPC } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { IntervalTreeNode } from "../base/interval-tree.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import { type Steps, run, wait } from "../base/steps.ts";
import { REASON_EVICTED, REASON_ZAPPED } from "../abi/pte.ts";
import { type GpuSvmCtx, gpuSvmCtx } from "../gpusvm/ctx.ts";
import { HAS_DMA_MAPPING } from "../gpusvm/flags.ts";
import { GpuSvmPages } from "../gpusvm/pages.ts";
import type { MmuIntervalNotifier, MmuNotifierRange } from "../mm/types.ts";
import type { BindVa } from "./bind-va.ts";
import type { PinnedBuffer } from "./round-pins.ts";
import type { SvmVm } from "./vm.ts";
import { makeWindowRoom } from "./window-room.ts";
import type { WindowTenant } from "./window-room.ts";

const READ_WRITE = gpuSvmCtx();
const READ_ONLY = gpuSvmCtx({ readOnly: true });
const IN_NOTIFIER = gpuSvmCtx({ inNotifier: true });
/** Times that others may take the room that was made. */
const MAX_TRIES = 64;

/**
 * Memory of the process that a mapping shows at another GPU address (spec/gpusvm.md 3.17): the pages of one CPU interval,
 * and the notifier over exactly that. The pieces that later binds cut a mapping into share it.
 *
 * Pages are looked up before reservations are taken, and entries written under the notifier lock while the look-up still
 * holds. A change of the CPU mapping takes entries and pages away; the next fault, bind or launch looks them up again.
 *
 * Locking. `vas` and their state: notifier lock of the VM's gpusvm.
 * @kernel xe_userptr_vma, xe_userptr
 */
export class Userptr implements PinnedBuffer, WindowTenant {
  readonly vm: SvmVm;
  /** CPU interval `[start, end)`. */
  readonly start: Va;
  readonly end: Va;
  readonly pages: GpuSvmPages;
  /** Mappings that show part of it. */
  readonly vas = new Set<BindVa>();
  readonly #interval: UserptrInterval;
  readonly #ctx: GpuSvmCtx;
  readonly inWindow = true;
  usedAt = 0;
  #pins = 0;

  private constructor(vm: SvmVm, start: Va, end: Va, readOnly: boolean) {
    this.vm = vm;
    this.start = start;
    this.end = end;
    this.pages = new GpuSvmPages(vm.device.dma);
    this.#ctx = readOnly ? READ_ONLY : READ_WRITE;
    this.#interval = new UserptrInterval(this, start, end - 1);
  }

  /** Listens for changes from now on. -ENOMEM, or what the mm says of a process that is gone. @kernel xe_userptr_setup */
  static *create(vm: SvmVm, start: Va, end: Va, readOnly: boolean): Steps<Userptr | Errno> {
    const userptr = new Userptr(vm, start, end, readOnly);
    const inserted = yield* wait(vm.mm.intervalNotifierInsert(userptr.#interval));
    return inserted === 0 ? userptr : inserted;
  }

  /** Bytes. */
  get size(): number {
    return this.end - this.start;
  }
  get holdsWindow(): boolean {
    return (this.pages.flags & HAS_DMA_MAPPING) !== 0;
  }
  get pins(): number {
    return this.#pins;
  }
  /** A launch wants it: its pages of the window are not taken for others until it is unpinned as often. */
  pin(): void {
    this.#pins += 1;
  }
  unpin(): void {
    this.#pins -= 1;
  }

  /**
   * Looks the pages up, faulting in what is missing, and making room in the window. No reservation is held. -EFAULT: nothing
   * is mapped there. -EPERM: not for this access. -ENOSPC: the window is full of what may not give way.
   * @kernel xe_vma_userptr_pin_pages
   */
  pinPages(): MaybePromise<0 | Errno> {
    return run(this.#pinPages());
  }

  *#pinPages(): Steps<0 | Errno> {
    const { gpusvm, mm, device } = this.vm;
    for (let tries = 0; tries < MAX_TRIES; tries++) {
      const refusals = device.windowRefusals;
      const got = yield* wait(gpusvm.getPages(this.pages, mm, this.#interval, this.start, this.end, this.#ctx));
      if (got === 0) this.usedAt = device.nextUse();
      if (got !== EFAULT || device.windowRefusals === refusals) return got;
      if (!(yield* wait(makeWindowRoom(device, this.size)))) break;
    }
    return ENOSPC;
  }

  /** The pages are those of the CPU mapping now. Notifier lock held. @kernel xe_vma_userptr_check_repin */
  get isCurrent(): boolean {
    return this.vm.gpusvm.pagesValid(this.pages) && !this.vm.mm.readRetry(this.#interval, this.pages.notifierSeq);
  }

  /** Nothing shows it any more, and the entries are gone. @kernel xe_userptr_remove */
  *dispose(): Steps<void> {
    yield* wait(this.vm.gpusvm.freePages(this.pages));
    yield* wait(this.vm.mm.intervalNotifierRemove(this.#interval));
  }

  /**
   * The CPU mapping is about to change: entries, then TLB, then pages. Notifier lock held for write.
   * @kernel xe_vma_userptr_invalidate
   */
  *invalidate(): Steps<void> {
    for (const va of this.vas) this.vm.binds.takeAway(va, REASON_ZAPPED);
    yield* wait(this.vm.gpusvm.unmapPages(this.pages, IN_NOTIFIER));
  }

  zap(): void {
    for (const va of this.vas) this.vm.binds.takeAway(va, REASON_EVICTED);
  }
  giveWay(): MaybePromise<void> {
    return this.vm.gpusvm.unmapPages(this.pages, IN_NOTIFIER);
  }
}

/** The interval as the mm knows it. */
class UserptrInterval extends IntervalTreeNode implements MmuIntervalNotifier {
  invalidateSeq = 0;
  readonly #userptr: Userptr;

  constructor(userptr: Userptr, start: Va, last: Va) {
    super(start, last);
    this.#userptr = userptr;
  }

  invalidate(range: MmuNotifierRange, curSeq: number): MaybePromise<boolean> {
    return range.blockable ? run(this.#whenLocked(curSeq)) : false;
  }

  *#whenLocked(curSeq: number): Steps<boolean> {
    const { vm } = this.#userptr;
    const guard = yield* wait(vm.gpusvm.notifierLock.write());
    try {
      vm.mm.setSeq(this, curSeq);
      yield* this.#userptr.invalidate();
    } finally {
      guard.release();
    }
    return true;
  }
}

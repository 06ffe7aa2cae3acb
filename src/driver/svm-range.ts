import type { MaybePromise } from "../base/maybe-promise.ts";
import { REASON_EVICTED } from "../abi/pte.ts";
import { gpuSvmCtx } from "../gpusvm/ctx.ts";
import { GpuSvmRange } from "../gpusvm/range.ts";
import { zapRange } from "./invalidate.ts";
import type { TilePresence } from "./page-table-tiles.ts";
import type { PinnedBuffer, PinnedTables } from "./round-pins.ts";
import type { SvmVm } from "./vm.ts";
import type { WindowTenant } from "./window-room.ts";

const IN_NOTIFIER = gpuSvmCtx({ inNotifier: true });

/**
 * An SVM range as the driver knows it. The bits are written under the notifier lock; a reader without it may take them as
 * a hint only. @kernel xe_svm_range
 */
export class SvmRange extends GpuSvmRange implements TilePresence, PinnedBuffer, PinnedTables, WindowTenant {
  /** Bit t: page-table entries have been written on tile t. @kernel tile_present */
  tilePresent = 0;
  /** Bit t: they have been zapped since. @kernel tile_invalidated */
  tileInvalidated = 0;
  /** The pages were looked up for reading only: entries carry no write permission. */
  readOnly = false;
  /** The entries carry the right to do atomics. */
  atomics = false;
  /** Queued for the garbage collector, once and for all. */
  queued = false;
  /** It has been in VRAM before: to come again is a refault. */
  wasInVram = false;

  /** It has given its part of the system window to others. */
  gaveWay = false;
  /** See WindowTenant. */
  usedAt = 0;
  #pins = 0;
  #tablePins = 0;

  /** It has pages of the system window. A hint unless the notifier lock is held. */
  get holdsWindow(): boolean {
    return this.hasDmaMapping && !this.hasDevmemPages;
  }
  /** As a launch pins it: its pages of the window are not taken for others. */
  get inWindow(): boolean {
    return true;
  }
  get pins(): number {
    return this.#pins;
  }
  pin(): void {
    this.#pins += 1;
  }
  unpin(): void {
    this.#pins -= 1;
  }

  /** A launch of its address space has been promised it, in the window or in VRAM. */
  get isPromised(): boolean {
    return this.#pins > 0 || this.#tablePins > 0;
  }
  pinTables(): void {
    this.#tablePins += 1;
  }
  unpinTables(): void {
    this.#tablePins -= 1;
  }

  zap(vm: SvmVm): void {
    zapRange(vm, this, REASON_EVICTED);
  }
  giveWay(vm: SvmVm): MaybePromise<void> {
    this.gaveWay = true;
    return vm.gpusvm.rangeUnmapPages(this, IN_NOTIFIER);
  }

  /** A tile of the GPU can reach all its pages now. A hint unless the notifier lock is held. */
  get isBound(): boolean {
    return (this.tilePresent & ~this.tileInvalidated) !== 0;
  }

  /** The same of one tile. */
  isBoundOn(tile: number): boolean {
    return (this.tilePresent & ~this.tileInvalidated & (1 << tile)) !== 0;
  }
}

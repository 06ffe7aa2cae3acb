import { GpuSvmRange } from "../gpusvm/range.ts";

/**
 * An SVM range as the driver knows it. The bits are written under the notifier lock; a reader without it may take them as
 * a hint only. @kernel xe_svm_range
 */
export class SvmRange extends GpuSvmRange {
  /** Page-table entries have been written. @kernel tile_present */
  tilePresent = false;
  /** They have been zapped since. @kernel tile_invalidated */
  tileInvalidated = false;
  /** The pages were looked up for reading only: entries carry no write permission. */
  readOnly = false;
  /** The entries carry the right to do atomics. */
  atomics = false;
  /** Queued for the garbage collector, once and for all. */
  queued = false;
  /** It has been in VRAM before: to come again is a refault. */
  wasInVram = false;

  /** The GPU can reach all its pages now. A hint unless the notifier lock is held. */
  get isBound(): boolean {
    return this.tilePresent && !this.tileInvalidated;
  }
}

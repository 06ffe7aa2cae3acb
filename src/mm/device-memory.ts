import type { Errno } from "../base/errno.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";

/**
 * Memory of a device as an area of a process shows it. It has no pages that the CPU's tables could name: every access goes
 * through the device, and nothing of it is copied on write, migrated, swapped or looked up by others.
 * Offsets are bytes; -EIO: the device is lost. @kernel VM_PFNMAP, vm_operations_struct.access, ttm_bo_vm_access
 */
export interface DeviceMemory {
  read(offset: number, into: Uint8Array): MaybePromise<0 | Errno>;
  write(offset: number, data: Uint8Array): MaybePromise<0 | Errno>;
  /** Adds to an aligned word, in one go; the old value. */
  add(offset: number, by: number): MaybePromise<number | Errno>;
  /** An area shows it, or does not any more. @kernel vm_operations_struct.open, close */
  attach(): void;
  detach(): void;
}

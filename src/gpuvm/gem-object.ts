import { assert } from "../base/assert.ts";
import type { Address } from "./arithmetic.ts";
import { DmaResv } from "./dma-resv.ts";
import type { GpuVa } from "./gpuva.ts";
import type { GpuVmBo } from "./vm-bo.ts";

/**
 * A buffer object as the VA manager sees it. Drivers extend it with storage.
 *
 * The list of an object's mappings is one `GpuVmBo` for each VM that maps it. It is guarded by the reservation, or by
 * the lock given to `setGpuvaLock`; what touches the list asserts that lock and never takes it.
 *
 * @kernel drm_gem_object
 */
export class GemObject<A extends Address = number> {
  readonly name: string;
  /** Bytes (or whatever unit the VM counts in). */
  readonly size: A;
  readonly resv: DmaResv;
  /** @kernel drm_gem_object.gpuva.list */
  readonly vmBos = new Set<GpuVmBo<A>>();
  #refs = 1;
  #gpuvaLock: { readonly isHeld: boolean };

  /** Without `resv` the object has a reservation of its own: in every VM it is an external object. */
  constructor(name: string, size: NoInfer<A>, resv: DmaResv = new DmaResv(name)) {
    this.name = name;
    this.size = size;
    this.resv = resv;
    this.#gpuvaLock = resv;
  }

  get refs(): number {
    return this.#refs;
  }

  get(): this {
    assert(this.#refs > 0, () => `${this.name}: get after the last put`);
    this.#refs += 1;
    return this;
  }

  /** True if it was the last reference. @kernel drm_gem_object_put */
  put(): boolean {
    assert(this.#refs > 0, () => `${this.name}: put once too often`);
    this.#refs -= 1;
    if (this.#refs > 0) return false;
    this.release();
    return true;
  }

  /** Called at the last put; drivers free storage here. */
  protected release(): void {}

  /** @kernel drm_gem_gpuva_set_lock */
  setGpuvaLock(lock: { readonly isHeld: boolean }): void {
    this.#gpuvaLock = lock;
  }

  /** @kernel drm_gem_gpuva_assert_lock_held */
  assertGpuvaLocked(): void {
    assert(this.#gpuvaLock.isHeld, () => `the lock of the mapping list of ${this.name} must be held`);
  }

  /** All mappings of the object in all VMs, VM by VM. @kernel drm_gem_for_each_gpuva, drm_gem_for_each_gpuvm_bo */
  *gpuvas(): IterableIterator<GpuVa<A>> {
    for (const vmBo of this.vmBos) yield* vmBo.gpuvas();
  }
}

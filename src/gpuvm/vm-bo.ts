import { assert } from "../base/assert.ts";
import { ENOMEM, type Errno } from "../base/errno.ts";
import type { Address } from "./arithmetic.ts";
import type { GemObject } from "./gem-object.ts";
import type { GpuVa } from "./gpuva.ts";
import type { GpuVm } from "./gpuvm.ts";

/** Orders links over all VMs, for the list of one object's mappings. */
let linkCounter = 0;

/**
 * The pair of a VM and an object it maps: the object's mappings in this VM, and its place on the VM's lists.
 *
 * It holds a reference of both. At most one per pair is ever on the object's list; `boObtain` sees to that.
 *
 * @kernel drm_gpuvm_bo
 */
export class GpuVmBo<A extends Address = number> {
  readonly vm: GpuVm<A>;
  readonly obj: GemObject<A>;
  /** Under the object's reservation. */
  evicted = false;
  /** On the VM's deferred list: dead, but not freed. */
  deferred = false;
  #refs = 1;
  /** Mapping to its place in link order. */
  readonly #gpuvas = new Map<GpuVa<A>, number>();

  /** For `boCreate` and for classes that extend this one. */
  constructor(vm: GpuVm<A>, obj: GemObject<A>) {
    this.vm = vm;
    this.obj = obj;
  }

  get refs(): number {
    return this.#refs;
  }

  /** @kernel drm_gpuvm_bo_get */
  get(): this {
    assert(this.#refs > 0, () => `vm_bo of ${this.obj.name}: get after the last put`);
    this.#refs += 1;
    return this;
  }

  /** Counts one reference out; for `boPut` and `boPutDeferred`, which do what follows. True if it was the last. */
  dropRef(): boolean {
    assert(this.#refs > 0, () => `vm_bo of ${this.obj.name}: put once too often`);
    this.#refs -= 1;
    return this.#refs === 0;
  }

  /** Mappings in the order of linking. The one given may be unlinked. @kernel drm_gpuvm_bo_for_each_va, drm_gpuvm_bo_for_each_va_safe */
  gpuvas(): IterableIterator<GpuVa<A>> {
    return this.#gpuvas.keys();
  }

  isLinked(va: GpuVa<A>): boolean {
    return this.#gpuvas.has(va);
  }

  linkOrder(va: GpuVa<A>): number {
    return this.#gpuvas.get(va) ?? 0;
  }

  /** For `gpuvaLink`. */
  addGpuva(va: GpuVa<A>): void {
    linkCounter += 1;
    this.#gpuvas.set(va, linkCounter);
  }

  /** For `gpuvaUnlink`. */
  removeGpuva(va: GpuVa<A>): void {
    this.#gpuvas.delete(va);
  }
}

/** A new one, on no list, with one reference; null when memory is out. @kernel drm_gpuvm_bo_create */
export function boCreate<A extends Address>(vm: GpuVm<A>, obj: GemObject<A>): GpuVmBo<A> | null {
  const vmBo = vm.ops?.vmBoAlloc === undefined ? new GpuVmBo(vm, obj) : vm.ops.vmBoAlloc(vm, obj);
  if (vmBo === null) return null;
  vm.get();
  obj.get();
  return vmBo;
}

/** The pair's vm_bo with a reference more, or null. Asserts the list lock. @kernel drm_gpuvm_bo_find */
export function boFind<A extends Address>(vm: GpuVm<A>, obj: GemObject<A>): GpuVmBo<A> | null {
  obj.assertGpuvaLocked();
  for (const vmBo of obj.vmBos) if (vmBo.vm === vm) return vmBo.get();
  return null;
}

/**
 * The pair's vm_bo, made if there is none. Asserts the list lock. It allocates under that lock, which immediate mode
 * does not allow: use `boObtainPrealloc` there.
 *
 * @kernel drm_gpuvm_bo_obtain, drm_gpuvm_bo_obtain_locked
 */
export function boObtain<A extends Address>(vm: GpuVm<A>, obj: GemObject<A>): GpuVmBo<A> | Errno {
  if (vm.immediateMode) vm.warnings.raise("gpuvm_bo_obtain", "allocates under the list lock in immediate mode");
  const found = boFind(vm, obj);
  if (found !== null) return found;
  const vmBo = boCreate(vm, obj);
  if (vmBo === null) return ENOMEM;
  obj.vmBos.add(vmBo);
  return vmBo;
}

/**
 * The pair's vm_bo: the one on the object's list with a reference more (then `pre` is put), else `pre`, which goes on
 * the list. Asserts the list lock.
 *
 * @kernel drm_gpuvm_bo_obtain_prealloc
 */
export function boObtainPrealloc<A extends Address>(pre: GpuVmBo<A>): GpuVmBo<A> {
  const found = boFind(pre.vm, pre.obj);
  if (found !== null) {
    boPut(pre);
    return found;
  }
  pre.obj.vmBos.add(pre);
  return pre;
}

/**
 * Drops a reference; true if it was the last and the vm_bo is gone. The caller holds the list lock, and in a
 * RESV_PROTECTED VM its reservation, when it could be the last.
 *
 * @kernel drm_gpuvm_bo_put
 */
export function boPut<A extends Address>(vmBo: GpuVmBo<A> | null): boolean {
  if (vmBo === null || !vmBo.dropRef()) return false;
  leaveLists(vmBo);
  vmBo.obj.assertGpuvaLocked();
  vmBo.obj.vmBos.delete(vmBo);
  free(vmBo);
  return true;
}

/**
 * As `boPut` for immediate mode, where the job that drops the reference must not free: the last put queues the vm_bo on
 * the VM until `boDeferredCleanup`. The caller holds the object's gpuva lock.
 *
 * @kernel drm_gpuvm_bo_put_deferred
 */
export function boPutDeferred<A extends Address>(vmBo: GpuVmBo<A> | null): boolean {
  if (vmBo === null) return false;
  const { vm } = vmBo;
  if (!vm.immediateMode) vm.warnings.raise("gpuvm_bo_put_deferred", "only for immediate mode");
  vmBo.obj.assertGpuvaLocked();
  if (!vmBo.dropRef()) return false;
  if (!vm.resvProtected) leaveLists(vmBo);
  vmBo.obj.vmBos.delete(vmBo);
  vmBo.deferred = true;
  vm.boDefer.add(vmBo);
  return true;
}

/** Frees what `boPutDeferred` has queued. A RESV_PROTECTED VM's reservation must not be held: it is taken here. @kernel drm_gpuvm_bo_deferred_cleanup */
export async function boDeferredCleanup<A extends Address>(vm: GpuVm<A>): Promise<void> {
  const queue = [...vm.boDefer];
  vm.boDefer.clear();
  if (queue.length === 0) return;
  if (vm.resvProtected) {
    const guard = await vm.rObj.resv.lock();
    for (const vmBo of queue) leaveLists(vmBo);
    guard.release();
  }
  for (const vmBo of queue) free(vmBo);
}

function leaveLists<A extends Address>(vmBo: GpuVmBo<A>): void {
  vmBo.vm.extobj.delete(vmBo);
  vmBo.vm.evict.delete(vmBo);
}

/** The VM goes last but one: the object may hold the lock that the VM's lists were touched under. */
function free<A extends Address>(vmBo: GpuVmBo<A>): void {
  const { vm, obj } = vmBo;
  vm.ops?.vmBoFree?.(vmBo);
  vm.put();
  obj.put();
}

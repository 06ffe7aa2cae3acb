import type { Address } from "./arithmetic.ts";
import type { GemObject } from "./gem-object.ts";
import type { GpuVmBo } from "./vm-bo.ts";

/**
 * Puts an object whose reservation is not the VM's on the VM's list of external objects, where it stays until its
 * vm_bo dies. Drivers call it after `boObtain`.
 *
 * @kernel drm_gpuvm_bo_extobj_add
 */
export function boExtobjAdd<A extends Address>(vmBo: GpuVmBo<A>): void {
  if (vmBo.vm.isExtobj(vmBo.obj)) vmBo.vm.extobj.add(vmBo);
}

/**
 * Notes that the object was evicted, or is back. Asserts its reservation. For an external object of a RESV_PROTECTED VM
 * only the flag is set, since the reservation that guards the list is not held: `prepareObjects` moves it later.
 *
 * @kernel drm_gpuvm_bo_evict
 */
export function boEvict<A extends Address>(vmBo: GpuVmBo<A>, evicted: boolean): void {
  const { vm, obj } = vmBo;
  obj.resv.assertHeld();
  vmBo.evicted = evicted;
  if (vm.resvProtected && vm.isExtobj(obj)) return;
  if (evicted) vm.evict.add(vmBo);
  else vm.evict.delete(vmBo);
}

/** `boEvict` in every VM that maps the object: for the eviction path. @kernel drm_gpuvm_bo_gem_evict */
export function boGemEvict<A extends Address>(obj: GemObject<A>, evicted: boolean): void {
  for (const vmBo of obj.vmBos) boEvict(vmBo, evicted);
}

import { assert } from "../base/assert.ts";
import type { Address } from "./arithmetic.ts";
import type { GpuVa } from "./gpuva.ts";
import { boPut, boPutDeferred, type GpuVmBo } from "./vm-bo.ts";

/**
 * Puts a mapping at the end of its object's list in this VM; a mapping without object is left alone. After insertion,
 * and before the storage is freed it has to be unlinked. Asserts the list lock.
 *
 * @kernel drm_gpuva_link
 */
export function gpuvaLink<A extends Address>(va: GpuVa<A>, vmBo: GpuVmBo<A>): void {
  if (va.obj === null) return;
  const { vm } = va;
  assert(vm !== null, "link: the mapping was never inserted");
  if (va.obj !== vmBo.obj) vm.warnings.raise("gpuva_link", "the mapping is of another object");
  assert(va.vmBo === null || !vm.hardening.checkUse, "the mapping is already linked");
  vmBo.obj.assertGpuvaLocked();
  va.vmBo = vmBo.get();
  vmBo.addGpuva(va);
}

/**
 * Takes a mapping off its object's list and drops the reference of the vm_bo, which may be the last. Harmless when it
 * is not linked. Asserts the list lock.
 *
 * @kernel drm_gpuva_unlink
 */
export function gpuvaUnlink<A extends Address>(va: GpuVa<A>): void {
  if (va.obj === null) return;
  va.obj.assertGpuvaLocked();
  const vmBo = va.vmBo;
  vmBo?.removeGpuva(va);
  va.vmBo = null;
  boPut(vmBo);
}

/** As `gpuvaUnlink` for immediate mode: the vm_bo is queued, not freed. The caller holds the gpuva lock. @kernel drm_gpuva_unlink_defer */
export function gpuvaUnlinkDefer<A extends Address>(va: GpuVa<A>): void {
  if (va.obj === null) return;
  va.obj.assertGpuvaLocked();
  const vmBo = va.vmBo;
  vmBo?.removeGpuva(va);
  va.vmBo = null;
  boPutDeferred(vmBo);
}

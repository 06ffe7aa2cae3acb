import { EINVAL, EOPNOTSUPP, type Errno } from "../base/errno.ts";
import type { Address } from "./arithmetic.ts";
import type { Fence, ResvUsage } from "./dma-resv.ts";
import { DrmExec, EXEC_IGNORE_DUPLICATES } from "./drm-exec.ts";
import type { GemObject } from "./gem-object.ts";
import type { GpuVm } from "./gpuvm.ts";
import { smMapWalk, smUnmapWalk } from "./sm.ts";
import type { MapRequest } from "./steps.ts";
import type { StepOps } from "./vm-ops.ts";

/*
 * Locking and validating everything that a VM needs before the GPU runs. Order for an execution: `GpuVmExec.lock`,
 * `validate`, rebind what moved, submit, `resvAddFence`, `unlock`.
 */

/** Locks the VM's reservation, with room for `numFences` fences. @kernel drm_gpuvm_prepare_vm */
export function prepareVm<A extends Address>(vm: GpuVm<A>, exec: DrmExec<A>, numFences: number): 0 | Errno {
  return exec.prepareObj(vm.rObj, numFences);
}

/**
 * Locks every external object. In a RESV_PROTECTED VM those found evicted go on the evicted list: this is where external
 * evictions become visible.
 *
 * @kernel drm_gpuvm_prepare_objects
 */
export async function prepareObjects<A extends Address>(
  vm: GpuVm<A>,
  exec: DrmExec<A>,
  numFences: number,
): Promise<0 | Errno> {
  return vm.extobj.forEach((vmBo) => {
    const ret = exec.prepareObj(vmBo.obj, numFences);
    if (ret === 0 && vm.resvProtected && vmBo.evicted) vm.evict.add(vmBo);
    return ret;
  });
}

/** Locks the objects mapped in the range; mappings without one are passed over. @kernel drm_gpuvm_prepare_range */
export function prepareRange<A extends Address>(
  vm: GpuVm<A>,
  exec: DrmExec<A>,
  addr: A,
  range: A,
  numFences: number,
): 0 | Errno {
  if (vm.arithmetic.overflows(addr, range)) return EINVAL;
  for (const va of vm.vasIn(addr, vm.arithmetic.add(addr, range))) {
    const ret = va.obj === null ? 0 : exec.prepareObj(va.obj, numFences);
    if (ret !== 0) return ret;
  }
  return 0;
}

/** Everything of a VM locked for one execution. @kernel drm_gpuvm_exec */
export class GpuVmExec<A extends Address = number> {
  readonly vm: GpuVm<A>;
  readonly exec: DrmExec<A>;
  readonly numFences: number;

  constructor(vm: GpuVm<A>, numFences: number, flags = EXEC_IGNORE_DUPLICATES) {
    this.vm = vm;
    this.exec = new DrmExec(flags);
    this.numFences = numFences;
  }

  /**
   * Locks the VM's reservation, all external objects, and what `extra` prepares. On an error nothing stays locked.
   *
   * @kernel drm_gpuvm_exec_lock
   */
  lock(extra?: (exec: DrmExec<A>) => 0 | Errno): Promise<0 | Errno> {
    return this.#untilLocked(
      async () =>
        prepareVm(this.vm, this.exec, this.numFences) ||
        (await prepareObjects(this.vm, this.exec, this.numFences)) ||
        (extra?.(this.exec) ?? 0),
    );
  }

  /** As `lock`, and these objects too. @kernel drm_gpuvm_exec_lock_array */
  lockArray(objects: readonly GemObject<A>[]): Promise<0 | Errno> {
    return this.lock((exec) => {
      for (const obj of objects) {
        const ret = exec.prepareObj(obj, this.numFences);
        if (ret !== 0) return ret;
      }
      return 0;
    });
  }

  /** Only the objects mapped in the range. @kernel drm_gpuvm_exec_lock_range */
  lockRange(addr: A, range: A): Promise<0 | Errno> {
    return this.#untilLocked(async () => prepareRange(this.vm, this.exec, addr, range, this.numFences));
  }

  /** @kernel drm_gpuvm_exec_validate */
  validate(): Promise<0 | Errno> {
    return validate(this.vm, this.exec);
  }

  /** @kernel drm_gpuvm_exec_resv_add_fence */
  resvAddFence(fence: Fence, privateUsage: ResvUsage, extobjUsage: ResvUsage): void {
    resvAddFence(this.vm, this.exec, fence, privateUsage, extobjUsage);
  }

  /** @kernel drm_gpuvm_exec_unlock */
  unlock(): void {
    this.exec.fini();
  }

  async #untilLocked(body: () => Promise<0 | Errno>): Promise<0 | Errno> {
    const ret = await this.exec.untilAllLocked(body);
    if (ret !== 0) this.exec.fini();
    return ret;
  }
}

/**
 * Calls the driver's `vmBoValidate` for every evicted object; the first error ends it. -EOPNOTSUPP without a callback.
 * In a RESV_PROTECTED VM an object leaves the list when the callback has cleared `evicted`; otherwise the callback takes
 * it off with `boEvict(vmBo, false)`.
 *
 * @kernel drm_gpuvm_validate
 */
export async function validate<A extends Address>(vm: GpuVm<A>, exec: DrmExec<A>): Promise<0 | Errno> {
  const { ops } = vm;
  if (ops?.vmBoValidate === undefined) return EOPNOTSUPP;
  return vm.evict.forEach(async (vmBo) => {
    const ret = await ops.vmBoValidate!(vmBo, exec);
    if (ret === 0 && vm.resvProtected && !vmBo.evicted) vm.evict.delete(vmBo);
    return ret;
  });
}

/** Adds the fence to every object locked, by whether it is external. @kernel drm_gpuvm_resv_add_fence */
export function resvAddFence<A extends Address>(
  vm: GpuVm<A>,
  exec: DrmExec<A>,
  fence: Fence,
  privateUsage: ResvUsage,
  extobjUsage: ResvUsage,
): void {
  for (const obj of exec.objects) obj.resv.addFence(fence, vm.isExtobj(obj) ? extobjUsage : privateUsage);
}

/**
 * Locks the object of the request and of every mapping that it would remove or cut, and changes nothing. All ops of a
 * bind may be locked before any is applied: an earlier one can only remove steps of a later one, or bring in steps on
 * objects that it locked itself. The set must ignore duplicates.
 *
 * @kernel drm_gpuvm_sm_map_exec_lock
 */
export function smMapExecLock<A extends Address>(
  vm: GpuVm<A>,
  exec: DrmExec<A>,
  numFences: number,
  req: MapRequest<A>,
): 0 | Errno {
  const ret = req.obj === null ? 0 : exec.prepareObj(req.obj, numFences);
  return ret || smMapWalk(vm, lockOps<A>(numFences), exec, req);
}

/** As `smMapExecLock` for what unmapping the range would remove or cut. @kernel drm_gpuvm_sm_unmap_exec_lock */
export function smUnmapExecLock<A extends Address>(vm: GpuVm<A>, exec: DrmExec<A>, addr: A, range: A): 0 | Errno {
  return smUnmapWalk(vm, lockOps<A>(0), exec, addr, range);
}

function lockOps<A extends Address>(numFences: number): StepOps<A, DrmExec<A>> {
  const lockObject = (obj: GemObject<A> | null, exec: DrmExec<A>): 0 | Errno =>
    obj === null ? 0 : exec.prepareObj(obj, numFences);
  return {
    smStepMap: () => 0,
    smStepUnmap: (step, exec) => lockObject(step.va.obj, exec),
    smStepRemap: (step, exec) => lockObject(step.unmap.va.obj, exec),
  };
}

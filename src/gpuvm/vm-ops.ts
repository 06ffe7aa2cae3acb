import type { Errno } from "../base/errno.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import type { Address } from "./arithmetic.ts";
import type { DrmExec } from "./drm-exec.ts";
import type { GemObject } from "./gem-object.ts";
import type { GpuVm } from "./gpuvm.ts";
import type { GpuVaOp } from "./ops.ts";
import type { MapStep, RemapStep, UnmapStep } from "./steps.ts";
import type { GpuVmBo } from "./vm-bo.ts";

/** Receivers of steps. A result other than 0 ends the walk at once and is its result. */
export interface StepOps<A extends Address, P> {
  /** @kernel drm_gpuvm_ops.sm_step_map */
  smStepMap?(step: MapStep<A>, priv: P): 0 | Errno;
  /** @kernel drm_gpuvm_ops.sm_step_remap */
  smStepRemap?(step: RemapStep<A>, priv: P): 0 | Errno;
  /** @kernel drm_gpuvm_ops.sm_step_unmap */
  smStepUnmap?(step: UnmapStep<A>, priv: P): 0 | Errno;
}

/**
 * What a driver hands to its VM; every entry may be absent. `P` is what it passes to `smMap` and `smUnmap` to find
 * again in the callbacks.
 *
 * @kernel drm_gpuvm_ops, drm_gpuva_fn_ops
 */
export interface GpuVmOps<A extends Address = number, P = unknown> extends StepOps<A, P> {
  /** An op for a list, or a class that extends it; null when memory is out. @kernel drm_gpuvm_ops.op_alloc */
  opAlloc?(): GpuVaOp<A> | null;
  /** @kernel drm_gpuvm_ops.op_free */
  opFree?(op: GpuVaOp<A>): void;
  /** The last reference of the VM is gone. @kernel drm_gpuvm_ops.vm_free */
  vmFree?(vm: GpuVm<A>): void;
  /** A `GpuVmBo`, or a class that extends it; null when memory is out. @kernel drm_gpuvm_ops.vm_bo_alloc */
  vmBoAlloc?(vm: GpuVm<A>, obj: GemObject<A>): GpuVmBo<A> | null;
  /** @kernel drm_gpuvm_ops.vm_bo_free */
  vmBoFree?(vmBo: GpuVmBo<A>): void;
  /** Brings an evicted object back to where the GPU can use it. @kernel drm_gpuvm_ops.vm_bo_validate */
  vmBoValidate?(vmBo: GpuVmBo<A>, exec: DrmExec<A>): MaybePromise<0 | Errno>;
}

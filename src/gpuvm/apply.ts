import { assert } from "../base/assert.ts";
import type { Errno } from "../base/errno.ts";
import type { Address } from "./arithmetic.ts";
import type { GpuVa } from "./gpuva.ts";
import type { GpuVm } from "./gpuvm.ts";
import type { MapStep, RemapStep, UnmapStep } from "./steps.ts";

/*
 * Helpers that apply a step to the view of the VM. They do not link, unlink, copy flags or free: that is the driver's,
 * who knows which attributes a piece inherits. A failed insertion is reported (H5); in the kernel it is dropped.
 */

/** Makes `va` the mapping of the step and inserts it. @kernel drm_gpuva_map */
export function gpuvaMap<A extends Address>(vm: GpuVm<A>, va: GpuVa<A>, step: MapStep<A>): 0 | Errno {
  va.initFromOp(step);
  return reported(vm, vm.insert(va));
}

/**
 * Removes the mapping of the step and inserts `prev` and `next` where the step has such a piece; storage given for a
 * piece that the step has not is left alone.
 *
 * @kernel drm_gpuva_remap
 */
export function gpuvaRemap<A extends Address>(
  prev: GpuVa<A> | null,
  next: GpuVa<A> | null,
  step: RemapStep<A>,
): 0 | Errno {
  const { va } = step.unmap;
  const vm = va.vm;
  assert(vm !== null, "the mapping of a remap step was never inserted");
  vm.remove(va);
  let ret: 0 | Errno = 0;
  if (step.prev !== null) {
    assert(prev !== null, "no storage was given for the piece before the request");
    prev.initFromOp(step.prev);
    ret = reported(vm, vm.insert(prev));
  }
  if (step.next !== null && ret === 0) {
    assert(next !== null, "no storage was given for the piece behind the request");
    next.initFromOp(step.next);
    ret = reported(vm, vm.insert(next));
  }
  return ret;
}

/** Removes the mapping of the step; `keep` concerns page tables only. @kernel drm_gpuva_unmap */
export function gpuvaUnmap<A extends Address>(step: UnmapStep<A>): void {
  const { va } = step;
  assert(va.vm !== null, "the mapping of an unmap step was never inserted");
  va.vm.remove(va);
}

function reported<A extends Address>(vm: GpuVm<A>, ret: 0 | Errno): 0 | Errno {
  return vm.hardening.reportInsertErrors ? ret : 0;
}

import { assert } from "../base/assert.ts";
import { EINVAL, ENOMEM, type Errno } from "../base/errno.ts";
import type { Address } from "./arithmetic.ts";
import type { GemObject } from "./gem-object.ts";
import type { GpuVa } from "./gpuva.ts";
import type { GpuVm } from "./gpuvm.ts";
import { madviseWalk, smMapWalk, smUnmapWalk } from "./sm.ts";
import {
  GPUVA_OP_MAP,
  GPUVA_OP_PREFETCH,
  GPUVA_OP_REMAP,
  GPUVA_OP_UNMAP,
  type MapPiece,
  type MapRequest,
  type MapStep,
  type RemapStep,
  type Step,
  type UnmapStep,
} from "./steps.ts";
import type { GpuVmBo } from "./vm-bo.ts";
import type { StepOps } from "./vm-ops.ts";

/** A step on a list. Drivers extend it with what they need to carry the step out. @kernel drm_gpuva_op */
export class GpuVaOp<A extends Address = number> {
  /** For lists only. */
  nextOp: GpuVaOp<A> | null = null;
  prevOp: GpuVaOp<A> | null = null;
  #step: Step<A> | null = null;

  get step(): Step<A> {
    assert(this.#step !== null, "the op is on no list");
    return this.#step;
  }

  /** For lists only: null when the op is freed. */
  setStep(step: Step<A> | null): void {
    this.#step = step;
  }
}

/**
 * An ordered list of steps, valid against the state of the VM that it was made from. It may be walked any number of
 * times, forwards to apply, backwards to unwind, and is to be freed with `opsFree`, applied or not.
 *
 * @kernel drm_gpuva_ops, drm_gpuva_for_each_op, drm_gpuva_for_each_op_safe
 */
export class GpuVaOps<A extends Address = number> {
  /** @kernel drm_gpuva_first_op */
  first: GpuVaOp<A> | null = null;
  /** @kernel drm_gpuva_last_op */
  last: GpuVaOp<A> | null = null;

  get isEmpty(): boolean {
    return this.first === null;
  }

  append(op: GpuVaOp<A>): void {
    op.prevOp = this.last;
    if (this.last === null) this.first = op;
    else this.last.nextOp = op;
    this.last = op;
  }

  *[Symbol.iterator](): IterableIterator<GpuVaOp<A>> {
    yield* this.from(this.first);
  }

  /** `op` and those behind it; the one given may be freed. @kernel drm_gpuva_for_each_op_from, drm_gpuva_next_op */
  *from(op: GpuVaOp<A> | null): IterableIterator<GpuVaOp<A>> {
    while (op !== null) {
      const following: GpuVaOp<A> | null = op.nextOp;
      yield op;
      op = following;
    }
  }

  /** `op` (the last one if not given) and those before it, backwards. @kernel drm_gpuva_for_each_op_from_reverse, drm_gpuva_for_each_op_reverse, drm_gpuva_prev_op */
  *reversed(op: GpuVaOp<A> | null = this.last): IterableIterator<GpuVaOp<A>> {
    while (op !== null) {
      const before: GpuVaOp<A> | null = op.prevOp;
      yield op;
      op = before;
    }
  }
}

/** The list of steps that map `req`. -EINVAL: bad range, -ENOMEM: no op. The VM is not changed. @kernel drm_gpuvm_sm_map_ops_create, drm_gpuva_sm_map_ops_create */
export function smMapOpsCreate<A extends Address>(vm: GpuVm<A>, req: MapRequest<A>): GpuVaOps<A> | Errno {
  const builder = new ListBuilder(vm);
  return builder.finish(smMapWalk(vm, LIST_OPS as StepOps<A, ListBuilder<A>>, builder, req));
}

/** The list of steps that unmap the range; it may be empty. @kernel drm_gpuvm_sm_unmap_ops_create, drm_gpuva_sm_unmap_ops_create */
export function smUnmapOpsCreate<A extends Address>(vm: GpuVm<A>, addr: A, range: A): GpuVaOps<A> | Errno {
  const builder = new ListBuilder(vm);
  return builder.finish(smUnmapWalk(vm, LIST_OPS as StepOps<A, ListBuilder<A>>, builder, addr, range));
}

/** The list of steps that cut mappings without object at the ends of `req`. @kernel drm_gpuvm_madvise_ops_create */
export function madviseOpsCreate<A extends Address>(vm: GpuVm<A>, req: MapRequest<A>): GpuVaOps<A> | Errno {
  const builder = new ListBuilder(vm);
  return builder.finish(madviseWalk(vm, LIST_OPS as StepOps<A, ListBuilder<A>>, builder, req));
}

/**
 * One prefetch step for each mapping that the range touches, whole, also outside the window. Changes nothing, so it may
 * be made at any time. -EINVAL: the range overflows (H2).
 *
 * @kernel drm_gpuvm_prefetch_ops_create, drm_gpuva_prefetch_ops_create
 */
export function prefetchOpsCreate<A extends Address>(vm: GpuVm<A>, addr: A, range: A): GpuVaOps<A> | Errno {
  if (vm.hardening.rejectPrefetchOverflow && vm.arithmetic.overflows(addr, range)) return EINVAL;
  const ops = new GpuVaOps<A>();
  for (const va of vm.vasIn(addr, vm.arithmetic.add(addr, range))) {
    if (va === vm.kernelNode && vm.hardening.prefetchSkipsKernelNode) continue;
    if (!append(vm, ops, { kind: GPUVA_OP_PREFETCH, va })) return ENOMEM;
  }
  return ops;
}

/** One unmap step for each mapping of the object in its VM, in link order. Asserts the list lock. @kernel drm_gpuvm_bo_unmap_ops_create */
export function boUnmapOpsCreate<A extends Address>(vmBo: GpuVmBo<A>): GpuVaOps<A> | Errno {
  vmBo.obj.assertGpuvaLocked();
  assertNoneOutstanding(vmBo.vm);
  return unmapAll(vmBo.vm, vmBo.gpuvas());
}

/**
 * As `boUnmapOpsCreate`, but for the object's mappings in all VMs, in the order in which they were linked. `vm` is only
 * where the ops are allocated.
 *
 * @kernel drm_gpuva_gem_unmap_ops_create
 */
export function gemUnmapOpsCreate<A extends Address>(vm: GpuVm<A>, obj: GemObject<A>): GpuVaOps<A> | Errno {
  obj.assertGpuvaLocked();
  const linked: { va: GpuVa<A>; order: number }[] = [];
  for (const vmBo of obj.vmBos) {
    for (const va of vmBo.gpuvas()) linked.push({ va, order: vmBo.linkOrder(va) });
  }
  linked.sort((a, b) => a.order - b.order);
  return unmapAll(
    vm,
    linked.map((l) => l.va),
  );
}

/** Frees a list and its ops; mappings are not touched. @kernel drm_gpuvm_ops_free, drm_gpuva_ops_free */
export function opsFree<A extends Address>(vm: GpuVm<A>, ops: GpuVaOps<A>): void {
  let op = ops.first;
  while (op !== null) {
    const following = op.nextOp;
    op.nextOp = null;
    op.prevOp = null;
    op.setStep(null);
    vm.ops?.opFree?.(op);
    op = following;
  }
  ops.first = null;
  ops.last = null;
  if (vm.outstanding === ops) vm.outstanding = null;
}

/** Collects the steps of a walk. */
class ListBuilder<A extends Address> {
  readonly vm: GpuVm<A>;
  readonly ops = new GpuVaOps<A>();

  constructor(vm: GpuVm<A>) {
    assertNoneOutstanding(vm);
    this.vm = vm;
  }

  add(step: Step<A>): 0 | Errno {
    const op = allocate(this.vm);
    if (op === null) return ENOMEM;
    op.setStep(step);
    this.ops.append(op);
    return 0;
  }

  /** The list, or what stopped the walk, after freeing the part already made. */
  finish(ret: 0 | Errno): GpuVaOps<A> | Errno {
    if (ret !== 0) {
      opsFree(this.vm, this.ops);
      return ret;
    }
    if (!this.ops.isEmpty) this.vm.outstanding = this.ops;
    return this.ops;
  }
}

/** Receivers that copy each step onto a list: the step itself is overwritten by the next one. */
const LIST_OPS = {
  smStepMap: (step, list) => list.add(copyMap(step)),
  smStepUnmap: (step, list) => list.add(copyUnmap(step)),
  smStepRemap: (step, list) => list.add(copyRemap(step)),
} satisfies StepOps<Address, ListBuilder<Address>> as unknown;

function copyMap<A extends Address>(step: MapStep<A>): MapStep<A> {
  return { kind: GPUVA_OP_MAP, addr: step.addr, range: step.range, obj: step.obj, offset: step.offset };
}

function copyUnmap<A extends Address>(step: UnmapStep<A>): UnmapStep<A> {
  return { kind: GPUVA_OP_UNMAP, va: step.va, keep: step.keep };
}

function copyPiece<A extends Address>(piece: MapPiece<A> | null): MapPiece<A> | null {
  return piece === null ? null : { addr: piece.addr, range: piece.range, obj: piece.obj, offset: piece.offset };
}

function copyRemap<A extends Address>(step: RemapStep<A>): RemapStep<A> {
  return { kind: GPUVA_OP_REMAP, prev: copyPiece(step.prev), next: copyPiece(step.next), unmap: copyUnmap(step.unmap) };
}

function allocate<A extends Address>(vm: GpuVm<A>): GpuVaOp<A> | null {
  return vm.ops?.opAlloc === undefined ? new GpuVaOp<A>() : vm.ops.opAlloc();
}

/** False when there is no memory for the op; the list is freed then. */
function append<A extends Address>(vm: GpuVm<A>, ops: GpuVaOps<A>, step: Step<A>): boolean {
  const op = allocate(vm);
  if (op === null) {
    opsFree(vm, ops);
    return false;
  }
  op.setStep(step);
  ops.append(op);
  return true;
}

function unmapAll<A extends Address>(vm: GpuVm<A>, vas: Iterable<GpuVa<A>>): GpuVaOps<A> | Errno {
  const ops = new GpuVaOps<A>();
  for (const va of vas) {
    if (!append(vm, ops, { kind: GPUVA_OP_UNMAP, va, keep: false })) return ENOMEM;
  }
  return ops;
}

/**
 * Steps are valid only against the state they came from, so a second set must not be made before the first is applied
 * to the view or freed (H4). Applied means, whoever did it and how: what was to go is gone, what was to come is there.
 */
function assertNoneOutstanding<A extends Address>(vm: GpuVm<A>): void {
  const ops = vm.outstanding;
  if (ops === null || !vm.hardening.checkUse) return;
  for (let op = ops.first; op !== null; op = op.nextOp) {
    assert(isApplied(vm, op.step), `${vm.name}: steps were generated before the last ones were applied or freed`);
  }
  vm.outstanding = null;
}

function isApplied<A extends Address>(vm: GpuVm<A>, step: Step<A>): boolean {
  switch (step.kind) {
    case GPUVA_OP_MAP:
      return vm.find(step.addr, step.range) !== null;
    case GPUVA_OP_UNMAP:
      return !step.va.isInserted;
    case GPUVA_OP_REMAP:
      return !step.unmap.va.isInserted;
    case GPUVA_OP_PREFETCH:
      return true;
  }
}

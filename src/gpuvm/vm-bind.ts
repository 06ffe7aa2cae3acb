/**
 * VM_BIND: an array of map, unmap and prefetch operations that happens as a whole or not at all.
 *
 * Overview. Under the VM's writer lock, with every object locked that an operation can touch: each operation is turned
 * into steps, which are committed to the view before the next operation is looked at, because its steps depend on that.
 * Then the page table work of all steps is prepared and submitted as one update. Whatever fails on the way, all steps
 * are unwound, last to first, and the VM is as it was; only when page table writes were already submitted is the VM
 * banned, since what the GPU sees is then unknown.
 *
 * Fences. `waits` are awaited before page tables change; `signals` complete after that, in the order of the queue.
 */
import { EINVAL, ENODATA, ENOENT, type Errno, isErr } from "../base/errno.ts";
import { type Completion, RwSemaphore } from "../base/locks.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import {
  type BindLimits,
  type BindOp,
  type CheckedOp,
  checkBindArgs,
  resolveBindOps,
  VM_BIND_IMMEDIATE,
  VM_BIND_OP_PREFETCH,
  VM_BIND_OP_UNMAP,
  VM_BIND_OP_UNMAP_ALL,
} from "./bind-args.ts";
import { type BindCommitHost, BindStep } from "./bind-step.ts";
import type { Fence } from "./dma-resv.ts";
import type { DrmExec } from "./drm-exec.ts";
import { GpuVmExec, prepareRange, smMapExecLock, smUnmapExecLock } from "./exec.ts";
import type { GemObject } from "./gem-object.ts";
import type { GpuVa } from "./gpuva.ts";
import type { GpuVm } from "./gpuvm.ts";
import {
  boUnmapOpsCreate,
  type GpuVaOps,
  opsFree,
  prefetchOpsCreate,
  smMapOpsCreate,
  smUnmapOpsCreate,
} from "./ops.ts";
import { GPUVA_OP_MAP, GPUVA_OP_PREFETCH, GPUVA_OP_REMAP, GPUVA_OP_UNMAP, type MapRequest } from "./steps.ts";
import { boFind, boPut } from "./vm-bo.ts";

/** The page table work of one bind call, prepared step by step and submitted at once. */
export interface BindUpdate {
  bind(va: GpuVa): MaybePromise<0 | Errno>;
  unbind(start: number, range: number): MaybePromise<0 | Errno>;
  /** Writes the page tables. */
  submit(): MaybePromise<0 | Errno>;
  /** Throws the prepared work away. */
  abort(): void;
  /** Some of it has reached the page tables. */
  readonly submitted: boolean;
}

/** What a driver gives to its bind path. */
export interface BindHost extends BindLimits, BindCommitHost {
  beginUpdate(): BindUpdate;
  /** Brings the object to where the GPU can use it. */
  validate(obj: GemObject): MaybePromise<0 | Errno>;
  /** Brings the mapping's memory to the region. */
  prefetch(va: GpuVa, region: number): MaybePromise<0 | Errno>;
}

/** Bind calls of one queue complete in order. */
export class BindQueue {
  readonly owner: BindVm;
  lastFence: Fence | null = null;
  closed = false;

  constructor(owner: BindVm) {
    this.owner = owner;
  }
}

/** A VM as a driver's users see it. */
export class BindVm {
  readonly vm: GpuVm;
  readonly host: BindHost;
  readonly lock: RwSemaphore;
  /** What the GPU sees is unknown: every use is -ENOENT. */
  banned = false;
  closed = false;

  constructor(vm: GpuVm, host: BindHost) {
    this.vm = vm;
    this.host = host;
    this.lock = new RwSemaphore(`${vm.name} writer lock`, "driverVm");
  }
}

export interface BindFences {
  readonly queue?: BindQueue;
  readonly waits?: readonly Fence[];
  readonly signals?: readonly Completion[];
}

/**
 * Runs the operations in order, as a whole. -EINVAL: bad arguments, -ENOENT: VM closed or banned, unknown object or
 * queue, -EBUSY: SVM ranges in the way, -ENOMEM, -ENOSPC and what the driver's callbacks return.
 *
 * @kernel xe_vm_bind_ioctl
 */
export async function vmBind(bindVm: BindVm, ops: readonly BindOp[], fences: BindFences = {}): Promise<0 | Errno> {
  const { vm, host } = bindVm;
  const { queue, signals = [] } = fences;
  const ret = checkBindArgs(ops, host);
  if (ret !== 0) return ret;
  if (queue !== undefined && queue.owner !== bindVm) return EINVAL;
  if (queue?.closed === true) return ENOENT;
  const guard = await bindVm.lock.write();
  try {
    if (bindVm.closed || bindVm.banned) return ENOENT;
    const checked = resolveBindOps(vm, ops, host);
    if (isErr(checked)) return checked;
    const result = await bindLocked(bindVm, checked, fences.waits ?? []);
    // Nothing to do is success, in its turn.
    if (result !== 0 && result !== ENODATA) return result;
    if (queue?.lastFence != null) await queue.lastFence.wait();
    for (const signal of signals) signal.complete();
    if (queue !== undefined) queue.lastFence = signals.at(-1) ?? null;
    return 0;
  } finally {
    guard.release();
  }
}

async function bindLocked(bindVm: BindVm, ops: readonly CheckedOp[], waits: readonly Fence[]): Promise<0 | Errno> {
  const vmExec = new GpuVmExec(bindVm.vm, 0);
  const locked = await vmExec.lock((exec) => lockObjects(bindVm.vm, exec, ops));
  if (locked !== 0) return locked;
  try {
    const steps: BindStep[] = [];
    let ret = commitOps(bindVm, ops, steps);
    if (ret === 0) ret = steps.length === 0 ? ENODATA : await execute(bindVm, steps, waits);
    if (ret !== 0) for (const step of steps.toReversed()) step.unwind(bindVm.vm);
    for (const step of steps) step.finish();
    return ret;
  } finally {
    vmExec.unlock();
  }
}

/** All objects of all ops at once; see `smMapExecLock` why that is enough. */
function lockObjects(vm: GpuVm, exec: DrmExec, ops: readonly CheckedOp[]): 0 | Errno {
  for (const op of ops) {
    const ret = lockObjectsOf(vm, exec, op);
    if (ret !== 0) return ret;
  }
  return 0;
}

function lockObjectsOf(vm: GpuVm, exec: DrmExec, op: CheckedOp): 0 | Errno {
  switch (op.op) {
    case VM_BIND_OP_UNMAP:
      return smUnmapExecLock(vm, exec, op.addr, op.range);
    case VM_BIND_OP_UNMAP_ALL:
      return exec.prepareObj(op.obj!, 0);
    case VM_BIND_OP_PREFETCH:
      return prepareRange(vm, exec, op.addr, op.range, 0);
    default:
      return smMapExecLock(vm, exec, 0, mapRequestOf(op));
  }
}

function mapRequestOf(op: CheckedOp): MapRequest {
  return { addr: op.addr, range: op.range, obj: op.obj, offset: op.offset };
}

/** Creates and commits op by op. `steps` holds all that has to be unwound, also on an error. */
function commitOps(bindVm: BindVm, ops: readonly CheckedOp[], steps: BindStep[]): 0 | Errno {
  const { vm, host } = bindVm;
  for (const op of ops) {
    const list = createSteps(vm, op);
    if (list === null) continue;
    if (isErr(list)) return list;
    const own = Array.from(list, ({ step }) => new BindStep(step, op));
    opsFree(vm, list);
    steps.push(...own);
    for (const step of own) {
      const ret = step.parse(vm, host);
      if (ret !== 0) return ret;
    }
    for (const step of own) {
      const ret = step.commit(vm);
      if (ret !== 0) return ret;
    }
  }
  return 0;
}

/** Null where there is nothing to unmap. */
function createSteps(vm: GpuVm, op: CheckedOp): GpuVaOps | Errno | null {
  switch (op.op) {
    case VM_BIND_OP_UNMAP:
      return smUnmapOpsCreate(vm, op.addr, op.range);
    case VM_BIND_OP_PREFETCH:
      return prefetchOpsCreate(vm, op.addr, op.range);
    case VM_BIND_OP_UNMAP_ALL: {
      const vmBo = boFind(vm, op.obj!);
      if (vmBo === null) return null;
      const ops = boUnmapOpsCreate(vmBo);
      boPut(vmBo);
      return ops;
    }
    default:
      return smMapOpsCreate(vm, mapRequestOf(op));
  }
}

/** The page table work of all steps as one update. */
async function execute(bindVm: BindVm, steps: readonly BindStep[], waits: readonly Fence[]): Promise<0 | Errno> {
  for (const fence of waits) await fence.wait();
  const update = bindVm.host.beginUpdate();
  for (const step of steps) {
    const ret = await prepareStep(bindVm, update, step);
    if (ret === 0) continue;
    update.abort();
    return ret;
  }
  const ret = await update.submit();
  if (ret === 0) return 0;
  if (update.submitted) bindVm.banned = true;
  update.abort();
  return ret;
}

async function prepareStep({ host }: BindVm, update: BindUpdate, bindStep: BindStep): Promise<0 | Errno> {
  const { step, op } = bindStep;
  switch (step.kind) {
    case GPUVA_OP_MAP: {
      const isDeferred = host.faultMode && (op.flags & VM_BIND_IMMEDIATE) === 0;
      return isDeferred ? 0 : bindValidated(host, update, bindStep.map!);
    }
    case GPUVA_OP_UNMAP:
      return update.unbind(bindStep.unbindStart, bindStep.unbindRange);
    case GPUVA_OP_REMAP: {
      let ret = await update.unbind(bindStep.unbindStart, bindStep.unbindRange);
      if (ret === 0 && bindStep.prev !== null && !bindStep.skipPrev)
        ret = await bindValidated(host, update, bindStep.prev);
      if (ret === 0 && bindStep.next !== null && !bindStep.skipNext)
        ret = await bindValidated(host, update, bindStep.next);
      return ret;
    }
    case GPUVA_OP_PREFETCH: {
      const ret = await host.prefetch(step.va, op.region);
      return ret === 0 ? update.bind(step.va) : ret;
    }
  }
}

async function bindValidated(host: BindHost, update: BindUpdate, va: GpuVa): Promise<0 | Errno> {
  const ret = va.obj === null ? 0 : await host.validate(va.obj);
  return ret === 0 ? update.bind(va) : ret;
}

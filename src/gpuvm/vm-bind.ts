/**
 * VM_BIND: an array of map, unmap and prefetch operations that happens as a whole or not at all.
 *
 * Overview. Under the VM's writer lock, with every object locked that an operation can touch: each operation is turned
 * into steps, which are committed to the view before the next operation is looked at, because its steps depend on that.
 * Then the page table work of all steps is prepared and submitted as one update. Whatever fails on the way, all steps
 * are unwound, last to first, and the VM is as it was; only when page table writes were already submitted is the VM
 * banned, since what the GPU sees is then unknown.
 *
 * Memory of the CPU is looked up before any reservation is taken, as the order of locks wants: `BindHost.prepare`.
 *
 * Fences. `waits` are awaited before anything is done, without any lock, since what they wait for may need this VM;
 * `signals` complete after the page tables changed. Calls of one queue take their turns, waits included.
 */
import { EINVAL, ENODATA, ENOENT, type Errno, isErr } from "../base/errno.ts";
import { inActivity } from "../base/lock-order.ts";
import { type Completion, Mutex, RwSemaphore } from "../base/locks.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import {
  type BindLimits,
  type BindOp,
  type CheckedOp,
  checkBindArgs,
  resolveBindOps,
  VM_BIND_CPU_ADDR_MIRROR,
  VM_BIND_IMMEDIATE,
  VM_BIND_OP_PREFETCH,
  VM_BIND_OP_UNMAP,
  VM_BIND_OP_UNMAP_ALL,
} from "./bind-args.ts";
import { BIND_VA_CPU_MIRROR, type BindCommitHost, BindStep } from "./bind-step.ts";
import type { Fence } from "./dma-resv.ts";
import { DrmExec, EXEC_IGNORE_DUPLICATES } from "./drm-exec.ts";
import { prepareRange, prepareVm, smMapExecLock, smUnmapExecLock } from "./exec.ts";
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
  /** For the mapping that `step` removes or cuts; pieces that the step skips keep their entries. */
  unbind(start: number, range: number, step: BindStep): MaybePromise<0 | Errno>;
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
  prefetch(va: GpuVa, region: number, op: CheckedOp): MaybePromise<0 | Errno>;
  /**
   * The arguments are good, and the writer lock is held: looks up what has to be looked up without reservations. An error
   * ends the call.
   */
  prepare?(ops: readonly CheckedOp[]): MaybePromise<0 | Errno>;
  /** The call ends with `result`, reservations are free again, the writer lock is held. */
  complete?(ops: readonly CheckedOp[], result: 0 | Errno): MaybePromise<void>;
}

/** Bind calls of one queue complete in order. */
export class BindQueue {
  readonly owner: BindVm;
  /** Whose turn it is. */
  readonly turn = new Mutex("bind queue", "device");
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

  /** `lock`: the writer lock, where the driver has one already. */
  constructor(vm: GpuVm, host: BindHost, lock = new RwSemaphore(`${vm.name} writer lock`, "driverVm")) {
    this.vm = vm;
    this.host = host;
    this.lock = lock;
  }
}

export interface BindFences {
  readonly queue?: BindQueue;
  readonly waits?: readonly Fence[];
  readonly signals?: readonly Completion[];
  /** Gets the steps that were carried out, in order, of a call that succeeds. */
  readonly performed?: BindStep[];
}

/**
 * Runs the operations in order, as a whole. -EINVAL: bad arguments, -ENOENT: VM closed or banned, unknown object or
 * queue, -EBUSY: SVM ranges in the way, -ENOMEM, -ENOSPC and what the driver's callbacks return.
 *
 * @kernel xe_vm_bind_ioctl
 */
export function vmBind(bindVm: BindVm, ops: readonly BindOp[], fences: BindFences = {}): Promise<0 | Errno> {
  return inActivity(() => checkAndBind(bindVm, ops, fences));
}

async function checkAndBind(bindVm: BindVm, ops: readonly BindOp[], fences: BindFences): Promise<0 | Errno> {
  const { queue } = fences;
  const ret = checkBindArgs(ops, bindVm.host);
  if (ret !== 0) return ret;
  if (queue === undefined) return bindInTurn(bindVm, ops, fences);
  if (queue.owner !== bindVm) return EINVAL;
  if (queue.closed) return ENOENT;
  const turn = await queue.turn.lock();
  try {
    return await bindInTurn(bindVm, ops, fences);
  } finally {
    turn.release();
  }
}

async function bindInTurn(bindVm: BindVm, ops: readonly BindOp[], fences: BindFences): Promise<0 | Errno> {
  for (const fence of fences.waits ?? []) await fence.wait();
  const guard = await bindVm.lock.write();
  try {
    if (bindVm.closed || bindVm.banned) return ENOENT;
    const checked = resolveBindOps(bindVm.vm, ops, bindVm.host);
    if (isErr(checked)) return checked;
    const result = await bindChecked(bindVm, checked, fences.performed ?? []);
    // Nothing to do is success, in its turn.
    if (result !== 0 && result !== ENODATA) return result;
    for (const signal of fences.signals ?? []) signal.complete();
    return 0;
  } finally {
    guard.release();
  }
}

async function bindChecked(bindVm: BindVm, ops: readonly CheckedOp[], performed: BindStep[]): Promise<0 | Errno> {
  const { host } = bindVm;
  const prepared = (await host.prepare?.(ops)) ?? 0;
  const result = prepared === 0 ? await bindLocked(bindVm, ops, performed) : prepared;
  await host.complete?.(ops, result);
  return result;
}

async function bindLocked(bindVm: BindVm, ops: readonly CheckedOp[], performed: BindStep[]): Promise<0 | Errno> {
  const { vm } = bindVm;
  const exec = new DrmExec(EXEC_IGNORE_DUPLICATES);
  try {
    // Objects that no operation touches stay free: they may have to make room.
    const locked = await exec.untilAllLocked(async () => prepareVm(vm, exec, 0) || lockObjects(vm, exec, ops));
    if (locked !== 0) return locked;
    const steps: BindStep[] = [];
    let ret = commitOps(bindVm, ops, steps);
    if (ret === 0) ret = steps.length === 0 ? ENODATA : await execute(bindVm, steps);
    if (ret !== 0) for (const step of steps.toReversed()) step.unwind(bindVm.vm);
    for (const step of steps) step.finish(bindVm.host);
    if (ret === 0) performed.push(...steps);
    return ret;
  } finally {
    exec.fini();
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
  for (const op of ops) {
    const admitted = bindVm.host.admit?.(op) ?? 0;
    if (admitted !== 0) return admitted;
    for (const part of partsOf(bindVm.vm, op)) {
      const ret = commitPart(bindVm, op, part, steps);
      if (ret !== 0) return ret;
    }
  }
  return 0;
}

/**
 * The stretches that an op is about: all of it, but a CPU mirror leaves alone what is one already, with the SVM ranges in
 * it.
 */
function partsOf(vm: GpuVm, op: CheckedOp): readonly CheckedOp[] {
  if ((op.flags & VM_BIND_CPU_ADDR_MIRROR) === 0) return [op];
  const parts: CheckedOp[] = [];
  const end = op.addr + op.range;
  let from = op.addr;
  for (const va of vm.vasIn(op.addr, end)) {
    if ((va.flags & BIND_VA_CPU_MIRROR) === 0) continue;
    if (va.addr > from) parts.push({ ...op, addr: from, range: va.addr - from });
    from = va.addr + va.range;
  }
  if (from < end) parts.push({ ...op, addr: from, range: end - from });
  return parts;
}

function commitPart({ vm, host }: BindVm, op: CheckedOp, part: CheckedOp, steps: BindStep[]): 0 | Errno {
  const list = createSteps(vm, part);
  if (list === null) return 0;
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
async function execute(bindVm: BindVm, steps: readonly BindStep[]): Promise<0 | Errno> {
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
      return update.unbind(bindStep.unbindStart, bindStep.unbindRange, bindStep);
    case GPUVA_OP_REMAP: {
      let ret = await update.unbind(bindStep.unbindStart, bindStep.unbindRange, bindStep);
      if (ret === 0 && bindStep.prev !== null && !bindStep.skipPrev)
        ret = await bindValidated(host, update, bindStep.prev);
      if (ret === 0 && bindStep.next !== null && !bindStep.skipNext)
        ret = await bindValidated(host, update, bindStep.next);
      return ret;
    }
    case GPUVA_OP_PREFETCH: {
      const ret = await host.prefetch(step.va, op.region, op);
      return ret === 0 ? update.bind(step.va) : ret;
    }
  }
}

async function bindValidated(host: BindHost, update: BindUpdate, va: GpuVa): Promise<0 | Errno> {
  const ret = va.obj === null ? 0 : await host.validate(va.obj);
  return ret === 0 ? update.bind(va) : ret;
}

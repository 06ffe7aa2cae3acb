import { PAGE_SIZE, hexRange } from "../base/addr.ts";
import { errnoName, isErr } from "../base/errno.ts";
import { KernelError } from "../base/errors.ts";
import { rewriteEntries } from "../driver/bind-engine.ts";
import { mapBo, mapMirror, mapNull, mapUserptr, unmap } from "../driver/bind-ops.ts";
import { BindVa } from "../driver/bind-va.ts";
import { type BindOp, VM_BIND_IMMEDIATE } from "../gpuvm/bind-args.ts";
import { BIND_VA_CPU_MIRROR, BIND_VA_USERPTR, type BindStep } from "../gpuvm/bind-step.ts";
import { GPUVA_SPARSE, type GpuVa } from "../gpuvm/gpuva.ts";
import { GPUVA_OP_MAP, GPUVA_OP_PREFETCH, GPUVA_OP_REMAP } from "../gpuvm/steps.ts";
import { type Num, checkedAddress, checkedLength, checkedUnits, toNumber } from "./args.ts";
import { Bo } from "./bo.ts";
import type { Process } from "./process.ts";
import type { Vm } from "./vm.ts";

/** Memory of a process, from `addr` on, to be shown at another GPU address. */
export class UserPtr {
  readonly process: Process;
  readonly addr: number;

  /** Throws KernelError EINVAL for an address that is no page's. */
  constructor(process: Process, a: Num) {
    this.process = process;
    this.addr = checkedUnits(checkedAddress(a, "userptr"), PAGE_SIZE, "userptr");
  }
}

/** Bound where reads give 0 and writes vanish. */
export const NULL: unique symbol = Symbol("NULL");

/** What can be bound. */
export type Obj = Bo | UserPtr | typeof NULL;

/** A mapping of a GPU address space; `off` is that of `start`: in the object, or, for memory of the process, its CPU address. */
export interface Va {
  readonly start: number;
  readonly end: number;
  readonly kind: "bo" | "userptr" | "null" | "mirror";
  readonly bo: Bo | null;
  readonly off: number;
}

/** What a bind has done; `va` of unmap and remap is the mapping that was, `keep`: its entries may stay. */
export type VaOp =
  | { readonly op: "map"; readonly va: Va }
  | { readonly op: "unmap"; readonly va: Va; readonly keep: boolean }
  | {
      readonly op: "remap";
      readonly va: Va;
      readonly prev: Va | null;
      readonly next: Va | null;
      readonly keep: boolean;
    };

/** One operation of a batch. Addresses, lengths and offsets are bytes, whole pages. */
export type BatchOp =
  | { op: "map"; va: Num; len: Num; obj: Obj; off?: Num }
  | { op: "unmap"; va: Num; len: Num }
  | { op: "mirror"; va: Num; len: Num };

export interface BindOptions {
  /** Who writes the entries: the host, or the copy engine of the GPU. Default `"cpu"`. */
  by?: "cpu" | "gpu";
  /** Of a device of several tiles: those that it is bound on; on the others nothing is there. Default: all. */
  tiles?: readonly number[];
  /** Index of the memory attributes of the entries, 0 to 3: kept in them, and without effect on this hardware. Default 0. */
  pat?: number;
}

/**
 * Runs the operations as a whole, entries included: what was done, in order. Rejects with EINVAL (bad arguments, a mirror
 * outside of the window), EBUSY (SVM ranges in the way), ENOENT (closed), EFAULT, EPERM (process memory that is not
 * there), ENOMEM (no room in VRAM, for page tables or nodes), ENOSPC (none in the system window), EIO (device lost); then
 * nothing has changed.
 */
export async function bindAll(vm: Vm, ops: readonly BatchOp[], verb: string, o: BindOptions = {}): Promise<VaOp[]> {
  const { by = "cpu" } = o;
  if (by !== "cpu" && by !== "gpu") {
    throw new KernelError("EINVAL", `${verb}: by "cpu" or "gpu", not ${String(by)}`);
  }
  const tileMask = maskOf(vm, o.tiles, verb);
  const bindOps = ops.map((op) => ({ ...bindOpOf(vm, op, verb), ...tileMask, patIndex: o.pat ?? 0 }));
  await vm.device.machine.sched.point("verb");
  return perform(vm, bindOps, verb, by);
}

function maskOf(vm: Vm, tiles: readonly number[] | undefined, verb: string): { tileMask?: number } {
  if (tiles === undefined) return {};
  const count = vm.device.driver.regions.length;
  const isOne = (tile: number): boolean => Number.isSafeInteger(tile) && tile >= 0 && tile < count;
  if (tiles.length === 0 || !tiles.every(isOne)) {
    throw new KernelError("EINVAL", `${verb}: tiles of the device are wanted, not [${tiles.join(", ")}]`);
  }
  return { tileMask: tiles.reduce((mask, tile) => mask | (1 << tile), 0) };
}

/** Takes what is mirror out of `[start, end)`; errors as `bindAll`. */
export async function unbindMirror(vm: Vm, va: Num, l: Num): Promise<void> {
  const { va: start, len } = { va: checkedAddress(va, "mirrorUnbind"), len: toNumber(l) };
  bindOpOf(vm, { op: "unmap", va: start, len }, "mirrorUnbind");
  await vm.device.machine.sched.point("verb");
  const parts = vasOf(vm, start, start + len).filter(({ kind }) => kind === "mirror");
  const ops = parts.map((part) => {
    const from = Math.max(start, part.start);
    return unmap(from, Math.min(start + len, part.end) - from);
  });
  await perform(vm, ops, "mirrorUnbind", "cpu");
}

async function perform(vm: Vm, bindOps: readonly BindOp[], verb: string, by: "cpu" | "gpu"): Promise<VaOp[]> {
  const performed: BindStep[] = [];
  const result = await vm.svm.binds.bind(bindOps, { performed });
  if (isErr(result)) {
    const first = bindOps[0];
    const where = first === undefined ? "nothing" : hexRange(first.addr!, first.addr! + first.range!);
    throw KernelError.fromErrno(result, `${verb} of ${where} (${errnoName(result)})`, first?.addr);
  }
  for (const { addr = 0, range = 0 } of by === "gpu" ? bindOps : []) {
    const written = await rewriteEntries(vm.svm, addr, addr + range);
    if (isErr(written)) throw KernelError.fromErrno(written, `${verb} by the GPU`, addr);
  }
  return performed.flatMap((step) => vaOpOf(vm, step));
}

function bindOpOf(vm: Vm, op: BatchOp, verb: string): BindOp {
  const va = checkedUnits(checkedAddress(op.va, verb), PAGE_SIZE, verb);
  const len = checkedUnits(checkedLength(va, op.len, verb), PAGE_SIZE, verb);
  switch (op.op) {
    case "map":
      return mapOpOf(vm, va, len, op.obj, checkedUnits(checkedAddress(op.off ?? 0, verb), PAGE_SIZE, verb), verb);
    case "unmap":
      return unmap(va, len);
    case "mirror":
      return mapMirror(va, len, VM_BIND_IMMEDIATE);
    default:
      throw new KernelError("EINVAL", `${verb}: "map", "unmap" or "mirror" is wanted, not ${JSON.stringify(op)}`);
  }
}

function mapOpOf(vm: Vm, va: number, len: number, obj: Obj, off: number, verb: string): BindOp {
  if (obj === NULL) return mapNull(va, len, VM_BIND_IMMEDIATE);
  if (obj instanceof UserPtr) {
    if (obj.process === vm.process) return mapUserptr(va, len, obj.addr + off, VM_BIND_IMMEDIATE);
    throw new KernelError("EINVAL", `${verb}: memory of process ${obj.process.pid}, not of ${vm.process.pid}`);
  }
  if (obj instanceof Bo && obj.device === vm.device) return mapBo(va, len, obj.driver, off, VM_BIND_IMMEDIATE);
  throw new KernelError("EINVAL", `${verb}: a buffer object of the device, a userptr or NULL is wanted`);
}

/** The mappings that touch `[lo, hi)`, whole, ascending. A probe. */
export function vasOf(vm: Vm, lo: number, hi: number): Va[] {
  if (lo >= hi || vm.svm.isClosed) return [];
  return vm.svm.binds.vas(lo, Math.min(hi, vm.svm.binds.gpuvm.mmEnd)).map((va) => vaOf(vm, va));
}

function vaOf(vm: Vm, va: GpuVa): Va {
  const kind = kindOf(va);
  const bo = va instanceof BindVa && va.bo !== null ? vm.device.boOf(va.bo) : null;
  const off = kind === "bo" || kind === "userptr" ? va.offset : 0;
  return { start: va.addr, end: va.addr + va.range, kind, bo, off };
}

function kindOf(va: GpuVa): Va["kind"] {
  if ((va.flags & BIND_VA_CPU_MIRROR) !== 0) return "mirror";
  if ((va.flags & BIND_VA_USERPTR) !== 0) return "userptr";
  return (va.flags & GPUVA_SPARSE) !== 0 ? "null" : "bo";
}

function vaOpOf(vm: Vm, { step, map, prev, next }: BindStep): VaOp[] {
  const view = (va: GpuVa | null): Va | null => (va === null ? null : vaOf(vm, va));
  switch (step.kind) {
    case GPUVA_OP_MAP:
      return map === null ? [] : [{ op: "map", va: vaOf(vm, map) }];
    case GPUVA_OP_PREFETCH:
      return [];
    case GPUVA_OP_REMAP: {
      const { va, keep } = step.unmap;
      return [{ op: "remap", va: vaOf(vm, va), prev: view(prev), next: view(next), keep }];
    }
    default:
      return [{ op: "unmap", va: vaOf(vm, step.va), keep: step.keep }];
  }
}

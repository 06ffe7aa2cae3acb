import type { Va } from "../base/addr.ts";
import {
  type BindOp,
  VM_BIND_CPU_ADDR_MIRROR,
  VM_BIND_NULL,
  VM_BIND_OP_MAP,
  VM_BIND_OP_MAP_USERPTR,
  VM_BIND_OP_PREFETCH,
  VM_BIND_OP_UNMAP,
  VM_BIND_OP_UNMAP_ALL,
} from "../gpuvm/bind-args.ts";
import type { Bo } from "./bo.ts";

/*
 * Operations of VM_BIND by what they do; `flags` are VM_BIND_READONLY, VM_BIND_IMMEDIATE and the like. Addresses, lengths
 * and offsets are bytes, whole pages.
 */

/** Shows `range` bytes of an object from `offset` at `addr`. */
export function mapBo(addr: Va, range: number, bo: Bo, offset = 0, flags = 0): BindOp {
  return { op: VM_BIND_OP_MAP, flags, obj: bo.handle, offset, addr, range };
}

/** Shows the process's memory at `cpu`. */
export function mapUserptr(addr: Va, range: number, cpu: Va, flags = 0): BindOp {
  return { op: VM_BIND_OP_MAP_USERPTR, flags, offset: cpu, addr, range };
}

/** Reads give zero, writes vanish. */
export function mapNull(addr: Va, range: number, flags = 0): BindOp {
  return { op: VM_BIND_OP_MAP, flags: flags + VM_BIND_NULL, addr, range };
}

/** GPU addresses are CPU addresses there. What is a mirror already stays as it is, with what is in it. */
export function mapMirror(addr: Va, range: number, flags = 0): BindOp {
  return { op: VM_BIND_OP_MAP, flags: flags + VM_BIND_CPU_ADDR_MIRROR, addr, range };
}

/** Leaves a hole, not a mirror. */
export function unmap(addr: Va, range: number): BindOp {
  return { op: VM_BIND_OP_UNMAP, addr, range };
}

/** Takes every mapping of an object away. */
export function unmapAll(bo: Bo): BindOp {
  return { op: VM_BIND_OP_UNMAP_ALL, obj: bo.handle };
}

/** Brings what is mapped there to a region (REGION_*) and binds it. */
export function prefetch(addr: Va, range: number, region: number): BindOp {
  return { op: VM_BIND_OP_PREFETCH, addr, range, region };
}

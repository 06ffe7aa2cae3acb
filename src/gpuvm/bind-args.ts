import { EINVAL, ENOENT, type Errno } from "../base/errno.ts";
import type { GemObject } from "./gem-object.ts";
import type { GpuVm } from "./gpuvm.ts";

/** @kernel DRM_XE_VM_BIND_OP_MAP */
export const VM_BIND_OP_MAP = 0;
/** @kernel DRM_XE_VM_BIND_OP_UNMAP */
export const VM_BIND_OP_UNMAP = 1;
/** Maps CPU memory; the offset is its CPU address. @kernel DRM_XE_VM_BIND_OP_MAP_USERPTR */
export const VM_BIND_OP_MAP_USERPTR = 2;
/** Every mapping of an object. @kernel DRM_XE_VM_BIND_OP_UNMAP_ALL */
export const VM_BIND_OP_UNMAP_ALL = 3;
/** @kernel DRM_XE_VM_BIND_OP_PREFETCH */
export const VM_BIND_OP_PREFETCH = 4;

/** @kernel DRM_XE_VM_BIND_FLAG_READONLY */
export const VM_BIND_READONLY = 1;
/** In fault mode too, bind at once instead of at the first fault. @kernel DRM_XE_VM_BIND_FLAG_IMMEDIATE */
export const VM_BIND_IMMEDIATE = 2;
/** Sparse: no object, reads give zero. @kernel DRM_XE_VM_BIND_FLAG_NULL */
export const VM_BIND_NULL = 4;
/** @kernel DRM_XE_VM_BIND_FLAG_DUMPABLE */
export const VM_BIND_DUMPABLE = 8;
/** @kernel DRM_XE_VM_BIND_FLAG_CHECK_PXP */
export const VM_BIND_CHECK_PXP = 16;
/** GPU addresses are CPU addresses here: SVM. @kernel DRM_XE_VM_BIND_FLAG_CPU_ADDR_MIRROR */
export const VM_BIND_CPU_ADDR_MIRROR = 32;
/** @kernel DRM_XE_VM_BIND_FLAG_MADVISE_AUTORESET */
export const VM_BIND_MADVISE_AUTORESET = 64;

const ALL_FLAGS = 127;
const SZ_64K = 65536;
/** Ops in one call. */
export const VM_BIND_MAX_OPS = 512;

/** One operation of a bind call, in bytes. @kernel drm_xe_vm_bind_op */
export interface BindOp {
  readonly op: number;
  readonly flags?: number;
  /** Handle of the object, 0 for none. */
  readonly obj?: number;
  /** Offset in the object, or the CPU address of user memory. */
  readonly offset?: number;
  readonly addr?: number;
  readonly range?: number;
  /** Where to prefetch to. */
  readonly region?: number;
  /** Tiles to bind on, bit t for tile t; nothing here looks at it. Default: all. @kernel xe_vma.tile_mask */
  readonly tileMask?: number;
  /** Memory attributes of the entries; nothing here looks at it. Default 0. @kernel drm_xe_vm_bind_op.pat_index */
  readonly patIndex?: number;
  /** Must be 0. */
  readonly reserved?: number;
}

/** What argument checks ask of the driver. */
export interface BindLimits {
  readonly pageSize: number;
  readonly faultMode: boolean;
  hasRegion(region: number): boolean;
  /** Indexes of memory attributes that the hardware has; default 1. */
  readonly patEntries?: number;
  lookupObject(handle: number): GemObject | null;
  /** The object's memory is in pages of 64 KiB. */
  needs64K(obj: GemObject): boolean;
}

/** An op with nothing left out and its object looked up. */
export interface CheckedOp {
  readonly op: number;
  readonly flags: number;
  readonly obj: GemObject | null;
  readonly offset: number;
  readonly addr: number;
  readonly range: number;
  readonly region: number;
  readonly tileMask?: number;
  readonly patIndex: number;
}

/** What can be said of the ops without looking at the VM: -EINVAL or 0. */
export function checkBindArgs(ops: readonly BindOp[], limits: BindLimits): 0 | Errno {
  if (ops.length > VM_BIND_MAX_OPS) return EINVAL;
  return ops.every((op) => isWellFormed(op, limits)) ? 0 : EINVAL;
}

/** Extent of the VM, then object handles and extents: the ops completed, -EINVAL or -ENOENT. */
export function resolveBindOps(vm: GpuVm, ops: readonly BindOp[], limits: BindLimits): CheckedOp[] | Errno {
  for (const { op, addr = 0, range = 0 } of ops) {
    if (op !== VM_BIND_OP_UNMAP_ALL && !vm.requestValid(addr, range)) return EINVAL;
  }
  const checked: CheckedOp[] = [];
  for (const bindOp of ops) {
    const { op, flags = 0, obj: handle = 0, offset = 0, addr = 0, range = 0, region = 0 } = bindOp;
    const { tileMask, patIndex = 0 } = bindOp;
    const obj = handle === 0 ? null : limits.lookupObject(handle);
    if (handle !== 0 && obj === null) return ENOENT;
    if (op === VM_BIND_OP_MAP && obj !== null) {
      // Not `offset + range > size`: that could overflow.
      if (range > obj.size || offset > obj.size - range) return EINVAL;
      if (limits.needs64K(obj) && (addr % SZ_64K !== 0 || range % SZ_64K !== 0 || offset % SZ_64K !== 0)) return EINVAL;
    }
    const tiles = tileMask === undefined ? {} : { tileMask };
    checked.push({ op, flags, obj, offset, addr, range, region, patIndex, ...tiles });
  }
  return checked;
}

function isWellFormed(bindOp: BindOp, limits: BindLimits): boolean {
  const { op, flags = 0, obj = 0, offset = 0, addr = 0, range = 0, region = 0, reserved = 0 } = bindOp;
  const { patIndex = 0 } = bindOp;
  if (![op, flags, obj, offset, addr, range, region, patIndex].every((n) => Number.isSafeInteger(n) && n >= 0))
    return false;
  if (op > VM_BIND_OP_PREFETCH || flags > ALL_FLAGS || reserved !== 0) return false;
  if (patIndex >= (limits.patEntries ?? 1)) return false;
  const has = (flag: number): boolean => (flags & flag) !== 0;
  const isMirror = has(VM_BIND_CPU_ADDR_MIRROR);
  const isObjectless = has(VM_BIND_NULL) || isMirror;
  const isMap = op === VM_BIND_OP_MAP;
  if (isObjectless && (obj !== 0 || offset !== 0 || !isMap)) return false;
  if (isMirror && !limits.faultMode) return false;
  if (has(VM_BIND_MADVISE_AUTORESET) && !isMirror) return false;
  if (isMap && obj === 0 && !isObjectless) return false;
  if (obj !== 0 && !isMap && op !== VM_BIND_OP_UNMAP_ALL) return false;
  if (op === VM_BIND_OP_UNMAP_ALL ? obj === 0 || addr !== 0 || range !== 0 : range === 0) return false;
  if (region !== 0 && (op !== VM_BIND_OP_PREFETCH || !limits.hasRegion(region))) return false;
  return [offset, addr, range].every((n) => n % limits.pageSize === 0);
}

import { assert } from "../base/assert.ts";
import { EBUSY, type Errno, isErr } from "../base/errno.ts";
import { gpuvaMap, gpuvaRemap, gpuvaUnmap } from "./apply.ts";
import {
  type CheckedOp,
  VM_BIND_CPU_ADDR_MIRROR,
  VM_BIND_DUMPABLE,
  VM_BIND_NULL,
  VM_BIND_OP_MAP_USERPTR,
  VM_BIND_READONLY,
} from "./bind-args.ts";
import { boExtobjAdd } from "./evict.ts";
import { GPUVA_SPARSE, GPUVA_USERBITS, GpuVa } from "./gpuva.ts";
import type { GpuVm } from "./gpuvm.ts";
import { gpuvaLink, gpuvaUnlink } from "./link.ts";
import {
  GPUVA_OP_MAP,
  GPUVA_OP_PREFETCH,
  GPUVA_OP_REMAP,
  type MapPiece,
  type RemapStep,
  remapToUnmapRange,
  type Step,
} from "./steps.ts";
import { boObtain, boPut, type GpuVmBo } from "./vm-bo.ts";

/** Flags of a mapping that a bind call made. */
export const BIND_VA_READ_ONLY = GPUVA_USERBITS;
export const BIND_VA_DUMPABLE = GPUVA_USERBITS * 2;
export const BIND_VA_USERPTR = GPUVA_USERBITS * 4;
export const BIND_VA_CPU_MIRROR = GPUVA_USERBITS * 8;
/** Taken out of the view by a bind that may still fail. */
export const BIND_VA_DESTROYED = GPUVA_USERBITS * 16;

/** What committing asks of the driver. */
export interface BindCommitHost {
  /** Bytes of the largest leaf entry that the mapping's page tables use. */
  leafSize(va: GpuVa): number;
  /** The CPU mirror still holds SVM ranges there. */
  hasSvmRanges(start: number, range: number): boolean;
  /** An operation is about to be committed: an error refuses it. */
  admit?(op: CheckedOp): 0 | Errno;
  /** A mapping of the driver's own class: of `op`, or a piece of `old`. */
  newVa?(piece: MapPiece<number>, op: CheckedOp, old: GpuVa | null): GpuVa;
  /** The mapping is in no view and will be in none. */
  dropVa?(va: GpuVa): void;
}

/**
 * One step of a bind: what it will change, and how much of that has been done to the view, so that it can be undone. It
 * keeps references of the vm_bos it needs until `finish`.
 *
 * @kernel xe_vma_op
 */
export class BindStep {
  readonly step: Step;
  readonly op: CheckedOp;
  /** New mappings: of a map step, and the pieces of a remap step. */
  map: GpuVa | null = null;
  prev: GpuVa | null = null;
  next: GpuVa | null = null;
  /** Page table entries from `unbindStart` on go; those of a skipped piece stay as they are. */
  unbindStart = 0;
  unbindRange = 0;
  skipPrev = false;
  skipNext = false;
  committed = false;
  prevCommitted = false;
  nextCommitted = false;
  #vmBo: GpuVmBo | null = null;

  constructor(step: Step, op: CheckedOp) {
    this.step = step;
    this.op = op;
  }

  /** The mapping that the step removes or cuts. */
  get old(): GpuVa | null {
    if (this.step.kind === GPUVA_OP_MAP || this.step.kind === GPUVA_OP_PREFETCH) return null;
    return this.step.kind === GPUVA_OP_REMAP ? this.step.unmap.va : this.step.va;
  }

  /** Makes everything that committing needs. -ENOMEM, or -EBUSY for a CPU mirror that still holds ranges. */
  parse(vm: GpuVm, host: BindCommitHost): 0 | Errno {
    const { step, old } = this;
    if (step.kind === GPUVA_OP_MAP) {
      this.map = this.#newVa(step, host);
      this.map.flags = flagsOf(this.op);
      if (step.obj === null) return 0;
      const vmBo = boObtain(vm, step.obj);
      if (isErr(vmBo)) return vmBo;
      boExtobjAdd(vmBo);
      this.#vmBo = vmBo;
      return 0;
    }
    if (old === null) return 0;
    this.#vmBo = old.vmBo?.get() ?? null;
    this.unbindStart = old.addr;
    this.unbindRange = old.range;
    if (step.kind === GPUVA_OP_REMAP) this.#parseRemap(step, old, host);
    const isMirror = (old.flags & BIND_VA_CPU_MIRROR) !== 0;
    const gone = step.kind === GPUVA_OP_REMAP ? remapToUnmapRange(step) : { start: old.addr, range: old.range };
    return isMirror && host.hasSvmRanges(gone.start, gone.range) ? EBUSY : 0;
  }

  /** A piece may keep its entries where the cut does not go through a leaf. */
  #parseRemap(step: RemapStep, old: GpuVa, host: BindCommitHost): void {
    const isMirror = (old.flags & BIND_VA_CPU_MIRROR) !== 0;
    const isUserptr = (old.flags & BIND_VA_USERPTR) !== 0;
    const leaf = host.leafSize(old);
    const maySkip = (cut: number): boolean => isMirror || (!isUserptr && cut % leaf === 0);
    if (step.prev !== null) {
      this.prev = this.#newPiece(step.prev, old, host);
      const cut = step.prev.addr + step.prev.range;
      this.skipPrev = maySkip(cut);
      if (this.skipPrev) {
        this.unbindRange -= cut - this.unbindStart;
        this.unbindStart = cut;
      }
    }
    if (step.next !== null) {
      this.next = this.#newPiece(step.next, old, host);
      this.skipNext = maySkip(step.next.addr);
      if (this.skipNext) this.unbindRange = step.next.addr - this.unbindStart;
    }
  }

  /** Changes the view of the VM, noting how far it came. */
  commit(vm: GpuVm): 0 | Errno {
    const { step, old } = this;
    if (step.kind === GPUVA_OP_PREFETCH) return 0;
    if (step.kind === GPUVA_OP_MAP) {
      const ret = gpuvaMap(vm, this.map!, step);
      if (ret !== 0) return ret;
      this.#link(this.map!);
      this.committed = true;
      return 0;
    }
    assert(old !== null, "a step without a mapping to remove");
    old.flags |= BIND_VA_DESTROYED;
    gpuvaUnlink(old);
    this.committed = true;
    if (step.kind !== GPUVA_OP_REMAP) {
      gpuvaUnmap(step);
      return 0;
    }
    const ret = gpuvaRemap(this.prev, this.next, step);
    this.prevCommitted = this.prev?.isInserted ?? false;
    this.nextCommitted = this.next?.isInserted ?? false;
    if (this.prevCommitted) this.#link(this.prev!);
    if (this.nextCommitted) this.#link(this.next!);
    return ret;
  }

  /** Takes back what `commit` did. Steps are unwound from the last to the first, so that the old mapping fits again. */
  unwind(vm: GpuVm): void {
    const { step, old } = this;
    if (step.kind === GPUVA_OP_MAP) {
      if (this.committed) drop(vm, this.map!);
    } else if (old !== null) {
      if (this.nextCommitted) drop(vm, this.next!);
      if (this.prevCommitted) drop(vm, this.prev!);
      old.flags &= ~BIND_VA_DESTROYED;
      if (this.committed) {
        const ret = vm.insert(old);
        assert(ret === 0, () => `unwinding a bind: the old mapping does not fit any more (${ret})`);
        this.#link(old);
      }
    }
    this.committed = false;
    this.prevCommitted = false;
    this.nextCommitted = false;
  }

  /** Drops what was kept for undoing; after it, no `unwind`. Asserts the object's list lock. */
  finish(host: BindCommitHost): void {
    boPut(this.#vmBo);
    this.#vmBo = null;
    for (const va of [this.map, this.prev, this.next, this.old]) {
      if (va !== null && !va.isInserted) host.dropVa?.(va);
    }
  }

  #newVa(piece: MapPiece<number>, host: BindCommitHost, old: GpuVa | null = null): GpuVa {
    return host.newVa?.(piece, this.op, old) ?? new GpuVa(piece.addr, piece.range, piece.obj, piece.offset);
  }

  #newPiece(piece: MapPiece<number>, old: GpuVa, host: BindCommitHost): GpuVa {
    const va = this.#newVa(piece, host, old);
    va.flags = old.flags;
    return va;
  }

  #link(va: GpuVa): void {
    if (this.#vmBo !== null) gpuvaLink(va, this.#vmBo);
  }
}

function drop(vm: GpuVm, va: GpuVa): void {
  gpuvaUnlink(va);
  vm.remove(va);
}

function flagsOf({ op, flags }: CheckedOp): number {
  let result = op === VM_BIND_OP_MAP_USERPTR ? BIND_VA_USERPTR : 0;
  if ((flags & VM_BIND_NULL) !== 0) result |= GPUVA_SPARSE;
  if ((flags & VM_BIND_READONLY) !== 0) result |= BIND_VA_READ_ONLY;
  if ((flags & VM_BIND_DUMPABLE) !== 0) result |= BIND_VA_DUMPABLE;
  if ((flags & VM_BIND_CPU_ADDR_MIRROR) !== 0) result |= BIND_VA_CPU_MIRROR;
  return result;
}

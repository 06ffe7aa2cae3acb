import { EINVAL, type Errno } from "../base/errno.ts";
import type { Address } from "./arithmetic.ts";
import type { GpuVa } from "./gpuva.ts";
import type { GpuVm } from "./gpuvm.ts";
import type { MapPiece, MapRequest } from "./steps.ts";
import type { StepOps } from "./vm-ops.ts";

/*
 * Split and merge. A request q meets an existing mapping x in one of nine ways:
 *
 *              x ends with q        x ends inside q      x ends behind q
 *     same     |------| unmap       |---|    unmap       |---------| remap: next
 *     start    |======|             |======|             |======|
 *
 *     x starts |---------| remap:   |-------|   remap:   |------------| remap:
 *     before      |======| prev        |======| prev        |======|    prev, next
 *
 *     x starts    |---| unmap         |--|   unmap          |-----| remap: next
 *     inside   |======|             |======|             |======|
 *
 * Where x ends inside q the walk goes on, otherwise no later mapping can intersect. To map, one map step follows, always.
 */

/**
 * Delivers the steps of mapping `req` to the callbacks of the VM, which may apply each at once. -EINVAL: a callback is
 * missing or the range is bad; what a callback returns other than 0 ends it. Nothing is rolled back here.
 *
 * @kernel drm_gpuvm_sm_map, drm_gpuva_sm_map
 */
export function smMap<A extends Address>(vm: GpuVm<A>, priv: unknown, req: MapRequest<A>): 0 | Errno {
  const ops = vm.ops;
  if (ops === null || !ops.smStepMap || !ops.smStepRemap || !ops.smStepUnmap) return EINVAL;
  return smMapWalk(vm, ops, priv, req);
}

/** As `smMap`, for unmapping `[addr, addr + range)`. There is no map step. @kernel drm_gpuvm_sm_unmap, drm_gpuva_sm_unmap */
export function smUnmap<A extends Address>(vm: GpuVm<A>, priv: unknown, addr: A, range: A): 0 | Errno {
  const ops = vm.ops;
  if (ops === null || !ops.smStepRemap || !ops.smStepUnmap) return EINVAL;
  return smUnmapWalk(vm, ops, priv, addr, range);
}

/** @kernel __drm_gpuvm_sm_map */
export function smMapWalk<A extends Address, P>(
  vm: GpuVm<A>,
  ops: StepOps<A, P>,
  priv: P,
  req: MapRequest<A>,
): 0 | Errno {
  if (!vm.requestValid(req.addr, req.range) || !vm.arithmetic.isSpan(req.offset, req.range)) return EINVAL;
  const arith = vm.arithmetic;
  const reqAddr = req.addr;
  const reqEnd = arith.add(reqAddr, req.range);
  let va = vm.findFirst(reqAddr, req.range);
  while (va !== null && va.addr < reqEnd) {
    const end = arith.add(va.addr, va.range);
    const isLast = end >= reqEnd;
    // Fetched before the callback, which may remove `va` and insert pieces of it.
    const following = isLast ? null : vm.next(va);
    const hasPrev = va.addr < reqAddr;
    const keep = isContiguous(vm, va, req);
    const ret =
      hasPrev || end > reqEnd
        ? emitRemap(vm, ops, priv, va, reqAddr, reqEnd, keep)
        : emitUnmap(vm, ops, priv, va, keep);
    if (ret !== 0) return ret;
    if (isLast) break;
    va = following;
  }
  return emitMap(vm, ops, priv, reqAddr, req.range, req);
}

/** @kernel __drm_gpuvm_sm_unmap */
export function smUnmapWalk<A extends Address, P>(
  vm: GpuVm<A>,
  ops: StepOps<A, P>,
  priv: P,
  addr: A,
  range: A,
): 0 | Errno {
  if (!vm.requestValid(addr, range)) return EINVAL;
  const arith = vm.arithmetic;
  const reqEnd = arith.add(addr, range);
  let va = vm.findFirst(addr, range);
  while (va !== null && va.addr < reqEnd) {
    const following = vm.next(va);
    const cut = va.addr < addr || arith.add(va.addr, va.range) > reqEnd;
    const ret = cut ? emitRemap(vm, ops, priv, va, addr, reqEnd, false) : emitUnmap(vm, ops, priv, va, false);
    if (ret !== 0) return ret;
    va = following;
  }
  return 0;
}

/**
 * The walk of a memory advice: mappings without an object are cut at the ends of the request, so that attributes can be
 * set on exactly that range; mappings with an object stay. Each cut is followed by the map step of the part inside.
 *
 * @kernel drm_gpuvm_madvise_ops_create
 */
export function madviseWalk<A extends Address, P>(
  vm: GpuVm<A>,
  ops: StepOps<A, P>,
  priv: P,
  req: MapRequest<A>,
): 0 | Errno {
  if (!vm.requestValid(req.addr, req.range) || !vm.arithmetic.isSpan(req.offset, req.range)) return EINVAL;
  const arith = vm.arithmetic;
  const reqEnd = arith.add(req.addr, req.range);
  let va = vm.findFirst(req.addr, req.range);
  while (va !== null && va.addr < reqEnd) {
    const following = vm.next(va);
    const end = arith.add(va.addr, va.range);
    const hasPrev = va.addr < req.addr;
    const hasNext = end > reqEnd;
    if (va.obj === null && (hasPrev || hasNext)) {
      // The part of the mapping that the request covers: all of the request where it lies inside the mapping.
      const from = va.addr > req.addr ? va.addr : req.addr;
      const to = end < reqEnd ? end : reqEnd;
      const inside = from === req.addr && to === reqEnd ? req : null;
      const ret =
        emitRemap(vm, ops, priv, va, req.addr, reqEnd, false) ||
        emitMap(vm, ops, priv, from, arith.sub(to, from), inside);
      if (ret !== 0) return ret;
    }
    if (va.obj === null && end >= reqEnd) break;
    va = following;
  }
  return 0;
}

/** The request shows the same bytes of the same object at every address it shares with `va`. */
function isContiguous<A extends Address>(vm: GpuVm<A>, va: GpuVa<A>, req: MapRequest<A>): boolean {
  if (va.obj === null || va.obj !== req.obj) return false;
  const arith = vm.arithmetic;
  return va.addr <= req.addr
    ? arith.add(va.offset, arith.sub(req.addr, va.addr)) === req.offset
    : va.offset === arith.add(req.offset, arith.sub(va.addr, req.addr));
}

function emitMap<A extends Address, P>(
  vm: GpuVm<A>,
  ops: StepOps<A, P>,
  priv: P,
  addr: A,
  range: A,
  source: MapRequest<A> | null,
): 0 | Errno {
  const step = vm.scratch.map;
  step.addr = addr;
  step.range = range;
  step.obj = source === null ? null : source.obj;
  step.offset = source === null ? vm.arithmetic.zero : source.offset;
  return ops.smStepMap!(step, priv);
}

function emitUnmap<A extends Address, P>(
  vm: GpuVm<A>,
  ops: StepOps<A, P>,
  priv: P,
  va: GpuVa<A>,
  keep: boolean,
): 0 | Errno {
  const step = vm.scratch.unmap;
  step.va = va;
  step.keep = keep;
  return ops.smStepUnmap!(step, priv);
}

/** `va` without `[from, to)`. */
function emitRemap<A extends Address, P>(
  vm: GpuVm<A>,
  ops: StepOps<A, P>,
  priv: P,
  va: GpuVa<A>,
  from: A,
  to: A,
  keep: boolean,
): 0 | Errno {
  const arith = vm.arithmetic;
  const { remap: step, prev, next } = vm.scratch;
  const end = arith.add(va.addr, va.range);
  step.prev = va.addr < from ? setPiece(prev, va, va.addr, arith.sub(from, va.addr), va.offset) : null;
  step.next =
    end > to ? setPiece(next, va, to, arith.sub(end, to), arith.add(va.offset, arith.sub(to, va.addr))) : null;
  step.unmap.va = va;
  step.unmap.keep = keep;
  return ops.smStepRemap!(step, priv);
}

function setPiece<A extends Address>(piece: MapPiece<A>, va: GpuVa<A>, addr: A, range: A, offset: A): MapPiece<A> {
  piece.addr = addr;
  piece.range = range;
  piece.obj = va.obj;
  piece.offset = offset;
  return piece;
}

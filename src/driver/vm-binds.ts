import { PAGE_SIZE } from "../base/addr.ts";
import type { Va } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { EINVAL, ENOMEM, isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import { type Steps, run, wait } from "../base/steps.ts";
import { PAT_ENTRIES, REASON_EVICTED } from "../abi/pte.ts";
import {
  type BindOp,
  type CheckedOp,
  VM_BIND_CPU_ADDR_MIRROR,
  VM_BIND_IMMEDIATE,
  VM_BIND_OP_MAP_USERPTR,
  VM_BIND_OP_PREFETCH,
  VM_BIND_READONLY,
} from "../gpuvm/bind-args.ts";
import { BIND_VA_CPU_MIRROR } from "../gpuvm/bind-step.ts";
import { boEvict } from "../gpuvm/evict.ts";
import { GpuVmExec } from "../gpuvm/exec.ts";
import type { GemObject } from "../gpuvm/gem-object.ts";
import type { GpuVa } from "../gpuvm/gpuva.ts";
import { GpuVaOp } from "../gpuvm/ops.ts";
import { gpuvaUnlink } from "../gpuvm/link.ts";
import type { MapPiece } from "../gpuvm/steps.ts";
import { type BindFences, type BindHost, BindVm, vmBind } from "../gpuvm/vm-bind.ts";
import { GpuVmBo } from "../gpuvm/vm-bo.ts";
import { LruBulkMove } from "../vram/lru.ts";
import { PL_TT, PL_VRAM } from "../vram/place.ts";
import type { TtmPlacement } from "../vram/place.ts";
import { forgetUnmirrored } from "./attributes-advise.ts";
import { forgetEntries } from "./bind-entries.ts";
import { TableUpdate } from "./bind-update.ts";
import { BindVa } from "./bind-va.ts";
import { Bo } from "./bo.ts";
import { prefetchMirror } from "./placement.ts";
import { SvmGpuVm } from "./svm-gpuvm.ts";
import { Userptr } from "./userptr.ts";
import type { SvmVm } from "./vm.ts";
import type { VramRegion } from "./vram-region.ts";

/** Memory regions that a prefetch names. */
export const REGION_SYSTEM = 0;
export const REGION_VRAM = 1;
const PLACE_OF_REGION = [PL_TT, PL_VRAM];

/** A stretch of a mirror that a bind call is asked to prefetch. */
interface MirrorPrefetch {
  readonly start: Va;
  readonly end: Va;
  readonly region: number;
}

/**
 * The mappings of an address space, and VM_BIND on them (spec/gpuvm.md 4.10): the driver's side of the generic bind path,
 * joined to objects, process memory, SVM and page tables.
 *
 * Overview. A call goes through `vmBind`: process memory is looked up, reservations are taken, the view is changed step by
 * step, objects are brought to where the GPU reaches them, and one `TableUpdate` writes all entries. In fault mode a map
 * without IMMEDIATE writes none: the first fault does (bind-fault.ts). What is evicted or unmapped by the CPU loses its
 * entries at once and gets them back by the next fault, or, without fault mode, by the next launch (bind-exec.ts).
 *
 * Locking. The VM's lock for write throughout; inside it, and before any reservation, the mm's locks; then reservations;
 * then the notifier lock.
 * @kernel xe_vm_bind_ioctl, vm_bind_ioctl_ops_execute
 */
export class VmBinds implements BindHost {
  readonly vm: SvmVm;
  readonly gpuvm: SvmGpuVm;
  readonly bindVm: BindVm;
  /** The private objects of this address space, which grow old together in each memory. */
  readonly #bulks = new Map<VramRegion, LruBulkMove>();
  readonly pageSize = PAGE_SIZE;
  // Of the call in progress.
  readonly #userptrs = new Map<CheckedOp, Userptr>();
  /** Nothing shows them any more. */
  readonly #unused = new Set<Userptr>();
  readonly #pinned: Bo[] = [];
  #prefetches: MirrorPrefetch[] = [];

  constructor(vm: SvmVm) {
    this.vm = vm;
    const end = Math.min(vm.tables.vaEnd, 2 ** 53 - PAGE_SIZE);
    this.gpuvm = new SvmGpuVm(this, `vm ${vm.asid}`, end, {
      opAlloc: () => (vm.device.fails("va-alloc") ? null : new GpuVaOp()),
      vmBoAlloc: (gpuvm, obj) => (vm.device.fails("va-alloc") ? null : new GpuVmBo(gpuvm, obj)),
      vmBoValidate: (vmBo) => this.#validateEvicted(vmBo),
      vmFree: () => undefined,
    });
    this.bindVm = new BindVm(this.gpuvm, this, vm.lock);
  }

  /** Maps `[start, end)` as a mirror of the process, in a fresh address space. */
  mirrorFromTheStart(start: Va, end: Va): void {
    const va = new BindVa(this, { addr: start, range: end - start, obj: null, offset: 0 });
    va.flags = BIND_VA_CPU_MIRROR;
    const inserted = this.gpuvm.insert(va);
    assert(inserted === 0, "a fresh address space is empty");
  }

  /**
   * Runs the operations as a whole. -EINVAL: bad arguments, a mirror outside the mirror window, an object that may not be
   * where it shall be prefetched to; -ENOENT: closed or banned, unknown object; -EBUSY: SVM ranges in the way; -EFAULT,
   * -EPERM: process memory that is not there; -ENOMEM: no room in VRAM, for page tables, or for nodes; -ENOSPC: process memory
   * that the system window has no room for; -EIO: device lost.
   */
  bind(ops: readonly BindOp[], fences: BindFences = {}): Promise<0 | Errno> {
    return vmBind(this.bindVm, ops, fences);
  }

  /** The mapping that contains `addr`, or null. The VM's lock is held. @kernel xe_vm_find_overlapping_vma */
  at(addr: Va): BindVa | null {
    const va = this.gpuvm.findFirst(addr, 1);
    return va instanceof BindVa ? va : null;
  }

  /** For the objects in one memory. */
  bulkOf(region: VramRegion): LruBulkMove {
    const bulk = this.#bulks.get(region) ?? new LruBulkMove();
    this.#bulks.set(region, bulk);
    return bulk;
  }

  /** Mappings that touch `[start, end)`, whole, by address. A probe. */
  vas(start: Va, end: Va): BindVa[] {
    return [...this.gpuvm.vasIn(start, end)].filter((va) => va instanceof BindVa);
  }

  /**
   * The GPU loses the mapping until it is bound again: entries, then TLB. What guards its memory is held (BindVa).
   * @kernel xe_vm_invalidate_vma
   */
  takeAway(va: BindVa, reason: number = REASON_EVICTED): void {
    if (va.isValid) {
      this.vm.tables.zapOn(va.tileMask, va.addr, va.end, reason);
      this.vm.flushTables();
      this.vm.setWindowWrites(va, []);
      this.vm.trace.record("invalidate", this.vm.asid, va.addr, va.end, reason);
    }
    va.invalidated = true;
  }

  /** An object has left, or moved; without fault mode the next launch has to bring it back. Its reservation is held. */
  noteEvicted(vmBo: GpuVmBo): void {
    if (!this.faultMode) boEvict(vmBo, true);
  }

  /** The GPU reaches nothing any more, and the VM's lock is held for write: everything goes. */
  *close(): Steps<void> {
    this.bindVm.closed = true;
    const exec = new GpuVmExec(this.gpuvm, 0);
    const locked = yield* wait(exec.lock());
    assert(locked === 0, "reservations can be locked");
    const held = yield* wait(this.vm.gpusvm.notifierLock.read());
    for (const va of this.vas(0, this.gpuvm.mmEnd)) {
      forgetEntries(va);
      this.gpuvm.remove(va);
      gpuvaUnlink(va);
      this.dropVa(va);
    }
    held.release();
    exec.unlock();
    yield* this.#disposeUnused();
    this.gpuvm.put();
  }

  // For vmBind.

  get faultMode(): boolean {
    return this.vm.faultMode;
  }

  get patEntries(): number {
    return PAT_ENTRIES;
  }

  hasRegion(region: number): boolean {
    return region < PLACE_OF_REGION.length;
  }

  lookupObject(handle: number): Bo | null {
    const bo = this.vm.device.region.objects.get(handle) ?? null;
    // A private object exists in its own address space only.
    return bo === null || bo.vm === null || bo.vm === this.vm ? bo : null;
  }

  needs64K(obj: GemObject): boolean {
    return obj instanceof Bo && obj.needs64K;
  }

  leafSize(va: GpuVa): number {
    let largest = PAGE_SIZE;
    for (const tables of this.vm.tables.tiles) {
      for (const { size } of tables.forEachLeaf(va.addr, va.addr + va.range)) largest = Math.max(largest, size);
    }
    return largest;
  }

  hasSvmRanges(start: Va, range: number): boolean {
    for (const notifier of this.vm.gpusvm.forEachNotifier(start, start + range)) {
      if (notifier.rangeFind(start, start + range) !== null) return true;
    }
    return false;
  }

  admit(): 0 | Errno {
    return this.vm.device.fails("bind-commit") ? ENOMEM : 0;
  }

  newVa(piece: MapPiece<number>, op: CheckedOp, old: GpuVa | null): BindVa {
    const va = new BindVa(this, piece);
    va.tileMask &= (old instanceof BindVa ? old.tileMask : op.tileMask) ?? va.tileMask;
    va.pat = old instanceof BindVa ? old.pat : op.patIndex;
    va.userptr = old instanceof BindVa ? old.userptr : (this.#userptrs.get(op) ?? null);
    va.userptr?.vas.add(va);
    return va;
  }

  dropVa(va: GpuVa): void {
    const userptr = va instanceof BindVa ? va.userptr : null;
    if (!(va instanceof BindVa) || userptr === null) return;
    assert(!va.isBound, "a mapping goes while it has entries");
    va.userptr = null;
    userptr.vas.delete(va);
    if (userptr.vas.size === 0) this.#unused.add(userptr);
  }

  prepare(ops: readonly CheckedOp[]): MaybePromise<0 | Errno> {
    return run(this.#prepare(ops));
  }

  *#prepare(ops: readonly CheckedOp[]): Steps<0 | Errno> {
    for (const op of ops) {
      const ret = yield* this.#prepareOp(op);
      if (ret !== 0) return ret;
    }
    return 0;
  }

  *#prepareOp(op: CheckedOp): Steps<0 | Errno> {
    const { addr, range, offset, flags } = op;
    if ((flags & VM_BIND_CPU_ADDR_MIRROR) !== 0) {
      const [start, end] = this.vm.window;
      return addr < start || addr + range > end ? EINVAL : 0;
    }
    if (op.op === VM_BIND_OP_MAP_USERPTR) {
      const readOnly = (flags & VM_BIND_READONLY) !== 0;
      const userptr = yield* Userptr.create(this.vm, offset, offset + range, readOnly);
      if (isErr(userptr)) return userptr;
      this.#userptrs.set(op, userptr);
      const isDeferred = this.faultMode && (flags & VM_BIND_IMMEDIATE) === 0;
      return isDeferred ? 0 : yield* wait(userptr.pinPages());
    }
    if (op.op === VM_BIND_OP_PREFETCH) return yield* this.pinUserptrs(this.vas(addr, addr + range));
    return 0;
  }

  /** Looks up the process memory of those mappings that the GPU cannot reach. No reservation is held. */
  *pinUserptrs(vas: readonly BindVa[]): Steps<0 | Errno> {
    for (const va of vas) {
      if (va.userptr === null || va.isValid) continue;
      const ret = yield* wait(va.userptr.pinPages());
      if (ret !== 0) return ret;
    }
    return 0;
  }

  complete(ops: readonly CheckedOp[], result: 0 | Errno): MaybePromise<void> {
    return run(this.#complete(ops, result));
  }

  *#complete(ops: readonly CheckedOp[], result: 0 | Errno): Steps<void> {
    for (const bo of this.#pinned.splice(0)) bo.unpin();
    for (const userptr of this.#userptrs.values()) if (userptr.vas.size === 0) this.#unused.add(userptr);
    this.#userptrs.clear();
    yield* this.#disposeUnused();
    const prefetches = this.#prefetches;
    this.#prefetches = [];
    if (result !== 0) return;
    for (const { addr, range } of ops) forgetUnmirrored(this.vm, addr, addr + range);
    // As far as there is memory to move and room for it: a prefetch of a mirror is advice.
    for (const { start, end, region } of prefetches) yield* prefetchMirror(this.vm, start, end, region === REGION_VRAM);
  }

  *#disposeUnused(): Steps<void> {
    for (const userptr of this.#unused) {
      this.#unused.delete(userptr);
      yield* userptr.dispose();
    }
  }

  beginUpdate(): TableUpdate {
    return new TableUpdate(this.vm);
  }

  validate(obj: GemObject): MaybePromise<0 | Errno> {
    assert(obj instanceof Bo, "objects are the driver's");
    return run(this.#validatePinned(obj, obj.placement));
  }

  prefetch(va: GpuVa, region: number, op: CheckedOp): MaybePromise<0 | Errno> {
    assert(va instanceof BindVa, "mappings are the driver's");
    if (va.isMirror) {
      const end = Math.min(va.end, op.addr + op.range);
      this.#prefetches.push({ start: Math.max(va.addr, op.addr), end, region });
      return 0;
    }
    if (va.bo === null) return 0;
    const places = va.bo.placement.filter((place) => place.memType === PLACE_OF_REGION[region]);
    return places.length === 0 ? EINVAL : run(this.#validatePinned(va.bo, places));
  }

  /** Until the call ends the object stays where it is put: entries that lead to it are on their way. */
  *#validatePinned(bo: Bo, places: TtmPlacement): Steps<0 | Errno> {
    const ret = yield* wait(bo.validate(places));
    if (ret !== 0) return ret;
    bo.pin();
    this.#pinned.push(bo);
    return 0;
  }

  *#validateSteps(vmBo: GpuVmBo): Steps<0 | Errno> {
    assert(vmBo.obj instanceof Bo, "objects are the driver's");
    const ret = yield* wait(vmBo.obj.validate());
    if (ret === 0) boEvict(vmBo, false);
    return ret;
  }

  #validateEvicted(vmBo: GpuVmBo): MaybePromise<0 | Errno> {
    return run(this.#validateSteps(vmBo));
  }
}

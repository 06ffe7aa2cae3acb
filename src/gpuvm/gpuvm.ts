/**
 * GPU VA manager: which object backs which range of a GPU address space, and what has to happen to change that.
 *
 * Overview. A `GpuVm` holds mappings (`GpuVa`) that never overlap. A request to map or unmap a range is turned into
 * steps (sm.ts): existing mappings in the way are removed, or cut into what is left before and behind the request
 * ("split and merge", though nothing is ever merged), and last the new mapping is made. Steps are delivered to callbacks
 * one by one, or collected in a list. Either way the manager itself changes nothing: the driver applies each step with
 * the helpers of apply.ts, in mappings that it allocated. That is why an update can run where nothing may be allocated,
 * and why it can be undone. A kernel-reserved node, if any, is a range that requests may never touch.
 * A `GpuVmBo` is the pair of a VM and an object; it carries the object's mappings in this VM and its place on the VM's
 * lists of external and of evicted objects.
 *
 * The algorithms are written over an `Arithmetic`, in which doubles stand for the kernel's 64-bit integers.
 *
 * Locking. The manager takes no lock. Whoever generates steps holds one writer lock of the VM until they are applied or
 * thrown away: steps are valid only against the state they were computed from. Order, outermost first: VM writer lock,
 * reservations (residency, lists of `GpuVmBo`), the object's gpuva lock. Lists assert their lock and never take it.
 *
 * Example (test/node/gpuvm-example.test.ts runs it):
 *
 *     const vm = gpuvmInit({ name: "vm", start: 0, range: 2 ** 47 });
 *     const ops = smMapOpsCreate(vm, { addr: 0x10000, range: 0x4000, obj: bo, offset: 0 });
 *     if (isErr(ops)) return ops;
 *     for (const { step } of ops) {
 *       if (step.kind === GPUVA_OP_MAP) gpuvaMap(vm, new GpuVa(0, 0, null, 0), step);
 *       else if (step.kind === GPUVA_OP_UNMAP) gpuvaUnmap(step);
 *       else if (step.kind === GPUVA_OP_REMAP) gpuvaRemap(new GpuVa(0, 0, null, 0), new GpuVa(0, 0, null, 0), step);
 *     }
 *     opsFree(vm, ops);
 */
import { assert } from "../base/assert.ts";
import { EEXIST, EINVAL, type Errno } from "../base/errno.ts";
import { ConfigError } from "../base/errors.ts";
import { KeyedIntervalTree } from "../base/interval-tree.ts";
import { type Address, type Arithmetic, NUMBERS } from "./arithmetic.ts";
import { BoList } from "./bo-list.ts";
import { GemObject } from "./gem-object.ts";
import { GpuVa } from "./gpuva.ts";
import { HARDENED, type Hardening } from "./hardening.ts";
import type { GpuVaOps } from "./ops.ts";
import { StepScratch } from "./scratch.ts";
import type { GpuVmBo } from "./vm-bo.ts";
import type { GpuVmOps } from "./vm-ops.ts";
import { Warnings } from "./warn.ts";

/** The caller holds the VM's reservation when the external and evicted lists are touched. @kernel DRM_GPUVM_RESV_PROTECTED */
export const GPUVM_RESV_PROTECTED = 1;
/** The view changes while the job runs; object lists have a lock of their own. @kernel DRM_GPUVM_IMMEDIATE_MODE */
export const GPUVM_IMMEDIATE_MODE = 2;
/** First bit free for drivers. @kernel DRM_GPUVM_USERBITS */
export const GPUVM_USERBITS = 4;

export interface GpuVmOptions<A extends Address> {
  readonly arithmetic: Arithmetic<A>;
  readonly name?: string;
  readonly flags?: number;
  /** The managed window `[start, start + range)`. */
  readonly start: A;
  readonly range: A;
  /** The kernel-reserved node; no node where the range is zero. */
  readonly reserveStart?: A;
  readonly reserveRange?: A;
  /** Object whose reservation is the VM's; without it the VM makes one. @kernel drm_gpuvm_resv_object_alloc */
  readonly resvObject?: GemObject<A>;
  readonly ops?: GpuVmOps<A, unknown>;
  readonly hardening?: Hardening;
  readonly warnings?: Warnings;
}

/** @kernel drm_gpuvm, drm_gpuva_manager */
export class GpuVm<A extends Address = number> {
  readonly arithmetic: Arithmetic<A>;
  readonly hardening: Hardening;
  readonly warnings: Warnings;
  readonly flags: number;
  readonly mmStart: A;
  readonly mmRange: A;
  /** `mmStart + mmRange`, wrapped like every sum. */
  readonly mmEnd: A;
  /** Always there; its range is zero when nothing is reserved. */
  readonly kernelNode: GpuVa<A>;
  readonly ops: GpuVmOps<A, unknown> | null;
  readonly rObj: GemObject<A>;
  readonly extobj: BoList<A>;
  readonly evict: BoList<A>;
  /** Dead but not yet freed. @kernel drm_gpuvm.bo_defer */
  readonly boDefer = new Set<GpuVmBo<A>>();
  /** Steps handed to callbacks: overwritten by the next. For sm.ts only. */
  readonly scratch: StepScratch<A>;
  /** The list generated last, until it is seen to be applied or is freed. For ops.ts only. */
  outstanding: GpuVaOps<A> | null = null;
  readonly #tree: KeyedIntervalTree<A, GpuVa<A>>;
  readonly #kernelEnd: A;
  #name: string | null;
  #refs = 1;

  /** Throws a `ConfigError` on a bad window (H3). @kernel drm_gpuvm_init, drm_gpuva_manager_init */
  constructor(options: GpuVmOptions<A>) {
    const { arithmetic: arith, start, range } = options;
    const reserveStart = options.reserveStart ?? arith.zero;
    const reserveRange = options.reserveRange ?? arith.zero;
    this.arithmetic = arith;
    this.hardening = options.hardening ?? HARDENED;
    this.warnings = options.warnings ?? new Warnings();
    this.flags = options.flags ?? 0;
    this.#name = options.name ?? "unknown";
    this.mmStart = start;
    this.mmRange = range;
    this.mmEnd = arith.add(start, range);
    this.ops = options.ops ?? null;
    this.rObj = options.resvObject?.get() ?? new GemObject<A>(`${this.#name} reservation`, arith.zero);
    this.extobj = new BoList(this, "external");
    this.evict = new BoList(this, "evicted");
    this.kernelNode = new GpuVa(reserveStart, reserveRange, null, arith.zero);
    this.#kernelEnd = arith.add(reserveStart, reserveRange);
    this.scratch = new StepScratch(this.kernelNode, arith.zero);
    this.#tree = new KeyedIntervalTree<A, GpuVa<A>>((length) => arith.keys(length), arith.greatest);
    this.#checkWindow();
    if (reserveRange !== arith.zero && !this.#warnOverflow("kernel node", reserveStart, reserveRange)) {
      this.#insertUnchecked(this.kernelNode);
    }
  }

  get name(): string | null {
    return this.#name;
  }

  get refs(): number {
    return this.#refs;
  }

  /** Mappings, the kernel node counted. */
  get size(): number {
    return this.#tree.size;
  }

  /** @kernel drm_gpuvm_get */
  get(): this {
    assert(this.#refs > 0, () => `${this.#name}: get after the last put`);
    this.#refs += 1;
    return this;
  }

  /**
   * Drops a reference. Every inserted mapping and every `GpuVmBo` holds one, so a VM that maps anything never dies of
   * this: a driver's close removes all mappings first.
   *
   * @kernel drm_gpuvm_put
   */
  put(): void {
    assert(this.#refs > 0, () => `${this.#name}: put once too often`);
    this.#refs -= 1;
    if (this.#refs > 0) return;
    this.destroy();
    this.rObj.put();
    if (this.ops?.vmFree === undefined) this.warnings.raise("gpuvm_put", "no vmFree: the VM leaks");
    else this.ops.vmFree(this);
  }

  /** Takes the reserved node out and warns of what is left. It frees and unlinks nothing. @kernel drm_gpuva_manager_destroy */
  destroy(): void {
    this.#name = null;
    if (this.kernelNode.isInserted) this.#removeUnchecked(this.kernelNode);
    if (this.#tree.size > 0) this.warnings.raise("gpuvm_destroy", `${this.#tree.size} mappings are left`);
    if (this.extobj.size > 0) this.warnings.raise("gpuvm_destroy extobj", "external objects are left");
    if (this.evict.size > 0) this.warnings.raise("gpuvm_destroy evict", "evicted objects are left");
    if (this.boDefer.size > 0) this.warnings.raise("gpuvm_destroy bo_defer", "objects wait to be freed");
  }

  /** Inside the window, not overflowing, clear of the reserved node. Range 0 is valid. @kernel drm_gpuvm_range_valid */
  rangeValid(addr: A, range: A): boolean {
    const arith = this.arithmetic;
    if (arith.overflows(addr, range)) return false;
    const end = arith.add(addr, range);
    if (addr < this.mmStart || end > this.mmEnd) return false;
    const kernel = this.kernelNode;
    return kernel.range === arith.zero || addr >= this.#kernelEnd || kernel.addr >= end;
  }

  /** What insert and the requests accept: a valid range, and not an empty one (H1). */
  requestValid(addr: A, range: A): boolean {
    return this.rangeValid(addr, range) && (range !== this.arithmetic.zero || !this.hardening.rejectEmptyRange);
  }

  /**
   * Inserts a mapping that is in no VM. -EINVAL: bad range, -EEXIST: something is mapped there. It then holds a
   * reference of the VM.
   *
   * @kernel drm_gpuva_insert
   */
  insert(va: GpuVa<A>): 0 | Errno {
    assert(!va.isInserted || !this.hardening.checkUse, "the mapping is already inserted");
    if (!this.requestValid(va.addr, va.range) || !this.arithmetic.isSpan(va.offset, va.range)) return EINVAL;
    if (this.findFirst(va.addr, va.range) !== null) return EEXIST;
    this.#insertUnchecked(va);
    this.#refs += 1;
    return 0;
  }

  /** Removes a mapping of this VM; it stays linked. The reserved node is refused with a warning. @kernel drm_gpuva_remove */
  remove(va: GpuVa<A>): void {
    if (va === this.kernelNode) {
      this.warnings.raise("gpuva_remove", "the kernel-reserved node cannot be removed");
      return;
    }
    assert(va.isInserted && va.vm === this, "the mapping is not inserted in this VM");
    this.#removeUnchecked(va);
    this.put();
  }

  /**
   * Lowest mapping that intersects the range, which may begin before it, and may be the reserved node. Range 0 asks
   * what strictly contains the boundary at `addr` (at address 0: anything at all), as in the kernel.
   *
   * @kernel drm_gpuva_find_first
   */
  findFirst(addr: A, range: A): GpuVa<A> | null {
    const arith = this.arithmetic;
    if (!arith.isOperand(addr) || !arith.isOperand(range)) return null;
    return this.#tree.iterFirst(addr, arith.sub(arith.add(addr, range), arith.one));
  }

  /** The mapping with exactly this address and range. @kernel drm_gpuva_find */
  find(addr: A, range: A): GpuVa<A> | null {
    const va = this.findFirst(addr, range);
    return va !== null && va.addr === addr && va.range === range ? va : null;
  }

  /**
   * Meant: the mapping that ends at `start`. Does: the lowest that contains `start - 1` or `start`, so with a gap before
   * it, the mapping that begins at `start`. Kept as the kernel has it; use `findPrevExact`.
   *
   * @kernel drm_gpuva_find_prev
   */
  findPrev(start: A): GpuVa<A> | null {
    const arith = this.arithmetic;
    const before = arith.sub(start, arith.one);
    return this.rangeValid(before, arith.one) ? this.#tree.iterFirst(before, start) : null;
  }

  /** Meant: the mapping that begins at `end`. Does: the lowest that contains `end` or `end + 1`. @kernel drm_gpuva_find_next */
  findNext(end: A): GpuVa<A> | null {
    const arith = this.arithmetic;
    return this.rangeValid(end, arith.one) ? this.#tree.iterFirst(end, arith.add(end, arith.one)) : null;
  }

  /** The mapping that ends exactly at `start`, never the reserved node. */
  findPrevExact(start: A): GpuVa<A> | null {
    const arith = this.arithmetic;
    if (!arith.isOperand(start) || start === arith.zero) return null;
    const before = arith.sub(start, arith.one);
    const va = this.#tree.iterFirst(before, before);
    return va !== null && va !== this.kernelNode && va.last === before ? va : null;
  }

  /** The mapping that begins exactly at `end`, never the reserved node. */
  findNextExact(end: A): GpuVa<A> | null {
    if (!this.arithmetic.isOperand(end)) return null;
    const va = this.#tree.iterFirst(end, end);
    return va !== null && va !== this.kernelNode && va.addr === end ? va : null;
  }

  /** No mapping intersects the range, nor the reserved node. @kernel drm_gpuvm_interval_empty, drm_gpuva_interval_empty */
  intervalEmpty(addr: A, range: A): boolean {
    return this.findFirst(addr, range) === null;
  }

  /** The following mapping in address order. */
  next(va: GpuVa<A>): GpuVa<A> | null {
    return this.#tree.next(va);
  }

  /** All mappings in address order, the reserved node included; the one given may be removed. @kernel drm_gpuva_for_each_va, drm_gpuva_for_each_va_safe, drm_gpuvm_for_each_va, drm_gpuvm_for_each_va_safe */
  vas(): IterableIterator<GpuVa<A>> {
    return this.#tree[Symbol.iterator]();
  }

  /**
   * Mappings that intersect `[start, end)`, whole, in address order. The one given may be removed and its pieces
   * inserted: those are not visited.
   *
   * @kernel drm_gpuva_for_each_va_range, drm_gpuva_for_each_va_range_safe, drm_gpuvm_for_each_va_range, drm_gpuvm_for_each_va_range_safe
   */
  *vasIn(start: A, end: A): IterableIterator<GpuVa<A>> {
    let va = this.findFirst(start, this.arithmetic.sub(end, start));
    while (va !== null && va.addr < end) {
      const following = this.#tree.next(va);
      yield va;
      va = following;
    }
  }

  /** Whether the object's reservation is not the VM's. @kernel drm_gpuvm_is_extobj */
  isExtobj(obj: GemObject<A> | null): boolean {
    return obj !== null && obj.resv !== this.rObj.resv;
  }

  get resvProtected(): boolean {
    return (this.flags & GPUVM_RESV_PROTECTED) !== 0;
  }

  get immediateMode(): boolean {
    return (this.flags & GPUVM_IMMEDIATE_MODE) !== 0;
  }

  /** The invariants of spec/gpuvm.md 1.7, for tests. Throws `InvariantError`. */
  checkInvariants(): void {
    const arith = this.arithmetic;
    let before: GpuVa<A> | null = null;
    for (const va of this.#tree) {
      assert(va.vm === this && va.isInserted, "a mapping in the tree belongs to another VM");
      assert(before === null || before.last < va.addr, "mappings overlap or are out of order");
      assert(va === this.kernelNode || this.requestValid(va.addr, va.range), "a mapping lies outside the window");
      assert(va.last === arith.sub(arith.add(va.addr, va.range), arith.one), "a mapping was moved while inserted");
      assert(va.vmBo === null || (va.obj === va.vmBo.obj && va.vmBo.isLinked(va)), "a mapping is on a wrong list");
      before = va;
    }
  }

  #checkWindow(): void {
    const arith = this.arithmetic;
    const { addr, range } = this.kernelNode;
    if (!this.hardening.checkWindow) {
      this.#warnOverflow("window", this.mmStart, this.mmRange);
      return;
    }
    const window = `start ${this.mmStart}, range ${this.mmRange}`;
    if (arith.overflows(this.mmStart, this.mmRange))
      throw new ConfigError("gpuvm.range", `the window overflows: ${window}`);
    if (range === arith.zero) return;
    const outside = arith.overflows(addr, range) || addr < this.mmStart || this.#kernelEnd > this.mmEnd;
    if (outside) throw new ConfigError("gpuvm.reserveRange", `the reserved range is not inside the window: ${window}`);
  }

  /** @kernel drm_gpuvm_warn_check_overflow */
  #warnOverflow(what: string, addr: A, range: A): boolean {
    const overflows = this.arithmetic.overflows(addr, range);
    if (overflows) this.warnings.raise("gpuvm_check_overflow", `${what} overflows: ${addr}, ${range}`);
    return overflows;
  }

  #insertUnchecked(va: GpuVa<A>): void {
    const arith = this.arithmetic;
    va.last = arith.sub(arith.add(va.addr, va.range), arith.one);
    va.vm = this;
    va.isInserted = true;
    this.#tree.insert(va);
  }

  #removeUnchecked(va: GpuVa<A>): void {
    this.#tree.remove(va);
    va.isInserted = false;
  }
}

/** A VM of the product: addresses are numbers. */
export function gpuvmInit(options: Omit<GpuVmOptions<number>, "arithmetic">): GpuVm {
  return new GpuVm({ ...options, arithmetic: NUMBERS });
}

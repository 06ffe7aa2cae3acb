import type { Errno } from "../base/errno.ts";
import { isPromise, type MaybePromise } from "../base/maybe-promise.ts";
import type { Address } from "./arithmetic.ts";
import type { GpuVm } from "./gpuvm.ts";
import type { GpuVmBo } from "./vm-bo.ts";

/**
 * The external or the evicted objects of a VM, in the order in which they were added.
 *
 * In a RESV_PROTECTED VM the VM's reservation guards it, which is asserted. Otherwise a walk may wait in the middle
 * while others add and remove: what was visited is kept apart until the end, then put back in front, so that nothing is
 * visited twice and the order stays. A second walk at the same time is a bug and is warned of.
 *
 * @kernel drm_gpuvm.extobj, drm_gpuvm.evict, get_next_vm_bo_from_list, restore_vm_bo_list
 */
export class BoList<A extends Address> {
  readonly #vm: GpuVm<A>;
  readonly #what: string;
  #list = new Set<GpuVmBo<A>>();
  /** Visited by the walk in progress. */
  #visited = new Set<GpuVmBo<A>>();
  #walking = false;

  constructor(vm: GpuVm<A>, what: string) {
    this.#vm = vm;
    this.#what = what;
  }

  get size(): number {
    return this.#list.size + this.#visited.size;
  }

  has(vmBo: GpuVmBo<A>): boolean {
    return this.#list.has(vmBo) || this.#visited.has(vmBo);
  }

  /** At the end, unless it is on the list. @kernel drm_gpuvm_bo_list_add */
  add(vmBo: GpuVmBo<A>): void {
    this.#assertGuarded();
    if (!this.has(vmBo)) this.#list.add(vmBo);
  }

  /** Nothing happens if it is not on the list. @kernel drm_gpuvm_bo_list_del, drm_gpuvm_bo_list_del_init */
  delete(vmBo: GpuVmBo<A>): void {
    if (!this.has(vmBo)) return;
    this.#assertGuarded();
    this.#list.delete(vmBo);
    this.#visited.delete(vmBo);
  }

  /** Calls `visit` for each in order; the first result other than 0 ends it. The VM's reservation is held for a RESV_PROTECTED VM. */
  async forEach(visit: (vmBo: GpuVmBo<A>) => MaybePromise<0 | Errno>): Promise<0 | Errno> {
    this.#assertGuarded();
    if (this.#walking) this.#vm.warnings.raise(`gpuvm ${this.#what} list`, "two walks at the same time");
    this.#walking = true;
    let ret: 0 | Errno = 0;
    for (let vmBo = this.#takeFirst(); vmBo !== null && ret === 0; vmBo = ret === 0 ? this.#takeFirst() : null) {
      const result = visit(vmBo);
      ret = isPromise(result) ? await result : result;
    }
    for (const vmBo of this.#list) this.#visited.add(vmBo);
    this.#list = this.#visited;
    this.#visited = new Set();
    this.#walking = false;
    return ret;
  }

  /** Moves the first one that is alive to the visited; dead ones wait to be freed and fall off the list. */
  #takeFirst(): GpuVmBo<A> | null {
    for (const vmBo of this.#list) {
      this.#list.delete(vmBo);
      if (vmBo.refs === 0) continue;
      this.#visited.add(vmBo);
      return vmBo;
    }
    return null;
  }

  #assertGuarded(): void {
    if (this.#vm.resvProtected) this.#vm.rObj.resv.assertHeld();
  }
}

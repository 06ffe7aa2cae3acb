import { type Errno, isErr } from "../../src/base/errno.ts";
import { gpuvaMap, gpuvaRemap, gpuvaUnmap } from "../../src/gpuvm/apply.ts";
import type { Address, Arithmetic } from "../../src/gpuvm/arithmetic.ts";
import { GemObject } from "../../src/gpuvm/gem-object.ts";
import { GpuVa } from "../../src/gpuvm/gpuva.ts";
import { GpuVm } from "../../src/gpuvm/gpuvm.ts";
import { REFERENCE_BEHAVIOUR } from "../../src/gpuvm/hardening.ts";
import { gpuvaLink, gpuvaUnlink } from "../../src/gpuvm/link.ts";
import { opsFree, type GpuVaOps } from "../../src/gpuvm/ops.ts";
import { smMap, smUnmap } from "../../src/gpuvm/sm.ts";
import {
  GPUVA_OP_MAP,
  GPUVA_OP_PREFETCH,
  GPUVA_OP_REMAP,
  GPUVA_OP_UNMAP,
  type MapPiece,
  type MapRequest,
  type Step,
} from "../../src/gpuvm/steps.ts";
import { boFind, boObtain, boPut, type GpuVmBo } from "../../src/gpuvm/vm-bo.ts";

/** A mapping as the recorded lines write it. */
export type MappingText = [string, string, number | "K", string];
export type OpText = ["map", MappingText] | ["unmap", MappingText, 0 | 1] | ["prefetch", MappingText] | RemapText;
type RemapText = ["remap", MappingText, 0 | 1, MappingText | null, MappingText | null];

export interface Window<A> {
  readonly start: A;
  readonly range: A;
  readonly reserveStart: A;
  readonly reserveRange: A;
}

/** Numbers or 64-bit integers, and how recorded lines are read into them. */
export interface Instance<A extends Address> {
  readonly arithmetic: Arithmetic<A>;
  parse(text: string): A;
}

/** A VM with the least driver that can apply steps: it keeps the lists of its objects and nothing else. */
export class Space<A extends Address> {
  readonly vm: GpuVm<A>;
  readonly #instance: Instance<A>;
  readonly #objects = new Map<number, GemObject<A>>();
  readonly #numbers = new Map<GemObject<A>, number>();
  /** What the callbacks do with a step. */
  #receive: (step: Step<A>) => 0 | Errno = () => 0;

  constructor(instance: Instance<A>, window: Window<A>) {
    this.#instance = instance;
    const receive = (step: Step<A>): 0 | Errno => this.#receive(step);
    this.vm = new GpuVm({
      arithmetic: instance.arithmetic,
      ...window,
      hardening: REFERENCE_BEHAVIOUR,
      ops: { smStepMap: receive, smStepRemap: receive, smStepUnmap: receive },
    });
  }

  object(number: number): GemObject<A> | null {
    if (number === 0) return null;
    let obj = this.#objects.get(number);
    if (obj === undefined) {
      obj = new GemObject<A>(`BO ${number}`, this.#instance.arithmetic.greatest);
      obj.setGpuvaLock({ isHeld: true });
      this.#objects.set(number, obj);
      this.#numbers.set(obj, number);
    }
    return obj;
  }

  request(addr: string, range = "0x0", bo = 0, offset = "0x0"): MapRequest<A> {
    const { parse } = this.#instance;
    return { addr: parse(addr), range: parse(range), obj: this.object(bo), offset: parse(offset) };
  }

  insert(req: MapRequest<A>): 0 | Errno {
    const va = new GpuVa<A>(req.addr, req.range, req.obj, req.offset);
    const ret = this.vm.insert(va);
    if (ret === 0) this.#link(va, null);
    return ret;
  }

  vmBo(bo: number): GpuVmBo<A> | null {
    const obj = this.object(bo);
    return obj === null ? null : boFind(this.vm, obj);
  }

  /** Mappings without the reserved node. */
  mappings(): MappingText[] {
    return [...this.vm.vas()].filter((va) => va !== this.vm.kernelNode).map((va) => this.text(va)!);
  }

  text(va: MapPiece<A> | null): MappingText | null {
    if (va === null) return null;
    const number = va === this.vm.kernelNode ? "K" : va.obj === null ? 0 : this.#numbers.get(va.obj)!;
    return [hex(va.addr), hex(va.range), number, hex(va.offset)];
  }

  opText(step: Step<A>): OpText {
    switch (step.kind) {
      case GPUVA_OP_MAP:
        return ["map", this.text(step)!];
      case GPUVA_OP_UNMAP:
        return ["unmap", this.text(step.va)!, step.keep ? 1 : 0];
      case GPUVA_OP_REMAP: {
        const { va, keep } = step.unmap;
        return ["remap", this.text(va)!, keep ? 1 : 0, this.text(step.prev), this.text(step.next)];
      }
      case GPUVA_OP_PREFETCH:
        return ["prefetch", this.text(step.va)!];
    }
  }

  /** Result and steps of a list; the list is applied if asked, then freed. */
  list(ops: GpuVaOps<A> | Errno, apply: boolean): { ret: number; ops: OpText[] } {
    if (isErr(ops)) return { ret: ops, ops: [] };
    const texts = Array.from(ops, (op) => this.opText(op.step));
    if (apply) for (const { step } of ops) this.apply(step);
    opsFree(this.vm, ops);
    return { ret: 0, ops: texts };
  }

  /** Result and steps of a map request in callback form, each applied inside its callback if asked. */
  smMap(req: MapRequest<A>, apply: boolean): { ret: number; ops: OpText[] } {
    return this.#collect(apply, () => smMap(this.vm, null, req));
  }

  smUnmap(req: MapRequest<A>, apply: boolean): { ret: number; ops: OpText[] } {
    return this.#collect(apply, () => smUnmap(this.vm, null, req.addr, req.range));
  }

  #collect(apply: boolean, walk: () => number): { ret: number; ops: OpText[] } {
    const ops: OpText[] = [];
    this.#receive = (step) => {
      ops.push(this.opText(step));
      return apply ? this.apply(step) : 0;
    };
    const ret = walk();
    this.#receive = () => 0;
    return { ret, ops };
  }

  apply(step: Step<A>): 0 | Errno {
    switch (step.kind) {
      case GPUVA_OP_MAP: {
        const va = this.#blank();
        const ret = gpuvaMap(this.vm, va, step);
        this.#link(va, null);
        return ret;
      }
      case GPUVA_OP_UNMAP:
        gpuvaUnlink(step.va);
        gpuvaUnmap(step);
        return 0;
      case GPUVA_OP_REMAP: {
        const old = step.unmap.va;
        const prev = this.#blank();
        const next = this.#blank();
        const ret = gpuvaRemap(prev, next, step);
        // Before the old one leaves its vm_bo, which could otherwise lose its last reference.
        if (step.prev !== null) this.#link(prev, old.vmBo);
        if (step.next !== null) this.#link(next, old.vmBo);
        gpuvaUnlink(old);
        return ret;
      }
      case GPUVA_OP_PREFETCH:
        return 0;
    }
  }

  #blank(): GpuVa<A> {
    const { zero } = this.#instance.arithmetic;
    return new GpuVa<A>(zero, zero, null, zero);
  }

  #link(va: GpuVa<A>, vmBo: GpuVmBo<A> | null): void {
    if (va.obj === null) return;
    if (vmBo !== null) {
      gpuvaLink(va, vmBo);
      return;
    }
    const obtained = boObtain(this.vm, va.obj);
    if (isErr(obtained)) throw new Error("no vm_bo");
    gpuvaLink(va, obtained);
    boPut(obtained);
  }
}

export function hex(a: Address): string {
  return `0x${a.toString(16)}`;
}

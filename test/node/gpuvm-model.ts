/** A small driver for tests of the VA manager: keeps object lists, inherits flags, undoes what it did. */
import { assert } from "../../src/base/assert.ts";
import { type Errno, isErr } from "../../src/base/errno.ts";
import { gpuvaMap, gpuvaRemap, gpuvaUnmap } from "../../src/gpuvm/apply.ts";
import { GemObject } from "../../src/gpuvm/gem-object.ts";
import { GPUVA_SPARSE, GpuVa } from "../../src/gpuvm/gpuva.ts";
import { type GpuVm, type GpuVmOptions, gpuvmInit } from "../../src/gpuvm/gpuvm.ts";
import { gpuvaLink, gpuvaUnlink } from "../../src/gpuvm/link.ts";
import type { GpuVaOps } from "../../src/gpuvm/ops.ts";
import {
  GPUVA_OP_MAP,
  GPUVA_OP_PREFETCH,
  GPUVA_OP_REMAP,
  GPUVA_OP_UNMAP,
  type MapPiece,
  type MapRequest,
  type Step,
} from "../../src/gpuvm/steps.ts";
import { boObtain, boPut } from "../../src/gpuvm/vm-bo.ts";

/** The mappings that a step brought in, so that it can be undone. */
export interface Applied {
  readonly removed: GpuVa | null;
  readonly added: readonly GpuVa[];
}

export class Model {
  readonly vm: GpuVm;
  readonly #objects = new Map<string, GemObject>();
  readonly #names = new Map<GemObject, string>();

  constructor(options: Partial<Omit<GpuVmOptions<number>, "arithmetic">> = {}) {
    this.vm = gpuvmInit({ start: 0, range: 100, reserveStart: 90, reserveRange: 10, ...options });
  }

  object(name: string): GemObject {
    let obj = this.#objects.get(name);
    if (obj === undefined) {
      obj = new GemObject(name, 2 ** 40);
      obj.setGpuvaLock({ isHeld: true });
      this.#objects.set(name, obj);
      this.#names.set(obj, name);
    }
    return obj;
  }

  /** `A[10,20)+5` as a request; `sparse` tells S from N. */
  parse(text: string): MapRequest & { readonly sparse: boolean } {
    const match = /^(\w*)\[(\d+),(\d+)\)(?:\+(\d+))?$/.exec(text);
    assert(match !== null, `not a mapping: ${text}`);
    const [, name, start, end, offset] = match;
    const obj = name === "S" || name === "N" || name === "" ? null : this.object(name!);
    const addr = Number(start);
    return { addr, range: Number(end) - addr, obj, offset: Number(offset ?? 0), sparse: name === "S" };
  }

  insert(text: string): 0 | Errno {
    const { addr, range, obj, offset, sparse } = this.parse(text);
    const va = new GpuVa(addr, range, obj, offset);
    va.flags = sparse ? GPUVA_SPARSE : 0;
    const ret = this.vm.insert(va);
    if (ret === 0) this.#link(va);
    return ret;
  }

  /** Space-separated mappings. */
  insertAll(texts: string): void {
    for (const text of texts.split(" ").filter((t) => t !== ""))
      assert(this.insert(text) === 0, `cannot insert ${text}`);
  }

  text(piece: MapPiece<number>, sparse: boolean): string {
    const name =
      piece === this.vm.kernelNode ? "kernel" : piece.obj !== null ? this.#names.get(piece.obj)! : sparse ? "S" : "N";
    const offset = piece.obj === null ? "" : `+${piece.offset}`;
    return `${name}[${piece.addr},${piece.addr + piece.range})${offset}`;
  }

  vaText(va: GpuVa): string {
    return this.text(va, (va.flags & GPUVA_SPARSE) !== 0);
  }

  /** All mappings without the reserved node. */
  state(): string {
    return [...this.vm.vas()]
      .filter((va) => va !== this.vm.kernelNode)
      .map((va) => this.vaText(va))
      .join(" ");
  }

  stepText(step: Step, sparse = false): string {
    switch (step.kind) {
      case GPUVA_OP_MAP:
        return `M ${this.text(step, sparse)}`;
      case GPUVA_OP_UNMAP:
        return `U ${this.vaText(step.va)} k=${step.keep ? 1 : 0}`;
      case GPUVA_OP_REMAP: {
        const { va, keep } = step.unmap;
        const piece = (p: MapPiece<number> | null): string =>
          p === null ? "-" : this.text(p, (va.flags & GPUVA_SPARSE) !== 0);
        return `R ${this.vaText(va)} k=${keep ? 1 : 0} p=${piece(step.prev)} n=${piece(step.next)}`;
      }
      case GPUVA_OP_PREFETCH:
        return `P ${this.vaText(step.va)}`;
    }
  }

  opsText(ops: GpuVaOps, sparse = false): string {
    return Array.from(ops, (op) => this.stepText(op.step, sparse)).join("; ");
  }

  /** Applies one step to the view as a driver does: pieces inherit the flags and are linked before the old one goes. */
  apply(step: Step, sparse = false): Applied {
    switch (step.kind) {
      case GPUVA_OP_MAP: {
        const va = new GpuVa(0, 0, null, 0);
        va.flags = sparse ? GPUVA_SPARSE : 0;
        assert(gpuvaMap(this.vm, va, step) === 0, "map failed");
        this.#link(va);
        return { removed: null, added: [va] };
      }
      case GPUVA_OP_UNMAP:
        gpuvaUnlink(step.va);
        gpuvaUnmap(step);
        return { removed: step.va, added: [] };
      case GPUVA_OP_REMAP: {
        const old = step.unmap.va;
        const pieces = [step.prev, step.next].map((piece) => {
          if (piece === null) return null;
          const va = new GpuVa(0, 0, null, 0);
          va.flags = old.flags;
          return va;
        });
        assert(gpuvaRemap(pieces[0] ?? null, pieces[1] ?? null, step) === 0, "remap failed");
        const added = pieces.filter((va) => va !== null);
        for (const va of added) this.#link(va);
        gpuvaUnlink(old);
        return { removed: old, added };
      }
      case GPUVA_OP_PREFETCH:
        return { removed: null, added: [] };
    }
  }

  undo({ removed, added }: Applied): void {
    for (const va of added) {
      gpuvaUnlink(va);
      this.vm.remove(va);
    }
    if (removed === null) return;
    assert(this.vm.insert(removed) === 0, "the old mapping does not fit any more");
    this.#link(removed);
  }

  #link(va: GpuVa): void {
    if (va.obj === null) return;
    const vmBo = boObtain(this.vm, va.obj);
    assert(!isErr(vmBo), "no vm_bo");
    gpuvaLink(va, vmBo);
    boPut(vmBo);
  }
}

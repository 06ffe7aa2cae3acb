/** An address space under VM_BIND with a flat model beside it: what every page of one region must show. */
import { PAGE_SIZE, hi32, lo32 } from "../../src/base/addr.ts";
import { assert } from "../../src/base/assert.ts";
import { isErr } from "../../src/base/errno.ts";
import type { Errno } from "../../src/base/errno.ts";
import { tileBase } from "../../src/abi/tiles.ts";
import { INFO_W, REQUEST_NO_RECORD, STATUS_FAULT, STATUS_NULL } from "../../src/abi/tables.ts";
import { mapBo, mapNull, mapUserptr, prefetch, unmap, unmapAll } from "../../src/driver/bind-ops.ts";
import { Bo } from "../../src/driver/bo.ts";
import type { BoOptions } from "../../src/driver/bo.ts";
import { writeBo } from "../../src/driver/bo-access.ts";
import type { SvmVm, SvmVmOptions } from "../../src/driver/vm.ts";
import { type BindOp, VM_BIND_IMMEDIATE, VM_BIND_READONLY } from "../../src/gpuvm/bind-args.ts";
import type { BindStep } from "../../src/gpuvm/bind-step.ts";
import { REQUEST_WORDS, RESULT_WORDS } from "../../src/hal/gpu.ts";
import type { Device } from "../../src/machine/device.ts";
import { DEFAULT_VM_CONFIG, Machine } from "../../src/machine/machine.ts";
import type { Engine } from "../../src/machine/machine.ts";
import type { Process } from "../../src/machine/process.ts";
import { Vm } from "../../src/machine/vm.ts";
import type { FailSite } from "../../src/mm/phys-mem.ts";

const MIB = 1 << 20;
const PRESENT = 32;

/** What a page shows: page `page` of an object, the process's page at `cpu`, or nothing behind it. */
export type Shown =
  | { kind: "bo"; bo: Bo; page: number; readOnly: boolean }
  | { kind: "user"; cpu: number; readOnly: boolean }
  | { kind: "null"; readOnly: boolean };

/** An operation on pages of the region. */
export type PageOp =
  | { op: "map"; at: number; pages: number; bo: Bo; from: number; readOnly?: boolean }
  | { op: "user"; at: number; pages: number; from: number; readOnly?: boolean }
  | { op: "null"; at: number; pages: number; readOnly?: boolean }
  | { op: "unmap"; at: number; pages: number }
  | { op: "unmapAll"; bo: Bo }
  | { op: "prefetch"; at: number; pages: number; region: number };

export interface SpaceOptions {
  /** Bytes of VRAM, and of the window. */
  readonly vram?: number;
  readonly window?: number;
  /** Default 1. The objects are then on one tile after the other. */
  readonly tiles?: number;
  /** First address of the region, and its pages. */
  readonly base: number;
  readonly pages: number;
  readonly vm?: Partial<SvmVmOptions>;
}

export class BindSpace {
  readonly machine: Machine;
  readonly device: Device;
  readonly process: Process;
  readonly svm: SvmVm;
  readonly vm: Vm;
  readonly base: number;
  readonly model: (Shown | null)[];
  /** Process memory that the region may show, written with a word per page. */
  user = 0;
  readonly objects: Bo[] = [];

  constructor(engine: Engine, options: SpaceOptions) {
    this.machine = new Machine({ engine, ram: 64 * MIB });
    const { vram = 16 * MIB, window = 4 * MIB, tiles = 1 } = options;
    this.device = this.machine.createDevice({ vram, window, tiles });
    this.process = this.machine.createProcess();
    this.svm = this.createVm(options.vm);
    this.vm = new Vm(this.device, this.process, this.svm);
    this.base = options.base;
    this.model = new Array<Shown | null>(options.pages).fill(null);
  }

  /** Another address space of the process. */
  createVm(options: Partial<SvmVmOptions> = {}): SvmVm {
    const { chunks, notifier, checkPages, leafSizes, migrate, window } = DEFAULT_VM_CONFIG;
    const svm = this.device.driver.createVm(this.process.mm, {
      chunkSizes: chunks,
      notifierSize: notifier,
      checkPagesThreshold: checkPages,
      leafSizes,
      migrate,
      window,
      mirror: false,
      ...options,
    });
    assert(!isErr(svm), "there is room for another address space");
    return svm;
  }

  async close(): Promise<void> {
    await this.svm.close();
    for (const bo of this.objects) bo.close();
    await this.machine.close();
  }

  va(page: number): number {
    return this.base + page * PAGE_SIZE;
  }

  /** An object whose every page begins with a word of its own. */
  async bo(options: BoOptions): Promise<Bo> {
    const tile = this.objects.length % this.device.tiles.length;
    const bo = await Bo.create(this.device.driver, { tile, ...options });
    assert(!isErr(bo), () => `no object: ${String(bo)}`);
    this.objects.push(bo);
    const words = new Uint32Array(bo.size / 4);
    for (let page = 0; page < bo.size / PAGE_SIZE; page++) words[page * 1024] = wordOf(bo, page);
    assert((await writeBo(bo, 0, new Uint8Array(words.buffer))) === 0, "objects can be written");
    return bo;
  }

  /** Process memory to be shown; of `pages` only the first 32 are there already. */
  async withUserMemory(pages: number): Promise<void> {
    this.user = await this.process.mmap(Math.max(pages, PRESENT) * PAGE_SIZE);
    for (let i = 0; i < PRESENT; i++) await this.process.st(this.user + i * PAGE_SIZE, 0xbeef0000 + i);
  }

  bindOp(op: PageOp, immediate = VM_BIND_IMMEDIATE): BindOp {
    if (op.op === "unmapAll") return unmapAll(op.bo);
    const [addr, range] = [this.va(op.at), op.pages * PAGE_SIZE];
    if (op.op === "unmap") return unmap(addr, range);
    if (op.op === "prefetch") return prefetch(addr, range, op.region);
    const flags = immediate + (op.readOnly === true ? VM_BIND_READONLY : 0);
    if (op.op === "null") return mapNull(addr, range, flags);
    if (op.op === "user") return mapUserptr(addr, range, this.user + op.from * PAGE_SIZE, flags);
    return mapBo(addr, range, op.bo, op.from * PAGE_SIZE, flags);
  }

  /** Binds as one call; the model follows where it succeeds. */
  bind(...ops: PageOp[]): Promise<0 | Errno> {
    return this.bindReporting(ops);
  }

  /** The same; `performed` gets the steps. */
  async bindReporting(ops: readonly PageOp[], performed: BindStep[] = []): Promise<0 | Errno> {
    const ret = await this.svm.binds.bind(
      ops.map((op) => this.bindOp(op)),
      { performed },
    );
    if (ret === 0) for (const op of ops) this.#follow(op);
    return ret;
  }

  #follow(op: PageOp): void {
    if (op.op === "prefetch") return;
    if (op.op === "unmapAll") {
      this.model.forEach((shown, page) => {
        if (shown?.kind === "bo" && shown.bo === op.bo) this.model[page] = null;
      });
      return;
    }
    for (let i = 0; i < op.pages; i++) {
      const readOnly = op.op !== "unmap" && op.readOnly === true;
      const shown: Shown | null =
        op.op === "map"
          ? { kind: "bo", bo: op.bo, page: op.from + i, readOnly }
          : op.op === "user"
            ? { kind: "user", cpu: this.user + (op.from + i) * PAGE_SIZE, readOnly }
            : op.op === "null"
              ? { kind: "null", readOnly }
              : null;
      this.model[op.at + i] = shown;
    }
  }

  /** Translates every page of the region, for reading and for writing, and loads the first word of what is there. */
  async differences(): Promise<string[]> {
    for (let tile = 0; tile < this.device.tiles.length; tile++) {
      const wrong = await this.#differencesOn(tile);
      if (wrong.length > 0) return wrong.map((text) => `tile ${tile}: ${text}`);
    }
    return [];
  }

  async #differencesOn(tile: number): Promise<string[]> {
    const wrong: string[] = [];
    for (const access of [0, 1]) {
      const found = await this.translate(access, tile);
      this.model.forEach((shown, page) => {
        const expected = expectedOf(shown, access);
        if (found[page] !== expected) wrong.push(`page ${page}, access ${access}: ${found[page]}, not ${expected}`);
      });
    }
    if (wrong.length > 0) return wrong;
    const there = this.model.flatMap((shown, page) => (shown === null ? [] : [{ shown, page }]));
    const faults = this.svm.counters.gpuFault;
    const loads = there.map(({ page }) => ["ld", this.va(page)] as ["ld", number]);
    const words = loads.length === 0 ? [] : await this.vm.onTile(tile).job(loads, { parallel: true });
    for (const [i, { shown, page }] of there.entries()) {
      const word =
        shown.kind === "bo" ? wordOf(shown.bo, shown.page) : shown.kind === "null" ? 0 : this.#userWord(shown);
      if (words[i] !== word) wrong.push(`page ${page} holds ${words[i]!.toString(16)}, not ${word.toString(16)}`);
    }
    if (this.svm.counters.gpuFault !== faults) wrong.push("a load of what is bound has faulted");
    return wrong;
  }

  #userWord({ cpu }: { cpu: number }): number {
    const page = (cpu - this.user) / PAGE_SIZE;
    return page < PRESENT ? 0xbeef0000 + page : 0;
  }

  /** Per page: what the batch translator of a tile says. */
  async translate(access: number, tile = 0): Promise<string[]> {
    const results = await this.translations(access, tile);
    return this.model.map((_, page) => {
      const [status, , , info] = results.subarray(page * RESULT_WORDS, (page + 1) * RESULT_WORDS);
      if (status === STATUS_FAULT) return `fault ${info! & 15}`;
      return `${status === STATUS_NULL ? "null" : "memory"} ${(info! & INFO_W) === 0 ? "read-only" : "writable"}`;
    });
  }

  /** The translator's words for every page of the region. */
  translations(access: number, tile = 0): Promise<Uint32Array> {
    const requests = new Uint32Array(this.model.length * REQUEST_WORDS);
    for (let page = 0; page < this.model.length; page++) {
      const va = this.va(page);
      const words = [this.svm.asid, lo32(va), hi32(va), access | REQUEST_NO_RECORD, 4, page];
      requests.set(words, page * REQUEST_WORDS);
    }
    return this.device.gpu.translate(requests, tile);
  }

  /** The page-table apertures, byte by byte. */
  async tables(): Promise<Uint8Array> {
    const { ptBytes, tileBytes } = this.device.gpu.info;
    const apertures = await Promise.all(
      Array.from(tileBytes.keys(), (tile) => this.device.gpu.readVram(tileBase(tile), ptBytes)),
    );
    const bytes = new Uint8Array(ptBytes * apertures.length);
    for (const [tile, aperture] of apertures.entries()) bytes.set(aperture, tile * ptBytes);
    return bytes;
  }

  /** The mappings as text, and by how many of them the memory of each object is reached. */
  view(): string {
    const { binds } = this.svm;
    const vas = binds.vas(0, binds.gpuvm.mmEnd).map((va) => {
      const what = va.bo?.name ?? (va.userptr !== null ? "user" : va.isNull ? "null" : "mirror");
      return `${what}[${va.addr},${va.end})+${va.offset} ${va.flags} ${va.isBound}`;
    });
    return [...vas, ...this.objects.map((bo) => `${bo.name}, ${bo.bound.size} bound`)].join("\n");
  }

  /** The `n`-th call at the site fails, once. */
  failAt(site: FailSite, n: number): { readonly fired: boolean } {
    let left = n;
    const state = { fired: false };
    this.machine.phys.failpoint = (at) => {
      if (at !== site || state.fired) return false;
      left -= 1;
      state.fired = left === 0;
      return state.fired;
    };
    return state;
  }

  /** Nothing is locked, and what is counted is what there is. */
  checkQuiet(): void {
    const { binds, lock } = this.svm;
    this.machine.phys.failpoint = null;
    assert(!lock.isHeld, "the lock of the VM is held");
    binds.gpuvm.checkInvariants();
    const vas = binds.vas(0, binds.gpuvm.mmEnd);
    for (const bo of this.objects) {
      assert(!bo.resv.isHeld, () => `${bo.name} is locked`);
      assert(bo.mem.roundPins === 0, () => `${bo.name} is pinned`);
      const mapped = vas.filter((va) => va.bo === bo);
      const linked = [...bo.gpuvas()].filter((va) => va.vm === binds.gpuvm);
      assert(
        linked.length === mapped.length,
        () => `${bo.name} has ${linked.length} of ${mapped.length} mappings linked`,
      );
      assert(
        [...bo.bound].every((va) => va.isInserted),
        () => `${bo.name} is bound by what is no mapping`,
      );
    }
  }
}

/** The first word of a page of an object. */
export function wordOf(bo: Bo, page: number): number {
  return bo.handle * 2 ** 20 + page + 1;
}

function expectedOf(shown: Shown | null, access: number): string {
  if (shown === null) return "fault 0";
  if (access === 1 && shown.readOnly) return "fault 1";
  return `${shown.kind === "null" ? "null" : "memory"} ${shown.readOnly ? "read-only" : "writable"}`;
}

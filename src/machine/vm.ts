import { PAGE_SIZE, alignDown, alignUp, hex, hexRange, hi32, lo32 } from "../base/addr.ts";
import { EACCES, EINVAL, ENOENT, EPERM, errnoName, isErr } from "../base/errno.ts";
import { ConfigError, DeviceLostError, KernelError } from "../base/errors.ts";
import type { Fault } from "../base/errors.ts";
import { isDoneByItem } from "../hal/gpu.ts";
import type { Kernel, KernelDesign, KernelSource } from "../hal/gpu.ts";
import { ATOMIC_UNDEFINED } from "../driver/attributes.ts";
import type { AtomicAccess, MemAttr } from "../driver/attributes.ts";
import type { SvmCounters } from "../driver/counters.ts";
import type { LaunchFault, LaunchRequest, RoundReport } from "../driver/launch.ts";
import type { SvmStats } from "../driver/stats.ts";
import type { SvmVm } from "../driver/vm.ts";
import { type Num, bytesOf, checkedAddress, checkedGpuAddress, checkedLength, checkedUnits, toWord } from "./args.ts";
import { type BatchOp, type BindOptions, type Obj, type VaOp, bindAll, unbindMirror } from "./bind.ts";
import type { Device } from "./device.ts";
import { COPY, FILL, JOB, JOB_ADD, JOB_LOAD, JOB_STORE, JOB_WORDS, READ_WORDS, WRITE_WORDS } from "./kernels.ts";
import type { Params } from "./params.ts";
import type { Process } from "./process.ts";
import { SvmKernel, type SvmKernelOptions } from "./svm-kernel.ts";

/** One operation of a job: load, store, atomic add, or a hint that the page will be wanted. */
export type JobOp = ["ld", Num] | ["st", Num, Num] | ["inc", Num, Num?] | ["hint", Num];

export interface KernelOptions {
  /** Number of work items. */
  items: number;
  /** Up to 32 words of 32 bits; an address takes two (low, high). */
  args?: ArrayLike<number>;
  /** True when the kernel uses `svm_atomic`. */
  atomics?: boolean;
  /** Words that the kernel reads with `svm_in(i)`. */
  input?: Uint32Array;
  /** The kernel for the reference engine. */
  reference?: NonNullable<KernelSource["reference"]>;
  /** How the kernel bears faults; shaders/svm.wgsl says what each design asks of it. Default `"item"`. */
  design?: KernelDesign;
  /** Lanes of a workgroup, for design `"workgroup"`, whose items are workgroups. Default 64. */
  workgroupSize?: number;
  /** Up to 8 areas for `svm_at`, made resident before the kernel runs. */
  buffers?: readonly KernelBuffer[];
  /**
   * Areas that the items walk through in order: with `n` items, item `i` works on the `i`-th of `n` equal parts of each. They
   * are brought ahead of the items, piece by piece, and the items run while the next piece comes; they may be larger than VRAM.
   * A hint: what the items touch besides is found by faults. Designs `"item"` and `"workgroup"`.
   */
  streams?: readonly KernelBuffer[];
  /** Words that the kernel writes with `svm_out(i, v)`. */
  outWords?: number;
}

/** An area that a kernel works on, and what it does there. */
export interface KernelBuffer {
  at: number;
  bytes: number;
  access: "read" | "write" | "atomic";
}

const ACCESS = { read: 0, write: 1, atomic: 2 } as const;

/** Where memory had best lie: as the policies decide, in RAM, or in the memory of a device. */
export type Loc = "DEFAULT" | "SYS" | Device;
/** By value of the ABI. */
const ATOMICS = ["UNDEFINED", "DEVICE", "GLOBAL", "CPU"] as const;
/** Who does atomics on memory. */
export type Atomic = (typeof ATOMICS)[number];

/** What can be advised about memory. */
export interface Advice {
  loc?: Loc;
  tile?: number;
  atomic?: Atomic;
  pat?: number;
}

const JOB_KINDS: ReadonlyMap<string, number> = new Map([
  ["ld", JOB_LOAD],
  ["st", JOB_STORE],
  ["inc", JOB_ADD],
]);

/** Bytes per launch of a bulk verb; bounds what one launch holds in its private buffers. */
const BULK = 8 << 20;

/**
 * A GPU address space that mirrors a process. Every access goes through the GPU's page tables; a miss goes to the fault
 * handler and the access is replayed. An access that cannot be served rejects with `KernelError` code `"GPUFAULT"`.
 */
export class Vm {
  readonly device: Device;
  readonly process: Process;
  readonly svm: SvmVm;
  /** The tile that its kernels and verbs run on. */
  readonly tile: number;
  /** The address space as the device made it. */
  readonly #base: Vm;

  constructor(device: Device, process: Process, svm: SvmVm, base: Vm | null = null, tile = 0) {
    this.device = device;
    this.process = process;
    this.svm = svm;
    this.#base = base ?? this;
    this.tile = tile;
  }

  /**
   * The same address space, whose verbs and kernels run on another tile: they go by its page tables, and what they fault in
   * goes to its memory. Closing one closes all. Throws ConfigError for a tile that there is not.
   *
   *     const device = machine.createDevice({ vram: 16 << 20, tiles: 2 });
   *     const vm = device.vm(process);
   *     await vm.gst(a, 7);                    // tile 0
   *     await vm.onTile(1).ginc(a);            // 7: the page has moved to tile 1
   */
  onTile(tile: number): Vm {
    const { length } = this.device.driver.regions;
    if (!Number.isSafeInteger(tile) || tile < 0 || tile >= length) {
      throw new ConfigError(
        "vm.tile",
        `the device has ${length === 1 ? "tile 0 only" : `tiles 0 to ${length - 1}`}, not ${tile}`,
      );
    }
    return tile === this.tile ? this : new Vm(this.device, this.process, this.svm, this.#base, tile);
  }

  get counters(): SvmCounters {
    return this.svm.counters;
  }
  /** What the driver has done for it, under the names of the Xe driver (docs/policies.md). */
  get stats(): SvmStats {
    return this.svm.stats;
  }

  /** Loads the 32-bit word at `a`, a multiple of 4. */
  async gld(a: Num): Promise<number> {
    return (await this.job([["ld", a]]))[0]!;
  }
  /** Stores `v` modulo 2^32. */
  async gst(a: Num, v: Num): Promise<void> {
    await this.job([["st", a, v]]);
  }
  /** Atomic add; the old value. */
  async ginc(a: Num, by: Num = 1): Promise<number> {
    return (await this.job([["inc", a, by]]))[0]!;
  }
  /** A hint that `a` will be wanted: never an error; what cannot be served is dropped and counted. */
  async ghint(a: Num): Promise<void> {
    const address = checkedGpuAddress(a, "ghint");
    await this.#enter();
    await this.#hint(address);
  }

  /** One submission: one lane in order, or with `parallel` one lane per operation. Old values; 0 for st and hint. */
  async job(ops: readonly JobOp[], o: { parallel?: boolean } = {}): Promise<number[]> {
    const input = new Uint32Array(ops.length * JOB_WORDS);
    const slots: number[] = [];
    const hints: number[] = [];
    let n = 0;
    for (const [i, op] of ops.entries()) {
      const name = `job operation ${i}`;
      const address = checkedUnits(checkedGpuAddress(op[1], name), 4, name);
      if (op[0] === "hint") {
        hints.push(address);
        slots.push(-1);
        continue;
      }
      const kind = JOB_KINDS.get(op[0]);
      if (kind === undefined) {
        throw new KernelError("EINVAL", `${name}: "ld", "st", "inc" or "hint" is wanted, not ${String(op[0])}`);
      }
      const value = op[0] === "st" ? op[2] : op[0] === "inc" ? (op[2] ?? 1) : 0;
      input.set([kind, lo32(address), hi32(address), toWord(value, name)], n * JOB_WORDS);
      slots.push(n++);
    }
    await this.#enter();
    for (const hint of hints) await this.#hint(hint);
    if (n === 0) return slots.map(() => 0);
    const parallel = o.parallel === true;
    const out = await this.#run(JOB, { items: parallel ? n : 1, args: [n, parallel ? 1 : 0], input, outWords: n });
    return slots.map((slot) => (slot < 0 ? 0 : out[slot]!));
  }

  /** Fills `l` bytes from `a` with `byte`. */
  async gfill(a: Num, l: Num, byte: Num): Promise<void> {
    const [start, bytes] = checkedArea(a, l, "gfill");
    const pattern = Math.imul(toWord(byte, "gfill") & 255, 0x01010101) >>> 0;
    await this.#enter();
    await this.#bulk(start, bytes, (at, length, items) =>
      this.#run(FILL, { items, args: [...words(at), length, 0, pattern] }),
    );
  }

  /** Copies `l` bytes from `src` to `dst`; the two must not overlap. Any alignment. */
  async gcpy(dst: Num, src: Num, l: Num): Promise<void> {
    const [to, bytes] = checkedArea(dst, l, "gcpy");
    const [from] = checkedArea(src, l, "gcpy");
    if (to < from + bytes && from < to + bytes) {
      throw new KernelError("EINVAL", `gcpy: ${hexRange(from, from + bytes)} and ${hexRange(to, to + bytes)} overlap`);
    }
    await this.#enter();
    await this.#bulk(to, bytes, (at, length, items) =>
      this.#run(COPY, { items, args: [...words(at), ...words(from + (at - to)), length] }),
    );
  }

  /** Stores the bytes of `data` at `a`. */
  async gwrite(a: Num, data: ArrayBufferView): Promise<void> {
    const bytes = bytesOf(data, "gwrite");
    const [start] = checkedArea(a, bytes.length, "gwrite");
    await this.#enter();
    await this.#bulk(start, bytes.length, (at, length, items) => {
      const head = at % 4;
      const input = new Uint32Array(alignUp(head + length, 4) / 4);
      new Uint8Array(input.buffer).set(bytes.subarray(at - start, at - start + length), head);
      return this.#run(WRITE_WORDS, { items, args: [...words(at), length], input });
    });
  }

  /** The bytes of `[a, a + l)` as the GPU sees them, in a fresh buffer. */
  async gread(a: Num, l: Num): Promise<Uint8Array> {
    const [start, bytes] = checkedArea(a, l, "gread");
    const from = alignDown(start, 4);
    const to = alignUp(start + bytes, 4);
    const result = new Uint8Array(to - from);
    await this.#enter();
    await this.#bulk(from, to - from, async (at, length, items) => {
      const out = await this.#run(READ_WORDS, { items, args: [...words(at), length], outWords: length / 4 });
      result.set(new Uint8Array(out.buffer, out.byteOffset, length), at - from);
    });
    return to - from === bytes ? result : result.slice(start - from, start - from + bytes);
  }

  /**
   * Runs a kernel of the caller's own: WGSL that defines `fn kernel(item: u32)`, or what else its design wants
   * (shaders/svm.wgsl says what it may call). Its output words.
   */
  async kernel(wgsl: string, o: KernelOptions): Promise<Uint32Array> {
    if (!Number.isSafeInteger(o.items) || o.items <= 0) {
      throw new ConfigError("kernel.items", `a whole number above 0 is wanted, not ${o.items}`);
    }
    await this.#enter();
    const source: KernelSource = {
      name: "user",
      wgsl,
      ...(o.atomics === true || /\bsvm_atomic/.test(wgsl) ? { atomics: true } : {}),
      ...(o.reference ? { reference: o.reference } : {}),
      ...(o.design ? { design: o.design } : {}),
      ...(o.workgroupSize ? { workgroupSize: o.workgroupSize } : {}),
    };
    return this.#run(source, {
      items: o.items,
      ...(o.outWords ? { outWords: o.outWords } : {}),
      ...(o.buffers ? { buffers: o.buffers.map((b) => ({ ...b, access: ACCESS[b.access] })) } : {}),
      ...(o.streams ? { streams: o.streams.map((s) => ({ ...s, access: ACCESS[s.access] })) } : {}),
      ...(o.args ? { args: o.args } : {}),
      ...(o.input ? { input: o.input } : {}),
    });
  }

  /** A kernel with named parameters, compiled; svm-kernel.ts has an example. Rejects with ConfigError or GpuError. */
  createKernel<const P extends Params = {}>(options: SvmKernelOptions<P>): Promise<SvmKernel<P>> {
    return SvmKernel.create(this, options);
  }

  /** Runs a kernel, reporting every round; its output words. */
  async run(
    source: KernelSource,
    request: LaunchRequest,
    onRound?: (report: RoundReport) => void | Promise<void>,
  ): Promise<Uint32Array> {
    await this.#enter();
    return this.#run(source, request, onRound);
  }

  /** Moves `[a, a + l)` to this device's VRAM; the number of pages moved. Private anonymous memory only. */
  async toVram(a: Num, l: Num): Promise<number> {
    return this.#move("toVram", a, l, (start, end) => this.svm.toVram(start, end, this.tile));
  }
  /** Moves what lies in VRAM back to system memory; the number of pages moved. */
  async toSys(a: Num, l: Num): Promise<number> {
    return this.#move("toSys", a, l, (start, end) => this.svm.toSys(start, end));
  }
  /**
   * As `toVram` and `toSys`, but goes as far as VRAM reaches, and maps for the GPU what it moved. `noWait`: takes only what is
   * free now; evicts nobody and waits for nobody who is leaving. "ADVICE": to where `attr` says, piece by piece.
   */
  async prefetch(a: Num, l: Num, to: "DEV" | "SYS" | "ADVICE", o: { noWait?: boolean } = {}): Promise<number> {
    if (to !== "DEV" && to !== "SYS" && to !== "ADVICE")
      throw new KernelError("EINVAL", `prefetch: "DEV", "SYS" or "ADVICE" is wanted, not ${String(to)}`);
    return this.#move("prefetch", a, l, (start, end) => {
      if (to === "ADVICE") return this.svm.prefetchAdvised(start, end, this.tile);
      return to === "DEV" ? this.svm.prefetch(start, end, o.noWait === true, this.tile) : this.svm.toSys(start, end);
    });
  }

  /**
   * Advice about `[a, a + l)`, widened to whole pages: where it had best lie (`loc`, and with a device as `loc` of which
   * `tile`; of whichever it comes to, if none is named), who does atomics on it (`atomic`), and the index of the memory
   * attributes of its entries (`pat`, 0 to 3: kept in them, and without effect on this hardware).
   * It holds for the addresses until it is changed. Nothing moves; the GPU's next access is served as it says. EINVAL,
   * ENOLINK: a device whose memory this one cannot reach; ENODEV: a device that was lost.
   */
  async attr(a: Num, l: Num, o: Advice): Promise<void> {
    const [start, bytes] = checkedArea(a, l, "attr");
    const end = start + bytes;
    const change = changeOf(this.device, o);
    await this.#enter();
    const result = await this.svm.advise(alignDown(start, PAGE_SIZE), alignUp(end, PAGE_SIZE), change);
    if (isErr(result)) throw KernelError.fromErrno(result, `attr of ${hexRange(start, end)}`, start);
  }

  /** What `attr` has said about `[a, a + l)`: pieces that tile it, ascending; neighbours differ. A probe. */
  attrs(a: Num, l: Num): ({ start: number; end: number; loc: Loc; atomic: Atomic } & Advice)[] {
    const [from, bytes] = checkedArea(a, l, "attrs");
    return this.svm.attributes.pieces(from, from + bytes).map(({ start, end, loc, tile, atomic, pat }) => ({
      start,
      end,
      loc: loc === "device" ? "DEFAULT" : loc === "system" ? "SYS" : this.device.machine.deviceOf(loc),
      ...(tile === null ? {} : { tile }),
      atomic: ATOMICS[atomic],
      ...(pat === null ? {} : { pat }),
    }));
  }

  /**
   * Binds `[va, va + l)` to an object from byte `off` on (of a userptr: behind its address), replacing what is there; what
   * was done, in order. Rejects as `bindAll`, with EBUSY while SVM ranges are in the part of the mirror that it replaces.
   */
  async bind(va: Num, l: Num, obj: Obj, off: Num = 0, o: BindOptions = {}): Promise<VaOp[]> {
    return bindAll(this, [{ op: "map", va, len: l, obj, off }], "bind", o);
  }
  /** Leaves a hole, not a mirror. Errors as `bind`. */
  async unbind(va: Num, l: Num): Promise<VaOp[]> {
    return bindAll(this, [{ op: "unmap", va, len: l }], "unbind");
  }
  /** All operations or, on an error, none. Errors as `bind`. */
  async batch(ops: readonly BatchOp[]): Promise<VaOp[]> {
    return bindAll(this, ops, "batch");
  }
  /** `[va, va + l)` mirrors the process, in the place of what is bound there. What is a mirror already stays one, with its ranges. */
  async mirrorBind(va: Num, l: Num): Promise<void> {
    await bindAll(this, [{ op: "mirror", va, len: l }], "mirrorBind");
  }
  /** Takes what is mirror out of `[va, va + l)`. EBUSY, with nothing changed, while ranges are in it. */
  async mirrorUnbind(va: Num, l: Num): Promise<void> {
    await unbindMirror(this, va, l);
  }

  /** Data in VRAM goes back to the process first. */
  async close(): Promise<void> {
    await this.#enter();
    await this.svm.close();
    this.device.forget(this.#base);
  }

  async #move(verb: string, a: Num, l: Num, move: (start: number, end: number) => Promise<number>): Promise<number> {
    const [start, bytes] = checkedArea(a, l, verb);
    await this.#enter();
    const moved = await move(alignDown(start, PAGE_SIZE), alignUp(start + bytes, PAGE_SIZE));
    if (isErr(moved)) throw KernelError.fromErrno(moved, `${verb} of ${hexRange(start, start + bytes)}`, start);
    return moved;
  }

  async #hint(address: number): Promise<void> {
    // No table translates it, so no fault says that it was dropped.
    if (address >= this.svm.tables.vaEnd) this.counters.hintDropped += 1;
    else await this.svm.hint(address, this.tile);
  }

  #enter(): Promise<void> | undefined {
    return this.device.machine.sched.point("verb");
  }

  /** Cuts `[a, a + l)` at page borders into launches of at most BULK bytes. */
  async #bulk(
    a: number,
    l: number,
    run: (at: number, length: number, items: number) => Promise<unknown>,
  ): Promise<void> {
    for (let at = a; at < a + l;) {
      const end = Math.min(a + l, alignDown(at, PAGE_SIZE) + BULK);
      await run(at, end - at, Math.ceil((end - alignDown(at, PAGE_SIZE)) / PAGE_SIZE));
      at = end;
    }
  }

  async #loss(): Promise<DeviceLostError> {
    const { reason, message } = await this.device.gpu.lost;
    return new DeviceLostError(reason, message);
  }

  async #run(
    source: KernelSource,
    request: LaunchRequest,
    onRound?: (report: RoundReport) => void | Promise<void>,
  ): Promise<Uint32Array> {
    checkStreams(source, request);
    if (this.svm.isBanned) {
      throw new KernelError("ENOENT", "the address space is banned: an earlier kernel made a fault that ended it");
    }
    // The first use of a kernel waits for the adapter's compiler, which no seed can order.
    const kernel: Kernel = await this.device.machine.sched.external(this.device.compile(source));
    const outcome = await this.svm.launch(kernel, this.tile === 0 ? request : { ...request, tile: this.tile }, onRound);
    if (outcome.fault !== null) {
      // A fault that could not be served because the device went while it was.
      if (this.device.gpu.isLost) throw await this.#loss();
      throw gpuFaultError(outcome.fault);
    }
    return outcome.out;
  }
}

/** Throws ConfigError for streams that cannot be. */
function checkStreams({ design = "item" }: KernelSource, { streams = [] }: LaunchRequest): void {
  if (streams.length > 0 && !isDoneByItem(design)) {
    throw new ConfigError(
      "kernel.streams",
      `a kernel of design "item" or "workgroup" is wanted, whose items are done one by one, not "${design}"`,
    );
  }
  for (const [i, { at, bytes, access }] of streams.entries()) {
    const where = `kernel.streams[${i}]`;
    if (!Number.isSafeInteger(at) || at < 0) throw new ConfigError(`${where}.at`, `${String(at)} is no address`);
    if (!Number.isSafeInteger(bytes) || bytes <= 0 || !Number.isSafeInteger(at + bytes)) {
      throw new ConfigError(`${where}.bytes`, `a length above 0 is wanted, not ${String(bytes)}`);
    }
    if (access !== ACCESS.read && access !== ACCESS.write && access !== ACCESS.atomic) {
      throw new ConfigError(`${where}.access`, `${Object.keys(ACCESS).join(", ")} is wanted`);
    }
  }
}

function changeOf(device: Device, o: Advice): Partial<MemAttr> {
  const { loc, tile, atomic, pat } = o;
  if (loc === undefined && atomic === undefined && pat === undefined)
    throw new KernelError("EINVAL", "attr: neither loc nor atomic nor pat is given");
  const isDevice = typeof loc === "object" && device.machine.devices.includes(loc);
  if (loc !== undefined && loc !== "DEFAULT" && loc !== "SYS" && !isDevice) {
    throw new KernelError("EINVAL", `attr: loc is wanted to be "DEFAULT", "SYS" or a device of this machine`);
  }
  if (tile !== undefined && !(typeof loc === "object" && loc.driver.regions[tile] !== undefined)) {
    throw new KernelError("EINVAL", `attr: a tile is wanted to be one of the device that is loc, not ${tile}`);
  }
  const value = atomic === undefined ? ATOMIC_UNDEFINED : ATOMICS.indexOf(atomic);
  if (value < 0) throw new KernelError("EINVAL", `attr: atomic is one of ${ATOMICS.join(", ")}, not ${String(atomic)}`);
  return {
    ...(loc === undefined ? {} : { loc: typeof loc === "object" ? loc.driver : loc === "SYS" ? "system" : "device" }),
    ...(tile === undefined ? {} : { tile }),
    ...(atomic === undefined ? {} : { atomic: value as AtomicAccess }),
    ...(pat === undefined ? {} : { pat }),
  };
}

/** What a scenario is told of a fault that could not be served. */
export function gpuFaultError(f: LaunchFault): KernelError {
  const kind: Fault["kind"] =
    f.errno === ENOENT
      ? "NOENT"
      : f.errno === EPERM || f.errno === EACCES
        ? "PERM"
        : f.errno === EINVAL
          ? "INVAL"
          : "BUS";
  const fault: Fault = { kind, addr: f.addr, access: f.access };
  return new KernelError("GPUFAULT", `${f.access} at ${hex(f.addr)}: ${f.reason} (${errnoName(f.errno)})`, {
    addr: f.addr,
    fault,
  });
}

function words(va: number): [number, number] {
  return [lo32(va), hi32(va)];
}

/** Start and length, bytes. */
function checkedArea(a: Num, l: Num, verb: string): [start: number, bytes: number] {
  const start = checkedAddress(a, verb);
  return [start, checkedLength(start, l, verb)];
}

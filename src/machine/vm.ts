import { PAGE_SIZE, alignDown, alignUp, hex, hexRange, hi32, lo32 } from "../base/addr.ts";
import { EACCES, EINVAL, ENOENT, EPERM, errnoName, isErr } from "../base/errno.ts";
import { ConfigError, DeviceLostError, KernelError } from "../base/errors.ts";
import type { Fault } from "../base/errors.ts";
import type { Kernel, KernelDesign, KernelSource } from "../hal/gpu.ts";
import type { SvmCounters } from "../driver/counters.ts";
import type { LaunchFault, LaunchRequest, RoundReport } from "../driver/launch.ts";
import type { SvmVm } from "../driver/vm.ts";
import type { Device } from "./device.ts";
import { COPY, FILL, JOB, JOB_ADD, JOB_LOAD, JOB_STORE, JOB_WORDS, READ_WORDS, WRITE_WORDS } from "./kernels.ts";
import type { Process } from "./process.ts";

/** One operation of a job: load, store, atomic add, or a hint that the page will be wanted. */
export type JobOp = ["ld", number] | ["st", number, number] | ["inc", number, number?] | ["hint", number];

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

  constructor(device: Device, process: Process, svm: SvmVm) {
    this.device = device;
    this.process = process;
    this.svm = svm;
  }

  get counters(): SvmCounters {
    return this.svm.counters;
  }

  /** Loads the 32-bit word at `a`, a multiple of 4. */
  async gld(a: number): Promise<number> {
    return (await this.job([["ld", a]]))[0]!;
  }
  /** Stores `v` modulo 2^32. */
  async gst(a: number, v: number): Promise<void> {
    await this.job([["st", a, v]]);
  }
  /** Atomic add; the old value. */
  async ginc(a: number, by = 1): Promise<number> {
    return (await this.job([["inc", a, by]]))[0]!;
  }
  /** A hint that `a` will be wanted: never an error; what cannot be served is dropped and counted. */
  async ghint(a: number): Promise<void> {
    checkAddress(a, "ghint");
    await this.#enter();
    await this.svm.hint(a);
  }

  /** One submission: one lane in order, or with `parallel` one lane per operation. Old values; 0 for st and hint. */
  async job(ops: readonly JobOp[], o: { parallel?: boolean } = {}): Promise<number[]> {
    const input = new Uint32Array(ops.length * JOB_WORDS);
    const slots: number[] = [];
    let n = 0;
    for (const [i, op] of ops.entries()) {
      checkWord(op[1], `job operation ${i}`);
      if (op[0] === "hint") {
        slots.push(-1);
        continue;
      }
      const kind = op[0] === "ld" ? JOB_LOAD : op[0] === "st" ? JOB_STORE : JOB_ADD;
      const value = op[0] === "st" ? op[2] : op[0] === "inc" ? (op[2] ?? 1) : 0;
      input.set([kind, lo32(op[1]), hi32(op[1]), lo32Signed(value)], n * JOB_WORDS);
      slots.push(n++);
    }
    await this.#enter();
    for (const op of ops) if (op[0] === "hint") await this.svm.hint(op[1]);
    if (n === 0) return slots.map(() => 0);
    const parallel = o.parallel === true;
    const out = await this.#run(JOB, { items: parallel ? n : 1, args: [n, parallel ? 1 : 0], input, outWords: n });
    return slots.map((slot) => (slot < 0 ? 0 : out[slot]!));
  }

  /** Fills `l` bytes from `a` with `byte`. */
  async gfill(a: number, l: number, byte: number): Promise<void> {
    checkArea(a, l, "gfill");
    const pattern = Math.imul(byte & 255, 0x01010101) >>> 0;
    await this.#enter();
    await this.#bulk(a, l, (at, length, items) => this.#run(FILL, { items, args: [...words(at), length, 0, pattern] }));
  }

  /** Copies `l` bytes from `src` to `dst`; the two must not overlap. Any alignment. */
  async gcpy(dst: number, src: number, l: number): Promise<void> {
    checkArea(dst, l, "gcpy");
    checkArea(src, l, "gcpy");
    if (dst < src + l && src < dst + l) {
      throw new KernelError("EINVAL", `gcpy: ${hexRange(src, src + l)} and ${hexRange(dst, dst + l)} overlap`);
    }
    await this.#enter();
    await this.#bulk(dst, l, (at, length, items) =>
      this.#run(COPY, { items, args: [...words(at), ...words(src + (at - dst)), length] }),
    );
  }

  /** Stores the bytes of `data` at `a`. */
  async gwrite(a: number, data: ArrayBufferView): Promise<void> {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    checkArea(a, bytes.length, "gwrite");
    await this.#enter();
    await this.#bulk(a, bytes.length, (at, length, items) => {
      const head = at % 4;
      const input = new Uint32Array(alignUp(head + length, 4) / 4);
      new Uint8Array(input.buffer).set(bytes.subarray(at - a, at - a + length), head);
      return this.#run(WRITE_WORDS, { items, args: [...words(at), length], input });
    });
  }

  /** The bytes of `[a, a + l)` as the GPU sees them, in a fresh buffer. */
  async gread(a: number, l: number): Promise<Uint8Array> {
    checkArea(a, l, "gread");
    const from = alignDown(a, 4);
    const to = alignUp(a + l, 4);
    const result = new Uint8Array(to - from);
    await this.#enter();
    await this.#bulk(from, to - from, async (at, length, items) => {
      const out = await this.#run(READ_WORDS, { items, args: [...words(at), length], outWords: length / 4 });
      result.set(new Uint8Array(out.buffer, out.byteOffset, length), at - from);
    });
    return from === a && to === a + l ? result : result.slice(a - from, a - from + l);
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
      ...(o.args ? { args: o.args } : {}),
      ...(o.input ? { input: o.input } : {}),
    });
  }

  /** Runs a kernel of this project, reporting every round; its output words. */
  async run(
    source: KernelSource,
    request: LaunchRequest,
    onRound?: (report: RoundReport) => void | Promise<void>,
  ): Promise<Uint32Array> {
    await this.#enter();
    return this.#run(source, request, onRound);
  }

  /** Moves `[a, a + l)` to this device's VRAM; the number of pages moved. Private anonymous memory only. */
  async toVram(a: number, l: number): Promise<number> {
    return this.#move("toVram", a, l, (start, end) => this.svm.toVram(start, end));
  }
  /** Moves what lies in VRAM back to system memory; the number of pages moved. */
  async toSys(a: number, l: number): Promise<number> {
    return this.#move("toSys", a, l, (start, end) => this.svm.toSys(start, end));
  }
  /**
   * As `toVram` and `toSys`, but goes as far as VRAM reaches, and maps for the GPU what it moved. `noWait`: takes only what is
   * free now; evicts nobody and waits for nobody who is leaving.
   */
  async prefetch(a: number, l: number, to: "DEV" | "SYS", o: { noWait?: boolean } = {}): Promise<number> {
    if (to !== "DEV" && to !== "SYS")
      throw new KernelError("EINVAL", `prefetch: "DEV" or "SYS" is wanted, not ${String(to)}`);
    return this.#move("prefetch", a, l, (start, end) =>
      to === "DEV" ? this.svm.prefetch(start, end, o.noWait === true) : this.svm.toSys(start, end),
    );
  }

  /** Data in VRAM goes back to the process first. */
  async close(): Promise<void> {
    await this.#enter();
    await this.svm.close();
    this.device.forget(this);
  }

  async #move(
    verb: string,
    a: number,
    l: number,
    move: (start: number, end: number) => Promise<number>,
  ): Promise<number> {
    checkArea(a, l, verb);
    await this.#enter();
    const moved = await move(alignDown(a, PAGE_SIZE), alignUp(a + l, PAGE_SIZE));
    if (isErr(moved)) throw KernelError.fromErrno(moved, `${verb} of ${hexRange(a, a + l)}`, a);
    return moved;
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
    if (this.svm.isBanned) {
      throw new KernelError("ENOENT", "the address space is banned: an earlier kernel made a fault that ended it");
    }
    // The first use of a kernel waits for the adapter's compiler, which no seed can order.
    const kernel: Kernel = await this.device.machine.sched.external(this.device.compile(source));
    const outcome = await this.svm.launch(kernel, request, onRound);
    if (outcome.fault !== null) {
      // A fault that could not be served because the device went while it was.
      if (this.device.gpu.isLost) throw await this.#loss();
      throw gpuFaultError(outcome.fault);
    }
    return outcome.out;
  }
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

/** Any integer modulo 2^32. */
function lo32Signed(v: number): number {
  return Number(BigInt.asUintN(32, BigInt(Math.trunc(v))));
}

function checkAddress(a: number, verb: string): void {
  if (!Number.isSafeInteger(a) || a < 0) throw new KernelError("EINVAL", `${verb}: ${String(a)} is no address`);
}

function checkWord(a: number, verb: string): void {
  checkAddress(a, verb);
  if (a % 4 !== 0) throw new KernelError("EINVAL", `${verb}: ${hex(a)} is not a multiple of 4`, { addr: a });
}

function checkArea(a: number, l: number, verb: string): void {
  checkAddress(a, verb);
  if (!Number.isSafeInteger(l) || l <= 0 || !Number.isSafeInteger(a + l)) {
    throw new KernelError("EINVAL", `${verb}: a length above 0 is wanted, not ${String(l)}`, { addr: a });
  }
}

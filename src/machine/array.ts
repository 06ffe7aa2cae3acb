import { SZ_2M, hexRange } from "../base/addr.ts";
import { ConfigError, KernelError } from "../base/errors.ts";
import type { Process } from "./process.ts";
import type { Vm } from "./vm.ts";

/** Typed arrays of numbers. */
export type NumberArray =
  | Int8Array<ArrayBuffer>
  | Uint8Array<ArrayBuffer>
  | Uint8ClampedArray<ArrayBuffer>
  | Int16Array<ArrayBuffer>
  | Uint16Array<ArrayBuffer>
  | Int32Array<ArrayBuffer>
  | Uint32Array<ArrayBuffer>
  | Float32Array<ArrayBuffer>
  | Float64Array<ArrayBuffer>;

/** The constructor of a typed array: `Float32Array`. */
export interface NumberArrayType<T extends NumberArray> {
  readonly name: string;
  readonly BYTES_PER_ELEMENT: number;
  new (length: number): T;
  new (buffer: ArrayBuffer): T;
  from(values: Iterable<number>): T;
}

/** Elements that `fill` makes at a time. */
const FILL_PIECE = 65536;

/**
 * An array in the memory of a process, as large as the machine's RAM allows. Its address is the same for the CPU and for
 * every GPU that mirrors the process; where its pages lie is the driver's affair.
 *
 *     const x = await process.alloc(Float32Array, 1 << 20);
 *     await x.write([1, 2, 3]);
 *     await x.read(0, 3);                   // Float32Array [1, 2, 3]
 *     await x.free();
 *
 * Indices and lengths are in elements. Accesses beyond the end reject with KernelError EINVAL, before anything is done.
 */
export class SvmArray<T extends NumberArray = NumberArray> {
  readonly process: Process;
  readonly type: NumberArrayType<T>;
  /** Address of the first element, bytes. */
  readonly address: number;
  readonly length: number;
  #isFreed = false;

  private constructor(process: Process, type: NumberArrayType<T>, address: number, length: number) {
    this.process = process;
    this.type = type;
    this.address = address;
    this.length = length;
  }

  /** For `Process.alloc`. Zeros, page aligned, from 2 MiB on aligned to that. Throws KernelError EINVAL or ENOMEM. */
  static async create<T extends NumberArray>(
    process: Process,
    type: NumberArrayType<T>,
    length: number,
  ): Promise<SvmArray<T>> {
    if (typeof type !== "function" || !(type.BYTES_PER_ELEMENT > 0)) {
      throw new KernelError("EINVAL", `alloc: a typed array's constructor is wanted, not ${String(type)}`);
    }
    if (!Number.isSafeInteger(length) || length <= 0) {
      throw new KernelError("EINVAL", `alloc: a number of elements above 0 is wanted, not ${length}`);
    }
    const bytes = length * type.BYTES_PER_ELEMENT;
    // Large pages migrate at once: their books are kept as one.
    const address = await process.mmap(bytes, bytes >= SZ_2M ? { align: SZ_2M, thp: true } : {});
    return new SvmArray(process, type, address, length);
  }

  get byteLength(): number {
    return this.length * this.type.BYTES_PER_ELEMENT;
  }
  get isFreed(): boolean {
    return this.#isFreed;
  }

  /** A copy of the elements `[start, end)`; what lies in VRAM comes home. */
  async read(start = 0, end = this.length): Promise<T> {
    const [at, bytes] = this.#range("read", start, end);
    if (bytes === 0) return new this.type(0);
    const data = await this.process.read(at, bytes);
    return new this.type(data.buffer as ArrayBuffer);
  }

  /** Stores `data` from element `at` on: a typed array of the same type as it is, other numbers converted. */
  async write(data: ArrayLike<number> & Iterable<number>, at = 0): Promise<void> {
    const [address, bytes] = this.#range("write", at, at + data.length);
    const typed = data instanceof this.type ? data : this.type.from(data);
    if (bytes > 0) await this.process.write(address, typed);
  }

  async get(index: number): Promise<number> {
    return (await this.read(index, index + 1))[0]!;
  }
  async set(index: number, value: number): Promise<void> {
    await this.write([value], index);
  }

  /** Stores `value` to the elements `[start, end)`. */
  async fill(value: number, start = 0, end = this.length): Promise<void> {
    this.#range("fill", start, end);
    const piece = new this.type(Math.min(end - start, FILL_PIECE)).fill(value);
    for (let at = start; at < end; at += FILL_PIECE) await this.write(piece.subarray(0, end - at), at);
  }

  /** Moves it to the memory of `vm`'s device, as far as there is room, and maps it there; the number of pages moved. */
  prefetch(vm: Vm): Promise<number> {
    this.#range("prefetch", 0, this.length);
    return vm.prefetch(this.address, this.byteLength, "DEV");
  }

  /** Moves home what lies in the memory of `vm`'s device; the number of pages moved. */
  evict(vm: Vm): Promise<number> {
    this.#range("evict", 0, this.length);
    return vm.prefetch(this.address, this.byteLength, "SYS");
  }

  /** Unmaps it, wherever it lies. Later use is an error. */
  async free(): Promise<void> {
    this.#range("free", 0, this.length);
    this.#isFreed = true;
    await this.process.munmap(this.address, this.byteLength);
  }

  /** Throws ConfigError unless a kernel of `vm` may have it as `name`. */
  checkFor(vm: Vm, name: string): void {
    if (this.#isFreed) throw new ConfigError(name, "this array has been freed");
    if (vm.process !== this.process) {
      throw new ConfigError(
        name,
        `an array of process ${vm.process.pid} is wanted, this is one of ${this.process.pid}`,
      );
    }
  }

  /** Address and length in bytes of the elements `[start, end)`. */
  #range(verb: string, start: number, end: number): [address: number, bytes: number] {
    if (this.#isFreed) throw new KernelError("EINVAL", `${verb}: the array has been freed`, { addr: this.address });
    if (!Number.isSafeInteger(start) || !Number.isSafeInteger(end) || start < 0 || start > end || end > this.length) {
      throw new KernelError("EINVAL", `${verb}: elements ${hexRange(start, end)} are not within 0 to ${this.length}`);
    }
    const size = this.type.BYTES_PER_ELEMENT;
    return [this.address + start * size, (end - start) * size];
  }
}

import { alignDown, alignUp, hexRange, isAligned } from "../base/addr.ts";
import { E2BIG, EINVAL, ENOENT, ENOMEM, ENOSPC, isErr } from "../base/errno.ts";
import { KernelError } from "../base/errors.ts";
import { readBo, writeBo } from "../driver/bo-access.ts";
import { BoMap } from "../driver/bo-map.ts";
import { copyBo, fillBo } from "../driver/bo-copy.ts";
import { Bo as DriverBo } from "../driver/bo.ts";
import { type Num, bytesOf, checkedAddress, checkedLength, checkedUnits, toNumber, toWord } from "./args.ts";
import type { Device } from "./device.ts";

/** Bytes of what the engines move. */
const WORD = 4;

export interface BoOptions {
  /** One piece of VRAM, aligned to the largest leaf that fits into it. */
  readonly contiguous?: boolean;
  /** Of which tile's VRAM. Default 0. */
  readonly tile?: number;
}

/**
 * A buffer object of a device, full of zeros at first. Offsets and lengths are bytes. Its memory goes with the last
 * mapping after `close`; what is asked of it by offset then rejects with ENOENT.
 */
export class Bo {
  readonly device: Device;
  readonly size: number;
  readonly driver: DriverBo;
  /** One, so that areas side by side are known to show the same. */
  readonly #map: BoMap;
  #isOpen = true;

  private constructor(device: Device, driver: DriverBo) {
    this.device = device;
    this.driver = driver;
    this.size = driver.size;
    this.#map = new BoMap(driver);
  }

  /** Rejects with EINVAL (a length that is not whole pages), ENOSPC (no room, even by eviction). */
  static async create(device: Device, len: Num, where: "VRAM" | "SYS", o: BoOptions = {}): Promise<Bo> {
    if (where !== "VRAM" && where !== "SYS") {
      throw new KernelError("EINVAL", `bo: "VRAM" or "SYS" is wanted, not ${String(where)}`);
    }
    const size = checkedLength(0, len, "bo");
    const { tile = 0 } = o;
    if (device.driver.regions[tile] === undefined)
      throw new KernelError("EINVAL", `bo: the device has no tile ${tile}`);
    await device.machine.sched.point("verb");
    const driver = await DriverBo.create(device.driver, {
      size,
      tile,
      placement: where === "VRAM" ? "vram" : "system",
      contiguous: where === "VRAM" && o.contiguous === true,
    });
    if (!isErr(driver)) return device.adoptBo(new Bo(device, driver));
    const isFull = driver === ENOMEM || driver === E2BIG;
    throw KernelError.fromErrno(isFull ? ENOSPC : driver, `buffer object of ${size} bytes in ${where}`);
  }

  /** The 32-bit word at `off`, a multiple of 4, read by the CPU wherever the bytes lie. */
  async ld(off: Num): Promise<number> {
    const at = this.#word(off, "bo.ld");
    await this.#enter();
    return wordAt(await this.#read(at, WORD, "bo.ld"));
  }

  async st(off: Num, v: Num): Promise<void> {
    const at = this.#word(off, "bo.st");
    const word = new Uint32Array([toWord(v, "bo.st")]);
    await this.#enter();
    this.#check(await writeBo(this.driver, at, new Uint8Array(word.buffer)), "bo.st", at, WORD);
  }

  /** A copy of `[off, off + bytes)`. */
  async read(off: Num, bytes: Num): Promise<Uint8Array> {
    const at = this.#area(off, bytes, "bo.read");
    const length = toNumber(bytes);
    await this.#enter();
    const from = alignDown(at, WORD);
    const to = alignUp(at + length, WORD);
    const words = await this.#read(from, to - from, "bo.read");
    return to - from === length ? words : words.slice(at - from, at - from + length);
  }

  /** Stores the bytes of `data`. Of words that it covers in part the rest is read first. */
  async write(off: Num, data: ArrayBufferView): Promise<void> {
    const bytes = bytesOf(data, "bo.write");
    const at = this.#area(off, bytes.length, "bo.write");
    await this.#enter();
    const from = alignDown(at, WORD);
    const to = alignUp(at + bytes.length, WORD);
    const isWhole = from === at && to === at + bytes.length;
    const words = isWhole ? bytes : await this.#read(from, to - from, "bo.write");
    if (!isWhole) words.set(bytes, at - from);
    this.#check(await writeBo(this.driver, from, words), "bo.write", at, bytes.length);
  }

  /** By the copy engine, physically. Whole words. */
  async fill(off: Num, l: Num, byte: Num): Promise<void> {
    const at = this.#area(off, l, "bo.fill");
    const pattern = toWord(byte, "bo.fill");
    await this.#enter();
    this.#check(await fillBo(this.driver, at, toNumber(l), pattern), "bo.fill", at, toNumber(l));
  }

  /** By the copy engine, physically, from an object of the same device. Whole words; parts of one object must not overlap. */
  async copy(off: Num, from: Bo, fromOff: Num, l: Num): Promise<void> {
    if (!(from instanceof Bo) || from.device !== this.device) {
      throw new KernelError("EINVAL", "bo.copy: a buffer object of the same device is wanted");
    }
    const at = this.#area(off, l, "bo.copy");
    const source = from.#area(fromOff, l, "bo.copy");
    await this.#enter();
    const done = await copyBo(this.driver, at, from.driver, source, toNumber(l));
    this.#check(done, "bo.copy", at, toNumber(l));
  }

  /** For `Process.mmap`: what shows its first `length` bytes. Throws KernelError ENOENT, or EINVAL for more than it has. */
  mapFor(length: number): BoMap {
    this.#area(0, length, "mmap");
    return this.#map;
  }

  /** The memory goes with the last mapping, of a GPU or of a CPU. */
  async close(): Promise<void> {
    await this.#enter();
    this.#isOpen = false;
    this.driver.close();
  }

  #enter(): Promise<void> | undefined {
    return this.device.machine.sched.point("verb");
  }

  #word(off: Num, verb: string): number {
    return checkedUnits(this.#area(off, WORD, verb), WORD, verb);
  }

  /** `[off, off + l)`, which lies inside. */
  #area(off: Num, l: Num, verb: string): number {
    const at = checkedAddress(off, verb);
    const length = checkedLength(at, l, verb);
    if (!this.#isOpen) throw KernelError.fromErrno(ENOENT, `${verb}: the buffer object is closed`);
    if (at + length > this.size) {
      throw new KernelError("EINVAL", `${verb}: ${hexRange(at, at + length)} reaches beyond ${this.size} bytes`);
    }
    return at;
  }

  async #read(at: number, length: number, verb: string): Promise<Uint8Array> {
    const bytes = await readBo(this.driver, at, length);
    if (isErr(bytes)) throw this.#error(bytes, verb, at, length);
    return bytes;
  }

  #check(result: number, verb: string, at: number, length: number): void {
    if (isErr(result)) throw this.#error(result, verb, at, length);
  }

  #error(errno: number, verb: string, at: number, length: number): KernelError {
    const why = errno === EINVAL && !isAligned(at, WORD) ? ", which is no multiple of 4" : "";
    return KernelError.fromErrno(errno, `${verb} of ${hexRange(at, at + length)}${why}`, at);
  }
}

function wordAt(bytes: Uint8Array): number {
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
}

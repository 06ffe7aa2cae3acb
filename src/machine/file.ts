import { assert } from "../base/assert.ts";
import { errnoName, isErr } from "../base/errno.ts";
import { KernelError } from "../base/errors.ts";
import { isPromise } from "../base/maybe-promise.ts";
import { MemFile } from "../mm/file.ts";
import type { PhysMemory } from "../mm/phys-mem.ts";

/** A file in the machine's RAM, for `mmap`. A call that fails rejects with `KernelError`. */
export class File {
  readonly mem: MemFile;

  constructor(mem: MemFile) {
    this.mem = mem;
  }

  /** `init`: a length, of zeros, or the content. Throws KernelError EINVAL or ENOMEM. */
  static create(phys: PhysMemory, init: number | Uint8Array, name: string): File {
    const size = typeof init === "number" ? init : init.length;
    if (!Number.isSafeInteger(size) || size < 0) {
      throw new KernelError("EINVAL", `file: a length or the content is wanted, not ${String(init)}`);
    }
    const mem = new MemFile(phys, { size, name });
    if (typeof init !== "number") {
      const written = mem.write(0, init);
      assert(!isPromise(written), "nobody else has the file's lock yet");
      check(written, `file of ${size} bytes`);
    }
    return new File(mem);
  }

  /** Bytes. */
  get size(): number {
    return this.mem.size;
  }

  /** A copy of `[offset, offset + length)`, cut at the end of the file. */
  async read(offset: number, length: number): Promise<Uint8Array> {
    const bytes = await this.mem.read(offset, length);
    if (isErr(bytes)) throw KernelError.fromErrno(bytes, `read of ${length} bytes at ${offset}`);
    return bytes;
  }
  /** Stores `data` at `offset`; the file grows if need be. */
  async write(offset: number, data: Uint8Array): Promise<void> {
    check(await this.mem.write(offset, data), `write of ${data.length} bytes at ${offset}`);
  }
  /** Sets the size; who maps what is cut off finds a bus error there. */
  async truncate(size: number): Promise<void> {
    check(await this.mem.truncate(size), `truncate to ${size} bytes`);
  }
  /** Zeroes `[offset, offset + length)` and gives its whole pages back. */
  async punchHole(offset: number, length: number): Promise<void> {
    check(await this.mem.punchHole(offset, length), `hole of ${length} bytes at ${offset}`);
  }
}

function check(result: number, what: string): void {
  if (isErr(result)) throw KernelError.fromErrno(result, `${what} (${errnoName(result)})`);
}

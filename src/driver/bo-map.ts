import { alignDown, alignUp } from "../base/addr.ts";
import { EINVAL, isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { Mutex } from "../base/locks.ts";
import type { DeviceMemory } from "../mm/device-memory.ts";
import { readBo, writeBo } from "./bo-access.ts";
import type { Bo } from "./bo.ts";

const WORD = 4;

/**
 * A buffer object as areas of processes show it. Each area holds a reference of the object.
 *
 * Bytes that are no whole words, and additions, are read, changed and written back under a lock, so that the CPU's own
 * accesses lose nothing of each other; a kernel of the GPU that writes the same word meanwhile may lose it.
 * @kernel ttm_bo_mmap_obj, ttm_bo_vm_open, ttm_bo_vm_close
 */
export class BoMap implements DeviceMemory {
  readonly bo: Bo;
  readonly #lock = new Mutex("bo map", "device");

  constructor(bo: Bo) {
    this.bo = bo;
  }

  attach(): void {
    this.bo.get();
  }
  detach(): void {
    this.bo.put();
  }

  read(offset: number, into: Uint8Array): Promise<0 | Errno> {
    return this.#held(() => this.#read(offset, into));
  }

  write(offset: number, data: Uint8Array): Promise<0 | Errno> {
    const isWhole = offset % WORD === 0 && data.length % WORD === 0;
    return this.#held(() =>
      isWhole
        ? writeBo(this.bo, offset, data)
        : this.#change(offset, data.length, (words) => words.set(data, offset % WORD)),
    );
  }

  add(offset: number, by: number): Promise<number | Errno> {
    return this.#held(() => this.#add(offset, by));
  }

  /** An area may go while it is accessed. */
  async #held<T>(access: () => Promise<T>): Promise<T> {
    this.bo.get();
    try {
      return await access();
    } finally {
      this.bo.put();
    }
  }

  async #read(offset: number, into: Uint8Array): Promise<0 | Errno> {
    const words = await this.#words(offset, into.length);
    if (isErr(words)) return words;
    into.set(words.subarray(offset % WORD, (offset % WORD) + into.length));
    return 0;
  }

  async #add(offset: number, by: number): Promise<number | Errno> {
    if (offset % WORD !== 0) return EINVAL;
    let old = 0;
    const done = await this.#change(offset, WORD, (words) => {
      const word = new DataView(words.buffer, words.byteOffset);
      old = word.getUint32(0, true);
      word.setUint32(0, old + by, true);
    });
    return done === 0 ? old : done;
  }

  #words(offset: number, length: number): Promise<Uint8Array | Errno> {
    const from = alignDown(offset, WORD);
    return readBo(this.bo, from, alignUp(offset + length, WORD) - from);
  }

  async #change(offset: number, length: number, change: (words: Uint8Array) => void): Promise<0 | Errno> {
    const guard = await this.#lock.lock();
    try {
      const words = await this.#words(offset, length);
      if (isErr(words)) return words;
      change(words);
      return await writeBo(this.bo, alignDown(offset, WORD), words);
    } finally {
      guard.release();
    }
  }
}

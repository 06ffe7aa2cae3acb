import { PAGE_SIZE, SZ_2M, alignUp } from "../../base/addr.ts";
import { assert } from "../../base/assert.ts";
import type { Process } from "../../machine/process.ts";
import type { Content } from "./content.ts";

/** Bytes of an arena. */
const ARENA = 1 << 20;
/** Allocations from here on have a mapping of their own. */
const OWN_MAPPING = 128 << 10;
/** What stands before every small allocation, as bookkeeping does; so that buffers begin inside of pages. */
const HEADER = 16;

interface Chunk {
  readonly at: number;
  readonly bytes: number;
  /** What whoever freed it has left there; null for fresh memory, which is zero. */
  readonly left: Content | null;
}

/**
 * The allocator of a process (malloc): small allocations share arenas, and with them pages and areas, and freed memory is
 * the first to be given out again, as it was left; large ones have mappings of their own, 2 MiB aligned, and are unmapped when
 * they are freed.
 */
export class Heap {
  readonly #process: Process;
  readonly #live = new Map<number, Chunk>();
  readonly #own = new Set<number>();
  /** Freed small chunks, last freed last. */
  readonly #free: Chunk[] = [];
  readonly #arenas: number[] = [];
  #next = 0;
  #end = 0;

  constructor(process: Process) {
    this.#process = process;
  }

  /**
   * Address and content of `bytes` bytes, 16-byte aligned; with `apart`, in whole 2 MiB that hold nothing else. Rejects with
   * KernelError ENOMEM.
   */
  async alloc(bytes: number, apart = false): Promise<{ at: number; left: Content | null }> {
    if (apart || bytes >= OWN_MAPPING) {
      const own = alignUp(bytes, apart ? SZ_2M : PAGE_SIZE);
      const at = await this.#process.mmap(own, { align: SZ_2M });
      this.#own.add(at);
      return this.#take({ at, bytes: own, left: null });
    }
    const reused = this.#free.findLastIndex((chunk) => chunk.bytes === bytes);
    if (reused >= 0) return this.#take(this.#free.splice(reused, 1)[0]!);
    while (this.#end - this.#next < HEADER + bytes) {
      // Another activity may have made one meanwhile, and have used it up: look again.
      const arena = await this.#process.mmap(ARENA);
      this.#arenas.push(arena);
      this.#next = arena;
      this.#end = arena + ARENA;
    }
    const at = this.#next + HEADER;
    this.#next = at + alignUp(bytes, HEADER);
    return this.#take({ at, bytes, left: null });
  }

  /** Gives back what `alloc` has returned, with what is in it now. */
  async free(at: number, left: Content): Promise<void> {
    const chunk = this.#live.get(at);
    assert(chunk !== undefined, "freed once, where it was allocated");
    this.#live.delete(at);
    if (this.#own.delete(at)) await this.#process.munmap(at, chunk.bytes);
    else this.#free.push({ ...chunk, left });
  }

  /** Gives the arenas back, when nothing in them is used any more. */
  async end(): Promise<void> {
    assert(this.#live.size === 0, "everything has been freed");
    for (const arena of this.#arenas.splice(0)) await this.#process.munmap(arena, ARENA);
  }

  #take(chunk: Chunk): Chunk {
    this.#live.set(chunk.at, chunk);
    return chunk;
  }
}

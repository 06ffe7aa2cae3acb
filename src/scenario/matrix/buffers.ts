import { PAGE_SIZE, SZ_2M, alignDown, alignUp } from "../../base/addr.ts";
import { assert } from "../../base/assert.ts";
import { Bo } from "../../machine/bo.ts";
import type { File } from "../../machine/file.ts";
import type { Kind, Process } from "../../machine/process.ts";
import type { Vm } from "../../machine/vm.ts";
import type { Scenario } from "../verbs.ts";
import type { Template } from "./cases.ts";
import { onceCollected } from "./collected.ts";
import { Content } from "./content.ts";
import type { Heap } from "./heap.ts";
import { RECORD_BYTES } from "./record.ts";
import type { Flag } from "./sections.ts";

/** Bytes behind the last record that a command streamer may fetch ahead. */
const FETCH_AHEAD = 512;
/** Copies of the buffer that one batch of a MULTI_FAULT section stores to. */
export const COPIES = 4;

/** The memory under test. */
export interface Buffer {
  at: number;
  readonly bytes: number;
  /** Bytes from `at` on that are its own: whole pages, unless it comes from the heap. */
  readonly owned: number;
  readonly origin: "heap" | "mapping";
  /** May lie in VRAM, or in RAM. */
  readonly migrates: boolean;
  /** Whose pages it shows, from the beginning. */
  readonly file: File | null;
  /** The object that it is, and that is bound in the place of the mirror. */
  readonly bo: Bo | null;
  readonly content: Content;
  /** Memory of the heap that was freed before: its content is known, and it may not have changed since. */
  readonly reused: boolean;
}

/** Bytes of one copy of the records. */
export function bufferBytes({ bytes, execs, stride }: Template): number {
  return bytes ?? alignUp(execs * stride * RECORD_BYTES + FETCH_AHEAD, PAGE_SIZE);
}

/** Obtains and gives back buffers in the way of a section. */
export class Buffers {
  readonly #s: Scenario;
  readonly #process: Process;
  readonly #vm: Vm;
  readonly #heap: Heap;
  readonly #flags: ReadonlySet<Flag>;
  readonly #bytes: number;

  constructor(place: { s: Scenario; p: Process; m: Vm; heap: Heap }, flags: ReadonlySet<Flag>, bytes: number) {
    this.#s = place.s;
    this.#process = place.p;
    this.#vm = place.m;
    this.#heap = place.heap;
    this.#flags = flags;
    this.#bytes = bytes;
  }

  /** The buffer for exec number `i`, the first one for 0. */
  async obtain(i: number): Promise<Buffer> {
    const flags = this.#flags;
    if (flags.has("BO_MAP") && i % 2 === 1) return this.#object();
    if (!flags.has("MMAP")) return this.#fromHeap();
    if (flags.has("NEW") && i > 0)
      return this.#mapped("shanon", await this.#process.mmap(this.#bytes, { kind: "shanon" }));
    if (flags.has("HUGE_PAGE")) return this.#placed("huge2m", alignUp(this.#bytes, SZ_2M));
    if (flags.has("MMAP_SHARED")) return this.#placed("shanon");
    if (flags.has("FILE_BACKED")) return this.#placed({ file: this.#s.file(this.#bytes), shared: true });
    return this.#placed("anon");
  }

  async release(buffer: Buffer): Promise<void> {
    if (buffer.bo !== null) await this.#vm.mirrorBind(buffer.at, buffer.owned);
    if (buffer.origin === "mapping") {
      await this.#process.munmap(buffer.at, buffer.owned);
      // A file without a name, and an object, go when nobody maps them.
      await buffer.file?.truncate(0);
      await buffer.bo?.close();
      return;
    }
    await this.#heap.free(buffer.at, buffer.content);
  }

  /** An aligned address at which a buffer has room: reserved, so that nobody else gets it, until something is mapped over it. */
  async reserve(bytes: number): Promise<number> {
    const align = alignmentOf(bytes);
    const room = bytes + align;
    const start = await this.#process.mmap(room, { prot: "NONE" });
    const at = alignUp(start, align);
    if (at > start) await this.#process.munmap(start, at - start);
    if (at + bytes < start + room) await this.#process.munmap(at + bytes, start + room - at - bytes);
    return at;
  }

  /** An object in VRAM, which the CPU maps, and which is bound for the GPU at the same address in the place of the mirror. */
  async #object(): Promise<Buffer> {
    const bo = await this.#s.bo(this.#vm.device, alignUp(this.#bytes, PAGE_SIZE), "VRAM");
    const buffer = await this.#placed(bo);
    const isBound = await onceCollected(this.#s, () => this.#vm.bind(buffer.at, buffer.owned, bo));
    assert(isBound, "no range is at an address that was reserved");
    return buffer;
  }

  async #fromHeap(): Promise<Buffer> {
    // Where an object is bound over the buffer, no range of a neighbour may be in the way.
    const { at, left } = await this.#heap.alloc(this.#bytes, this.#flags.has("BO_UNMAP"));
    return {
      ...{ at, bytes: this.#bytes, owned: this.#bytes, origin: "heap", migrates: true, file: null, bo: null },
      content: left ?? new Content(),
      reused: left !== null,
    };
  }

  async #placed(kind: Kind, owned = alignUp(this.#bytes, PAGE_SIZE)): Promise<Buffer> {
    const at = await this.reserve(owned);
    await this.#process.mmap(owned, { at, kind });
    return this.#mapped(kind, at, owned);
  }

  #mapped(kind: Kind, at: number, owned = alignUp(this.#bytes, PAGE_SIZE)): Buffer {
    return {
      ...{ at, bytes: this.#bytes, owned, origin: "mapping", migrates: kind === "anon", reused: false },
      file: typeof kind === "object" && "file" in kind ? kind.file : null,
      bo: kind instanceof Bo ? kind : null,
      content: new Content(),
    };
  }
}

/** The whole pages that hold `buffer`. */
export function pagesOf({ at, owned }: Buffer): readonly [at: number, bytes: number] {
  const start = alignDown(at, PAGE_SIZE);
  return [start, alignUp(at + owned, PAGE_SIZE) - start];
}

/** The power of two that holds `bytes`, at most 2 MiB: a chunk of that size fits in. */
function alignmentOf(bytes: number): number {
  let align = PAGE_SIZE;
  while (align < bytes && align < SZ_2M) align *= 2;
  return align;
}

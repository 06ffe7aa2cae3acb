import { hi32, lo32 } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { ACCESS_READ, ENGINE_COMPUTE } from "../abi/fault.ts";
import { BUFFER_ACCESS_POS, MAX_ARGS, STATUS_FAULT, STATUS_NULL, STATUS_VRAM } from "../abi/tables.ts";
import type { LaunchOptions, ReferenceKernelContext } from "../hal/gpu.ts";
import type { BufferTable } from "../hal/launch-buffers.ts";
import type { Access } from "./fault-queue.ts";
import type { ReferenceMemory } from "./memory.ts";
import type { LaunchDevice, ReferenceProgram } from "./launch.ts";
import { newTranslation, translateModel } from "./translate-model.ts";
import type { WalkerState } from "./translate-model.ts";

/** Misses of one item that are reported; further ones fault again in the next round. */
const MISSES_PER_ITEM = 8;

/**
 * The memory as one item sees it. A location is a word number: VRAM first (linear), the system window behind it, -1 for
 * nowhere.
 * NULL pages are page 0 of VRAM, which stays zero, so that atomics on them give 0 and change nothing.
 *
 * Poison. After a miss loads give 0 and stores go nowhere. A transactional item that stores all the same is wrong, because
 * what it stored before the miss would be done twice; it is told so here, where nothing is lost by it.
 */
export class KernelContext implements ReferenceKernelContext {
  readonly args = new Uint32Array(MAX_ARGS);
  readonly out: Uint32Array;
  readonly input: Uint32Array;
  cont = 0;
  misses: Access[] = [];
  #missed = false;
  readonly #program: ReferenceProgram;
  readonly #asid: number;
  readonly #buffers: BufferTable;
  readonly #lean: WalkerState;
  readonly #memory: ReferenceMemory;
  readonly #vram: Uint32Array;
  readonly #window: Uint32Array;
  readonly #translation = newTranslation();
  /** What the pre-pass found of each page of the buffers; -2 not looked at yet. */
  readonly #table: Float64Array;
  #item = 0;

  constructor(device: LaunchDevice, program: ReferenceProgram, buffers: BufferTable, options: LaunchOptions) {
    this.args.set(Array.from(options.args ?? []));
    this.out = new Uint32Array(options.outWords ?? 0);
    this.input = options.input === undefined ? new Uint32Array(0) : options.input.slice();
    this.#program = program;
    this.#asid = options.asid;
    this.#buffers = buffers;
    this.#lean = device.lean;
    this.#memory = device.memory;
    this.#vram = device.memory.vramWords;
    this.#window = device.memory.windowWords;
    this.#table = new Float64Array(buffers.pages);
  }

  /** Page tables may have changed. */
  beginRound(): void {
    this.#table.fill(-2);
  }

  begin(item: number, cont: number): void {
    this.#item = item;
    this.cont = cont;
    this.#missed = false;
    if (this.misses.length > 0) this.misses = [];
  }

  get missed(): boolean {
    return this.#missed;
  }

  canReach(va: number, access: number): boolean {
    return this.#locate(lo32(va), hi32(va), access) >= 0;
  }

  translate(va: number, access: number): number {
    const vaLo = lo32(va);
    const vaHi = hi32(va);
    const location = this.#locate(vaLo, vaHi, access);
    return location < 0 ? this.#miss(vaLo, vaHi, access) : this.#unlessPoisoned(location, access);
  }

  at(b: number, bytes: number): number {
    const { words, count } = this.#buffers;
    const [lo, hi, first, shape] = words.subarray((b & 7) * 4) as unknown as [number, number, number, number];
    const access = shape >>> BUFFER_ACCESS_POS;
    const fromPage = (lo % 4096) + bytes;
    const page = Math.floor(fromPage / 4096);
    const inPage = (fromPage % 4096) >>> 2;
    if (b >= count || page >= shape % 2 ** BUFFER_ACCESS_POS) return inPage;
    const va = hi * 2 ** 32 + lo + bytes;
    let start = this.#table[first + page]!;
    if (start === -2) {
      const pageVa = va - (va % 4096);
      start = this.#locate(lo32(pageVa), hi32(pageVa), access);
      this.#table[first + page] = start;
    }
    return start < 0 ? this.#miss(lo32(va), hi32(va), access) : this.#unlessPoisoned(start + inPage, access);
  }

  /** What could only be stored to leads nowhere once the item has missed. */
  #unlessPoisoned(location: number, access: number): number {
    return this.#missed && access !== ACCESS_READ ? -1 : location;
  }

  /** -1 where the access cannot be done. */
  #locate(vaLo: number, vaHi: number, access: number): number {
    const t = translateModel(this.#lean, this.#asid, vaLo, vaHi, access, this.#translation);
    if (t.status === STATUS_FAULT) return -1;
    const inPage = (vaLo & 0xfff) >>> 2;
    if (t.status === STATUS_NULL) return inPage;
    if (t.status === STATUS_VRAM) return Math.floor(this.#memory.space.linear(t.pa) / 4);
    return Math.floor(t.pa / 4) + this.#vram.length;
  }

  /** The first miss of an item is a fault; behind it addresses may be made of missing data, so the others are hints. */
  #miss(vaLo: number, vaHi: number, access: number): -1 {
    if (this.misses.length < MISSES_PER_ITEM) {
      this.misses.push({
        asid: this.#asid,
        vaLo,
        vaHi,
        access,
        prefetch: this.#missed,
        engineClass: ENGINE_COMPUTE,
        engineInstance: 0,
        work: this.#item,
      });
    }
    this.#missed = true;
    return -1;
  }

  load(location: number): number {
    const inWindow = location - this.#vram.length;
    return (inWindow < 0 ? this.#vram[location] : this.#window[inWindow]) ?? 0;
  }

  /** Of the tiles behind the first. */
  #isTableOfTile(location: number): boolean {
    const { starts } = this.#memory.space;
    for (let tile = 1; tile < starts.length; tile++) {
      const inTile = location * 4 - starts[tile]!;
      if (inTile >= 0 && inTile < this.#lean.ptBytes) return true;
    }
    return false;
  }

  store(location: number, value: number): void {
    // The pages of NULL, and page tables, which no kernel writes even where a leaf points at them.
    if (location < this.#lean.ptBytes / 4 || this.#isTableOfTile(location)) return;
    if (this.#missed) {
      const { design, name } = this.#program;
      assert(
        design === "idempotent" || design === "prefault",
        () => `kernel ${name}: item ${this.#item} stored after a miss, and will run again`,
      );
      return;
    }
    const inWindow = location - this.#vram.length;
    if (inWindow < 0) this.#vram[location] = value;
    else this.#window[inWindow] = value;
  }
}

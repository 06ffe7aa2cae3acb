import { hi32, lo32 } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { ConfigError } from "../base/errors.ts";
import { ACCESS_READ, ACCESS_WRITE, ENGINE_COMPUTE } from "../abi/fault.ts";
import { MAX_ARGS, STATUS_FAULT, STATUS_NULL, STATUS_VRAM } from "../abi/tables.ts";
import type { KernelLaunch, KernelSource, LaunchOptions, ReferenceKernelContext, RoundResult } from "../hal/gpu.ts";
import type { Access } from "./fault-queue.ts";
import type { ReferenceMemory } from "./memory.ts";
import { newTranslation, translateModel } from "./translate-model.ts";
import type { WalkerState } from "./translate-model.ts";

/** Misses of one item that are reported; further ones fault again in the next round. */
const MISSES_PER_ITEM = 8;
/** Words of the zero page and, behind it, of the page that takes the stores to NULL pages. */
const NULL_PAGE_WORDS = 1024;

const EMPTY: RoundResult = { remaining: 0, dropped: 0, dedupHits: 0, fatal: 0, count: 0, records: new Uint32Array(0) };

/** What a launch needs of its device. */
export interface LaunchDevice {
  readonly memory: ReferenceMemory;
  /** The state of lean translations: tables only, no TLB. */
  readonly lean: WalkerState;
  /** An empty fault queue, a new epoch. */
  beginRound(): void;
  /** An item could not do this access; the first of its page and access goes to the miss list. */
  reportMiss(miss: Access): void;
  /** Makes fault records of the miss list. */
  endRound(remaining: number): Promise<RoundResult>;
}

export type ReferenceFunction = NonNullable<KernelSource["reference"]>;

/** Design A of spec/device.md 5.2: an item is done as a whole in the round in which it misses nothing. */
export class ReferenceLaunch implements KernelLaunch {
  readonly #device: LaunchDevice;
  readonly #run: ReferenceFunction;
  readonly #context: KernelContext;
  readonly #cont: Uint32Array;
  #undone: number[];
  #serial = false;
  #ended = false;

  constructor(device: LaunchDevice, name: string, run: ReferenceFunction, options: LaunchOptions) {
    if ((options.args?.length ?? 0) > MAX_ARGS) throw new ConfigError("args", `at most ${MAX_ARGS} words`);
    this.#device = device;
    this.#run = run;
    this.#context = new KernelContext(device, name, options);
    this.#cont = new Uint32Array(options.items);
    this.#undone = Array.from({ length: options.items }, (_, item) => item);
  }

  async round(): Promise<RoundResult> {
    assert(!this.#ended, "a round of a launch that has ended");
    if (this.#undone.length === 0) return EMPTY;
    this.#device.beginRound();
    const undone: number[] = [];
    const context = this.#context;
    this.#undone.forEach((item, i) => {
      if (this.#serial && i > 0) {
        undone.push(item);
        return;
      }
      context.begin(item, this.#cont[item]!);
      this.#run(item, context);
      this.#cont[item] = context.cont;
      if (!context.missed) return;
      undone.push(item);
      for (const miss of context.misses) this.#device.reportMiss(miss);
    });
    this.#undone = undone;
    return this.#device.endRound(undone.length);
  }

  setSerial(serial: boolean): void {
    this.#serial = serial;
  }

  async readOut(): Promise<Uint32Array> {
    return this.#context.out.slice();
  }

  end(): void {
    this.#ended = true;
    this.#undone = [];
  }
}

/**
 * The memory as one item sees it. A location is a word number: VRAM first, the system window behind it, -1 for nowhere.
 * NULL pages are read at page 0 of VRAM and written at page 1. Both stay zero here, so atomics on them give 0 and change
 * nothing (on WebGPU page 1 holds whatever was stored last).
 */
class KernelContext implements ReferenceKernelContext {
  readonly args = new Uint32Array(MAX_ARGS);
  readonly out: Uint32Array;
  readonly input: Uint32Array;
  cont = 0;
  misses: Access[] = [];
  #missed = false;
  readonly #name: string;
  readonly #asid: number;
  readonly #lean: WalkerState;
  readonly #vram: Uint32Array;
  readonly #window: Uint32Array;
  readonly #translation = newTranslation();
  #item = 0;

  constructor(device: LaunchDevice, name: string, options: LaunchOptions) {
    this.args.set(Array.from(options.args ?? []));
    this.out = new Uint32Array(options.outWords ?? 0);
    this.input = options.input === undefined ? new Uint32Array(0) : options.input.slice();
    this.#name = name;
    this.#asid = options.asid;
    this.#lean = device.lean;
    this.#vram = device.memory.vramWords;
    this.#window = device.memory.windowWords;
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

  translate(va: number, access: number): number {
    const vaLo = lo32(va);
    const vaHi = hi32(va);
    const t = translateModel(this.#lean, this.#asid, vaLo, vaHi, access, this.#translation);
    if (t.status === STATUS_FAULT) return this.#miss(vaLo, vaHi, access);
    // What could only be stored to must lead nowhere once the item has missed.
    if (this.#missed && access !== ACCESS_READ) return -1;
    const inPage = (vaLo & 0xfff) >>> 2;
    if (t.status === STATUS_NULL) return access === ACCESS_WRITE ? NULL_PAGE_WORDS + inPage : inPage;
    return Math.floor(t.pa / 4) + (t.status === STATUS_VRAM ? 0 : this.#vram.length);
  }

  #miss(vaLo: number, vaHi: number, access: number): -1 {
    this.#missed = true;
    if (this.misses.length < MISSES_PER_ITEM) {
      this.misses.push({
        asid: this.#asid, vaLo, vaHi, access, prefetch: false, engineClass: ENGINE_COMPUTE, engineInstance: 0, work: this.#item,
      });
    }
    return -1;
  }

  load(location: number): number {
    const inWindow = location - this.#vram.length;
    return (inWindow < 0 ? this.#vram[location] : this.#window[inWindow]) ?? 0;
  }

  store(location: number, value: number): void {
    if (location < 2 * NULL_PAGE_WORDS) return;
    assert(!this.#missed, () => `kernel ${this.#name}: item ${this.#item} stored after a miss, and will run again`);
    const inWindow = location - this.#vram.length;
    if (inWindow < 0) this.#vram[location] = value;
    else this.#window[inWindow] = value;
  }
}

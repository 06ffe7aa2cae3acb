import { hi32, lo32 } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { ConfigError } from "../base/errors.ts";
import { ENGINE_COMPUTE } from "../abi/fault.ts";
import { BUFFER_ACCESS_POS, MAX_ARGS } from "../abi/tables.ts";
import type { KernelDesign, KernelLaunch, KernelSource, LaunchOptions, RoundResult } from "../hal/gpu.ts";
import { bufferTable } from "../hal/launch-buffers.ts";
import type { BufferTable } from "../hal/launch-buffers.ts";
import type { Access } from "./fault-queue.ts";
import { KernelContext } from "./kernel-context.ts";
import type { ReferenceMemory } from "./memory.ts";
import type { WalkerState } from "./translate-model.ts";

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

/** A kernel as this engine runs it. */
export interface ReferenceProgram {
  readonly name: string;
  readonly design: KernelDesign;
  readonly run: ReferenceFunction;
  readonly prefault: ReferenceFunction | undefined;
}

/**
 * The designs of spec/device.md 5.1, each as on WebGPU: an item or workgroup is done as a whole in the round in which it
 * misses nothing (A); all items run in every round until none misses (B); the kernel runs once, when the pre-pass has
 * found every page (D).
 */
export class ReferenceLaunch implements KernelLaunch {
  readonly #device: LaunchDevice;
  readonly #program: ReferenceProgram;
  readonly #context: KernelContext;
  readonly #asid: number;
  readonly #buffers: BufferTable;
  readonly #cont: Uint32Array;
  #undone: number[];
  #span = Infinity;
  /** Of a span: its first item; -1: it is still to begin. */
  #first = -1;
  #hinted = false;
  #ended = false;

  constructor(device: LaunchDevice, program: ReferenceProgram, options: LaunchOptions) {
    if ((options.args?.length ?? 0) > MAX_ARGS) throw new ConfigError("args", `at most ${MAX_ARGS} words`);
    this.#device = device;
    this.#program = program;
    this.#asid = options.asid;
    this.#buffers = bufferTable(options.buffers);
    this.#context = new KernelContext(device, program, this.#buffers, options);
    this.#cont = new Uint32Array(options.items);
    this.#undone = Array.from({ length: options.items }, (_, item) => item);
  }

  ready(): undefined {
    return undefined;
  }

  async round(): Promise<RoundResult> {
    assert(!this.#ended, "a round of a launch that has ended");
    if (this.#undone.length === 0) return EMPTY;
    this.#device.beginRound();
    this.#context.beginRound();
    if (this.#gateCloses()) return this.#device.endRound(this.#undone.length);
    const { design } = this.#program;
    const spans = design !== "prefault" && this.#span < this.#cont.length;
    const missed = spans ? this.#runSpan() : this.#runItems(this.#undone);
    if (design === "prefault") {
      this.#undone = [];
      return { ...(await this.#device.endRound(0)), unannounced: missed.length };
    }
    const isWhole = design === "idempotent" && !spans;
    if (!isWhole || missed.length === 0) this.#undone = missed;
    return this.#device.endRound(missed.length);
  }

  async pass(first: number, count: number): Promise<number> {
    assert(!this.#ended, "a pass of a launch that has ended");
    // A span looks anew at what is done. And hints of whole areas would bring back what the items done had for themselves.
    this.#first = -1;
    this.#hinted = true;
    this.#device.beginRound();
    this.#context.beginRound();
    const isWithin = (item: number) => item >= first && item < first + count;
    const missed = new Set(this.#runItems(this.#undone.filter(isWithin), { reports: false }));
    this.#undone = this.#undone.filter((item) => !isWithin(item) || missed.has(item));
    return missed.size;
  }

  setSpan(items: number): void {
    if (items !== this.#span) this.#first = -1;
    this.#span = items;
  }

  async readOut(): Promise<Uint32Array> {
    return this.#context.out.slice();
  }

  end(): void {
    this.#ended = true;
    this.#undone = [];
  }

  /** Runs the undone items of the span; what is undone after that. */
  #runSpan(): number[] {
    if (this.#first < 0) this.#first = this.#undone[0]!;
    const end = this.#first + this.#span;
    const outside = this.#undone.findIndex((item) => item >= end);
    const within = outside < 0 ? this.#undone : this.#undone.slice(0, outside);
    const missed = this.#runItems(within);
    // All of it is done: the next one begins.
    if (missed.length === 0) this.#first = -1;
    return outside < 0 ? missed : [...missed, ...this.#undone.slice(outside)];
  }

  /** Runs `items`; those that missed. */
  #runItems(items: readonly number[], { reports = true } = {}): number[] {
    const context = this.#context;
    const missed: number[] = [];
    for (const item of items) {
      context.begin(item, this.#cont[item]!);
      this.#program.run(item, context);
      this.#cont[item] = context.cont;
      if (!context.missed) continue;
      missed.push(item);
      if (!reports) continue;
      for (const miss of context.misses) this.#device.reportMiss(miss);
    }
    return missed;
  }

  /** The pre-passes: true where pages are missing that this round must not run without. */
  #gateCloses(): boolean {
    const { design, prefault } = this.#program;
    const isPrefault = design === "prefault";
    if (this.#hinted && !isPrefault) return false;
    this.#hinted = true;
    let closed = false;
    for (const miss of this.#missingPages(!isPrefault)) {
      closed = true;
      this.#device.reportMiss(miss);
    }
    if (!isPrefault || prefault === undefined) return closed;
    for (const item of this.#undone) {
      this.#context.begin(item, 0);
      prefault(item, this.#context);
      closed ||= this.#context.missed;
      for (const miss of this.#context.misses) this.#device.reportMiss(miss);
    }
    return closed;
  }

  /** The pages of the buffers that their access cannot reach; `work` is the page's place in the table. */
  *#missingPages(prefetch: boolean): Iterable<Access> {
    const { words, count } = this.#buffers;
    for (let b = 0; b < count; b++) {
      const [lo, hi, first, shape] = words.subarray(b * 4) as unknown as [number, number, number, number];
      const access = shape >>> BUFFER_ACCESS_POS;
      const pages = shape % 2 ** BUFFER_ACCESS_POS;
      const start = hi * 2 ** 32 + lo - (lo % 4096);
      for (let page = 0; page < pages; page++) {
        const va = start + page * 4096;
        if (this.#context.canReach(va, access)) continue;
        yield {
          asid: this.#asid,
          vaLo: lo32(va),
          vaHi: hi32(va),
          access,
          prefetch,
          engineClass: ENGINE_COMPUTE,
          engineInstance: 0,
          work: first + page,
        };
      }
    }
  }
}

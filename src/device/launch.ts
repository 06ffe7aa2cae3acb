import { assert } from "../base/assert.ts";
import { ConfigError } from "../base/errors.ts";
import {
  FAULTQ_WORD,
  LAUNCH_ALL,
  LAUNCH_LIST,
  LAUNCH_SPAN,
  LaunchParams,
  MAX_ARGS,
  PREPASS_FAULT,
  PREPASS_FILL,
  PREPASS_HINT,
} from "../abi/tables.ts";
import { isDoneByItem } from "../hal/gpu.ts";
import type { GpuCounters, KernelLaunch, LaunchOptions, RoundResult } from "../hal/gpu.ts";
import { bufferTable } from "../hal/launch-buffers.ts";
import { gridOf } from "./commands.ts";
import type { Commands } from "./commands.ts";
import type { GpuError } from "../base/errors.ts";
import type { Health } from "./health.ts";
import type { WebGpuKernel } from "./kernel.ts";
import type { Pipelines } from "./pipelines.ts";
import type { PrivateBuffer, PrivatePool } from "./private-pool.ts";
import type { Readback } from "./readback.ts";
import type { Tile } from "./tile.ts";

/** What a launch works with. */
export interface LaunchContext {
  readonly commands: Commands;
  readonly health: Health;
  readonly pipelines: Pipelines;
  readonly readback: Readback;
  readonly counters: GpuCounters;
  readonly pool: PrivatePool;
  /** Records pending entries and invalidations, so that the dispatch sees them. */
  readonly settle: () => void;
}

/** The miss pass loops over the misses; more invocations than this cost a software adapter even when there is none. */
const MISS_WORKGROUPS = 8;

const EMPTY: RoundResult = { remaining: 0, dropped: 0, dedupHits: 0, fatal: 0, count: 0, records: new Uint32Array(0) };

/** Items that a retry list has room for unless the launch says otherwise. */
const RETRY_CAPACITY = 65536;

/** Output up to this size is read with every round, in case it is the last: cheaper than another wait. Bytes. */
const OUT_WITH_ROUND = 1 << 16;

/**
 * One kernel launch (spec/device.md 5). By the kernel's design a round runs
 *
 *     item, workgroup   the items of one list, and appends those that missed to the other (A + E)
 *     idempotent        all items (B)
 *     prefault          the pre-passes, and behind them all items, which do nothing if a page is missing (D)
 *
 * A round is a direct dispatch, although the miss pass leaves the workgroups of the next one in the fault queue (words 8 to
 * 10) for an indirect one (spec 5.5): the host has read the number anyway, with the records that it serves in between. On a
 * software adapter an indirect round cost 2 to 6 % more (a copy of the words, and WebGPU's own check of them), 2.52 ms against
 * 2.6 at the median of 200. They are for a service that runs on the GPU.
 *
 * The private buffer has regions of words: done bitmap, two retry lists, continuation words, input, output, the gate that
 * a pre-pass closes, the table of the buffers' pages.
 */
export class Launch implements KernelLaunch {
  readonly #c: LaunchContext;
  readonly #tile: Tile;
  readonly #kernel: WebGpuKernel;
  readonly #levels: number;
  readonly #items: number;
  readonly #buffer: PrivateBuffer;
  readonly #params = new Uint32Array(LaunchParams.size / 4);
  /** Entries of the current list; with LAUNCH_ALL the items themselves are the list. */
  #listed: number;
  #mode = LAUNCH_ALL;
  #remaining: number;
  #span = Infinity;
  /** Of a span: what was done when it began. Null: to be fetched. */
  #done: Uint32Array | null = null;
  /** The output, as the last round has left it; null where that has not been read. */
  #out: Uint8Array<ArrayBuffer> | null = null;
  /** The first round's hints have been given. */
  #hinted = false;
  #inRound = false;
  #ended = false;
  /** Settles when a fresh private buffer may be used; rejects with GpuError when WebGPU could not make it. */
  #checked: Promise<void> | null = null;

  constructor(context: LaunchContext, tile: Tile, kernel: WebGpuKernel, options: LaunchOptions) {
    const { asid, items, args = [], input, outWords = 0 } = options;
    if (!Number.isSafeInteger(items) || items < 0) throw new ConfigError("items", `${items} is no number of items`);
    if (args.length > MAX_ARGS)
      throw new ConfigError("args", `${args.length} argument words; ${MAX_ARGS} are possible`);
    const table = bufferTable(options.buffers);
    this.#c = context;
    this.#tile = tile;
    this.#kernel = kernel;
    this.#levels = tile.tlb.levels(asid);
    this.#items = items;
    this.#listed = items;
    this.#remaining = items;
    const doneWords = Math.ceil(items / 32);
    const listWords = isDoneByItem(kernel.design) ? Math.min(items, options.retryCapacity ?? RETRY_CAPACITY) : 0;
    const contWords = kernel.usesCont ? items : 0;
    const inWords = input?.length ?? 0;
    const p = this.#params;
    const word = LaunchParams.word;
    p[word.asid] = asid;
    p[word.list_in] = doneWords;
    p[word.list_out] = doneWords + listWords;
    p[word.list_cap] = listWords;
    p[word.cont_base] = doneWords + 2 * listWords;
    p[word.in_base] = p[word.cont_base]! + contWords;
    p[word.out_base] = p[word.in_base]! + inWords;
    p[word.in_words] = inWords;
    p[word.out_words] = outWords;
    p[word.gate] = p[word.out_base]! + outWords;
    p[word.table_base] = p[word.gate]! + 1;
    p.set(
      Array.from(args, (a) => a >>> 0),
      word.args,
    );
    p.set(table.words, word.buffers);
    p[word.buffer_count] = table.count;
    p[word.buffer_pages] = table.pages;
    this.#buffer = context.pool.take(p[word.table_base]! + table.pages);
    const { checked } = this.#buffer;
    const start = (words: Uint32Array | undefined) => {
      this.#clear(doneWords, contWords, outWords);
      if (words !== undefined && inWords > 0) this.#writeInput(words);
    };
    if (checked === null) start(input);
    else {
      // The caller may change its input as soon as this returns.
      const kept = input?.slice();
      this.#checked = this.#admit(checked).then(() => start(kept));
      this.#checked.catch(() => undefined);
    }
  }

  ready(): Promise<void> | undefined {
    if (this.#remaining === 0 || (this.#checked === null && (!this.#runsSpans || this.#done !== null)))
      return undefined;
    return this.#prepare();
  }

  async #prepare(): Promise<void> {
    if (this.#checked !== null) await this.#checked;
    this.#checked = null;
    if (this.#runsSpans) this.#done ??= await this.#readDone();
  }

  get #runsSpans(): boolean {
    return this.#span < this.#items && this.#kernel.design !== "prefault";
  }

  async round(): Promise<RoundResult> {
    assert(!this.#inRound && !this.#ended, "rounds of a launch never overlap, and none follows its end");
    if (this.#remaining === 0) {
      this.#c.commands.submit();
      return EMPTY;
    }
    this.#inRound = true;
    try {
      const ready = this.ready();
      if (ready !== undefined) await ready;
      this.#c.counters.rounds += 1;
      if (this.#runsSpans) return await this.#spanRound(this.#done!);
      const { result, ran } = await this.#dispatch(this.#mode, this.#listed, 0);
      if (!ran) return { ...result, remaining: this.#remaining };
      if (this.#kernel.design === "prefault") {
        this.#remaining = 0;
        return { ...result, remaining: 0, unannounced: result.remaining };
      }
      if (isDoneByItem(this.#kernel.design)) this.#swapLists(result.remaining);
      this.#remaining = result.remaining;
      return result;
    } finally {
      this.#inRound = false;
    }
  }

  async pass(first: number, count: number): Promise<number> {
    assert(!this.#inRound && !this.#ended && this.#checked === null, "a pass comes between rounds");
    assert(isDoneByItem(this.#kernel.design), "a pass is of items that are done one by one");
    const { commands, readback } = this.#c;
    // A span looks anew at what is done. And hints of whole areas would bring back what the items done had for themselves.
    this.#done = null;
    this.#hinted = true;
    this.#record(LAUNCH_SPAN, count, first, PREPASS_FILL);
    const left = readback.read(this.#tile.faultQueue.buffer, FAULTQ_WORD.remaining * 4, 4);
    commands.submit();
    return new Uint32Array((await left).buffer)[0]!;
  }

  setSpan(items: number): void {
    if (items === this.#span) return;
    assert(items >= 1, "a span has items");
    this.#span = items;
    this.#done = null;
  }

  async readOut(): Promise<Uint32Array> {
    const { word } = LaunchParams;
    const words = this.#params[word.out_words]!;
    if (words === 0) return new Uint32Array(0);
    if (this.#out !== null && this.#remaining === 0) return new Uint32Array(this.#out.slice().buffer);
    if (this.#checked !== null) await this.#checked;
    const read = this.#readOut();
    this.#c.commands.submit();
    return new Uint32Array((await read).buffer);
  }

  #readOut(): Promise<Uint8Array<ArrayBuffer>> {
    const { word } = LaunchParams;
    const at = this.#params[word.out_base]! * 4;
    return this.#c.readback.read(this.#buffer.buffer, at, this.#params[word.out_words]! * 4);
  }

  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#c.pool.give(this.#buffer);
  }

  async #admit(checked: Promise<GpuError | null>): Promise<void> {
    const error = await this.#c.health.guard(checked);
    if (error !== null) throw error;
    this.#buffer.checked = null;
  }

  /** The undone items of the span. The others stay in their list, which skips those done meanwhile. */
  async #spanRound(done: Uint32Array): Promise<RoundResult> {
    const first = lowestUndone(done, this.#items);
    const end = Math.min(first + this.#span, this.#items);
    const { result, ran } = await this.#dispatch(LAUNCH_SPAN, end - first, first);
    if (ran) {
      // What is not of the span, and what the span has left.
      this.#remaining = this.#items - countBits(done) - zerosIn(done, first, end) + result.remaining;
      if (result.remaining === 0) setBits(done, first, end);
    }
    return { ...result, remaining: this.#remaining };
  }

  /**
   * One submission, one readback: pre-passes, the kernel, the miss pass, the fault queue. `ran` is false where a pre-pass
   * kept the kernel from running.
   */
  async #dispatch(mode: number, count: number, firstItem: number): Promise<{ result: RoundResult; ran: boolean }> {
    const { commands, pipelines, readback } = this.#c;
    const { faultQueue, index, tables } = this.#tile;
    const { word } = LaunchParams;
    const p = this.#params;
    const prepass = this.#prepass();
    const pass = this.#record(mode, count, firstItem, prepass);
    pass.setPipeline(pipelines.miss[index]!);
    pass.setBindGroup(0, tables);
    pass.dispatchWorkgroups(MISS_WORKGROUPS);
    const faults = faultQueue.read();
    const gate = prepass === PREPASS_FILL ? null : readback.read(this.#buffer.buffer, p[word.gate]! * 4, 4);
    const outBytes = p[word.out_words]! * 4;
    const out = outBytes > 0 && outBytes <= OUT_WITH_ROUND ? this.#readOut() : null;
    commands.submit();
    const [result, gateWord, outNow] = await Promise.all([faults, gate, out]);
    this.#out = outNow;
    const ran = gateWord === null || gateWord[0] === 0;
    return { result, ran };
  }

  /** Pre-passes and the kernel, with an empty fault queue. */
  #record(mode: number, count: number, firstItem: number, prepass: number): GPUComputePassEncoder {
    const { commands, settle } = this.#c;
    const { faultQueue, index, kernelMemory } = this.#tile;
    const { word } = LaunchParams;
    const p = this.#params;
    settle();
    faultQueue.reset();
    p[word.count] = count;
    p[word.mode] = mode;
    p[word.first_item] = firstItem;
    p[word.epoch] = faultQueue.epoch;
    p[word.prepass] = prepass;
    if (prepass !== PREPASS_FILL) commands.encoder().clearBuffer(this.#buffer.buffer, p[word.gate]! * 4, 4);
    commands.reserve(p.byteLength);
    const staged = commands.put(p);
    const pass = commands.pass();
    pass.setBindGroup(0, kernelMemory);
    pass.setBindGroup(1, this.#buffer.group, [staged.offset]);
    if (p[word.buffer_pages]! > 0) {
      pass.setPipeline(this.#kernel.pipeline(this.#levels, "svm_prefault_buffers", index));
      pass.dispatchWorkgroups(...gridOf(Math.ceil(p[word.buffer_pages]! / 64)));
    }
    if (this.#kernel.prefaultsItems) {
      pass.setPipeline(this.#kernel.pipeline(this.#levels, "svm_prefault_items", index));
      pass.dispatchWorkgroups(...gridOf(Math.ceil(count / 64)));
    }
    pass.setPipeline(this.#kernel.pipeline(this.#levels, "svm_main", index));
    pass.dispatchWorkgroups(...gridOf(Math.ceil(count / this.#kernel.itemsPerWorkgroup)));
    return pass;
  }

  /** PREPASS_*; the kernels that replay are stopped by missing pages of their buffers once only. */
  #prepass(): number {
    const hasBuffers = this.#params[LaunchParams.word.buffer_pages]! > 0;
    if (!hasBuffers && !this.#kernel.prefaultsItems) return PREPASS_FILL;
    if (this.#kernel.design === "prefault") return PREPASS_FAULT;
    if (this.#hinted) return PREPASS_FILL;
    this.#hinted = true;
    return PREPASS_HINT;
  }

  #swapLists(remaining: number): void {
    const { list_in, list_out, list_cap } = LaunchParams.word;
    const p = this.#params;
    // The first round's input list is never read, so its place takes the third round's.
    [p[list_in], p[list_out]] = [p[list_out]!, p[list_in]!];
    const fits = remaining <= p[list_cap]!;
    this.#mode = fits ? LAUNCH_LIST : LAUNCH_ALL;
    this.#listed = fits ? remaining : this.#items;
  }

  async #readDone(): Promise<Uint32Array> {
    const read = this.#c.readback.read(this.#buffer.buffer, 0, Math.ceil(this.#items / 32) * 4);
    this.#c.commands.submit();
    return new Uint32Array((await read).buffer);
  }

  /** The buffer may come from an earlier launch. */
  #clear(doneWords: number, contWords: number, outWords: number): void {
    const { word } = LaunchParams;
    const clear = (first: number, words: number) => {
      if (words > 0) this.#c.commands.encoder().clearBuffer(this.#buffer.buffer, first * 4, words * 4);
    };
    clear(0, doneWords);
    clear(this.#params[word.cont_base]!, contWords);
    clear(this.#params[word.out_base]!, outWords);
  }

  #writeInput(input: Uint32Array): void {
    const { commands } = this.#c;
    const offset = this.#params[LaunchParams.word.in_base]! * 4;
    if (input.byteLength <= 65536) {
      commands.write(this.#buffer.buffer, offset, input);
      return;
    }
    // Written at once: what was recorded so far has to reach the queue first.
    commands.submit();
    commands.device.queue.writeBuffer(this.#buffer.buffer, offset, input as Uint32Array<ArrayBuffer>);
  }
}

function lowestUndone(done: Uint32Array, items: number): number {
  for (let i = 0; i < done.length; i++) {
    const free = ~done[i]! >>> 0;
    if (free !== 0) return i * 32 + (31 - Math.clz32(free & -free));
  }
  return items;
}

/** Zero bits of `[first, end)`. */
function zerosIn(words: Uint32Array, first: number, end: number): number {
  let zeros = 0;
  for (let i = first; i < end; i++) zeros += 1 - ((words[i >>> 5]! >>> (i & 31)) & 1);
  return zeros;
}

function setBits(words: Uint32Array, first: number, end: number): void {
  for (let i = first; i < end; i++) words[i >>> 5]! |= 1 << (i & 31);
}

function countBits(words: Uint32Array): number {
  let sum = 0;
  for (let word of words) {
    for (; word !== 0; word &= word - 1) sum += 1;
  }
  return sum;
}

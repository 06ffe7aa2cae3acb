import { assert } from "../base/assert.ts";
import { ConfigError } from "../base/errors.ts";
import { LAUNCH_ALL, LAUNCH_LIST, LAUNCH_SERIAL, LaunchParams, MAX_ARGS } from "../abi/tables.ts";
import type { GpuCounters, KernelLaunch, LaunchOptions, RoundResult } from "../hal/gpu.ts";
import { gridOf } from "./commands.ts";
import type { Commands } from "./commands.ts";
import type { FaultQueue } from "./fault-queue.ts";
import type { WebGpuKernel } from "./kernel.ts";
import type { Pipelines } from "./pipelines.ts";
import type { PrivateBuffer, PrivatePool } from "./private-pool.ts";
import type { Readback } from "./readback.ts";

/** What a launch works with. */
export interface LaunchContext {
  readonly commands: Commands;
  readonly pipelines: Pipelines;
  readonly readback: Readback;
  readonly faultQueue: FaultQueue;
  readonly counters: GpuCounters;
  readonly pool: PrivatePool;
  /** Groups 0 of kernels and of the table engines. */
  readonly kernelMemory: GPUBindGroup;
  readonly tables: GPUBindGroup;
  /** Records pending entries and invalidations, so that the dispatch sees them. */
  readonly settle: () => void;
}

/** The miss pass loops over the misses; more invocations than this cost a software adapter even when there is none. */
const MISS_WORKGROUPS = 8;

const EMPTY: RoundResult = { remaining: 0, dropped: 0, dedupHits: 0, fatal: 0, count: 0, records: new Uint32Array(0) };

/**
 * One kernel launch: transactional items and a retry list (spec/device.md 5.2, design A + E).
 *
 * The private buffer has regions of words: done bitmap, two retry lists, continuation words, input, output. A round runs
 * the items of one list and appends those that missed to the other.
 */
export class Launch implements KernelLaunch {
  readonly #c: LaunchContext;
  readonly #kernel: WebGpuKernel;
  readonly #levels: number;
  readonly #items: number;
  readonly #buffer: PrivateBuffer;
  readonly #params = new Uint32Array(LaunchParams.size / 4);
  /** Entries of the current list; with LAUNCH_ALL the items themselves are the list. */
  #listed: number;
  #mode = LAUNCH_ALL;
  #remaining: number;
  #serial = false;
  /** In serial mode: the done bitmap, fetched when the mode was entered. */
  #done: Uint32Array | null = null;
  #inRound = false;
  #ended = false;

  constructor(context: LaunchContext, kernel: WebGpuKernel, levels: number, options: LaunchOptions) {
    const { asid, items, args = [], input, outWords = 0 } = options;
    if (!Number.isSafeInteger(items) || items < 0) throw new ConfigError("items", `${items} is no number of items`);
    if (args.length > MAX_ARGS)
      throw new ConfigError("args", `${args.length} argument words; ${MAX_ARGS} are possible`);
    this.#c = context;
    this.#kernel = kernel;
    this.#levels = levels;
    this.#items = items;
    this.#listed = items;
    this.#remaining = items;
    const doneWords = Math.ceil(items / 32);
    const contWords = kernel.usesCont ? items : 0;
    const inWords = input?.length ?? 0;
    const p = this.#params;
    const word = LaunchParams.word;
    p[word.asid] = asid;
    p[word.list_in] = doneWords;
    p[word.list_out] = doneWords + items;
    p[word.cont_base] = doneWords + 2 * items;
    p[word.in_base] = p[word.cont_base]! + contWords;
    p[word.out_base] = p[word.in_base]! + inWords;
    p[word.in_words] = inWords;
    p[word.out_words] = outWords;
    p.set(
      Array.from(args, (a) => a >>> 0),
      word.args,
    );
    this.#buffer = context.pool.take(p[word.out_base]! + outWords);
    this.#clear(doneWords, contWords, outWords);
    if (input !== undefined && inWords > 0) this.#writeInput(input);
  }

  async round(): Promise<RoundResult> {
    assert(!this.#inRound && !this.#ended, "rounds of a launch never overlap, and none follows its end");
    if (this.#remaining === 0) {
      this.#c.commands.submit();
      return EMPTY;
    }
    this.#inRound = true;
    try {
      this.#c.counters.rounds += 1;
      if (this.#serial) return await this.#serialRound();
      const result = await this.#dispatch(this.#mode, this.#listed, 0);
      this.#swapLists(result.remaining);
      return result;
    } finally {
      this.#inRound = false;
    }
  }

  setSerial(serial: boolean): void {
    this.#serial = serial;
    if (!serial) this.#done = null;
  }

  async readOut(): Promise<Uint32Array> {
    const { word } = LaunchParams;
    const words = this.#params[word.out_words]!;
    if (words === 0) return new Uint32Array(0);
    const read = this.#c.readback.read(this.#buffer.buffer, this.#params[word.out_base]! * 4, words * 4);
    this.#c.commands.submit();
    return new Uint32Array((await read).buffer);
  }

  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#c.pool.give(this.#buffer);
  }

  /** The lowest undone item, alone. The other items stay in their list, which skips those done meanwhile. */
  async #serialRound(): Promise<RoundResult> {
    this.#done ??= await this.#readDone();
    const item = lowestUndone(this.#done, this.#items);
    const result = await this.#dispatch(LAUNCH_SERIAL, 1, item);
    if (result.remaining === 0) {
      this.#done[item >>> 5]! |= 1 << (item & 31);
      this.#remaining -= 1;
    }
    return { ...result, remaining: this.#remaining };
  }

  /** One submission, one readback: the kernel, the miss pass, the fault queue. */
  async #dispatch(mode: number, count: number, serialItem: number): Promise<RoundResult> {
    const { commands, pipelines, faultQueue, settle } = this.#c;
    settle();
    faultQueue.reset();
    const p = this.#params;
    p[LaunchParams.word.count] = count;
    p[LaunchParams.word.mode] = mode;
    p[LaunchParams.word.serial_item] = serialItem;
    p[LaunchParams.word.epoch] = faultQueue.epoch;
    commands.reserve(p.byteLength);
    const staged = commands.put(p);
    const pass = commands.pass();
    pass.setPipeline(this.#kernel.pipeline(this.#levels));
    pass.setBindGroup(0, this.#c.kernelMemory);
    pass.setBindGroup(1, this.#buffer.group, [staged.offset]);
    pass.dispatchWorkgroups(...gridOf(Math.ceil(count / 64)));
    pass.setPipeline(pipelines.miss);
    pass.setBindGroup(0, this.#c.tables);
    pass.dispatchWorkgroups(MISS_WORKGROUPS);
    const result = faultQueue.read();
    commands.submit();
    return result;
  }

  #swapLists(remaining: number): void {
    const { list_in, list_out } = LaunchParams.word;
    const p = this.#params;
    // The first round's input list is never read, so its place takes the third round's.
    [p[list_in], p[list_out]] = [p[list_out]!, p[list_in]!];
    this.#mode = LAUNCH_LIST;
    this.#listed = remaining;
    this.#remaining = remaining;
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

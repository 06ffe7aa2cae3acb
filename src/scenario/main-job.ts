import { PAGE_SIZE, SZ_2M, alignUp, hi32, lo32 } from "../base/addr.ts";
import { ConfigError } from "../base/errors.ts";
import type { KernelSource, ReferenceKernelContext } from "../hal/gpu.ts";
import { subtractCounters } from "../driver/counters.ts";
import type { SvmCounters } from "../driver/counters.ts";
import type { RoundReport } from "../driver/launch.ts";
import { mix32 } from "../abi/mix32.ts";
import type { Process } from "../machine/process.ts";
import type { Vm } from "../machine/vm.ts";
import crc32Wgsl from "../../shaders/kernels/crc32.wgsl?raw";
import histogramWgsl from "../../shaders/kernels/histogram.wgsl?raw";
import xorWgsl from "../../shaders/kernels/xor_keystream.wgsl?raw";

/**
 * The main job: three real kernels over real bytes through shared virtual memory.
 *
 * A process maps the bytes; the GPU counts them (a 256-bin histogram), sums them (a CRC-32 for every 4 KiB block) and
 * changes them in place (XOR with a keystream), each time by faulting them in through the process's own addresses; the
 * CPU reads the results where they lie. VRAM may be much smaller than the data. The job checks nothing: its results are
 * for the caller to compare with an implementation of somebody else's.
 */
export interface ByteSource {
  /** Bytes in all, above 0 and below 2^32 - 4096: kernels count bytes in 32 bits. */
  readonly size: number;
  read(offset: number, bytes: number): Promise<Uint8Array>;
}

export interface PhaseReport {
  readonly name: "map" | "histogram" | "crc32" | "transform" | "read back";
  readonly seconds: number;
  /** Change of the address space's counters during the phase. */
  readonly counters: SvmCounters;
}

export interface MainJobResult {
  /** Number of times each byte value occurs. */
  readonly histogram: Uint32Array;
  /** CRC-32 of each 4 KiB block; the last may be short. */
  readonly crc32: Uint32Array;
  readonly phases: readonly PhaseReport[];
}

export interface MainJobHooks {
  /** Receives the transformed bytes in order. The view is good until the promise it returns resolves. */
  onTransformed(offset: number, bytes: Uint8Array): void | Promise<void>;
  /** What is going on, and how much of it is done, 0 to 1. */
  onProgress?(phase: PhaseReport["name"], done: number): void;
}

const IO_CHUNK = 8 << 20;
const HISTOGRAM_ITEM = 16 << 10;
const BINS = 256;
const MAX_SIZE = 2 ** 32 - PAGE_SIZE;

/** RAM that the job wants of its machine: the data, its results, and room for what is between the two memories. */
export function mainJobRam(size: number): number {
  return alignUp(size, SZ_2M) + alignUp(size / 1024, SZ_2M) + (32 << 20);
}

export async function runMainJob(
  process: Process,
  vm: Vm,
  source: ByteSource,
  hooks: MainJobHooks,
): Promise<MainJobResult> {
  const { size } = source;
  if (!Number.isSafeInteger(size) || size <= 0)
    throw new ConfigError("file", "it is empty; at least one byte is wanted");
  if (size > MAX_SIZE) throw new ConfigError("file", `it has ${size} bytes; at most ${MAX_SIZE} can be handled`);
  const blocks = Math.ceil(size / PAGE_SIZE);
  const clock = new PhaseClock(vm);
  const progress = hooks.onProgress?.bind(hooks) ?? (() => undefined);

  const data = await process.mmap(size, { align: SZ_2M });
  const bins = await process.mmap(PAGE_SIZE);
  const sums = await process.mmap(blocks * 4);
  for (let at = 0; at < size; at += IO_CHUNK) {
    progress("map", at / size);
    await process.write(data + at, await source.read(at, Math.min(IO_CHUNK, size - at)));
  }
  clock.end("map");

  const run = async (
    name: PhaseReport["name"],
    kernel: KernelSource,
    items: number,
    second: number,
    input?: Uint32Array,
  ) => {
    const args = [lo32(data), hi32(data), lo32(second), hi32(second), size];
    const onRound = (r: RoundReport) => progress(name, 1 - r.remaining / items);
    await vm.run(kernel, { items, args, ...(input ? { input } : {}) }, onRound);
    clock.end(name);
  };
  await run("histogram", HISTOGRAM, Math.ceil(size / HISTOGRAM_ITEM), bins);
  await run("crc32", CRC32, blocks, sums, crc32Tables());
  await run("transform", XOR_KEYSTREAM, blocks, 0);

  const histogram = wordsOf(await process.read(bins, BINS * 4));
  const crc32 = wordsOf(await process.read(sums, blocks * 4));
  for (let at = 0; at < size; at += IO_CHUNK) {
    progress("read back", at / size);
    await hooks.onTransformed(at, await process.read(data + at, Math.min(IO_CHUNK, size - at)));
  }
  clock.end("read back");
  for (const [start, length] of [
    [data, size],
    [bins, PAGE_SIZE],
    [sums, blocks * 4],
  ] as const) {
    await process.munmap(start, length);
  }
  return { histogram, crc32, phases: clock.phases };
}

class PhaseClock {
  readonly phases: PhaseReport[] = [];
  readonly #vm: Vm;
  #since: number;
  #counters: SvmCounters;

  constructor(vm: Vm) {
    this.#vm = vm;
    this.#since = vm.svm.sched.now();
    this.#counters = { ...vm.counters };
  }

  end(name: PhaseReport["name"]): void {
    const now = this.#vm.svm.sched.now();
    const seconds = (now - this.#since) / 1000;
    this.phases.push({ name, seconds, counters: subtractCounters(this.#vm.counters, this.#counters) });
    this.#since = now;
    this.#counters = { ...this.#vm.counters };
  }
}

function wordsOf(bytes: Uint8Array): Uint32Array {
  return new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
}

/** The tables of CRC-32 for four bytes at a time: table `k` advances a byte by `k` more zero bytes. */
function crc32Tables(): Uint32Array {
  const tables = new Uint32Array(4 * 256);
  for (let n = 0; n < 256; n++) {
    let c = n;
    for (let k = 0; k < 8; k++) c = (c & 1) !== 0 ? 0xedb88320 ^ (c >>> 1) : c >>> 1;
    tables[n] = c;
  }
  for (let n = 256; n < tables.length; n++) {
    const c = tables[n - 256]!;
    tables[n] = tables[c & 255]! ^ (c >>> 8);
  }
  return tables;
}

// The kernels, and what the reference engine runs in their place: bytewise, so that the two share no trick.

function address(c: ReferenceKernelContext, i: number): number {
  return c.args[2 * i]! + c.args[2 * i + 1]! * 2 ** 32;
}

function byteAt(c: ReferenceKernelContext, at: number, i: number): number {
  return (c.load(at + (i >>> 2)) >>> ((i & 3) * 8)) & 255;
}

export const HISTOGRAM: KernelSource = {
  name: "histogram",
  wgsl: histogramWgsl,
  atomics: true,
  reference(item, c) {
    const start = item * HISTOGRAM_ITEM;
    const end = Math.min(start + HISTOGRAM_ITEM, c.args[4]!);
    const pages: number[] = [];
    for (let at = start; at < end; at += PAGE_SIZE) pages.push(c.translate(address(c, 0) + at, 0));
    const bins = c.translate(address(c, 1), 2);
    if (c.missed) return;
    const count = new Uint32Array(BINS);
    for (let i = start; i < end; i++) {
      const inItem = i - start;
      count[byteAt(c, pages[Math.floor(inItem / PAGE_SIZE)]!, inItem % PAGE_SIZE)]! += 1;
    }
    for (let bin = 0; bin < BINS; bin++) c.store(bins + bin, c.load(bins + bin) + count[bin]!);
  },
};

export const CRC32: KernelSource = {
  name: "crc32",
  wgsl: crc32Wgsl,
  reference(item, c) {
    const at = c.translate(address(c, 0) + item * PAGE_SIZE, 0);
    const result = c.translate(address(c, 1) + item * 4, 1);
    if (c.missed) return;
    const bytes = Math.min(PAGE_SIZE, c.args[4]! - item * PAGE_SIZE);
    let crc = 0xffffffff;
    for (let i = 0; i < bytes; i++) crc = c.input[(crc ^ byteAt(c, at, i)) & 255]! ^ (crc >>> 8);
    c.store(result, ~crc >>> 0);
  },
};

export const XOR_KEYSTREAM: KernelSource = {
  name: "xor-keystream",
  wgsl: xorWgsl,
  reference(item, c) {
    const at = c.translate(address(c, 0) + item * PAGE_SIZE, 1);
    if (c.missed) return;
    const bytes = Math.min(PAGE_SIZE, c.args[4]! - item * PAGE_SIZE);
    for (let w = 0; w * 4 < bytes; w++) {
      const left = bytes - w * 4;
      const mask = left >= 4 ? 0xffffffff : 2 ** (8 * left) - 1;
      c.store(at + w, (c.load(at + w) ^ (mix32(item * 1024 + w + 1) & mask)) >>> 0);
    }
  },
};

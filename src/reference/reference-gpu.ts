/**
 * A GPU in plain TypeScript, bit-identical with the one on WebGPU.
 *
 * Overview. It is the oracle of differential tests and the fast engine of schedule exploration. Queued work is done at
 * once, in call order, which is what queued work on one queue amounts to. What a real device answers later (rounds,
 * downloads, read-backs) comes in a later microtask here too, so that a caller that forgets to wait fails here as well.
 *
 * Locking. None: every method is synchronous inside.
 *
 * Example:
 *
 *     const gpu = createReferenceGpu({ vramBytes: SZ_8M, ptBytes: 2 * SZ_1M, syswBytes: 0, faultQueueCapacity: 4096, hostMemory });
 *     gpu.ptWrite(pa, entries);
 *     gpu.asidSet(2, pa, ASID_VALID | ASID_FAULT_MODE);
 *     const launch = gpu.launch(await gpu.compile(source), { asid: 2, items: 1024 });
 *     const { remaining, records } = await launch.round();
 */
import { PAGE_SIZE, SZ_2M, SZ_64K, isPowerOfTwo } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { ConfigError, DeviceLostError, UnsupportedError } from "../base/errors.ts";
import { MAX_TILES, tileOf } from "../abi/tiles.ts";
import { E_CANCELED, reportJobs } from "../hal/copy-job.ts";
import type { JobBatch, JobResult } from "../hal/copy-job.ts";
import type {
  Gpu,
  GpuConfig,
  GpuCounters,
  GpuInfo,
  Kernel,
  KernelDesign,
  KernelLaunch,
  KernelSource,
  LaunchOptions,
  PageList,
  RoundResult,
} from "../hal/gpu.ts";
import { ReferenceJobs } from "./copy-jobs.ts";
import { ReferenceLaunch } from "./launch.ts";
import type { ReferenceFunction, ReferenceProgram } from "./launch.ts";
import { ReferenceMemory } from "./memory.ts";
import { ReferenceTile } from "./tile.ts";
import type { ReferenceOptions, TileHost } from "./tile.ts";

export type { ReferenceOptions } from "./tile.ts";

const MAX_SEG_BYTES = 128 * 1024 * 1024;

class ReferenceKernel implements Kernel, ReferenceProgram {
  readonly name: string;
  readonly design: KernelDesign;
  readonly run: ReferenceFunction;
  readonly prefault: ReferenceFunction | undefined;
  constructor(source: KernelSource, run: ReferenceFunction) {
    this.name = source.name;
    this.design = source.design ?? "item";
    this.run = run;
    this.prefault = source.referencePrefault;
  }
}

/** Throws ConfigError when a size breaks the rules of spec/device.md 0.3. */
export function createReferenceGpu(config: GpuConfig, options: ReferenceOptions = {}): Gpu {
  const { vramBytes, moreTiles = [], ptBytes, syswBytes, faultQueueCapacity } = config;
  if (vramBytes <= 0 || vramBytes % SZ_2M !== 0) throw new ConfigError("vramBytes", "a multiple of 2 MiB is needed");
  if (moreTiles.length >= MAX_TILES || moreTiles.some((bytes) => bytes <= 0 || bytes % SZ_2M !== 0)) {
    throw new ConfigError("moreTiles", "at most 3 multiples of 2 MiB are possible");
  }
  if (!isPowerOfTwo(ptBytes) || ptBytes < SZ_64K || ptBytes > Math.min(vramBytes, ...moreTiles) / 4) {
    throw new ConfigError("ptBytes", "a power of two from 64 KiB to a quarter of a tile is needed");
  }
  if (syswBytes < 0 || syswBytes % PAGE_SIZE !== 0) throw new ConfigError("syswBytes", "whole pages are needed");
  if (!isPowerOfTwo(faultQueueCapacity)) throw new ConfigError("faultQueueCapacity", "a power of two is needed");
  return new ReferenceGpu(config, options);
}

class ReferenceGpu implements Gpu, TileHost {
  readonly info: GpuInfo;
  readonly counters: GpuCounters = {
    submissions: 0,
    readbacks: 0,
    rounds: 0,
    uploadBytes: 0,
    downloadBytes: 0,
    fillBytes: 0,
    pteWrites: 0,
    tlbInvalidations: 0,
  };
  readonly lost: Promise<{ reason: string; message: string }>;
  readonly memory: ReferenceMemory;
  dropTlbInvalidations = false;
  readonly #tiles: readonly ReferenceTile[];
  #announceLoss: (loss: { reason: string; message: string }) => void = () => {};
  #lost = false;

  constructor(config: GpuConfig, options: ReferenceOptions) {
    const { vramBytes, ptBytes, syswBytes } = config;
    this.memory = new ReferenceMemory(config, this.counters);
    const { tileBytes } = this.memory.space;
    let segBytes = SZ_2M;
    while (segBytes < Math.max(...tileBytes) && segBytes < MAX_SEG_BYTES) segBytes *= 2;
    this.info = {
      engine: "reference",
      adapter: { vendor: "", architecture: "", description: "plain TypeScript", fallback: true },
      limits: {},
      features: [],
      vramBytes,
      tileBytes,
      ptBytes,
      segBytes,
      nseg: tileBytes.reduce((sum, bytes) => sum + Math.ceil(bytes / segBytes), 0),
      syswBytes,
      systemAtomics: options.systemAtomics === true,
    };
    this.lost = new Promise((resolve) => {
      this.#announceLoss = resolve;
    });
    this.#tiles = tileBytes.map((_, index) => new ReferenceTile(this, index, config, options));
  }

  get isLost(): boolean {
    return this.#lost;
  }

  ptWrite(pa: number, words: Uint32Array): void {
    if (this.#lost) return;
    this.#tile(tileOf(pa)).ptWrite(pa, words);
  }

  asidSet(asid: number, root: number, flags: number, tile = 0): void {
    if (this.#lost) return;
    this.#tile(tile).asidSet(asid, root, flags);
  }

  tlbInvalidate(asid: number, start: number, last: number, tile = 0): number {
    const t = this.#tile(tile);
    return this.#lost ? t.seqno : t.tlbInvalidate(asid, start, last, this.dropTlbInvalidations);
  }

  tlbInvalidateAsid(asid: number, tile = 0): number {
    const t = this.#tile(tile);
    return this.#lost ? t.seqno : t.tlbInvalidateAsid(asid, this.dropTlbInvalidations);
  }

  /** Nothing is staged. */
  uploadReady(): undefined {
    return undefined;
  }

  copy(list: PageList): Promise<void> | null {
    if (this.#lost) return list.reachesHost ? Promise.reject(this.#loss()) : null;
    const delivered = this.memory.copy(list);
    if (delivered === null) return null;
    this.counters.readbacks += 1;
    return delivered.then(() => this.checkAlive());
  }

  async submitJobs(batch: JobBatch, tile = 0): Promise<JobResult[]> {
    const canceled = () => reportJobs(batch, new Array<number>(batch.count).fill(E_CANCELED), []);
    if (this.#lost) return canceled();
    const device = this.#tile(tile);
    const ptWrite = (pa: number, words: Uint32Array) => this.ptWrite(pa, words);
    const jobs = new ReferenceJobs(device, batch, this.info.ptBytes, ptWrite);
    jobs.run();
    this.counters.submissions += 1;
    this.counters.readbacks += 1;
    await Promise.resolve();
    if (this.isLost) return canceled();
    for (const { at, bytes } of jobs.stores) this.memory.host.set(bytes, at);
    return reportJobs(batch, jobs.status, jobs.bytes);
  }

  async readEngines(tile = 0): Promise<Uint32Array> {
    this.checkAlive();
    return this.answer(this.#tile(tile).engines.slice());
  }

  async compile(source: KernelSource): Promise<Kernel> {
    this.checkAlive();
    if (source.reference === undefined) {
      throw new UnsupportedError(
        [`a plain TypeScript version of kernel ${source.name}`],
        "The reference engine cannot run WGSL: give the kernel a `reference` function, or use the WebGPU engine.",
      );
    }
    return new ReferenceKernel(source, source.reference);
  }

  launch(kernel: Kernel, options: LaunchOptions): KernelLaunch {
    this.checkAlive();
    assert(kernel instanceof ReferenceKernel, () => `kernel ${kernel.name} was compiled for another engine`);
    return new ReferenceLaunch(this.#tile(options.tile ?? 0), kernel, options);
  }

  async translate(requests: Uint32Array, tile = 0): Promise<Uint32Array> {
    this.checkAlive();
    return this.answer(this.#tile(tile).translate(requests));
  }

  async drainFaults(tile = 0): Promise<RoundResult> {
    this.checkAlive();
    return this.answer(this.#tile(tile).drainFaults());
  }

  async readVram(pa: number, bytes: number): Promise<Uint8Array> {
    this.checkAlive();
    const { space, vram } = this.memory;
    assert(pa % 4 === 0 && bytes % 4 === 0 && space.contains(pa, bytes), () => `readVram(${pa}, ${bytes})`);
    return this.answer(vram.slice(space.linear(pa), space.linear(pa) + bytes));
  }

  flush(): void {
    if (this.#lost) return;
    this.counters.submissions += 1;
  }

  idle(): undefined {
    this.flush();
  }

  destroy(): void {
    if (this.#lost) return;
    this.#lost = true;
    this.#announceLoss({ reason: "destroyed", message: "the device was destroyed" });
  }

  async answer<T>(value: T): Promise<T> {
    this.counters.submissions += 1;
    this.counters.readbacks += 1;
    await Promise.resolve();
    this.checkAlive();
    return value;
  }

  checkAlive(): void {
    if (this.#lost) throw this.#loss();
  }

  #tile(index: number): ReferenceTile {
    const tile = this.#tiles[index];
    assert(tile !== undefined, () => `there is no tile ${index}`);
    return tile;
  }

  #loss(): DeviceLostError {
    return new DeviceLostError("destroyed", "the device was destroyed");
  }
}

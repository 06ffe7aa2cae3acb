import { assert } from "../base/assert.ts";
import { ConfigError, GpuError } from "../base/errors.ts";
import { Ctl, EngineEntry } from "../abi/tables.ts";
import { tileOf } from "../abi/tiles.ts";
import { ENGINES } from "../hal/copy-job.ts";
import type { JobBatch, JobResult } from "../hal/copy-job.ts";
import { AP_VRAM } from "../hal/gpu.ts";
import type {
  Gpu,
  GpuConfig,
  GpuCounters,
  GpuInfo,
  Kernel,
  KernelLaunch,
  KernelSource,
  LaunchOptions,
  PageList,
  RoundResult,
} from "../hal/gpu.ts";
import { requestGpuDevice } from "./acquire.ts";
import type { AcquiredDevice, AcquireOptions } from "./acquire.ts";
import { Commands, newCounters } from "./commands.ts";
import { CopyEngine } from "./copy-engine.ts";
import { planGeometry } from "./geometry.ts";
import type { Geometry, GeometryOptions } from "./geometry.ts";
import { ErrorScopes, Health } from "./health.ts";
import { WebGpuKernel } from "./kernel.ts";
import { Launch } from "./launch.ts";
import type { LaunchContext } from "./launch.ts";
import { Memory } from "./memory.ts";
import { defaultTable } from "./path-choice.ts";
import type { PathTable } from "./path-choice.ts";
import { createPipelines } from "./pipelines.ts";
import type { Pipelines } from "./pipelines.ts";
import { PrivatePool } from "./private-pool.ts";
import { Readback } from "./readback.ts";
import { Tile } from "./tile.ts";
import type { TileOptions } from "./tile.ts";
import { compileFor } from "./ways/copy-ways.ts";

export interface GpuOptions extends AcquireOptions, GeometryOptions, TileOptions {
  /** Which way lists of pages go; by default what suits the kind of adapter. */
  readonly copyPaths?: PathTable;
}

/**
 * The emulated GPU on WebGPU.
 *
 * Overview. One WebGPU queue carries everything in call order. Commands are recorded and submitted as late as possible:
 * by a round, a read, a flush, an upload. Page-table writes and TLB invalidations wait in their own lists until
 * something could see them (`#settle`, `#settleEntries`).
 *
 * Loss. When the device goes, every pending promise rejects with DeviceLostError and later calls do nothing or reject.
 * An error that WebGPU reports outside a scope is a bug here; it stops the GPU in the same way, with GpuError. What a
 * caller alone asked for and there is no memory for (a launch's private buffer) fails alone.
 */
export class WebGpu implements Gpu {
  readonly info: GpuInfo;
  readonly counters: GpuCounters;
  readonly lost: Promise<{ reason: string; message: string }>;
  /** Resolves when WebGPU has accepted everything that the GPU is made of. */
  readonly ready: Promise<void>;
  #isReady = false;
  #ownsDevice = false;
  readonly #device: GPUDevice;
  readonly #geometry: Geometry;
  readonly #memory: Memory;
  readonly #pipelines: Pipelines;
  readonly #tiles: readonly Tile[];
  readonly #health: Health;
  readonly #commands: Commands;
  readonly #readback: Readback;
  readonly #copyEngine: CopyEngine;
  readonly #launches: LaunchContext;

  /** A GPU on a device of its own. Rejects with UnsupportedError, ConfigError or GpuError. */
  static async create(config: GpuConfig, options: GpuOptions = {}): Promise<WebGpu> {
    const acquired = await requestGpuDevice(options);
    try {
      const gpu = WebGpu.createOn(acquired, config, options);
      await gpu.ready;
      gpu.#ownsDevice = true;
      return gpu;
    } catch (error) {
      acquired.device.destroy();
      throw error;
    }
  }

  /**
   * A GPU on a device that others may use too. Throws ConfigError for sizes that the adapter cannot have. What WebGPU finds
   * wrong later (out of memory) rejects `ready` and everything that is asked of the GPU.
   */
  static createOn(acquired: AcquiredDevice, config: GpuConfig, options: GpuOptions = {}): WebGpu {
    const geometry = planGeometry(config, acquired.limits, options);
    return new WebGpu(config, options, acquired, geometry);
  }

  private constructor(config: GpuConfig, options: GpuOptions, acquired: AcquiredDevice, geometry: Geometry) {
    const { device } = acquired;
    const { shape } = geometry;
    // A software adapter pays for every workgroup, so it gets the shape with few of them.
    const pagePerWorkgroup = !acquired.adapter.fallback;
    const scopes = new ErrorScopes(device, "device");
    const memory = Memory.create(device, geometry);
    const pipelines = createPipelines(device, geometry);
    this.#device = device;
    this.#memory = memory;
    this.#geometry = geometry;
    this.#pipelines = pipelines;
    this.counters = newCounters();
    const paths = options.copyPaths ?? defaultTable(acquired.adapter.fallback);
    compileFor(paths, pipelines.pages);
    this.info = {
      engine: "webgpu",
      adapter: acquired.adapter,
      limits: acquired.limits,
      features: acquired.features,
      vramBytes: shape.tileBytes[0]!,
      tileBytes: shape.tileBytes,
      ptBytes: shape.ptBytes,
      segBytes: 2 ** shape.segShift,
      nseg: shape.nseg,
      syswBytes: shape.syswBytes,
      systemAtomics: options.systemAtomics === true,
    };
    const health = new Health(device);
    const commands = new Commands(device, health, this.counters);
    const readback = new Readback(commands, health, this.counters);
    this.#health = health;
    this.lost = health.lost;
    this.#commands = commands;
    this.#readback = readback;
    const parts = { commands, memory, pipelines, readback, counters: this.counters };
    this.#tiles = shape.tileBytes.map((_, index) => new Tile(parts, index, options));
    const { hostMemory } = config;
    const { counters } = this;
    this.#copyEngine = new CopyEngine({
      commands,
      memory,
      pipelines,
      readback,
      health,
      counters,
      ptWrite: (pa, words) => this.ptWrite(pa, words),
      settle: () => this.#settle(),
      writesTables: () => this.#othersWriteTables(),
      maxBindingBytes: acquired.limits.maxStorageBufferBindingSize,
      hostMemory,
      banks: memory.banks,
      pagePipelines: pipelines.pages,
      paths,
      pagePerWorkgroup,
    });
    this.#launches = {
      commands,
      health,
      pipelines,
      readback,
      counters,
      pool: new PrivatePool(commands, pipelines, acquired.limits.maxStorageBufferBindingSize),
      settle: () => this.#settle(),
    };
    commands.hook(
      () => {
        for (const tile of this.#tiles) tile.ptWriter.send();
        this.#copyEngine.beforeSubmit();
      },
      () => {
        this.#copyEngine.afterSubmit();
        readback.afterSubmit();
      },
    );
    void health.lost.then(() => this.#abandon());
    for (const tile of this.#tiles) tile.faultQueue.reset();
    this.ready = scopes.close().then((error) => {
      this.#isReady = true;
      if (error !== null) health.declareBroken(error);
      if (health.error !== null) throw health.error;
    });
    this.ready.catch(() => undefined);
  }

  get isLost(): boolean {
    return this.#health.isLost;
  }

  get dropTlbInvalidations(): boolean {
    return this.#tiles[0]!.tlb.drop;
  }
  set dropTlbInvalidations(drop: boolean) {
    for (const tile of this.#tiles) tile.tlb.drop = drop;
  }

  ptWrite(pa: number, words: Uint32Array): void {
    this.#tile(tileOf(pa)).ptWriter.write(pa, words);
  }

  asidSet(asid: number, root: number, flags: number, tile = 0): void {
    this.#tile(tile).tlb.asidSet(asid, root, flags);
  }

  tlbInvalidate(asid: number, start: number, last: number, tile = 0): number {
    return this.#tile(tile).tlb.invalidate(asid, start, last);
  }

  tlbInvalidateAsid(asid: number, tile = 0): number {
    return this.#tile(tile).tlb.invalidateAsid(asid);
  }

  copy(list: PageList): Promise<void> | null {
    // Entries and data are both there before anything is translated; between the two nobody can tell an order.
    if (!this.#copyEngine.fillsData(list)) {
      this.#settleEntries();
      if (this.#copyEngine.writesTables(list)) this.#othersWriteTables();
    }
    return this.#copyEngine.copy(list);
  }

  uploadReady(bytes: number): Promise<void> | undefined {
    return this.#copyEngine.uploadReady(bytes);
  }

  submitJobs(batch: JobBatch, tile = 0): Promise<JobResult[]> {
    this.#settle();
    return this.#copyEngine.submit(batch, this.#tile(tile));
  }

  async readEngines(tile = 0): Promise<Uint32Array> {
    this.#throwIfDown();
    const read = this.#readback.read(this.#tile(tile).ctl, Ctl.offset.engines, ENGINES * EngineEntry.size);
    this.#commands.submit();
    return new Uint32Array((await read).buffer);
  }

  async compile(source: KernelSource): Promise<Kernel> {
    this.#throwIfDown();
    return this.#health.guard(WebGpuKernel.compile(this.#device, this.#geometry, this.#pipelines, source));
  }

  launch(kernel: Kernel, options: LaunchOptions): KernelLaunch {
    if (!(kernel instanceof WebGpuKernel)) throw new ConfigError("kernel", "it was compiled by another engine");
    return new Launch(this.#launches, this.#tile(options.tile ?? 0), kernel, options);
  }

  async translate(requests: Uint32Array, tile = 0): Promise<Uint32Array> {
    this.#throwIfDown();
    this.#settle();
    return this.#tile(tile).translator.translate(requests);
  }

  async drainFaults(tile = 0): Promise<RoundResult> {
    this.#throwIfDown();
    const { faultQueue } = this.#tile(tile);
    const result = faultQueue.read();
    faultQueue.reset();
    this.#commands.submit();
    return result;
  }

  async readVram(pa: number, bytes: number): Promise<Uint8Array> {
    this.#throwIfDown();
    const { vram } = this.#memory;
    const inside = pa >= 0 && vram.contains(pa, bytes) && pa % 4 === 0 && bytes % 4 === 0;
    assert(inside, () => `VRAM [${pa}, ${pa + bytes}) cannot be read`);
    this.#settle();
    const parts: { source: GPUBuffer; offset: number; bytes: number }[] = [];
    const end = vram.linear(pa) + bytes;
    for (let at = vram.linear(pa); at < end;) {
      const n = Math.min(end - at, this.info.segBytes - (at % this.info.segBytes));
      const bank = this.#memory.bankOf(AP_VRAM, Math.floor(at / 4096));
      parts.push({ source: this.#memory.banks[bank]!, offset: at % this.info.segBytes, bytes: n });
      at += n;
    }
    const read = this.#readback.readParts(parts);
    this.#commands.submit();
    return read;
  }

  flush(): void {
    this.#commands.submit();
  }

  async idle(): Promise<void> {
    this.#throwIfDown();
    // Before that nothing may be submitted whose buffers may not exist: the error would meet others on the device. Later no
    // turn may pass: a wait that Chrome hears of together with the submission ends sooner.
    if (!this.#isReady) await this.ready;
    this.#commands.submit();
    await this.#health.guardWork(this.#device.queue.onSubmittedWorkDone());
  }

  destroy(): void {
    this.#health.declareLost("destroyed", "the device was shut down");
    this.#abandon();
    this.#copyEngine.destroy();
    this.#launches.pool.destroy();
    for (const tile of this.#tiles) tile.destroy();
    this.#commands.destroy();
    this.#memory.destroy();
    if (this.#ownsDevice) this.#device.destroy();
  }

  /** Records what walks must see. */
  #settle(): void {
    for (const tile of this.#tiles) tile.settle();
  }

  /**
   * Records what copies of memory must see. Invalidations wait on: only a translation looks at the TLB, and their dispatches
   * would keep the bytes of an eviction from the host for a millisecond or two, the time in which a dispatch is known to be over.
   */
  #settleEntries(): void {
    for (const tile of this.#tiles) tile.ptWriter.emit();
  }

  #othersWriteTables(): void {
    for (const tile of this.#tiles) tile.ptWriter.othersWrite();
  }

  #tile(index: number): Tile {
    const tile = this.#tiles[index];
    assert(tile !== undefined, () => `there is no tile ${index}`);
    return tile;
  }

  #throwIfDown(): void {
    if (this.#health.error !== null) throw this.#health.error;
  }

  #abandon(): void {
    this.#readback.destroy(this.#health.error ?? new GpuError("internal", "device", "abandoned"));
  }
}

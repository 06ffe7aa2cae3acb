import { alignUp, PAGE_SIZE, SZ_2M } from "../../base/addr.ts";
import { assert } from "../../base/assert.ts";
import { UnsupportedError } from "../../base/errors.ts";
import { Random } from "../../base/random.ts";
import { type AcquiredDevice, type AdapterDescription, requestGpuDevice } from "../acquire.ts";
import { Health, toGpuError } from "../health.ts";
import type { CopyPath, Direction, PathMemory, Runner } from "./path.ts";
import { RUN_STRIDE, type Transfer } from "./transfer.ts";

/** What stands where nothing was copied. Not zero, which a fill writes, and not likely in random data. */
const POISON = 0xdeadbeef;
const POISON_CHUNK = SZ_2M;
/** Measured: the loss is known within 60 ms of its first effect. */
const LOSS_DELAY_MS = 200;

/** A path prepared for one transfer. Runs must not overlap. */
export interface PreparedCopy {
  /** Moves the bytes once; resolves when they are there. @throws DeviceLostError */
  run(): Promise<void>;
  /**
   * Poisons the destination, runs once, and looks at every word of the destination's region, the pages that had to
   * stay as they were included. Null, or one sentence on the first word that is wrong.
   */
  verify(): Promise<string | null>;
  dispose(): void;
}

/** Device and memory for copy paths; the way into this folder for rooms that may not name WebGPU's types. */
export interface PathLab {
  readonly adapter: AdapterDescription;
  readonly limits: Readonly<Record<string, number>>;
  readonly features: readonly string[];
  /** Host memory of uploads and of readbacks, for measuring plain copies between them. */
  readonly host: Uint8Array;
  readonly hostOut: Uint8Array;
  /** @throws GpuError when the adapter refuses the path's buffers or pipelines. */
  prepare(path: CopyPath, transfer: Transfer): Promise<PreparedCopy>;
  /** The least that a readback costs: a copy of 4 bytes, submitted and mapped. */
  roundTrip(): Promise<void>;
  close(): void;
}

/** `maxBytes`: the largest transfer. @throws UnsupportedError without WebGPU or with limits too low. */
export async function openPathLab(options: { maxBytes: number; seed: number }): Promise<PathLab> {
  const acquired = await requestGpuDevice();
  // Scattered pages lie in a region of twice their size.
  const regionBytes = alignUp(options.maxBytes * 2, POISON_CHUNK);
  for (const limit of ["maxBufferSize", "maxStorageBufferBindingSize"] as const) {
    const has = acquired.limits[limit];
    if (has < regionBytes) {
      acquired.device.destroy();
      throw new UnsupportedError([`${limit} of ${regionBytes} bytes (the adapter has ${has})`], "Use smaller sizes.");
    }
  }
  return new Lab(acquired, regionBytes, options.seed);
}

class Lab implements PathLab {
  readonly adapter: AdapterDescription;
  readonly limits: Readonly<Record<string, number>>;
  readonly features: readonly string[];
  readonly host: Uint8Array;
  readonly hostOut: Uint8Array;
  readonly #memory: PathMemory;
  readonly #device: GPUDevice;
  readonly #health: Health;
  readonly #probe: GPUBuffer;
  readonly #poison: Uint32Array<ArrayBuffer>;

  constructor({ device, adapter, limits, features }: AcquiredDevice, regionBytes: number, seed: number) {
    this.#device = device;
    this.#health = new Health(device);
    this.adapter = adapter;
    this.limits = limits;
    this.features = features;

    const memory = typeof SharedArrayBuffer === "undefined" ? ArrayBuffer : SharedArrayBuffer;
    this.host = new Uint8Array(new memory(regionBytes));
    this.hostOut = new Uint8Array(new memory(regionBytes));
    fillRandom(wordsOf(this.host), seed);
    this.#poison = new Uint32Array(POISON_CHUNK / 4).fill(POISON);
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    this.#probe = device.createBuffer({
      label: "lab: probe",
      size: 4,
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
    });
    this.#memory = {
      device,
      host: this.host,
      hostOut: this.hostOut,
      vram: device.createBuffer({ label: "lab: vram", size: regionBytes, usage }),
      vramOut: device.createBuffer({ label: "lab: vram out", size: regionBytes, usage }),
      settled: () => this.#health.guard(device.queue.onSubmittedWorkDone()),
      orLost: (promise) => this.#health.guard(promise),
    };
  }

  async prepare(path: CopyPath, transfer: Transfer): Promise<PreparedCopy> {
    const memory = this.#memory;
    assert(
      transfer.regionPages * PAGE_SIZE <= this.host.byteLength,
      "the transfer is larger than the lab was opened for",
    );
    const runner = await this.#scoped(path, () => path.prepare(memory, transfer));
    return {
      run: () => runner.run().catch(this.#explain),
      verify: () => this.#scoped(path, () => this.#verify(path.direction, transfer, runner)),
      dispose: () => runner.dispose(),
    };
  }

  async roundTrip(): Promise<void> {
    const encoder = this.#device.createCommandEncoder({ label: "lab: round trip" });
    encoder.copyBufferToBuffer(this.#memory.vram, 0, this.#probe, 0, 4);
    this.#device.queue.submit([encoder.finish()]);
    await this.#memory.orLost(this.#probe.mapAsync(GPUMapMode.READ)).catch(this.#explain);
    this.#probe.unmap();
  }

  close(): void {
    this.#device.destroy();
  }

  /** Runs `body` between error scopes; what WebGPU reports becomes a GpuError that names the path. */
  async #scoped<T>(path: CopyPath, body: () => Promise<T>): Promise<T> {
    this.#device.pushErrorScope("validation");
    this.#device.pushErrorScope("out-of-memory");
    const outcome = await body()
      .catch(this.#explain)
      .then(
        (value) => ({ value }),
        (thrown: unknown) => ({ thrown }),
      );
    const oom = await this.#memory.orLost(this.#device.popErrorScope());
    const invalid = await this.#memory.orLost(this.#device.popErrorScope());
    const error = oom ?? invalid;
    if (error !== null) throw toGpuError(path.name, error);
    if ("thrown" in outcome) throw outcome.thrown;
    return outcome.value;
  }

  /**
   * Rethrows, as DeviceLostError where the loss is behind it: mappings of a lost device are aborted, and calls on them
   * throw, shortly before `device.lost` says why.
   */
  readonly #explain = async (error: unknown): Promise<never> => {
    await Promise.race([this.#health.lost, new Promise((resolve) => setTimeout(resolve, LOSS_DELAY_MS))]);
    throw this.#health.error ?? error;
  };

  async #verify(direction: Direction, transfer: Transfer, runner: Runner): Promise<string | null> {
    const { vram, vramOut } = this.#memory;
    const bytes = transfer.regionPages * PAGE_SIZE;
    // Readbacks and device copies start from known bytes; an earlier upload may have left others.
    if (direction !== "upload") this.#device.queue.writeBuffer(vram, 0, this.host.buffer, 0, bytes);
    if (direction === "readback") {
      wordsOf(this.hostOut).fill(POISON, 0, bytes / 4);
      await runner.run();
      return this.#compare(direction, transfer, wordsOf(this.hostOut));
    }
    const destination = direction === "upload" ? vram : vramOut;
    for (let at = 0; at < bytes; at += POISON_CHUNK) {
      this.#device.queue.writeBuffer(destination, at, this.#poison, 0, Math.min(POISON_CHUNK, bytes - at) / 4);
    }
    await runner.run();
    const copy = this.#device.createBuffer({
      label: "lab: check",
      size: bytes,
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
    });
    const encoder = this.#device.createCommandEncoder({ label: "lab: check" });
    encoder.copyBufferToBuffer(destination, 0, copy, 0, bytes);
    this.#device.queue.submit([encoder.finish()]);
    await this.#memory.orLost(copy.mapAsync(GPUMapMode.READ));
    const wrong = this.#compare(direction, transfer, new Uint32Array(copy.getMappedRange()));
    copy.destroy();
    return wrong;
  }

  /** `found`: the destination's region. */
  #compare(direction: Direction, transfer: Transfer, found: Uint32Array): string | null {
    const source = wordsOf(this.host);
    const pageWords = PAGE_SIZE / 4;
    /** Source page of every destination page, -1 where nothing was to be copied. */
    const cameFrom = new Int32Array(transfer.regionPages).fill(-1);
    const { runs } = transfer;
    for (let at = 0; at < runs.length; at += RUN_STRIDE) {
      for (let i = 0; i < runs[at + 2]!; i++) cameFrom[runs[at + 1]! + i] = runs[at]! + i;
    }
    for (let page = 0; page < transfer.regionPages; page++) {
      const from = cameFrom[page]! * pageWords;
      for (let i = 0; i < pageWords; i++) {
        const right = from < 0 ? POISON : direction === "fill" ? 0 : source[from + i]!;
        const is = found[page * pageWords + i]!;
        if (is !== right) {
          const offset = page * PAGE_SIZE + i * 4;
          return `the word at ${offset} of the destination is 0x${is.toString(16)}, not 0x${right.toString(16)}`;
        }
      }
    }
    return null;
  }
}

function wordsOf(bytes: Uint8Array): Uint32Array {
  return new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
}

function fillRandom(words: Uint32Array, seed: number): void {
  const random = new Random(seed);
  for (let i = 0; i < words.length; i++) words[i] = random.u32();
}

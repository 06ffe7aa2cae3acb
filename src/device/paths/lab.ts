import { alignUp, PAGE_SIZE, SZ_2M } from "../../base/addr.ts";
import { assert } from "../../base/assert.ts";
import { UnsupportedError } from "../../base/errors.ts";
import { Random } from "../../base/random.ts";
import { type AcquiredDevice, type AdapterDescription, requestGpuDevice } from "../acquire.ts";
import { Health, toGpuError } from "../health.ts";
import { type CalibrationHost, calibratePaths, type CopyPaths } from "../calibrate.ts";
import { defaultTable, type PathTable } from "../path-choice.ts";
import { firstWrong } from "./check.ts";
import { GpuClock } from "./gpu-clock.ts";
import type { CopyPath, Direction, PathMemory, Runner } from "./path.ts";
import type { Transfer } from "./transfer.ts";

/** What stands where nothing was copied. Not zero, which a fill writes, and not likely in random data. */
const POISON = 0xdeadbeef;
const POISON_CHUNK = SZ_2M;
/** Measured: the loss is known within 60 ms of its first effect. */
const LOSS_DELAY_MS = 200;

/** A path prepared for one transfer. Runs must not overlap. */
export interface PreparedCopy {
  /** Moves the bytes once; resolves when they are there. @throws DeviceLostError */
  run(): Promise<void>;
  /** As `run`: milliseconds of the GPU's own clock; null where it has none or counts nothing of this path. */
  gpuTime(): Promise<number | null>;
  /**
   * Poisons the destination, runs once, and looks at every word of the destination's region, the pages that had to
   * stay as they were included. Null, or one sentence on the first word that is wrong.
   */
  verify(): Promise<string | null>;
  /** Makes the next run the first one of new memory: destination and staging are made afresh, and nothing was written. */
  renew(): Promise<void>;
  dispose(): void;
}

/** Device and memory for copy paths; the way into this folder for rooms that may not name WebGPU's types. */
export interface PathLab {
  readonly adapter: AdapterDescription;
  readonly limits: Readonly<Record<string, number>>;
  readonly features: readonly string[];
  /** Bytes of the largest region that a transfer may have: what one binding reaches. */
  readonly largestRegion: number;
  /** What the `auto` paths choose by. */
  readonly paths: PathTable;
  readonly pathsSource: CopyPaths["source"];
  /** Host memory of uploads and of readbacks, for measuring plain copies between them. */
  readonly host: Uint8Array;
  readonly hostOut: Uint8Array;
  /** Makes the memory for regions of up to `regionBytes`; what was there goes. No copy may be prepared. */
  reserve(regionBytes: number): void;
  /** False where the path needs a feature that the device has not. */
  supports(path: CopyPath): boolean;
  /** @throws GpuError when the adapter refuses the path's buffers or pipelines. */
  prepare(path: CopyPath, transfer: Transfer): Promise<PreparedCopy>;
  /** The least that a readback costs: a copy of 4 bytes, submitted and mapped. */
  roundTrip(): Promise<void>;
  close(): void;
}

export interface LabOptions {
  /** The largest transfer, in any layout; left out, `reserve` is called before the first copy is prepared. */
  readonly maxBytes?: number;
  readonly seed: number;
  /** Default: the adapter's. */
  readonly limits?: "adapter" | "default";
  /** The device to measure, which the lab destroys; by default a fresh one. */
  readonly acquired?: AcquiredDevice;
  /** Calibrates what the `auto` paths choose by, as the copy engine does; by default it is what suits the kind of adapter. */
  readonly calibration?: CalibrationHost;
}

/** @throws UnsupportedError without WebGPU or with limits too low. */
export async function openPathLab(options: LabOptions): Promise<PathLab> {
  const acquired = options.acquired ?? (await requestGpuDevice({ limits: options.limits ?? "adapter" }));
  const { seed, calibration } = options;
  const standard = { source: "default", table: defaultTable(acquired.adapter.fallback) } as const;
  const copyPaths = calibration === undefined ? standard : await calibratePaths(acquired, calibration);
  const lab = new Lab(acquired, copyPaths, seed);
  // Scattered pages lie in a region of twice their size.
  const regionBytes = (options.maxBytes ?? 0) * 2;
  if (regionBytes > lab.largestRegion) {
    lab.close();
    throw new UnsupportedError(
      [`bindings of ${regionBytes} bytes (the adapter has ${lab.largestRegion})`],
      "Use smaller sizes.",
    );
  }
  if (regionBytes > 0) lab.reserve(regionBytes);
  return lab;
}

class Lab implements PathLab {
  readonly adapter: AdapterDescription;
  readonly limits: Readonly<Record<string, number>>;
  readonly features: readonly string[];
  readonly largestRegion: number;
  readonly paths: PathTable;
  readonly pathsSource: CopyPaths["source"];
  readonly #device: GPUDevice;
  readonly #health: Health;
  readonly #clock: GpuClock | null;
  readonly #probe: GPUBuffer;
  readonly #poison = new Uint32Array(POISON_CHUNK / 4).fill(POISON);
  readonly #seed: number;
  #memory: PathMemory | null = null;
  #check: GPUBuffer | null = null;

  constructor({ device, adapter, limits, features }: AcquiredDevice, { table, source }: CopyPaths, seed: number) {
    this.#device = device;
    this.#health = new Health(device);
    this.#clock = GpuClock.of(device);
    this.#seed = seed;
    this.paths = table;
    this.pathsSource = source;
    this.adapter = adapter;
    this.limits = limits;
    this.features = features;
    this.largestRegion = Math.min(limits.maxBufferSize, limits.maxStorageBufferBindingSize);
    this.#probe = device.createBuffer({
      label: "lab: probe",
      size: 4,
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
    });
  }

  get host(): Uint8Array {
    return this.#reserved().host;
  }

  get hostOut(): Uint8Array {
    return this.#reserved().hostOut;
  }

  reserve(regionBytes: number): void {
    const device = this.#device;
    const size = alignUp(regionBytes, POISON_CHUNK);
    assert(size <= this.largestRegion, "a region larger than a binding");
    this.#memory?.vram.destroy();
    this.#memory?.vramOut.destroy();
    const host = hostMemory(size);
    fillRandom(wordsOf(host), this.#seed);
    this.#memory = {
      device,
      host,
      hostOut: hostMemory(size),
      vram: this.#makeVram("lab: vram", size),
      vramOut: this.#makeVram("lab: vram out", size),
      paths: this.paths,
      clock: this.#clock,
      encoder: (label) => {
        const encoder = device.createCommandEncoder({ label });
        this.#clock?.before(encoder);
        return encoder;
      },
      submit: (encoder) => {
        this.#clock?.behind(encoder);
        device.queue.submit([encoder.finish()]);
      },
      settled: () => this.#health.guardWork(device.queue.onSubmittedWorkDone()),
      orLost: (promise) => this.#health.guardWork(promise),
    };
  }

  supports(path: CopyPath): boolean {
    return path.needs === undefined || this.features.includes(path.needs);
  }

  async prepare(path: CopyPath, transfer: Transfer): Promise<PreparedCopy> {
    const shared = this.#reserved();
    assert(
      transfer.regionPages * PAGE_SIZE <= shared.host.byteLength,
      "the transfer is larger than the lab was opened for",
    );
    let memory = shared;
    let runner = await this.#scoped(path, () => path.prepare(memory, transfer));
    const destroyOwn = () => {
      if (memory.vram !== shared.vram) memory.vram.destroy();
      if (memory.vramOut !== shared.vramOut) memory.vramOut.destroy();
    };
    return {
      run: () => runner.run().catch(this.#explain),
      gpuTime: () => this.#timed(runner).catch(this.#explain),
      verify: () => this.#scoped(path, () => this.#verify(path.direction, transfer, memory, runner)),
      renew: async () => {
        runner.dispose();
        destroyOwn();
        memory = this.#untouched(path.direction, transfer.regionPages * PAGE_SIZE);
        runner = await this.#scoped(path, () => path.prepare(memory, transfer));
        await shared.settled();
      },
      dispose: () => {
        runner.dispose();
        destroyOwn();
      },
    };
  }

  async roundTrip(): Promise<void> {
    const encoder = this.#device.createCommandEncoder({ label: "lab: round trip" });
    encoder.copyBufferToBuffer(this.#reserved().vram, 0, this.#probe, 0, 4);
    this.#device.queue.submit([encoder.finish()]);
    await this.#health.guardWork(this.#probe.mapAsync(GPUMapMode.READ)).catch(this.#explain);
    this.#probe.unmap();
  }

  close(): void {
    this.#device.destroy();
  }

  #reserved(): PathMemory {
    assert(this.#memory !== null, "no memory is reserved");
    return this.#memory;
  }

  #makeVram(label: string, size: number): GPUBuffer {
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    return this.#device.createBuffer({ label, size, usage });
  }

  /** The lab's memory, but for the destination of `direction`, which is new. */
  #untouched(direction: Direction, bytes: number): PathMemory {
    const shared = this.#reserved();
    if (direction === "upload") return { ...shared, vram: this.#makeVram("lab: first touch", bytes) };
    if (direction === "readback" || direction === "access") return { ...shared, hostOut: hostMemory(bytes) };
    return { ...shared, vramOut: this.#makeVram("lab: first touch", bytes) };
  }

  /** Kept: making one of 64 MiB takes 300 ms on a software adapter. */
  #checkBuffer(bytes: number): GPUBuffer {
    if (this.#check === null || this.#check.size < bytes) {
      this.#check?.destroy();
      const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
      this.#check = this.#device.createBuffer({ label: "lab: check", size: bytes, usage });
    }
    return this.#check;
  }

  async #timed(runner: Runner): Promise<number | null> {
    if (this.#clock === null) {
      await runner.run();
      return null;
    }
    this.#clock.start();
    await runner.run();
    return this.#health.guard(this.#clock.stop());
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
    const oom = await this.#health.guard(this.#device.popErrorScope());
    const invalid = await this.#health.guard(this.#device.popErrorScope());
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

  async #verify(direction: Direction, transfer: Transfer, memory: PathMemory, runner: Runner): Promise<string | null> {
    const { vram, vramOut, host, hostOut } = memory;
    const bytes = transfer.regionPages * PAGE_SIZE;
    const expected = { direction, transfer, source: wordsOf(host), untouched: POISON };
    // Readbacks and device copies start from known bytes; an earlier upload may have left others.
    if (direction !== "upload") this.#device.queue.writeBuffer(vram, 0, host.buffer, 0, bytes);
    if (direction === "readback" || direction === "access") {
      wordsOf(hostOut).fill(POISON, 0, bytes / 4);
      await runner.run();
      return firstWrong(expected, wordsOf(hostOut));
    }
    const destination = direction === "upload" ? vram : vramOut;
    for (let at = 0; at < bytes; at += POISON_CHUNK) {
      this.#device.queue.writeBuffer(destination, at, this.#poison, 0, Math.min(POISON_CHUNK, bytes - at) / 4);
    }
    await runner.run();
    const copy = this.#checkBuffer(bytes);
    const encoder = this.#device.createCommandEncoder({ label: "lab: check" });
    encoder.copyBufferToBuffer(destination, 0, copy, 0, bytes);
    this.#device.queue.submit([encoder.finish()]);
    await this.#health.guard(copy.mapAsync(GPUMapMode.READ, 0, bytes));
    const wrong = firstWrong(expected, new Uint32Array(copy.getMappedRange(0, bytes)));
    copy.unmap();
    return wrong;
  }
}

/** Shared where the page may share, as the emulated machine's RAM is. */
function hostMemory(bytes: number): Uint8Array {
  return new Uint8Array(
    typeof SharedArrayBuffer === "undefined" ? new ArrayBuffer(bytes) : new SharedArrayBuffer(bytes),
  );
}

function wordsOf(bytes: Uint8Array): Uint32Array {
  return new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
}

function fillRandom(words: Uint32Array, seed: number): void {
  const random = new Random(seed);
  for (let i = 0; i < words.length; i++) words[i] = random.u32();
}

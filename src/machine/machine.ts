import { PAGE_SIZE, SZ_2M, SZ_512M, SZ_64K, alignUp } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { isErr } from "../base/errno.ts";
import { ConfigError, GpuError, KernelError } from "../base/errors.ts";
import { Scheduler } from "../base/scheduler.ts";
import type { Platform } from "../base/scheduler.ts";
import { TraceRing } from "../base/trace.ts";
import { MAX_TILES } from "../abi/tiles.ts";
import { SvmDevice } from "../driver/device.ts";
import { tileBytes } from "../driver/peer-card.ts";
import type { CopyPaths } from "../device/index.ts";
import type { Gpu, GpuConfig } from "../hal/gpu.ts";
import type { MemFile } from "../mm/file.ts";
import type { Mm } from "../mm/mm.ts";
import { PhysMemory } from "../mm/phys-mem.ts";
import { perfettoTrace } from "../trace/perfetto.ts";
import type { EvictName } from "../driver/policy/policy.ts";
import type { PolicyChoice } from "../driver/policy/presets.ts";
import type { Bo as DriverBo } from "../driver/bo.ts";
import type { Bo } from "./bo.ts";
import { Device } from "./device.ts";
import { File } from "./file.ts";
import { Interconnect } from "./interconnect.ts";
import { hostPlatform } from "./platform.ts";
import { checkEvict, configOf, policyNames } from "./policies.ts";
import { Process } from "./process.ts";

/**
 * The machine: one object to construct everything.
 *
 * Overview. A machine has RAM, processes, and devices; a device has VRAM and GPU address spaces that mirror processes.
 * The engine that plays the GPU is prepared beforehand (`prepareEngine`), because finding an adapter takes a promise; from
 * then on processes, devices and address spaces are made synchronously.
 *
 * Example (test/node/machine.test.ts runs it):
 *
 *     const machine = new Machine({ engine: await prepareEngine("webgpu") });
 *     const process = machine.createProcess();
 *     const device = machine.createDevice({ vram: 16 << 20 });
 *     const vm = device.vm(process);
 *     const a = await process.mmap(1 << 20);
 *     await process.st(a, 7);
 *     await vm.ginc(a);                 // faults, migrates, replays
 *     await process.ld(a);              // 8: faults back
 */

/** What makes GPUs. One adapter's device may carry several emulated GPUs. */
export interface Engine {
  readonly name: "webgpu" | "reference";
  /** What carried the GPUs is gone: `renew` before more are made. */
  readonly isLost: boolean;
  /** After a loss, a fresh adapter. Rejects with UnsupportedError when there is none. */
  renew(): Promise<void>;
  createGpu(config: GpuConfig): Gpu;
  /** What the copy engine chooses its ways by; left out where there is no choice. */
  readonly copyPaths?: CopyPaths;
  /** Whether `createGpu` would take it: kernels could bind all that memory together. Without it everything fits. */
  fits?(config: GpuConfig): boolean;
  /** Gives the adapter back; the GPUs made with it are lost. */
  destroy(): void;
}

/** Parameters of an address space; the defaults are the reference configuration K0. */
export interface VmConfig {
  /** Chunk sizes of ranges, bytes: descending powers of two, the last 4096. */
  chunks: number[];
  /** Size and alignment of a notifier, bytes. */
  notifier: number;
  /** Chunks above 4 KiB and up to this size are used only where every CPU page is present. 0: no such check. */
  checkPages: number;
  /** Leaf sizes the page tables may use, bytes. */
  leafSizes: number[];
  /** Move data to VRAM on a GPU fault. */
  migrate: boolean;
  /** What the mirror covers, `[start, end)`. */
  window: [start: number, end: number];
  /** Where nothing is bound the GPU reads 0, and its stores vanish, instead of a fault. */
  scratch: boolean;
  /** What the driver decides where it has a choice: a preset's name, or single choices (docs/policies.md). Default "default". */
  policy: PolicyChoice;
  /** Memory that the process unmaps loses what `attr` has said about it. */
  attrAutoReset: boolean;
  /** What a fault that cannot be served does beyond ending its launch: nothing, or later use fails with ENOENT. */
  onFatal: "kill" | "ban";
}

export const DEFAULT_VM_CONFIG: Readonly<VmConfig> = {
  chunks: [SZ_2M, SZ_64K, PAGE_SIZE],
  notifier: SZ_512M,
  checkPages: SZ_64K,
  leafSizes: [PAGE_SIZE, SZ_64K, SZ_2M],
  migrate: true,
  window: [0, 2 ** 47],
  scratch: false,
  policy: "default",
  attrAutoReset: false,
  onFatal: "kill",
};

export interface MachineOptions {
  engine: Engine;
  /** `close` destroys the engine too. Default false: it may serve other machines. */
  ownsEngine?: boolean;
  /** Bytes of RAM of the emulated machine. Default 256 MiB. */
  ram?: number;
  config?: Partial<VmConfig>;
  /** Events kept for the page and for traces. Default 65536. */
  traceEvents?: number;
  /** Seed of policies that draw at random. Default 1. */
  seed?: number;
  /** Debug: fill freed frames of RAM with a pattern, so that whoever still reads them shows. */
  poisonFreed?: boolean;
  platform?: Platform;
}

export interface DeviceOptions {
  /** Bytes of VRAM for data of each tile, a multiple of 2 MiB; page tables come on top. Default 64 MiB. */
  vram?: number;
  /**
   * Tiles, 1 to 4: each has VRAM, page tables, TLB and fault queue of its own, and a kernel runs on one of them
   * (`Vm.onTile`). What lies in another tile's memory is reached where it lies. Not together with `p2p` or `writeBack`.
   * Default 1.
   */
  tiles?: number;
  /** Bytes of the window through which the GPU reaches system memory in place; whole pages, 0 for none. Default 16 MiB. */
  window?: number;
  /** Records of the fault queue: a power of two. Default 4096. */
  faultQueue?: number;
  /**
   * It reaches the memory of other devices with `p2p`, and they reach its own, without RAM in between: those made one after
   * the other before any of them is used, as far as one kernel can bind the memory of all (docs/how-it-works.md). Not together
   * with `writeBack`. Default: what one device has and another wants goes through RAM.
   */
  p2p?: boolean;
  /** Who leaves VRAM first. Default: as the machine's `config.policy` says. */
  evict?: EvictName;
  /**
   * Keep copies in RAM of what lies in VRAM, refreshed after every so many rounds of kernels (default 1), at most so many
   * bytes each time (default all): a lost device then costs no more than what its kernels wrote since. Default: no copies.
   */
  writeBack?: { rounds?: number; bytes?: number };
}

export const DEFAULT_RAM = 256 << 20;
export const DEFAULT_VRAM = 64 << 20;
export const DEFAULT_WINDOW = 16 << 20;
/** Least VRAM for data: two chunks of the largest size, so that an item can read one and write another. */
export const MIN_VRAM = 2 * SZ_2M;
const MAX_RAM = 4096 * 1048576;

export class Machine {
  readonly engine: Engine;
  readonly sched: Scheduler;
  readonly trace: TraceRing;
  readonly phys: PhysMemory;
  readonly config: Readonly<VmConfig>;
  readonly #processes: Process[] = [];
  readonly #devices: Device[] = [];
  readonly #files = new WeakMap<MemFile, File>();
  readonly #seed: number;
  readonly #ownsEngine: boolean;
  readonly #interconnect: Interconnect;
  #nextDevice = 0;
  #nextPid = 1;
  #nextFile = 1;

  constructor(options: MachineOptions) {
    const ram = options.ram ?? DEFAULT_RAM;
    if (!Number.isSafeInteger(ram) || ram < 16 * PAGE_SIZE || ram > MAX_RAM) {
      throw new ConfigError("machine.ram", `between ${16 * PAGE_SIZE} and ${MAX_RAM} bytes are wanted, not ${ram}`);
    }
    this.engine = options.engine;
    this.#ownsEngine = options.ownsEngine === true;
    this.config = configOf(DEFAULT_VM_CONFIG, options.config ?? {});
    this.#seed = options.seed ?? 1;
    this.#interconnect = new Interconnect(options.engine);
    this.sched = new Scheduler(options.platform ?? hostPlatform());
    this.trace = new TraceRing(options.traceEvents ?? 65536, () => this.sched.lately());
    this.phys = new PhysMemory({
      ram: allocateRam(alignUp(ram, PAGE_SIZE)),
      sched: this.sched,
      poisonFreed: options.poisonFreed ?? false,
    });
  }

  get processes(): readonly Process[] {
    return this.#processes;
  }
  get devices(): readonly Device[] {
    return this.#devices;
  }

  createProcess(): Process {
    return this.#addProcess(new Process(this, this.#nextPid++));
  }

  /** For `Process.fork`: a process whose address space exists already. */
  adoptProcess(mm: Mm): Process {
    return this.#addProcess(new Process(this, this.#nextPid++, mm));
  }

  #addProcess(process: Process): Process {
    this.#processes.push(process);
    return process;
  }

  /** A file in RAM: `init` is a length, of zeros, or the content. Throws KernelError EINVAL or ENOMEM. */
  createFile(init: number | Uint8Array): File {
    const file = File.create(this.phys, init, `file ${this.#nextFile++}`);
    this.#files.set(file.mem, file);
    return file;
  }

  /** The file that an area maps; null for shared anonymous memory. */
  fileOf(mem: MemFile): File | null {
    return this.#files.get(mem) ?? null;
  }

  /**
   * A device at once. What WebGPU finds wrong with it afterwards (no memory) makes it a lost device, and the first thing that
   * is asked of it rejects; `openDevice` waits to see. Throws ConfigError, and DeviceLostError when the engine was lost.
   */
  createDevice(options: DeviceOptions = {}): Device {
    const vram = options.vram ?? DEFAULT_VRAM;
    if (!Number.isSafeInteger(vram) || vram < MIN_VRAM || vram % SZ_2M !== 0) {
      throw new ConfigError("device.vram", `a multiple of 2 MiB, at least 4 MiB, is wanted, not ${vram} bytes`);
    }
    if (options.writeBack !== undefined) checkWriteBack(options.writeBack);
    if (options.evict !== undefined) checkEvict(options.evict);
    if (options.p2p === true && options.writeBack !== undefined) {
      throw new ConfigError("device.writeBack", "a device whose memory others write, by p2p, has no write-back mode");
    }
    checkTiles(options);
    const gpu = this.#createGpu(options, vram);
    const driver = SvmDevice.create({
      gpu,
      heapBytes: vram,
      phys: this.phys,
      sched: this.sched,
      trace: this.trace,
      links: this.#interconnect.links,
      evict: options.evict ?? policyNames(this.config.policy).evict,
      seed: this.#seed,
      ...(options.writeBack === undefined ? {} : { writeBack: options.writeBack }),
    });
    if (isErr(driver)) throw KernelError.fromErrno(driver, "the device could not be set up");
    const device = new Device(this, `gpu${this.#nextDevice++}`, gpu, driver);
    this.#devices.push(device);
    return device;
  }

  #createGpu(options: DeviceOptions, vram: number): Gpu {
    const ptBytes = pageTableBytes(vram);
    const windowBytes = options.window ?? DEFAULT_WINDOW;
    const faultQueueCapacity = options.faultQueue ?? 4096;
    const hostMemory = this.phys.ram;
    if (options.p2p === true) {
      return this.#interconnect.plugIn({ heapBytes: vram, ptBytes, windowBytes, faultQueueCapacity, hostMemory });
    }
    const vramBytes = tileBytes(vram, ptBytes);
    const moreTiles = new Array<number>((options.tiles ?? 1) - 1).fill(vramBytes);
    return this.engine.createGpu({
      vramBytes,
      moreTiles,
      ptBytes,
      syswBytes: windowBytes,
      faultQueueCapacity,
      hostMemory,
    });
  }

  /**
   * A device that is known to work: after a loss on a fresh adapter; with less VRAM, by halves, where there is not enough
   * memory (`device.driver.heapBytes` says what it got). Rejects as `createDevice`, and with UnsupportedError or GpuError.
   */
  async openDevice(options: DeviceOptions = {}): Promise<Device> {
    if (this.engine.isLost) await this.engine.renew();
    for (let vram = options.vram ?? DEFAULT_VRAM; ; vram = Math.max(MIN_VRAM, alignUp(vram / 2, SZ_2M))) {
      const device = this.createDevice({ ...options, vram });
      try {
        await device.gpu.idle();
        return device;
      } catch (error) {
        this.#discard(device);
        const isTooBig = error instanceof GpuError && error.kind === "out-of-memory";
        if (!isTooBig || vram === MIN_VRAM) throw error;
      }
    }
  }

  /** A device that nobody has used yet. */
  #discard(device: Device): void {
    this.#devices.splice(this.#devices.indexOf(device), 1);
    device.driver.destroy();
    device.gpu.destroy();
  }

  /** The object of which processes map the driver's. */
  boOf(driver: DriverBo): Bo {
    const bo = this.deviceOf(driver.device).boOf(driver);
    assert(bo !== null, "a buffer object that no verb has made");
    return bo;
  }

  /** The device that a driver drives. */
  deviceOf(driver: SvmDevice): Device {
    const device = this.#devices.find((d) => d.driver === driver);
    assert(device !== undefined, "a driver without a device");
    return device;
  }

  /** Whose memory `pa` is, as `device` addresses it: its own or a peer's. */
  deviceAt(device: Device, pa: number): Device {
    const { links } = this.#interconnect;
    for (const peer of links.peersOf(device.driver)) if (peer.pfnAt(pa) !== null) return this.deviceOf(peer);
    return device;
  }

  /** Where the page at `a` of `process` lies. A probe: nothing is changed. */
  where(process: Process, a: number): "SYS" | "NONE" | Device {
    const pfn = process.pfnAt(a);
    if (pfn < 0) return "NONE";
    if (!this.phys.isZoneDevice(pfn)) return "SYS";
    const pgmap = this.phys.pgmapOf(pfn);
    return this.#devices.find((d) => d.driver.regions.some((region) => region.pgmap === pgmap)) ?? "NONE";
  }

  /** In the memory of which tile of its device the page at `a` of `process` lies; null when it is in none. A probe. */
  tileOf(process: Process, a: number): number | null {
    for (const { driver } of this.#devices) {
      const tile = driver.tileAt(process.mm, a);
      if (tile !== null) return tile;
    }
    return null;
  }

  /** The events that are kept, as a Perfetto trace: what ui.perfetto.dev and trace_processor open. */
  perfettoTrace(): Uint8Array<ArrayBuffer> {
    return perfettoTrace(this.trace.since(1));
  }

  /** Resolves when no deferred work is left. */
  settle(): Promise<void> {
    return this.sched.settle();
  }

  /** For `Device.unbind`: nothing of it is left. */
  forgetDevice(device: Device): void {
    this.#devices.splice(this.#devices.indexOf(device), 1);
  }

  /** Closes all address spaces and frees the engines' GPUs. */
  async close(): Promise<void> {
    // All of them first: one may have put pages into the memory of another's device.
    for (const device of this.#devices) for (const vm of device.vms) await vm.close();
    for (const device of this.#devices) {
      // Of a lost device, pages that nobody gave up may stand in its frames for as long as their processes; likewise what an
      // unbound one could not bring home.
      if (!device.gpu.isLost && device.driver.isAlive) device.driver.destroy();
      device.gpu.destroy();
    }
    this.#devices.length = 0;
    if (this.#ownsEngine) this.engine.destroy();
  }
}

function checkTiles({ tiles = 1, p2p, writeBack }: DeviceOptions): void {
  if (!Number.isSafeInteger(tiles) || tiles < 1 || tiles > MAX_TILES) {
    throw new ConfigError("device.tiles", `a whole number from 1 to ${MAX_TILES} is wanted, not ${tiles}`);
  }
  if (tiles > 1 && p2p === true) throw new ConfigError("device.tiles", "a device with p2p is one tile of a card");
  if (tiles > 1 && writeBack !== undefined) {
    throw new ConfigError("device.writeBack", "a device of several tiles has no write-back mode");
  }
}

function checkWriteBack({ rounds = 1, bytes = Infinity }: NonNullable<DeviceOptions["writeBack"]>): void {
  if (!Number.isSafeInteger(rounds) || rounds < 1) {
    throw new ConfigError("device.writeBack.rounds", `a whole number above 0 is wanted, not ${rounds}`);
  }
  if (!(bytes >= PAGE_SIZE)) {
    throw new ConfigError("device.writeBack.bytes", `at least a page of ${PAGE_SIZE} bytes is wanted, not ${bytes}`);
  }
}

/** Room for page tables: a power of two from 2 MiB up, so that the heap behind it begins at a 2 MiB border. */
function pageTableBytes(vram: number): number {
  let bytes = SZ_2M;
  while (bytes < vram / 32) bytes *= 2;
  return bytes;
}

function allocateRam(bytes: number): Uint8Array {
  try {
    return new Uint8Array(
      typeof SharedArrayBuffer === "undefined" ? new ArrayBuffer(bytes) : new SharedArrayBuffer(bytes),
    );
  } catch {
    throw new ConfigError("machine.ram", `the browser gives no ${bytes} bytes of memory; ask for less`);
  }
}

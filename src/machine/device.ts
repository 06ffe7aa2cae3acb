import { SZ_2M, isPowerOfTwo } from "../base/addr.ts";
import { isErr } from "../base/errno.ts";
import { ConfigError, KernelError } from "../base/errors.ts";
import type { CopyPaths } from "../device/index.ts";
import type { Gpu, Kernel, KernelSource } from "../hal/gpu.ts";
import type { SvmDevice } from "../driver/device.ts";
import type { LostPages } from "../driver/lost-pages.ts";
import type { SvmStats } from "../driver/stats.ts";
import type { TileCounters } from "../driver/tile-counters.ts";
import type { SvmCounters } from "../driver/counters.ts";
import type { WriteBackStats } from "../driver/write-back.ts";
import type { Machine, VmConfig } from "./machine.ts";
import { configOf, policyNames } from "./policies.ts";
import type { Bo as DriverBo } from "../driver/bo.ts";
import type { Bo } from "./bo.ts";
import type { Process } from "./process.ts";
import { reportUnbind } from "./unbind.ts";
import type { UnbindReport } from "./unbind.ts";
import { Vm } from "./vm.ts";

/** Bytes of VRAM for data, and of it those that data holds; what kernels on it have done. */
export interface TileState extends Readonly<TileCounters> {
  readonly heapBytes: number;
  readonly vramUsed: number;
}

/** A GPU of the machine: an engine with its VRAM, and the driver on it. */
export class Device {
  readonly machine: Machine;
  readonly name: string;
  readonly gpu: Gpu;
  readonly driver: SvmDevice;
  readonly #kernels = new Map<string, Promise<Kernel>>();
  readonly #vms = new Set<Vm>();
  readonly #bos = new WeakMap<DriverBo, Bo>();
  /** What all its address spaces have counted, those included that are closed. */
  readonly counted: SvmCounters[] = [];

  constructor(machine: Machine, name: string, gpu: Gpu, driver: SvmDevice) {
    this.machine = machine;
    this.name = name;
    this.gpu = gpu;
    this.driver = driver;
  }

  /** What each tile holds and has done, by its number. @kernel xe_tile */
  get tiles(): TileState[] {
    const { regions, tileCounters } = this.driver;
    return regions.map(({ heapBytes, used }, tile) => {
      const { rounds, faults, tlbInvalidations } = tileCounters[tile]!;
      return { heapBytes, vramUsed: used, rounds, faults, tlbInvalidations };
    });
  }

  get vms(): ReadonlySet<Vm> {
    return this.#vms;
  }

  /**
   * Once `gpu.isLost`: the pages of `process` whose data went with the device, as addresses. `vram`: accesses fail with "BUS"
   * until the page is unmapped or discarded. `stale`: the page is there, without what the GPU wrote after `round` rounds.
   */
  lostPages(process: Process): LostPages {
    return this.driver.lostPages(process.mm);
  }

  /** What its driver has done since the device was made, for all address spaces (docs/policies.md). */
  get stats(): SvmStats {
    return this.driver.stats;
  }

  /** Which way its copy engine moves pages, by direction, shape and size, and how that was found; null on the plain engine. */
  get copyPaths(): CopyPaths | null {
    return this.machine.engine.copyPaths ?? null;
  }

  /** What write-back mode holds and has done; null where it is off. */
  get writeBack(): Readonly<WriteBackStats> | null {
    return this.driver.region.writeBack?.stats ?? null;
  }

  /** For `Bo.create`. */
  adoptBo(bo: Bo): Bo {
    this.#bos.set(bo.driver, bo);
    return bo;
  }

  /** The object that an address space maps; null for one that was not made here. */
  boOf(driver: DriverBo): Bo | null {
    return this.#bos.get(driver) ?? null;
  }

  /** A new address space; without `mirror: false` it mirrors all of `process` inside its window from the start. */
  vm(process: Process, overrides: Partial<VmConfig> & { mirror?: boolean } = {}): Vm {
    const config = configOf(this.machine.config, overrides);
    checkVmConfig(config);
    const svm = this.driver.createVm(process.mm, {
      chunkSizes: config.chunks,
      notifierSize: config.notifier,
      checkPagesThreshold: config.checkPages,
      leafSizes: config.leafSizes,
      migrate: config.migrate,
      window: config.window,
      policies: policyNames(config.policy),
      attrAutoReset: config.attrAutoReset,
      onFatal: config.onFatal,
      fillHoles: config.scratch,
      mirror: overrides.mirror !== false,
    });
    if (isErr(svm)) throw KernelError.fromErrno(svm, `no GPU address space for process ${process.pid}`);
    const vm = new Vm(this, process, svm);
    this.#vms.add(vm);
    this.counted.push(vm.counters);
    process.attach(vm);
    return vm;
  }

  /**
   * Takes the device out of the machine, whatever is going on: its address spaces close, launches on them end with an error,
   * and every page in its memory goes home, whoever maps it; peers that mapped one find it in RAM. Resolves to what is left,
   * because there was no room in RAM, or because the device was lost before; without anything left the device is gone.
   */
  async unbind(): Promise<UnbindReport> {
    await this.machine.sched.point("verb");
    const err = await this.driver.unbind();
    for (const vm of [...this.#vms]) this.forget(vm);
    const report = reportUnbind(this, err);
    if (report.isEmpty && this.machine.devices.includes(this)) this.machine.forgetDevice(this);
    return report;
  }

  forget(vm: Vm): void {
    this.#vms.delete(vm);
    vm.process.detach(vm);
  }

  /** Compiled once per device and text. */
  compile(source: KernelSource): Promise<Kernel> {
    const { name, atomics, design, workgroupSize, wgsl } = source;
    const key = [name, atomics === true, design ?? "item", workgroupSize ?? 0, wgsl].join("\0");
    // A kernel of the reference engine is its function, which the text does not tell apart.
    if (source.reference !== undefined && this.gpu.info.engine === "reference") return this.gpu.compile(source);
    let kernel = this.#kernels.get(key);
    if (kernel === undefined) {
      kernel = this.gpu.compile(source);
      this.#kernels.set(key, kernel);
      kernel.catch(() => this.#kernels.delete(key));
    }
    return kernel;
  }
}

export function checkVmConfig(config: VmConfig): void {
  const { chunks, notifier, checkPages, leafSizes, window } = config;
  const descending = chunks.every((c, i) => isPowerOfTwo(c) && (i === 0 || c < chunks[i - 1]!));
  if (chunks.length === 0 || !descending || chunks.at(-1) !== 4096) {
    throw new ConfigError(
      "config.chunks",
      `descending powers of two that end with 4096 are wanted, not [${chunks.join(", ")}]`,
    );
  }
  if (!isPowerOfTwo(notifier) || notifier < chunks[0]!) {
    throw new ConfigError("config.notifier", `a power of two not below the largest chunk is wanted, not ${notifier}`);
  }
  if (!Number.isSafeInteger(checkPages) || checkPages < 0) {
    throw new ConfigError("config.checkPages", `a number of bytes, 0 for no check, is wanted, not ${checkPages}`);
  }
  if (!leafSizes.every((size) => size === 4096 || size === 65536 || size === SZ_2M)) {
    throw new ConfigError(
      "config.leafSizes",
      `4096, 65536 and 2097152 are the leaf sizes there are, not [${leafSizes.join(", ")}]`,
    );
  }
  if (config.onFatal !== "kill" && config.onFatal !== "ban") {
    throw new ConfigError("config.onFatal", `"kill" or "ban" is wanted, not ${String(config.onFatal)}`);
  }
  if (!(window[0] >= 0 && window[0] < window[1] && window[1] <= 2 ** 47)) {
    throw new ConfigError("config.window", `[start, end) inside [0, 2^47) is wanted, not [${window.join(", ")})`);
  }
}

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
import { PAGE_SIZE, SZ_2M, SZ_64K, hi32, isPowerOfTwo, lo32 } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { ConfigError, DeviceLostError, UnsupportedError } from "../base/errors.ts";
import { ENGINE_COPY } from "../abi/fault.ts";
import { ASID_LEVELS_POS, NASID, REQUEST_NO_RECORD, REQUEST_PREFETCH, STATUS_FAULT } from "../abi/tables.ts";
import { tlbSeqnoNext } from "../abi/tlb.ts";
import { ENGINES, E_CANCELED, reportJobs } from "../hal/copy-job.ts";
import type { JobBatch, JobResult } from "../hal/copy-job.ts";
import { REQUEST_WORDS, RESULT_WORDS } from "../hal/gpu.ts";
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
import type { JobDevice } from "./copy-jobs.ts";
import { FaultQueue } from "./fault-queue.ts";
import type { Access } from "./fault-queue.ts";
import { ReferenceLaunch } from "./launch.ts";
import type { LaunchDevice, ReferenceFunction, ReferenceProgram } from "./launch.ts";
import { ReferenceMemory } from "./memory.ts";
import { TlbModel } from "./tlb-model.ts";
import { ASID_WORDS, newTranslation, translateModel } from "./translate-model.ts";
import type { Translation, WalkerState } from "./translate-model.ts";

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

export interface ReferenceOptions {
  /** Off: every translation walks. Default on. */
  readonly tlb?: boolean;
  /** Atomics on the system window are allowed. Default off. */
  readonly systemAtomics?: boolean;
}

/** Throws ConfigError when a size breaks the rules of spec/device.md 0.3. */
export function createReferenceGpu(config: GpuConfig, options: ReferenceOptions = {}): Gpu {
  const { vramBytes, ptBytes, syswBytes, faultQueueCapacity } = config;
  if (vramBytes <= 0 || vramBytes % SZ_2M !== 0) throw new ConfigError("vramBytes", "a multiple of 2 MiB is needed");
  if (!isPowerOfTwo(ptBytes) || ptBytes < SZ_64K || ptBytes > vramBytes / 4) {
    throw new ConfigError("ptBytes", "a power of two from 64 KiB to a quarter of vramBytes is needed");
  }
  if (syswBytes < 0 || syswBytes % PAGE_SIZE !== 0) throw new ConfigError("syswBytes", "whole pages are needed");
  if (!isPowerOfTwo(faultQueueCapacity)) throw new ConfigError("faultQueueCapacity", "a power of two is needed");
  return new ReferenceGpu(config, options);
}

class ReferenceGpu implements Gpu, LaunchDevice, JobDevice {
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
  readonly lean: WalkerState;
  dropTlbInvalidations = false;
  readonly #full: WalkerState;
  readonly #tlb = new TlbModel();
  readonly #asids = new Uint32Array(NASID * ASID_WORDS);
  readonly #engines = new Uint32Array(ENGINES * 4);
  readonly #faults: FaultQueue;
  #misses: Access[] = [];
  #announceLoss: (loss: { reason: string; message: string }) => void = () => {};
  #lost = false;
  #seqno = 0;

  constructor(config: GpuConfig, options: ReferenceOptions) {
    const { vramBytes, ptBytes, syswBytes } = config;
    let segBytes = SZ_2M;
    while (segBytes < vramBytes && segBytes < MAX_SEG_BYTES) segBytes *= 2;
    this.info = {
      engine: "reference",
      adapter: { vendor: "", architecture: "", description: "plain TypeScript", fallback: true },
      limits: {},
      features: [],
      vramBytes,
      ptBytes,
      segBytes,
      nseg: Math.ceil(vramBytes / segBytes),
      syswBytes,
    };
    this.memory = new ReferenceMemory(config, this.counters);
    this.lost = new Promise((resolve) => {
      this.#announceLoss = resolve;
    });
    this.#faults = new FaultQueue(config.faultQueueCapacity);
    const vram = this.memory.vramWords;
    const systemAtomics = options.systemAtomics === true;
    this.lean = { vram, vramBytes, ptBytes, syswBytes, asids: this.#asids, tlb: null, systemAtomics };
    this.#full = { ...this.lean, tlb: options.tlb === false ? null : this.#tlb };
  }

  get isLost(): boolean {
    return this.#lost;
  }

  ptWrite(pa: number, words: Uint32Array): void {
    if (this.#lost) return;
    assert(pa % 8 === 0 && words.length % 2 === 0, "page-table writes are whole entries");
    assert(
      pa >= 2 * PAGE_SIZE && pa + words.length * 4 <= this.info.ptBytes,
      () => `page-table write at ${pa} outside the aperture`,
    );
    this.memory.vramWords.set(words, pa / 4);
    this.counters.pteWrites += words.length / 2;
  }

  asidSet(asid: number, root: number, flags: number): void {
    if (this.#lost) return;
    assert(asid > 0 && asid < NASID, () => `ASID ${asid}`);
    const at = asid * ASID_WORDS;
    const levels = (flags >>> ASID_LEVELS_POS) & 15;
    this.#asids[at] = levels === 0 ? flags | (4 << ASID_LEVELS_POS) : flags;
    this.#asids[at + 1] = lo32(root);
    this.#asids[at + 2] = hi32(root);
  }

  tlbInvalidate(asid: number, start: number, last: number): number {
    if (this.#lost) return this.#seqno;
    if (!this.dropTlbInvalidations) this.#tlb.invalidate(asid, start, last);
    return this.#nextSeqno();
  }

  tlbInvalidateAsid(asid: number): number {
    if (this.#lost) return this.#seqno;
    if (!this.dropTlbInvalidations) this.#asids[asid * ASID_WORDS + 3]! += 1;
    return this.#nextSeqno();
  }

  #nextSeqno(): number {
    this.counters.tlbInvalidations += 1;
    this.#seqno = tlbSeqnoNext(this.#seqno);
    return this.#seqno;
  }

  copy(list: PageList): Promise<void> | null {
    if (this.#lost) return list.reachesHost ? Promise.reject(this.#loss()) : null;
    const delivered = this.memory.copy(list);
    if (delivered === null) return null;
    this.counters.readbacks += 1;
    return delivered.then(() => this.#checkAlive());
  }

  get ptBytes(): number {
    return this.info.ptBytes;
  }

  async submitJobs(batch: JobBatch): Promise<JobResult[]> {
    const canceled = () => reportJobs(batch, new Array<number>(batch.count).fill(E_CANCELED), []);
    if (this.#lost) return canceled();
    const jobs = new ReferenceJobs(this, batch, this.#engines);
    jobs.run();
    this.counters.submissions += 1;
    this.counters.readbacks += 1;
    await Promise.resolve();
    if (this.isLost) return canceled();
    for (const { at, bytes } of jobs.stores) this.memory.host.set(bytes, at);
    return reportJobs(batch, jobs.status, jobs.bytes);
  }

  async readEngines(): Promise<Uint32Array> {
    this.#checkAlive();
    return this.#answer(this.#engines.slice());
  }

  translateForCopy(asid: number, vaLo: number, vaHi: number, access: number, work: number): Translation {
    const t = translateModel(this.#full, asid, vaLo, vaHi, access);
    if (t.status !== STATUS_FAULT) return t;
    const made = { asid, vaLo, vaHi, access, prefetch: false, engineClass: ENGINE_COPY, engineInstance: 0, work };
    this.#faults.countFatal(t, made);
    if (this.#faults.isFirst(made)) this.#faults.write(t, made);
    return t;
  }

  fillTlb(): void {
    this.#fillTlb();
  }

  async compile(source: KernelSource): Promise<Kernel> {
    this.#checkAlive();
    if (source.reference === undefined) {
      throw new UnsupportedError(
        [`a plain TypeScript version of kernel ${source.name}`],
        "The reference engine cannot run WGSL: give the kernel a `reference` function, or use the WebGPU engine.",
      );
    }
    return new ReferenceKernel(source, source.reference);
  }

  launch(kernel: Kernel, options: LaunchOptions): KernelLaunch {
    this.#checkAlive();
    assert(kernel instanceof ReferenceKernel, () => `kernel ${kernel.name} was compiled for another engine`);
    return new ReferenceLaunch(this, kernel, options);
  }

  reportMiss(miss: Access): void {
    if (!this.#faults.isFirst(miss)) return;
    if (this.#misses.length < this.#faults.capacity) this.#misses.push(miss);
    else this.#faults.drop();
  }

  beginRound(): void {
    this.#checkAlive();
    this.#faults.reset();
    this.counters.rounds += 1;
  }

  endRound(remaining: number): Promise<RoundResult> {
    const t = newTranslation();
    for (const miss of this.#misses) {
      translateModel(this.lean, miss.asid, miss.vaLo, miss.vaHi, miss.access, t);
      this.#faults.countFatal(t, miss);
      this.#faults.write(t, miss);
    }
    this.#misses = [];
    return this.#answer(this.#faults.read(remaining));
  }

  async translate(requests: Uint32Array): Promise<Uint32Array> {
    this.#checkAlive();
    const count = requests.length / REQUEST_WORDS;
    const results = new Uint32Array(count * RESULT_WORDS);
    const t = newTranslation();
    for (let i = 0; i < count; i++) {
      const [asid, vaLo, vaHi, flags, engine, work] = requests.subarray(i * REQUEST_WORDS) as unknown as number[];
      const access = flags! & 3;
      translateModel(this.#full, asid!, vaLo!, vaHi!, access, t);
      results.set([t.status, lo32(t.pa), hi32(t.pa), t.info], i * RESULT_WORDS);
      if (t.status !== STATUS_FAULT || (flags! & REQUEST_NO_RECORD) !== 0) continue;
      const made = {
        asid: asid!,
        vaLo: vaLo!,
        vaHi: vaHi!,
        access,
        prefetch: (flags! & REQUEST_PREFETCH) !== 0,
        engineClass: engine! & 7,
        engineInstance: (engine! >>> 3) & 63,
        work: work!,
      };
      this.#faults.countFatal(t, made);
      if (this.#faults.isFirst(made)) this.#faults.write(t, made);
    }
    this.#fillTlb();
    return this.#answer(results);
  }

  async drainFaults(): Promise<RoundResult> {
    this.#checkAlive();
    const result = this.#faults.read(0);
    this.#faults.reset();
    return this.#answer(result);
  }

  async readVram(pa: number, bytes: number): Promise<Uint8Array> {
    this.#checkAlive();
    assert(pa % 4 === 0 && bytes % 4 === 0 && pa + bytes <= this.info.vramBytes, () => `readVram(${pa}, ${bytes})`);
    return this.#answer(this.memory.vram.slice(pa, pa + bytes));
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

  #fillTlb(): void {
    this.#tlb.fill((asid) => this.#asids[asid * ASID_WORDS + 3]!);
  }

  /** One submission with a read-back. */
  async #answer<T>(value: T): Promise<T> {
    this.counters.submissions += 1;
    this.counters.readbacks += 1;
    await Promise.resolve();
    this.#checkAlive();
    return value;
  }

  #checkAlive(): void {
    if (this.#lost) throw this.#loss();
  }

  #loss(): DeviceLostError {
    return new DeviceLostError("destroyed", "the device was destroyed");
  }
}

/**
 * What a GPU must offer (interfaces only). `device` implements it on WebGPU, `reference` in plain TypeScript with
 * bit-identical results.
 *
 * Overview. One queue. A method that does not return a promise only queues work; queued work takes effect in call
 * order, exactly as if each call were executed before the next. Nothing waits for the host: a VRAM page whose download
 * is queued may be given to later queued work at once. `KernelLaunch.round` and `flush` submit what is queued.
 *
 * Addresses. VRAM is addressed by device physical address (PA), bytes: `[0, vramBytes)`, further tiles 64 GiB apart
 * (abi/tiles.ts). The first `ptBytes` of each tile are its page-table aperture, of which pages 0 and 1 are never handed out
 * (spec/device.md 1.1). The system window has an address space of its own, `[0, syswBytes)`. Host memory is addressed by
 * host page index: the RAM frame number of `mm`.
 *
 * Tiles. Each has its own VRAM, page-table aperture, ASID table, TLB, fault queue and engine table. Its walker finds
 * tables in its own aperture only; the leaves may name memory of any tile. A method that works on one tile takes it as its
 * last parameter, 0 where none is given; one that takes a PA goes by that.
 */
import type { MaybePromise } from "../base/maybe-promise.ts";
import type { JobBatch, JobResult } from "./copy-job.ts";

export interface GpuConfig {
  /** Bytes of VRAM (of tile 0), the page-table aperture included. Multiple of 2 MiB. */
  vramBytes: number;
  /** Bytes of VRAM of the tiles 1 to 3, as far as there are such. */
  moreTiles?: readonly number[];
  /** Bytes of the page-table aperture of each tile: power of two, 64 KiB to a quarter of the tile. */
  ptBytes: number;
  /** Bytes of the system window; multiple of 4096, 0 for none. */
  syswBytes: number;
  /** Records the fault queue holds; power of two. */
  faultQueueCapacity: number;
  /** RAM of the machine; uploads read it, downloads write it. */
  hostMemory: Uint8Array;
}

export interface GpuInfo {
  /** `"webgpu"` or `"reference"`. */
  readonly engine: string;
  /** For reports: vendor, architecture, description as far as the adapter tells. */
  readonly adapter: { vendor: string; architecture: string; description: string; fallback: boolean };
  readonly limits: Readonly<Record<string, number>>;
  readonly features: readonly string[];
  /** Bytes of VRAM of tile 0, and of all tiles one by one. */
  readonly vramBytes: number;
  readonly tileBytes: readonly number[];
  readonly ptBytes: number;
  readonly segBytes: number;
  /** Segments of all tiles. */
  readonly nseg: number;
  readonly syswBytes: number;
  /** Atomics reach system memory in the window too, coherently with the CPU's. */
  readonly systemAtomics: boolean;
}

/** Apertures of a scatter entry (spec/device.md 4.1). */
export const AP_VRAM = 0;
export const AP_WINDOW = 1;
export const AP_HOST = 2;
/** Scatter entry flag: fill the destination with zeros instead of copying. */
export const SG_CLEAR = 1;
/** Words per scatter entry. */
export const SG_STRIDE = 4;

/**
 * A list of page runs to copy, 4 words each: source page | aperture << 30, destination page | aperture << 30, page
 * count, flags. VRAM and window pages are PA >> 12; host pages are RAM frame numbers.
 */
export class PageList {
  words: Uint32Array;
  count = 0;
  /** Pages in all runs. */
  pages = 0;

  constructor(capacity = 16) {
    this.words = new Uint32Array(capacity * SG_STRIDE);
  }

  clear(): void {
    this.count = 0;
    this.pages = 0;
  }

  /** Appends one page or run; it is merged with the last entry when both sides continue it. */
  push(srcAp: number, srcPage: number, dstAp: number, dstPage: number, pages: number, flags = 0): void {
    const src = (srcPage | (srcAp << 30)) >>> 0;
    const dst = (dstPage | (dstAp << 30)) >>> 0;
    this.pages += pages;
    if (this.count > 0) {
      const last = (this.count - 1) * SG_STRIDE;
      const n = this.words[last + 2]!;
      const clear = (flags & SG_CLEAR) !== 0;
      if (
        this.words[last + 1]! + n === dst &&
        this.words[last + 3] === flags &&
        (clear || this.words[last]! + n === src)
      ) {
        this.words[last + 2] = n + pages;
        return;
      }
    }
    if (this.count * SG_STRIDE === this.words.length) {
      const grown = new Uint32Array(this.words.length * 2);
      grown.set(this.words);
      this.words = grown;
    }
    const at = this.count * SG_STRIDE;
    this.words[at] = src;
    this.words[at + 1] = dst;
    this.words[at + 2] = pages;
    this.words[at + 3] = flags;
    this.count += 1;
  }

  /** True when a run ends in host memory. */
  get reachesHost(): boolean {
    for (let at = 0; at < this.count * SG_STRIDE; at += SG_STRIDE)
      if (this.words[at + 1]! >>> 30 === AP_HOST) return true;
    return false;
  }

  /** Appends a fill of `pages` pages with zeros. */
  pushClear(dstAp: number, dstPage: number, pages: number): void {
    this.push(0, 0, dstAp, dstPage, pages, SG_CLEAR);
  }
}

/** ASID entry flags (spec/device.md 0.3). */
export const ASID_VALID = 1;
export const ASID_FAULT_MODE = 2;
/**
 * Nothing faults that is not mapped: the tables have NULL leaves instead of empty entries (`PageTableOptions.scratch` of the
 * driver). Never together with ASID_FAULT_MODE.
 */
export const ASID_SCRATCH = 4;
export const ASID_BANNED = 8;

/**
 * How a kernel bears faults (spec/device.md 5.1): transactional items with a retry list (A + E), transactional workgroups,
 * idempotent replay (B), or one run behind a pre-pass (D). `shaders/svm.wgsl` says what each asks of a kernel.
 */
export type KernelDesign = "item" | "workgroup" | "idempotent" | "prefault";

/** The items, or workgroups, are done one by one, and not the kernel as a whole. */
export function isDoneByItem(design: KernelDesign): boolean {
  return design === "item" || design === "workgroup";
}

/** A kernel: WGSL that defines `fn kernel(item: u32)`; `shaders/svm.wgsl` says what it may call. */
export interface KernelSource {
  readonly name: string;
  readonly wgsl: string;
  /** Default `"item"`. */
  readonly design?: KernelDesign;
  /** Lanes of a workgroup of design `"workgroup"`. Default 64. */
  readonly workgroupSize?: number;
  /** For the reference engine: `fn prefault(item: u32)` of design `"prefault"`. */
  readonly referencePrefault?: (item: number, m: ReferenceKernelContext) => void;
  /** True when the kernel uses `svm_atomic_*`. */
  readonly atomics?: boolean;
  /** The same kernel for the reference engine; without it that engine refuses the kernel. */
  readonly reference?: (item: number, m: ReferenceKernelContext) => void;
}

/** What a reference kernel sees; the same rules as in WGSL: after a miss nothing may be stored. */
export interface ReferenceKernelContext {
  /** 32-bit argument words. */
  readonly args: Uint32Array;
  /** Private output words, and private input words appended by the launch. */
  readonly out: Uint32Array;
  readonly input: Uint32Array;
  /** Per-item continuation word; written words survive a miss. */
  cont: number;
  /** Location of `va` for this access, or -1 after recording a miss. access: 0 read, 1 write, 2 atomic. */
  translate(va: number, access: number): number;
  /** Location of the byte `bytes` into buffer `b` of the launch; past its end a NULL page. */
  at(b: number, bytes: number): number;
  readonly missed: boolean;
  load(location: number): number;
  store(location: number, value: number): void;
}

/** A compiled kernel, good for any number of launches on its device. */
export interface Kernel {
  readonly name: string;
  readonly design: KernelDesign;
}

/** An area that a launch works on. */
export interface LaunchBuffer {
  readonly at: number;
  readonly bytes: number;
  /** 0 read, 1 write, 2 atomic. */
  readonly access: number;
}

export interface LaunchOptions {
  readonly asid: number;
  /** The tile that runs the kernel and whose page tables it goes by. Default 0. */
  readonly tile?: number;
  readonly items: number;
  /** Up to 32 argument words; 64-bit values as lo, hi. */
  readonly args?: ArrayLike<number>;
  /** Words that the kernel reads with `svm_in(i)`. */
  readonly input?: Uint32Array;
  /** Number of words that the kernel writes with `svm_out(i, v)`; read back by `readOut`. */
  readonly outWords?: number;
  /**
   * Up to 8 areas, which the kernel reaches with `svm_at`. A pre-pass looks for their missing pages before the first
   * round of the kernel: design `"prefault"` does not run before all are there, the others ask for them as a hint.
   */
  readonly buffers?: readonly LaunchBuffer[];
  /** Items that the retry list has room for; when more miss, the next round looks at all. Default 65536. */
  readonly retryCapacity?: number;
}

/** Words per fault record (spec/device.md 3.5). */
export const FAULT_WORDS = 8;

export interface RoundResult {
  /** Items not done yet. */
  readonly remaining: number;
  /** Faults that found the queue full; they fault again. */
  readonly dropped: number;
  /** Faults that found an equal record of this round. */
  readonly dedupHits: number;
  /** Faults that no service can repair (BAD_ASID, NONCANONICAL, MALFORMED, PHYS_RANGE). */
  readonly fatal: number;
  /** Items of a prefault kernel that met a page which no pre-pass had named: they ran, and cannot run again. */
  readonly unannounced?: number;
  /** `count` records of FAULT_WORDS words, in queue order. Valid until the next round. */
  readonly count: number;
  readonly records: Uint32Array;
}

/** One kernel launch. Its rounds never overlap. */
export interface KernelLaunch {
  /**
   * What the next round has to wait for before it can submit; undefined when `round` submits before it returns. For callers
   * that let nothing come between what they have done (copies into the window) and the submission. Rejects as `round` would.
   */
  ready(): Promise<void> | undefined;
  /** Submits everything queued and one dispatch over the undone items, and reads the outcome back: one readback. */
  round(): Promise<RoundResult>;
  /**
   * Between rounds: submits a dispatch over the undone items of `[first, first + count)` and asks nothing about its misses.
   * Items whose pages are all there get done, the others are left to the rounds. Resolves, when it has run, to the number of the
   * others. Passes need not wait for each other; `ready` comes before the first. For designs `"item"` and `"workgroup"`.
   */
  pass(first: number, count: number): Promise<number>;
  /**
   * Restricts the following rounds to a span: the undone ones among so many items from the lowest undone on, and when all of
   * those are done, the next so many. 1 is serial mode (spec/device.md 5.7), Infinity lifts the restriction. Nothing to a
   * kernel of design `"prefault"`.
   */
  setSpan(items: number): void;
  /** The output words. After the last round. */
  readOut(): Promise<Uint32Array>;
  /** Frees what the launch held. Items not done are abandoned. */
  end(): void;
}

/** Counters of what went over the bus since the start. */
export interface GpuCounters {
  submissions: number;
  readbacks: number;
  rounds: number;
  uploadBytes: number;
  downloadBytes: number;
  fillBytes: number;
  pteWrites: number;
  tlbInvalidations: number;
}

/** A request of the batch translator: 8 words in, 4 words out (spec/device.md 3.1). */
export const REQUEST_WORDS = 8;
export const RESULT_WORDS = 4;

export interface Gpu {
  readonly info: GpuInfo;
  readonly counters: GpuCounters;
  /** Resolves when the device is lost; never rejects. */
  readonly lost: Promise<{ reason: string; message: string }>;
  readonly isLost: boolean;

  /**
   * Queues writes of whole entries, two words each (lo, hi), at PA `pa` (multiple of 8, inside an aperture, not its pages 0 and 1).
   * The words are taken at once, and may change as soon as it returns.
   */
  ptWrite(pa: number, words: Uint32Array): void;
  /** Queues a change of the ASID table. `root` is the PA of a page table of the tile. Bumps no generation by itself. */
  asidSet(asid: number, root: number, flags: number, tile?: number): void;
  /** Queues an invalidation of `[start, last]` for one ASID; returns its sequence number, which counts per tile. */
  tlbInvalidate(asid: number, start: number, last: number, tile?: number): number;
  /** Queues an invalidation of everything cached for one ASID, by its generation. */
  tlbInvalidateAsid(asid: number, tile?: number): number;
  /** For tests only: true drops every TLB invalidation, to prove that it is needed. */
  dropTlbInvalidations: boolean;

  /**
   * Queues copies. Host sources are captured before the call returns. Null when nothing reaches host memory; else a
   * promise that resolves when all bytes of this list stand in host memory. Runs of one list must not depend on each other.
   */
  copy(list: PageList): Promise<void> | null;
  /**
   * For a stream of lists from the host: undefined where `copy` can take so many bytes more at once; else resolves when there
   * may be room again, after a loss too. Who does not wait is served all the same, by a slower way that holds up the host.
   */
  uploadReady(bytes: number): Promise<void> | undefined;
  /**
   * Queues a batch of jobs for a tile's copy engine (copy-job.ts). Resolves when all are complete and their bytes stand in
   * host memory. It reaches the memory of all tiles; its VA sides and its fences are the tile's. Never rejects: what a lost
   * device leaves undone is E_CANCELED.
   */
  submitJobs(batch: JobBatch, tile?: number): Promise<JobResult[]>;
  /** The engine table, 4 words each: seqno of the last fence, code and job index of the first error of its batch, 0. */
  readEngines(tile?: number): Promise<Uint32Array>;

  /** Compiles a kernel. Rejects with GpuError (the message names the user's own line) when the WGSL is wrong. */
  compile(source: KernelSource): Promise<Kernel>;
  launch(kernel: Kernel, options: LaunchOptions): KernelLaunch;
  /** Runs the batch translator over requests; the results as on hardware, faults recorded in the queue unless NO_RECORD. */
  translate(requests: Uint32Array, tile?: number): Promise<Uint32Array>;
  /** Drains the fault queue outside a launch (translate without NO_RECORD). */
  drainFaults(tile?: number): Promise<RoundResult>;
  /** Reads VRAM bytes of one tile, for probes and tests. `pa`, `bytes` multiples of 4. */
  readVram(pa: number, bytes: number): Promise<Uint8Array>;

  /** Submits what is queued. */
  flush(): void;
  /** Submits, and resolves when all queued work is complete. */
  idle(): MaybePromise<void>;
  destroy(): void;
}

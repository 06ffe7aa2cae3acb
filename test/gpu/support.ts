import { encodeDirectory, encodeLeaf, encodeNotPresent, ptIndex } from "../../src/abi/pte.ts";
import { tileBase } from "../../src/abi/tiles.ts";
import { ASID_FAULT_MODE, ASID_VALID, REQUEST_WORDS } from "../../src/hal/gpu.ts";
import type { Gpu, GpuConfig } from "../../src/hal/gpu.ts";
import { WebGpuEngine, createGpu, requestGpuDevice } from "../../src/device/index.ts";
import type { AcquiredDevice, GpuOptions } from "../../src/device/index.ts";
import { hi32, lo32 } from "../../src/base/addr.ts";

export const MIB = 1 << 20;

export interface TestGpu {
  readonly gpu: Gpu;
  readonly host: Uint8Array;
  readonly hostWords: Uint32Array;
}

/**
 * The limits that the suite runs under (`SVM_LIMITS`, see vitest.config.ts): the adapter's own, WebGPU's defaults, or the
 * adapter's with VRAM cut into several segments of at most 16 MiB. What a test asks for itself goes before.
 */
const LIMITS: Record<string, GpuOptions> = {
  adapter: {},
  default: { limits: "default" },
  small: { maxSegBytes: 16 * MIB, minSegments: 3 },
};
export const LIMITS_NAME = (import.meta.env["SVM_LIMITS"] as string | undefined) ?? "adapter";
export const LIMITS_OPTIONS: GpuOptions = LIMITS[LIMITS_NAME]!;

/**
 * Every batch looks into the TLB, as the reference engine's do: a leaf that gained a permission is not invalidated, so what the
 * TLB holds can be seen. By itself a device looks while batches hit (tlb.test.ts).
 */
const TLB: GpuOptions = { tlb: "on" };

/** The machine's engine under these limits. Every engine of a test comes from here, and every GPU that has none from `bootGpu`. */
export function testEngine(options: GpuOptions = {}): Promise<WebGpuEngine> {
  return WebGpuEngine.prepare({ ...LIMITS_OPTIONS, ...TLB, systemAtomics: true, ...options });
}

/**
 * The same with the adapter's own limit on a buffer's size. WebGPU checks sizes against that limit first, so only a device
 * whose limit is above the memory there is can be told to run out of memory. Bindings are bounded as ever.
 */
export async function starvableEngine(): Promise<WebGpuEngine> {
  const { requestDevice } = GPUAdapter.prototype;
  GPUAdapter.prototype.requestDevice = function (this: GPUAdapter, descriptor = {}) {
    const requiredLimits = { ...descriptor.requiredLimits, maxBufferSize: this.limits.maxBufferSize };
    return requestDevice.call(this, { ...descriptor, requiredLimits });
  };
  try {
    return await testEngine();
  } finally {
    GPUAdapter.prototype.requestDevice = requestDevice;
  }
}

/** A bare WebGPU device under these limits. */
export function testDevice(): Promise<AcquiredDevice> {
  return requestGpuDevice(LIMITS_OPTIONS);
}

/** Segments that VRAM of so many bytes is cut into under these limits, where the test asks for `options`. */
export function expectedSegments(vramBytes: number, options: GpuOptions = {}): number {
  const { maxSegBytes = Infinity, minSegments = 1 } = { ...LIMITS_OPTIONS, ...options };
  const segBytes = Math.min(
    maxSegBytes,
    minSegments === 1 ? Infinity : 2 ** Math.floor(Math.log2(vramBytes / minSegments)),
  );
  return Math.max(1, Math.ceil(vramBytes / Math.max(segBytes, 2 * MIB)));
}

/** A small device: 16 MiB of VRAM, 1 MiB of page tables, a window of 1 MiB, 8 MiB of RAM. */
export async function bootGpu(overrides: Partial<GpuConfig> = {}, options: GpuOptions = {}): Promise<TestGpu> {
  const host = overrides.hostMemory ?? new Uint8Array(new SharedArrayBuffer(8 * MIB));
  const gpu = await createGpu(
    { vramBytes: 16 * MIB, ptBytes: MIB, syswBytes: MIB, faultQueueCapacity: 4096, hostMemory: host, ...overrides },
    { ...LIMITS_OPTIONS, ...TLB, ...options },
  );
  return { gpu, host, hostWords: new Uint32Array(host.buffer) };
}

/** Page tables built by hand, without a mirror of what the driver does: table pages are handed out in order. */
export class TestTables {
  readonly gpu: Pick<Gpu, "ptWrite" | "asidSet">;
  readonly asid: number;
  readonly tile: number;
  readonly root: number;
  readonly levels: number;
  #next: number;
  readonly #tables = new Map<string, number>();

  constructor(gpu: Pick<Gpu, "ptWrite" | "asidSet">, asid: number, firstTablePage = 2, levels = 4, tile = 0) {
    this.gpu = gpu;
    this.asid = asid;
    this.levels = levels;
    this.tile = tile;
    this.#next = firstTablePage;
    this.root = this.#alloc();
    gpu.asidSet(asid, this.root, ASID_VALID | ASID_FAULT_MODE | (levels << 4), tile);
  }

  /** PA of the entry of `va` at `level`; tables on the way are made. */
  entry(va: number, level: number): number {
    let table = this.root;
    for (let l = this.levels - 1; l > level; l--) {
      const key = `${l}:${Math.floor(va / 2 ** (12 + 9 * l))}`;
      let child = this.#tables.get(key);
      if (child === undefined) {
        child = this.#alloc();
        this.#tables.set(key, child);
        this.gpu.ptWrite(table + ptIndex(va, l) * 8, encodeDirectory(child));
      }
      table = child;
    }
    return table + ptIndex(va, level) * 8;
  }

  map(va: number, pa: number, flags: number, level = 0): void {
    this.gpu.ptWrite(this.entry(va, level), encodeLeaf(pa, flags, level));
  }

  unmap(va: number, reason = 0, level = 0): void {
    this.gpu.ptWrite(this.entry(va, level), encodeNotPresent(reason));
  }

  #alloc(): number {
    const pa = tileBase(this.tile) + this.#next * 4096;
    this.#next += 1;
    this.gpu.ptWrite(pa, new Uint32Array(1024));
    return pa;
  }
}

export interface TestRequest {
  asid: number;
  va: number;
  access?: number;
  flags?: number;
  engine?: number;
  work?: number;
}

export function requestWords(requests: readonly TestRequest[]): Uint32Array {
  const words = new Uint32Array(requests.length * REQUEST_WORDS);
  requests.forEach((r, i) => {
    const w = [r.asid, lo32(r.va), hi32(r.va), (r.access ?? 0) | (r.flags ?? 0), r.engine ?? 4, r.work ?? 0, 0, 0];
    words.set(w, i * REQUEST_WORDS);
  });
  return words;
}

/** Fills whole pages of RAM with a pattern of the page number. */
export function fillPages(words: Uint32Array, firstPage: number, pages: number, seed: number): void {
  for (let i = firstPage * 1024; i < (firstPage + pages) * 1024; i++) words[i] = Math.imul(i + seed, 0x9e3779b1) >>> 0;
}

/** The layouts that everything must work on; 8 MiB of VRAM unless said otherwise. */
export const LAYOUTS: readonly { name: string; config: Partial<GpuConfig>; options: GpuOptions }[] = [
  { name: "one bank", config: { vramBytes: 8 * MIB }, options: {} },
  { name: "WebGPU's default limits", config: { vramBytes: 8 * MIB }, options: { limits: "default" } },
  { name: "four segments", config: { vramBytes: 8 * MIB }, options: { maxSegBytes: 2 * MIB } },
  {
    name: "three segments and a window of its own",
    config: { vramBytes: 6 * MIB },
    options: { maxSegBytes: 2 * MIB, separateWindow: true },
  },
  { name: "one segment and a window of its own", config: { vramBytes: 8 * MIB }, options: { separateWindow: true } },
];

import { PAGE_SHIFT, PAGE_SIZE } from "../base/addr.ts";
import { vramSpace } from "../abi/memory-map.ts";
import { TILE_STRIDE_PAGES } from "../abi/tiles.ts";
import type { VramSpace } from "../abi/tiles.ts";
import { AP_VRAM, AP_WINDOW, SG_STRIDE } from "../hal/gpu.ts";
import { hasWindowBank, segment0Bytes } from "./banks.ts";
import { SG_PAGE_MASK } from "./copy-context.ts";
import type { Geometry } from "./geometry.ts";

/**
 * The device's memory: one buffer per segment, and the system window in the tail of segment 0 or a buffer of its own.
 *
 * A page of an aperture is found as (bank, page in the bank's buffer). Banks number the buffers: segments, tile by tile,
 * then a separate window. Pages of VRAM are linear here (abi/tiles.ts): whoever takes in PAs converts them once.
 */
export class Memory {
  readonly geometry: Geometry;
  readonly banks: readonly GPUBuffer[];
  readonly vram: VramSpace;
  readonly #segPages: number;
  readonly #windowBank: number;
  readonly #windowFirstPage: number;

  private constructor(geometry: Geometry, banks: readonly GPUBuffer[]) {
    this.geometry = geometry;
    this.banks = banks;
    const { shape } = geometry;
    this.vram = vramSpace(shape);
    this.#segPages = 2 ** (shape.segShift - PAGE_SHIFT);
    this.#windowBank = geometry.carveOut ? 0 : shape.nseg;
    this.#windowFirstPage = geometry.carveOut ? segment0Bytes(shape) / PAGE_SIZE : 0;
  }

  /** Out of memory is reported in the scopes of the caller. */
  static create(device: GPUDevice, geometry: Geometry): Memory {
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    const sizes = [...geometry.bufferBytes];
    if (hasWindowBank(geometry)) sizes.push(geometry.shape.syswBytes);
    const banks = sizes.map((size, i) => device.createBuffer({ label: `bank ${i}`, size, usage }));
    return new Memory(geometry, banks);
  }

  /** Size of an aperture; of VRAM that of all tiles. */
  pagesIn(aperture: number): number {
    const { tileBytes, syswBytes } = this.geometry.shape;
    return (aperture === AP_WINDOW ? syswBytes : tileBytes.reduce((sum, bytes) => sum + bytes)) / PAGE_SIZE;
  }

  /** True when pages of VRAM, by PA >> 12, exist and lie in one tile. */
  hasPages(page: number, pages: number): boolean {
    return this.vram.contains(page * PAGE_SIZE, pages * PAGE_SIZE);
  }

  /** A scatter list, whose pages of VRAM are PA >> 12, with linear ones; on one tile it is the same. */
  linearList(words: Uint32Array, count: number): Uint32Array {
    if (this.vram.tileBytes.length === 1) return words;
    const linear = words.slice(0, count * SG_STRIDE);
    for (let at = 0; at < linear.length; at += SG_STRIDE) {
      linear[at] = this.#linearPage(linear[at]!);
      linear[at + 1] = this.#linearPage(linear[at + 1]!);
    }
    return linear;
  }

  #linearPage(word: number): number {
    // A clear has no source, and what stands in its place is anything.
    const start = this.vram.starts[Math.floor((word & SG_PAGE_MASK) / TILE_STRIDE_PAGES)];
    if (word >>> 30 !== AP_VRAM || start === undefined) return word;
    return start / PAGE_SIZE + (word % TILE_STRIDE_PAGES);
  }

  /** Bank of a page of VRAM or of the window; `pageIn` is its page there. */
  bankOf(aperture: number, page: number): number {
    if (aperture === AP_WINDOW) return this.#windowBank;
    return Math.floor(page / this.#segPages);
  }

  pageIn(aperture: number, page: number): number {
    return aperture === AP_WINDOW ? this.#windowFirstPage + page : page % this.#segPages;
  }

  /** Pages from `page` on that lie in one bank without a gap. */
  runIn(aperture: number, page: number): number {
    return aperture === AP_WINDOW ? Infinity : this.#segPages - (page % this.#segPages);
  }

  destroy(): void {
    for (const bank of this.banks) bank.destroy();
  }
}

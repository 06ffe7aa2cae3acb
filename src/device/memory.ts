import { PAGE_SHIFT, PAGE_SIZE } from "../base/addr.ts";
import { AP_WINDOW } from "../hal/gpu.ts";
import { hasWindowBank } from "./banks.ts";
import type { Geometry } from "./geometry.ts";

/**
 * The device's memory: one buffer per segment, and the system window in the tail of segment 0 or a buffer of its own.
 *
 * A page of an aperture is found as (bank, page in the bank's buffer). Banks number the buffers: segments, then a
 * separate window.
 */
export class Memory {
  readonly geometry: Geometry;
  readonly banks: readonly GPUBuffer[];
  readonly #segPages: number;
  readonly #windowBank: number;
  readonly #windowFirstPage: number;

  private constructor(geometry: Geometry, banks: readonly GPUBuffer[]) {
    this.geometry = geometry;
    this.banks = banks;
    const { shape } = geometry;
    this.#segPages = 2 ** (shape.segShift - PAGE_SHIFT);
    this.#windowBank = geometry.carveOut ? 0 : shape.nseg;
    this.#windowFirstPage = geometry.carveOut ? Math.min(shape.vramBytes, 2 ** shape.segShift) / PAGE_SIZE : 0;
  }

  /** Out of memory is reported in the scopes of the caller. */
  static create(device: GPUDevice, geometry: Geometry): Memory {
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    const sizes = [...geometry.bufferBytes];
    if (hasWindowBank(geometry)) sizes.push(geometry.shape.syswBytes);
    const banks = sizes.map((size, i) => device.createBuffer({ label: `bank ${i}`, size, usage }));
    return new Memory(geometry, banks);
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

  /** Size of an aperture. */
  pagesIn(aperture: number): number {
    const { vramBytes, syswBytes } = this.geometry.shape;
    return (aperture === AP_WINDOW ? syswBytes : vramBytes) / PAGE_SIZE;
  }

  destroy(): void {
    for (const bank of this.banks) bank.destroy();
  }
}

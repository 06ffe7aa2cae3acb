import { PAGE_SIZE } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { VramSpace } from "../abi/tiles.ts";
import { AP_HOST, AP_VRAM, AP_WINDOW, SG_CLEAR, SG_STRIDE } from "../hal/gpu.ts";
import type { GpuConfig, GpuCounters, PageList } from "../hal/gpu.ts";

const PAGE_MASK = 0x3fffffff;

/** The three memories that the copy engine reaches, and page copies between them. */
export class ReferenceMemory {
  /** VRAM of all tiles, one behind the other: `space` tells where. */
  readonly vram: Uint8Array;
  readonly space: VramSpace;
  readonly window: Uint8Array;
  readonly vramWords: Uint32Array;
  readonly windowWords: Uint32Array;
  /** RAM of the machine. */
  readonly host: Uint8Array;
  readonly #counters: GpuCounters;

  constructor(config: GpuConfig, counters: GpuCounters) {
    this.space = new VramSpace([config.vramBytes, ...(config.moreTiles ?? [])], PAGE_SIZE);
    this.vram = new Uint8Array(this.space.end);
    this.window = new Uint8Array(config.syswBytes);
    this.vramWords = new Uint32Array(this.vram.buffer);
    this.windowWords = new Uint32Array(this.window.buffer);
    this.host = config.hostMemory;
    this.#counters = counters;
  }

  /**
   * Does the list. What goes to host memory is read now and delivered later, in a microtask of its own, as a readback
   * would be: a caller that does not wait for the promise must not see it.
   */
  copy(list: PageList): Promise<void> | null {
    let downloads: { to: number; bytes: Uint8Array }[] | null = null;
    for (let i = 0; i < list.count; i++) {
      const at = i * SG_STRIDE;
      const [source, target, pages, flags] = list.words.subarray(at, at + SG_STRIDE) as unknown as [
        number,
        number,
        number,
        number,
      ];
      const bytes = pages * PAGE_SIZE;
      const to = this.#place(target, bytes);
      const fill = (flags & SG_CLEAR) !== 0;
      const from = fill ? null : this.#place(source, bytes);
      this.#count(fill ? -1 : source >>> 30, target >>> 30, bytes);
      if (target >>> 30 === AP_HOST) {
        const data = from === null ? new Uint8Array(bytes) : from.memory.slice(from.offset, from.offset + bytes);
        (downloads ??= []).push({ to: to.offset, bytes: data });
      } else if (from === null) {
        to.memory.fill(0, to.offset, to.offset + bytes);
      } else {
        to.memory.set(from.memory.subarray(from.offset, from.offset + bytes), to.offset);
      }
    }
    return downloads === null ? null : this.#deliver(downloads);
  }

  async #deliver(downloads: readonly { to: number; bytes: Uint8Array }[]): Promise<void> {
    await Promise.resolve();
    for (const { to, bytes } of downloads) this.host.set(bytes, to);
  }

  #place(word: number, bytes: number): { memory: Uint8Array; offset: number } {
    const aperture = word >>> 30;
    const memory = aperture === AP_VRAM ? this.vram : aperture === AP_WINDOW ? this.window : this.host;
    const at = (word & PAGE_MASK) * PAGE_SIZE;
    const inside = aperture === AP_VRAM ? this.space.contains(at, bytes) : at + bytes <= memory.length;
    assert(aperture <= AP_HOST && inside, () => `copy beyond aperture ${aperture}: ${at} + ${bytes}`);
    return { memory, offset: aperture === AP_VRAM ? this.space.linear(at) : at };
  }

  #count(from: number, to: number, bytes: number): void {
    if (from === -1) this.#counters.fillBytes += bytes;
    else if (to === AP_HOST) this.#counters.downloadBytes += bytes;
    else if (from === AP_HOST) this.#counters.uploadBytes += bytes;
  }
}

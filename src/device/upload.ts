import { PAGE_SIZE } from "../base/addr.ts";
import { AP_HOST, SG_CLEAR, SG_STRIDE } from "../hal/gpu.ts";
import { SG_PAGE_MASK } from "./copy-context.ts";
import type { CopyContext } from "./copy-context.ts";
import { UploadRing } from "./upload-ring.ts";

/** Lists of at least so many pages go through the staging ring; for less, `writeBuffer` is the quickest. */
const RING_PAGES = 64;

/** Host to device, run by run. The bytes are captured by the call. */
export class Uploads {
  readonly #c: CopyContext;
  readonly #ring: UploadRing;

  constructor(context: CopyContext) {
    this.#c = context;
    this.#ring = new UploadRing(context.commands);
  }

  /** The runs of a list that come from the host. */
  write(words: Uint32Array, count: number): void {
    if (this.#c.health.isLost) return;
    const isHostRun = (at: number) =>
      (words[at + 3]! & SG_CLEAR) === 0 && words[at]! >>> 30 === AP_HOST && words[at + 1]! >>> 30 !== AP_HOST;
    let pages = 0;
    for (let at = 0; at < count * SG_STRIDE; at += SG_STRIDE) if (isHostRun(at)) pages += words[at + 2]!;
    const useRing = pages >= RING_PAGES;
    for (let at = 0; at < count * SG_STRIDE; at += SG_STRIDE) {
      if (!isHostRun(at)) continue;
      this.#writeRun(
        words[at]! & SG_PAGE_MASK,
        words[at + 1]! >>> 30,
        words[at + 1]! & SG_PAGE_MASK,
        words[at + 2]!,
        useRing,
      );
    }
  }

  beforeSubmit(): void {
    this.#ring.beforeSubmit();
  }
  afterSubmit(): void {
    this.#ring.afterSubmit();
  }
  destroy(): void {
    this.#ring.destroy();
  }

  #writeRun(hostPage: number, aperture: number, firstPage: number, pages: number, useRing: boolean): void {
    const { memory, counters } = this.#c;
    let from = hostPage * PAGE_SIZE;
    let page = firstPage;
    for (let left = pages; left > 0;) {
      const n = Math.min(left, memory.runIn(aperture, page));
      const bank = memory.banks[memory.bankOf(aperture, page)]!;
      this.#writeBytes(bank, memory.pageIn(aperture, page) * PAGE_SIZE, from, n * PAGE_SIZE, useRing);
      from += n * PAGE_SIZE;
      page += n;
      left -= n;
    }
    counters.uploadBytes += pages * PAGE_SIZE;
  }

  #writeBytes(bank: GPUBuffer, to: number, from: number, bytes: number, useRing: boolean): void {
    const { commands } = this.#c;
    // WebGPU takes views of shared memory too; only its type does not say so.
    const source = this.#c.hostMemory as Uint8Array<ArrayBuffer>;
    let done = 0;
    while (useRing && done < bytes) {
      const staged = this.#ring.stage(source, from + done, bytes - done, bank, to + done);
      if (staged === 0) break;
      done += staged;
    }
    if (done === bytes) return;
    // writeBuffer takes effect now, so what was recorded before must reach the queue before it.
    commands.submit();
    commands.device.queue.writeBuffer(bank, to + done, source, from + done, bytes - done);
  }
}

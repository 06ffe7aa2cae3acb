import { PAGE_SIZE } from "../base/addr.ts";
import { AP_HOST, SG_CLEAR, SG_STRIDE } from "../hal/gpu.ts";
import { SG_PAGE_MASK } from "./copy-context.ts";
import type { CopyContext } from "./copy-context.ts";

/**
 * Host to device: one `writeBuffer` per run that is contiguous on both sides. The bytes are captured by the call.
 */
export class Uploads {
  readonly #c: CopyContext;

  constructor(context: CopyContext) {
    this.#c = context;
  }

  write(words: Uint32Array, count: number): void {
    if (this.#c.health.isLost) return;
    // writeBuffer takes effect now, so what was recorded before must reach the queue before it.
    this.#c.commands.submit();
    for (let at = 0; at < count * SG_STRIDE; at += SG_STRIDE) {
      const fromHost = (words[at + 3]! & SG_CLEAR) === 0 && words[at]! >>> 30 === AP_HOST;
      const aperture = words[at + 1]! >>> 30;
      if (!fromHost || aperture === AP_HOST) continue;
      this.#writeRun(words[at]! & SG_PAGE_MASK, aperture, words[at + 1]! & SG_PAGE_MASK, words[at + 2]!);
    }
  }

  #writeRun(hostPage: number, aperture: number, firstPage: number, pages: number): void {
    const { commands, memory, counters } = this.#c;
    // WebGPU takes views of shared memory too; only its type does not say so.
    const source = this.#c.hostMemory as Uint8Array<ArrayBuffer>;
    let host = hostPage;
    let page = firstPage;
    for (let left = pages; left > 0; ) {
      const n = Math.min(left, memory.runIn(aperture, page));
      const bank = memory.banks[memory.bankOf(aperture, page)]!;
      const at = memory.pageIn(aperture, page) * PAGE_SIZE;
      commands.device.queue.writeBuffer(bank, at, source, host * PAGE_SIZE, n * PAGE_SIZE);
      host += n;
      page += n;
      left -= n;
    }
    counters.uploadBytes += pages * PAGE_SIZE;
  }
}

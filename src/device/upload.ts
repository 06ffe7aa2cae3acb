import { PAGE_SIZE } from "../base/addr.ts";
import { AP_HOST, SG_CLEAR, SG_STRIDE } from "../hal/gpu.ts";
import { SG_PAGE_MASK } from "./copy-context.ts";
import type { CopyContext } from "./copy-context.ts";
import { STAGING_BYTES, countShortRuns, transferWays } from "./copy-staging.ts";
import type { CopyStaging } from "./copy-staging.ts";
import type { PageJobs } from "./page-jobs.ts";
import { UploadRing } from "./upload-ring.ts";

/** Lists of at least so many bytes go through the staging ring; for less, `writeBuffer` is the quickest. */
const RING_BYTES = 64 * PAGE_SIZE;
const STAGING_PAGES = STAGING_BYTES / PAGE_SIZE;

/** Host to device, run by run, or many short runs packed and scattered by the copy shader. The call captures the bytes. */
export class Uploads {
  readonly #c: CopyContext;
  readonly #jobs: PageJobs;
  readonly #staging: CopyStaging;
  readonly #ring: UploadRing;
  /** Packed pages that are not written yet. */
  #packed: Uint8Array<ArrayBuffer> | null = null;
  #used = 0;

  constructor(context: CopyContext, jobs: PageJobs, staging: CopyStaging) {
    this.#c = context;
    this.#jobs = jobs;
    this.#staging = staging;
    this.#ring = new UploadRing(context.commands);
  }

  /** The runs of a list that come from the host. */
  write(words: Uint32Array, count: number): void {
    if (this.#c.health.isLost) return;
    const isHostRun = (at: number) =>
      (words[at + 3]! & SG_CLEAR) === 0 && words[at]! >>> 30 === AP_HOST && words[at + 1]! >>> 30 !== AP_HOST;
    const ways = this.#c.ways ?? transferWays(this.#c.pagePerWorkgroup);
    const packs = countShortRuns(words, count, ways.shortRun, isHostRun) >= ways.manyRuns;
    let pages = 0;
    for (let at = 0; at < count * SG_STRIDE; at += SG_STRIDE) if (isHostRun(at)) pages += words[at + 2]!;
    this.#c.counters.uploadBytes += pages * PAGE_SIZE;
    const useRing = pages * PAGE_SIZE >= RING_BYTES;
    for (let at = 0; at < count * SG_STRIDE; at += SG_STRIDE) {
      if (!isHostRun(at)) continue;
      const host = words[at]! & SG_PAGE_MASK;
      const aperture = words[at + 1]! >>> 30;
      const page = words[at + 1]! & SG_PAGE_MASK;
      const n = words[at + 2]!;
      if (packs && n < ways.shortRun) this.#packRun(host, aperture, page, n, useRing);
      else this.#writeRun(host, aperture, page, n, useRing);
    }
    this.#scatter(useRing);
  }

  /** `bytes` of host memory from `from` on to byte `to` of a buffer; all multiples of 4. */
  writeBytes(bank: GPUBuffer, to: number, from: number, bytes: number): void {
    if (this.#c.health.isLost) return;
    this.#writeBytes(bank, to, this.#c.hostMemory, from, bytes, bytes >= RING_BYTES);
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
    const { hostMemory, memory } = this.#c;
    let from = hostPage * PAGE_SIZE;
    let page = firstPage;
    for (let left = pages; left > 0;) {
      const n = Math.min(left, memory.runIn(aperture, page));
      const bank = memory.banks[memory.bankOf(aperture, page)]!;
      this.#writeBytes(bank, memory.pageIn(aperture, page) * PAGE_SIZE, hostMemory, from, n * PAGE_SIZE, useRing);
      from += n * PAGE_SIZE;
      page += n;
      left -= n;
    }
  }

  #packRun(hostPage: number, aperture: number, firstPage: number, pages: number, useRing: boolean): void {
    const { hostMemory, memory } = this.#c;
    this.#packed ??= new Uint8Array(STAGING_BYTES);
    for (let i = 0; i < pages; i++) {
      if (this.#used === STAGING_PAGES) this.#scatter(useRing);
      const from = (hostPage + i) * PAGE_SIZE;
      this.#packed.set(hostMemory.subarray(from, from + PAGE_SIZE), this.#used * PAGE_SIZE);
      const page = firstPage + i;
      this.#jobs.add(this.#jobs.uploadBank, memory.bankOf(aperture, page), this.#used, memory.pageIn(aperture, page));
      this.#used += 1;
    }
  }

  /** Writes what is packed and records its scattering. */
  #scatter(useRing: boolean): void {
    if (this.#used === 0) return;
    this.#writeBytes(this.#staging.upload, 0, this.#packed!, 0, this.#used * PAGE_SIZE, useRing);
    this.#used = 0;
    this.#jobs.flush();
  }

  #writeBytes(bank: GPUBuffer, to: number, source: Uint8Array, from: number, bytes: number, useRing: boolean): void {
    const { commands } = this.#c;
    let done = 0;
    while (useRing && done < bytes) {
      const staged = this.#ring.stage(source, from + done, bytes - done, bank, to + done);
      if (staged === 0) break;
      done += staged;
    }
    if (done === bytes) return;
    // writeBuffer takes effect now, so what was recorded before must reach the queue before it.
    commands.submit();
    // WebGPU takes views of shared memory too; only its type does not say so.
    const data = source as Uint8Array<ArrayBuffer>;
    commands.inDoubt(() => commands.device.queue.writeBuffer(bank, to + done, data, from + done, bytes - done));
  }
}

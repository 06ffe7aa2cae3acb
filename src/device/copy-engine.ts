import { PAGE_SIZE } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { AP_HOST, AP_VRAM, SG_CLEAR, SG_STRIDE } from "../hal/gpu.ts";
import type { JobBatch, JobResult } from "../hal/copy-job.ts";
import type { PageList } from "../hal/gpu.ts";
import { SG_PAGE_MASK } from "./copy-context.ts";
import type { CopyContext } from "./copy-context.ts";
import { CopyJobs } from "./copy-jobs.ts";
import { CopyStaging } from "./copy-staging.ts";
import { Downloads } from "./download.ts";
import { ErrorScopes } from "./health.ts";
import { PageJobs } from "./page-jobs.ts";
import type { Tile } from "./tile.ts";
import { Uploads } from "./upload.ts";

/**
 * The copy engine (spec/device.md section 4). Page lists in all directions: it splits a list by direction; the order of the
 * parts is free, because runs of one list do not depend on each other. Batches of jobs: see CopyJobs.
 */
export class CopyEngine {
  readonly #c: CopyContext;
  readonly #uploads: Uploads;
  readonly #downloads: Downloads;
  readonly #pages: PageJobs;
  readonly #staging: CopyStaging;
  #jobs: CopyJobs | null = null;

  constructor(context: CopyContext) {
    this.#c = context;
    this.#staging = new CopyStaging(context.commands);
    this.#pages = new PageJobs(context, this.#staging);
    this.#uploads = new Uploads(context, this.#pages, this.#staging);
    this.#downloads = new Downloads(context, this.#pages, this.#staging);
  }

  /** See `Gpu.copy`. */
  copy(list: PageList): Promise<void> | null {
    const { count } = list;
    for (let at = 0; at < count * SG_STRIDE; at += SG_STRIDE) this.#check(list.words, at);
    const words = this.#c.memory.linearList(list.words, count);
    let up = false;
    let down = false;
    let inside = false;
    for (let at = 0; at < count * SG_STRIDE; at += SG_STRIDE) {
      const fromHost = (words[at + 3]! & SG_CLEAR) === 0 && words[at]! >>> 30 === AP_HOST;
      const toHost = words[at + 1]! >>> 30 === AP_HOST;
      if (toHost && (fromHost || (words[at + 3]! & SG_CLEAR) !== 0)) this.#onHost(words, at);
      else if (fromHost) up = true;
      else if (toHost) down = true;
      else inside = true;
    }
    if (inside) this.#pages.record(words, count);
    const done = down ? this.#downloads.record(words, count) : null;
    // Last, because it may submit what was recorded.
    if (up) this.#uploads.write(words, count);
    return done;
  }

  /** See `Gpu.submitJobs`. */
  submit(batch: JobBatch, tile: Tile): Promise<JobResult[]> {
    this.#jobs ??= this.#makeJobs();
    return this.#jobs.submit(batch, tile);
  }

  /** Long after the device was made, so its errors have no scopes but these. */
  #makeJobs(): CopyJobs {
    const { commands, health } = this.#c;
    const scopes = new ErrorScopes(commands.device, "copy jobs");
    const jobs = new CopyJobs(this.#c, this.#uploads, this.#downloads);
    void scopes.close().then(
      (error) => error !== null && health.declareBroken(error),
      // The device is gone, and whoever uses it hears of it elsewhere.
      () => undefined,
    );
    return jobs;
  }

  beforeSubmit(): void {
    this.#uploads.beforeSubmit();
  }
  afterSubmit(): void {
    this.#uploads.afterSubmit();
  }

  destroy(): void {
    this.#uploads.destroy();
    this.#jobs?.destroy();
    this.#pages.destroy();
    this.#staging.destroy();
  }

  #check(words: Uint32Array, at: number): void {
    const pages = words[at + 2]!;
    if ((words[at + 3]! & SG_CLEAR) === 0) this.#checkRun(words[at]! >>> 30, words[at]! & SG_PAGE_MASK, pages);
    this.#checkRun(words[at + 1]! >>> 30, words[at + 1]! & SG_PAGE_MASK, pages);
  }

  /** Nothing may be read or written past an aperture: a store past a binding would hit somebody's last word. */
  #checkRun(aperture: number, page: number, pages: number): void {
    const { hostMemory, memory } = this.#c;
    const size = aperture === AP_HOST ? hostMemory.byteLength / PAGE_SIZE : memory.pagesIn(aperture);
    const inside = aperture === AP_VRAM ? memory.hasPages(page, pages) : page + pages <= size;
    assert(inside, () => `pages [${page}, ${page + pages}) leave aperture ${aperture} of ${size} pages`);
  }

  #onHost(words: Uint32Array, at: number): void {
    const { hostMemory } = this.#c;
    const to = (words[at + 1]! & SG_PAGE_MASK) * PAGE_SIZE;
    const bytes = words[at + 2]! * PAGE_SIZE;
    if ((words[at + 3]! & SG_CLEAR) !== 0) {
      hostMemory.fill(0, to, to + bytes);
      return;
    }
    const from = (words[at]! & SG_PAGE_MASK) * PAGE_SIZE;
    hostMemory.copyWithin(to, from, from + bytes);
  }
}

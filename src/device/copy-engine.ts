import { PAGE_SIZE } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { TILE_STRIDE_PAGES } from "../abi/tiles.ts";
import { AP_HOST, AP_VRAM, SG_CLEAR, SG_STRIDE } from "../hal/gpu.ts";
import type { JobBatch, JobResult } from "../hal/copy-job.ts";
import type { PageList } from "../hal/gpu.ts";
import { SG_PAGE_MASK } from "./copy-context.ts";
import type { CopyContext } from "./copy-context.ts";
import { CopyJobs } from "./copy-jobs.ts";
import { ErrorScopes } from "./health.ts";
import { PageLists, isOnHost } from "./page-lists.ts";
import type { Tile } from "./tile.ts";
import { CopyWays } from "./ways/copy-ways.ts";

/**
 * The copy engine (spec/device.md section 4): page lists, which it checks, and batches of jobs. See PageLists and CopyJobs.
 */
export class CopyEngine {
  readonly #c: CopyContext;
  readonly #ways: CopyWays;
  readonly #lists: PageLists;
  #jobs: CopyJobs | null = null;

  constructor(context: CopyContext) {
    this.#c = context;
    this.#ways = new CopyWays(context);
    this.#lists = new PageLists(context, this.#ways);
  }

  /** See `Gpu.copy`. */
  copy(list: PageList): Promise<void> | null {
    const { count } = list;
    for (let at = 0; at < count * SG_STRIDE; at += SG_STRIDE) this.#check(list.words, at);
    const words = this.#c.memory.linearList(list.words, count);
    for (let at = 0; at < count * SG_STRIDE; at += SG_STRIDE) if (isOnHost(words, at)) this.#onHost(words, at);
    return this.#lists.record(words, count);
  }

  /** Whether a list only brings bytes from the host, or zeros, to memory in which no page tables lie. */
  fillsData({ words, count }: PageList): boolean {
    for (let at = 0; at < count * SG_STRIDE; at += SG_STRIDE) {
      if ((words[at + 3]! & SG_CLEAR) === 0 && words[at]! >>> 30 !== AP_HOST) return false;
      if (words[at + 1]! >>> 30 === AP_HOST || this.#isInTables(words[at + 1]!)) return false;
    }
    return true;
  }

  /** Whether a list writes where page tables lie. */
  writesTables({ words, count }: PageList): boolean {
    for (let at = 0; at < count * SG_STRIDE; at += SG_STRIDE) if (this.#isInTables(words[at + 1]!)) return true;
    return false;
  }

  /** Whether the target of a scatter entry begins among page tables. */
  #isInTables(target: number): boolean {
    const { ptBytes } = this.#c.memory.geometry.shape;
    return target >>> 30 === AP_VRAM && target % TILE_STRIDE_PAGES < ptBytes / PAGE_SIZE;
  }

  /** See `Gpu.uploadReady`. */
  uploadReady(bytes: number): Promise<void> | undefined {
    if (this.#c.health.isLost) return undefined;
    this.#lists.announceStream();
    // Of a loss hears who copies.
    return this.#ways.ring.ready(bytes)?.catch(() => undefined);
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
    const jobs = new CopyJobs(this.#c, this.#ways, this.#lists);
    void scopes.close().then(
      (error) => error !== null && health.declareBroken(error),
      // The device is gone, and whoever uses it hears of it elsewhere.
      () => undefined,
    );
    return jobs;
  }

  beforeSubmit(): void {
    this.#ways.beforeSubmit();
  }
  afterSubmit(): void {
    this.#ways.afterSubmit();
  }

  destroy(): void {
    this.#jobs?.destroy();
    this.#ways.destroy();
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

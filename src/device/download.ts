import { PAGE_SIZE } from "../base/addr.ts";
import { AP_HOST, SG_CLEAR, SG_STRIDE } from "../hal/gpu.ts";
import { SG_PAGE_MASK } from "./copy-context.ts";
import type { CopyContext } from "./copy-context.ts";
import { STAGING_BYTES, countShortRuns, transferWays } from "./copy-staging.ts";
import type { CopyStaging } from "./copy-staging.ts";
import type { PageJobs } from "./page-jobs.ts";
import { SLOT_BYTES } from "./readback.ts";

const STAGING_PAGES = STAGING_BYTES / PAGE_SIZE;

/** A copied piece of a list: what a slot holds of it, as pairs of host page and page count. */
class Piece {
  readonly hostRuns: number[] = [];
  readonly pages: number;
  buffer: GPUBuffer | null = null;
  /** Where the next run goes in the slot, bytes. */
  offset = 0;
  filled = 0;

  constructor(pages: number) {
    this.pages = pages;
  }
}

/**
 * Device to host: a buffer copy per run into a readback slot, or for many short runs one gathering dispatch and one copy;
 * and a memcpy per run once the slot is mapped.
 *
 * Lists recorded in one turn of the event loop share a submission and a mapping. Later commands may overwrite the
 * source pages at once.
 */
export class Downloads {
  readonly #c: CopyContext;
  readonly #jobs: PageJobs;
  readonly #staging: CopyStaging;
  #flushQueued = false;
  /** Pages listed for gathering. */
  #gathered = 0;

  constructor(context: CopyContext, jobs: PageJobs, staging: CopyStaging) {
    this.#c = context;
    this.#jobs = jobs;
    this.#staging = staging;
  }

  /** Resolves when all bytes of the list stand in host memory. */
  record(words: Uint32Array, count: number): Promise<void> {
    const { health, counters } = this.#c;
    if (health.error !== null) return Promise.reject(health.error);
    const pages = countPages(words, count);
    counters.downloadBytes += pages * PAGE_SIZE;
    const done = new Promise<void>((resolve, reject) => {
      let outstanding = pages;
      const arrived = (piece: Piece, data: Uint8Array) => {
        this.#scatter(piece, data);
        outstanding -= piece.pages;
        if (outstanding === 0) resolve();
      };
      this.#recordRuns(words, count, pages, arrived, reject);
    });
    this.flushSoon();
    return health.guard(done);
  }

  #recordRuns(
    words: Uint32Array,
    count: number,
    pages: number,
    arrived: (piece: Piece, data: Uint8Array) => void,
    failed: (error: Error) => void,
  ): void {
    const ways = this.#c.ways ?? transferWays(this.#c.pagePerWorkgroup);
    const gathers = countShortRuns(words, count, ways.shortRun, (at) => isDownload(words, at)) >= ways.manyRuns;
    let left = pages;
    let piece = new Piece(0);
    for (let at = 0; at < count * SG_STRIDE; at += SG_STRIDE) {
      if (!isDownload(words, at)) continue;
      const aperture = words[at]! >>> 30;
      let page = words[at]! & SG_PAGE_MASK;
      let host = words[at + 1]! & SG_PAGE_MASK;
      for (let rest = words[at + 2]!; rest > 0;) {
        if (piece.filled === piece.pages) {
          this.#gather(piece);
          piece = this.#beginPiece(left, arrived, failed);
        }
        const n = Math.min(rest, piece.pages - piece.filled, this.#c.memory.runIn(aperture, page));
        if (gathers) this.#listRun(piece, aperture, page, host, n);
        else this.#copyRun(piece, aperture, page, host, n);
        page += n;
        host += n;
        rest -= n;
        left -= n;
      }
    }
    this.#gather(piece);
  }

  #listRun(piece: Piece, aperture: number, page: number, host: number, n: number): void {
    const { memory } = this.#c;
    const bank = memory.bankOf(aperture, page);
    for (let i = 0; i < n; i++) {
      if (this.#gathered === STAGING_PAGES) this.#gather(piece);
      this.#jobs.add(bank, this.#jobs.downloadBank, memory.pageIn(aperture, page + i), this.#gathered);
      this.#gathered += 1;
    }
    piece.filled += n;
    piece.hostRuns.push(host, n);
  }

  /** Records the gathering of what is listed and its way into the slot. */
  #gather(piece: Piece): void {
    if (this.#gathered === 0) return;
    this.#jobs.flush();
    const bytes = this.#gathered * PAGE_SIZE;
    this.#c.commands.encoder().copyBufferToBuffer(this.#staging.download, 0, piece.buffer!, piece.offset, bytes);
    piece.offset += bytes;
    this.#gathered = 0;
  }

  /** A piece as big as the current slot has room for. */
  #beginPiece(pages: number, arrived: (piece: Piece, data: Uint8Array) => void, failed: (error: Error) => void): Piece {
    const room = Math.floor(this.#c.readback.room / PAGE_SIZE);
    const piece = new Piece(Math.min(pages, room > 0 ? room : SLOT_BYTES / PAGE_SIZE));
    const place = this.#c.readback.reserve(piece.pages * PAGE_SIZE, (data) => arrived(piece, data), failed);
    piece.buffer = place.buffer;
    piece.offset = place.offset;
    return piece;
  }

  #copyRun(piece: Piece, aperture: number, page: number, host: number, n: number): void {
    const { commands, memory } = this.#c;
    const bank = memory.banks[memory.bankOf(aperture, page)]!;
    const from = memory.pageIn(aperture, page) * PAGE_SIZE;
    commands.encoder().copyBufferToBuffer(bank, from, piece.buffer!, piece.offset, n * PAGE_SIZE);
    piece.offset += n * PAGE_SIZE;
    piece.filled += n;
    piece.hostRuns.push(host, n);
  }

  #scatter(piece: Piece, data: Uint8Array): void {
    const { hostMemory } = this.#c;
    const runs = piece.hostRuns;
    let from = 0;
    for (let i = 0; i < runs.length; i += 2) {
      const bytes = runs[i + 1]! * PAGE_SIZE;
      hostMemory.set(data.subarray(from, from + bytes), runs[i]! * PAGE_SIZE);
      from += bytes;
    }
  }

  /** Submits at the end of this turn of the event loop. */
  flushSoon(): void {
    if (this.#flushQueued) return;
    this.#flushQueued = true;
    queueMicrotask(() => {
      this.#flushQueued = false;
      this.#c.commands.submit();
    });
  }
}

function isDownload(words: Uint32Array, at: number): boolean {
  const clear = (words[at + 3]! & SG_CLEAR) !== 0;
  return !clear && words[at]! >>> 30 !== AP_HOST && words[at + 1]! >>> 30 === AP_HOST;
}

function countPages(words: Uint32Array, count: number): number {
  let pages = 0;
  for (let at = 0; at < count * SG_STRIDE; at += SG_STRIDE) if (isDownload(words, at)) pages += words[at + 2]!;
  return pages;
}

import { PAGE_SIZE } from "../../base/addr.ts";
import { SLOT_BYTES } from "../readback.ts";
import { BANK_RUN_WORDS } from "./bank-runs.ts";
import type { BankRuns } from "./bank-runs.ts";
import type { Fetch, WayContext } from "./way.ts";

/** A copied piece of a list: what a slot holds of it, as pairs of host page and page count. */
class Piece {
  readonly hostRuns: number[] = [];
  readonly pages: number;
  readonly buffer: GPUBuffer;
  /** Where the next run goes in the slot, bytes. */
  offset: number;
  filled = 0;

  constructor(pages: number, place: { buffer: GPUBuffer; offset: number }) {
    this.pages = pages;
    this.buffer = place.buffer;
    this.offset = place.offset;
  }
}

/** A slot with less room than this counts as full. */
const FULL_BYTES = 1 << 20;

/** How a list is cut into submissions: all in one, or a ring, in which slot n is mapped and emptied while n + 1 is copied. */
export type Submissions = "one" | "ring";

/**
 * Device to host: what a fetch brings into readback slots, and a memcpy per run once a slot is mapped.
 *
 * Lists recorded in one turn of the event loop share a submission and a mapping. Later commands may overwrite the
 * source pages at once.
 */
export class Downloads {
  readonly #c: WayContext;
  #flushQueued = false;

  constructor(context: WayContext) {
    this.#c = context;
  }

  /** Resolves when all bytes of the list stand in host memory. */
  record(runs: BankRuns, fetch: Fetch, submissions: Submissions): Promise<void> {
    const { health } = this.#c;
    if (health.error !== null) return Promise.reject(health.error);
    const done = new Promise<void>((resolve, reject) => {
      let outstanding = runs.pages;
      const arrived = (piece: Piece, data: Uint8Array) => {
        this.#spread(piece, data);
        outstanding -= piece.pages;
        if (outstanding === 0) resolve();
      };
      this.#fetch(runs, fetch, submissions, arrived, reject);
    });
    // A slot that is full waits for nobody: the GPU copies it while JavaScript collects the next lists.
    if (this.#c.readback.room < FULL_BYTES) this.#c.commands.submit();
    else this.flushSoon();
    return health.guard(done);
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

  #fetch(
    { words, count, pages }: BankRuns,
    fetch: Fetch,
    submissions: Submissions,
    arrived: (piece: Piece, data: Uint8Array) => void,
    failed: (error: Error) => void,
  ): void {
    let left = pages;
    let piece = this.#begin(left, arrived, failed);
    for (let at = 0; at < count * BANK_RUN_WORDS; at += BANK_RUN_WORDS) {
      const bank = words[at]!;
      const first = words[at + 1]!;
      const host = words[at + 3]!;
      for (let done = 0; done < words[at + 4]!;) {
        if (piece.filled === piece.pages) {
          fetch.flush();
          if (submissions === "ring") this.#c.commands.submit();
          piece = this.#begin(left, arrived, failed);
        }
        const n = Math.min(words[at + 4]! - done, piece.pages - piece.filled);
        fetch.take(bank, first + done, n, piece.buffer, piece.offset);
        piece.hostRuns.push(host + done, n);
        piece.offset += n * PAGE_SIZE;
        piece.filled += n;
        done += n;
        left -= n;
      }
    }
    fetch.flush();
  }

  /** A piece as big as the current slot has room for. */
  #begin(pages: number, arrived: (piece: Piece, data: Uint8Array) => void, failed: (error: Error) => void): Piece {
    const room = Math.floor(this.#c.readback.room / PAGE_SIZE);
    const size = Math.min(pages, room > 0 ? room : SLOT_BYTES / PAGE_SIZE);
    const deliver = (data: Uint8Array) => arrived(piece, data);
    const piece: Piece = new Piece(size, this.#c.readback.reserve(size * PAGE_SIZE, deliver, failed));
    return piece;
  }

  #spread({ hostRuns }: Piece, data: Uint8Array): void {
    const { hostMemory } = this.#c;
    let from = 0;
    for (let i = 0; i < hostRuns.length; i += 2) {
      const bytes = hostRuns[i + 1]! * PAGE_SIZE;
      hostMemory.set(data.subarray(from, from + bytes), hostRuns[i]! * PAGE_SIZE);
      from += bytes;
    }
  }
}

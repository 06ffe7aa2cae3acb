import type { ByteSource } from "../scenario/main-job.ts";
import { post } from "./post.ts";

/** The file as one response, read from front to back: a request for each piece would take four times as long. */
export class FileOverHttp implements ByteSource {
  readonly size: number;
  readonly #response: Promise<Response>;
  #reader: ReadableStreamDefaultReader<Uint8Array> | null = null;
  /** What has come and was not yet asked for. */
  #rest: Uint8Array = new Uint8Array(0);

  constructor(url: string, size: number) {
    this.size = size;
    this.#response = fetch(url);
    // A failure is seen by the read that wants the bytes.
    this.#response.catch(() => undefined);
  }

  async read(offset: number, length: number): Promise<Uint8Array> {
    this.#reader ??= bodyOf(await this.#response).getReader();
    const piece = new Uint8Array(length);
    for (let filled = 0; filled < length;) {
      if (this.#rest.length === 0) {
        const { done, value } = await this.#reader.read();
        if (done) throw new Error(`the file ended at ${offset + filled} of ${this.size} bytes`);
        this.#rest = value;
      }
      const taken = this.#rest.subarray(0, length - filled);
      piece.set(taken, filled);
      filled += taken.length;
      this.#rest = this.#rest.subarray(taken.length);
    }
    return piece;
  }
}

function bodyOf(response: Response): ReadableStream<Uint8Array> {
  if (!response.ok || response.body === null) throw new Error(`the file was not sent: status ${response.status}`);
  return response.body;
}

/** Pieces of the transformed file that wait for their checks; more of them would only take memory. */
const PIECES_UNDER_WAY = 2;

/** HTTP status: the digest is another, the bytes are wanted. */
const CONFLICT = 409;

/**
 * The way of the transformed bytes to be checked: their SHA-256 is, which another thread of the browser computes. The bytes
 * themselves go only where they are wrong, so that the first wrong one can be named: all of them would take longer than a
 * kernel over them.
 */
export class TransformedPieces {
  readonly #url: string;
  /** Checks under way, oldest first. */
  readonly #pending: Promise<void>[] = [];

  constructor(url: string) {
    this.#url = url;
  }

  /** Pieces are checked while the caller makes the next ones. */
  async send(offset: number, bytes: Uint8Array): Promise<void> {
    while (this.#pending.length >= PIECES_UNDER_WAY) await this.#pending.shift();
    const check = this.#check(offset, bytes.slice());
    // A failure is seen by who waits for it.
    check.catch(() => undefined);
    this.#pending.push(check);
  }

  async sent(): Promise<void> {
    await Promise.all(this.#pending);
  }

  async #check(offset: number, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    const query = `offset=${offset}&bytes=${bytes.length}&sha256=${hex(digest)}`;
    const { ok, status } = await fetch(`${this.#url}?${query}`);
    if (status === CONFLICT) await post(`${this.#url}?offset=${offset}`, bytes);
    else if (!ok) throw new Error(`a digest was not taken: status ${status}`);
  }
}

function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

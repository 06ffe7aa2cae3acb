import type { Health } from "./health.ts";

/** Pieces up to this size are packed where they go to neighbouring places; for larger ones a call costs less than the copy. */
const PACKED_UP_TO = 64 << 10;
/** As much goes at once: the browser stages it while JavaScript collects the next. */
const PACK_BYTES = 256 << 10;

/**
 * Bytes for buffers that take effect before whatever is recorded or submitted from now on, by `queue.writeBuffer`: the
 * browser stages them by itself, and nothing has to be submitted for them.
 *
 * Pieces for neighbouring places become one write, also over several lists of pages: the faults of a round bring single pages,
 * one after the other to one stretch of VRAM, whose allocator goes downward. So a piece may wait here; `Commands` sends it off
 * before the first command that it records. Nothing may be recorded when a piece is put here, since it would overtake that.
 */
export class QueueWrites {
  readonly #device: GPUDevice;
  readonly #health: Health;
  /** The first piece goes to the middle; there is room for as much as goes at once on either side of it. */
  #pack: Uint8Array<ArrayBuffer> | null = null;
  /** What is packed: `[first, end)`, for byte `at` of `target`. */
  #first = PACK_BYTES;
  #end = PACK_BYTES;
  #at = 0;
  #target: GPUBuffer | null = null;

  constructor(device: GPUDevice, health: Health) {
    this.#device = device;
    this.#health = health;
  }

  /** Takes `bytes` of `source` from byte `from` on, for byte `at` of `target`; all multiples of 4. */
  put(target: GPUBuffer, at: number, source: Uint8Array, from: number, bytes: number): void {
    if (bytes > PACKED_UP_TO) {
      this.flush();
      this.#write(target, at, source, from, bytes);
      return;
    }
    const packed = this.#end - this.#first;
    const isOpen = target === this.#target && packed + bytes <= PACK_BYTES;
    const isBelow = isOpen && at + bytes === this.#at;
    if (!isBelow && !(isOpen && at === this.#at + packed)) {
      this.flush();
      this.#target = target;
      this.#at = at;
    }
    this.#pack ??= new Uint8Array(2 * PACK_BYTES);
    const piece = source.subarray(from, from + bytes);
    if (isBelow) {
      this.#first -= bytes;
      this.#at = at;
      this.#pack.set(piece, this.#first);
    } else {
      this.#pack.set(piece, this.#end);
      this.#end += bytes;
    }
  }

  /** What was put here is on the queue. */
  flush(): void {
    const first = this.#first;
    const bytes = this.#end - first;
    if (bytes === 0) return;
    this.#first = PACK_BYTES;
    this.#end = PACK_BYTES;
    this.#write(this.#target!, this.#at, this.#pack!, first, bytes);
    this.#target = null;
  }

  #write(target: GPUBuffer, at: number, source: Uint8Array, from: number, bytes: number): void {
    // The WebGPU device may outlive this GPU, and would report the destroyed buffers as an error.
    if (this.#health.isLost) return;
    // WebGPU takes views of shared memory too; only its type does not say so.
    const data = source as Uint8Array<ArrayBuffer>;
    this.#health.inDoubt(this.#device, () => this.#device.queue.writeBuffer(target, at, data, from, bytes));
  }
}

import type { WayContext, Stager } from "./way.ts";

/** Pieces up to this size are packed where they go to neighbouring places; for larger ones a call costs less than the copy. */
const PACKED_UP_TO = 64 << 10;
const PACK_BYTES = 1 << 20;

/** Host to buffer by `queue.writeBuffer`: the browser stages the bytes by itself. The quickest way for what is small. */
export class WriteStager implements Stager {
  readonly #c: Pick<WayContext, "commands">;
  #pack: Uint8Array<ArrayBuffer> | null = null;
  #packed = 0;
  #target: GPUBuffer | null = null;
  /** Where the packed bytes begin in the target. */
  #at = 0;
  #submitted = false;

  constructor(context: Pick<WayContext, "commands">) {
    this.#c = context;
  }

  put(source: Uint8Array, from: number, bytes: number, target: GPUBuffer, at: number): void {
    if (bytes > PACKED_UP_TO) {
      this.#writePacked();
      this.#write(target, at, source, from, bytes);
      return;
    }
    if (target !== this.#target || at !== this.#at + this.#packed || this.#packed + bytes > PACK_BYTES) {
      this.#writePacked();
      this.#target = target;
      this.#at = at;
    }
    this.#pack ??= new Uint8Array(PACK_BYTES);
    this.#pack.set(source.subarray(from, from + bytes), this.#packed);
    this.#packed += bytes;
  }

  flush(): void {
    this.#writePacked();
    this.#submitted = false;
  }

  #writePacked(): void {
    if (this.#packed > 0) this.#write(this.#target!, this.#at, this.#pack!, 0, this.#packed);
    this.#packed = 0;
    this.#target = null;
  }

  #write(target: GPUBuffer, at: number, source: Uint8Array, from: number, bytes: number): void {
    const { commands } = this.#c;
    // writeBuffer takes effect now, so what was recorded before must reach the queue before it.
    if (!this.#submitted) commands.submit();
    this.#submitted = true;
    // WebGPU takes views of shared memory too; only its type does not say so.
    const data = source as Uint8Array<ArrayBuffer>;
    commands.inDoubt(() => commands.device.queue.writeBuffer(target, at, data, from, bytes));
  }
}

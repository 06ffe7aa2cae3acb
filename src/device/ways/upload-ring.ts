import type { WayContext, Stager } from "./way.ts";

interface Slot {
  readonly buffer: GPUBuffer;
  /** Where JavaScript writes; null while the GPU has the slot. */
  bytes: Uint8Array | null;
  used: number;
}

/**
 * A chunk of the largest size fits one slot. Unmapping moves the whole slot between Chrome's processes, however little of it
 * was written; larger ones gain too little for that (64 MiB go up in 26 ms by 2 MiB, in 24 by 4, in 21 by 8).
 */
export const UPLOAD_SLOT_BYTES = 2 << 20;
/** As much as a round of faults moves on average; who streams more waits for slots. More memory than that only costs cache. */
const SLOTS = 8;
/**
 * The GPU starts on what has been written after this many bytes, when JavaScript begins to write on. The last bytes of a stream
 * go off with what is recorded behind them: a submission of their own is a millisecond or two late where the browser is left to
 * notice that it is done, and no quicker where the wait is nudged (nudge.ts).
 */
const SUBMIT_BYTES = UPLOAD_SLOT_BYTES;

/** A copy out of a slot that is not recorded yet. */
interface Pending {
  readonly slot: Slot;
  readonly from: number;
  readonly target: GPUBuffer;
  readonly at: number;
  bytes: number;
}

/**
 * Mapped staging buffers: the short way from host memory to the GPU for bulk data.
 *
 * `writeBuffer` copies the bytes twice more behind the scenes: with it, the faults of a cold pass over 64 MiB cost 3.8 times
 * the best raw upload, with the ring 2.4 (`npm run bench -- --filter svm`, SwiftShader on 2 cores). A slot is filled, unmapped
 * right before the submission that copies out of it, and mapped again by the time that submission is done. `stage` does not
 * wait: where no slot is mapped, the caller takes `writeBuffer`; one that can wait waits for `ready`. Slots are made when
 * they are first wanted.
 */
export class UploadRing {
  readonly #c: Pick<WayContext, "commands" | "health">;
  readonly #slots: Slot[] = [];
  /** Slots with bytes that are recorded and not yet submitted. */
  #filled: Slot[] = [];
  #current: Slot | null = null;
  #pending: Pending | null = null;
  #unsubmitted = 0;
  #destroyed = false;
  #waiting: { readonly bytes: number; readonly resolve: () => void }[] = [];

  constructor(context: Pick<WayContext, "commands" | "health">) {
    this.#c = context;
  }

  /**
   * Stages a first part of `source[from, from + bytes)` and records its copy to `target` at `at`, or will at `record`.
   * Returns the length of that part: a multiple of 4, 0 when no slot is mapped. `bytes` is a multiple of 4.
   */
  stage(source: Uint8Array, from: number, bytes: number, target: GPUBuffer, at: number): number {
    if (this.#unsubmitted >= SUBMIT_BYTES) this.#c.commands.submit();
    const slot = this.#open();
    if (slot === null) return 0;
    const n = Math.min(bytes, UPLOAD_SLOT_BYTES - slot.used);
    slot.bytes!.set(source.subarray(from, from + n), slot.used);
    const pending = this.#pending;
    if (pending !== null && pending.slot === slot && pending.target === target && pending.at + pending.bytes === at) {
      pending.bytes += n;
    } else {
      this.record();
      this.#pending = { slot, from: slot.used, target, at, bytes: n };
    }
    slot.used += n;
    this.#unsubmitted += n;
    if (slot.used === UPLOAD_SLOT_BYTES) this.#current = null;
    return n;
  }

  /** All that was staged is recorded. */
  record(): void {
    if (this.#pending === null) return;
    const { slot, from, target, at, bytes } = this.#pending;
    this.#pending = null;
    this.#c.commands.encoder().copyBufferToBuffer(slot.buffer, from, target, at, bytes);
  }

  /** Null when `bytes`, or as much as the whole ring holds, can be staged at once; else resolves when they can. */
  ready(bytes: number): Promise<void> | null {
    const wanted = Math.min(bytes, SLOTS * UPLOAD_SLOT_BYTES);
    if (this.#room() >= wanted) return null;
    // Those that are full come back only when they have been submitted.
    this.#c.commands.submit();
    return this.#c.health.guardWork(new Promise((resolve) => this.#waiting.push({ bytes: wanted, resolve })));
  }

  /** Makes the slots for `bytes` now. */
  prepare(bytes: number): void {
    while (this.#slots.length * UPLOAD_SLOT_BYTES < bytes && this.#make() !== null);
  }

  /** A mapped buffer may not be submitted. */
  beforeSubmit(): void {
    this.record();
    this.#current = null;
    this.#unsubmitted = 0;
    for (const slot of this.#filled) {
      slot.bytes = null;
      slot.buffer.unmap();
    }
  }

  /** Asks for the slots back. */
  afterSubmit(): void {
    const filled = this.#filled;
    this.#filled = [];
    for (const slot of filled) void this.#remap(slot);
  }

  destroy(): void {
    this.#destroyed = true;
    for (const slot of this.#slots) slot.buffer.destroy();
  }

  /** Bytes that can be staged without waiting. */
  #room(): number {
    let room = (SLOTS - this.#slots.length) * UPLOAD_SLOT_BYTES;
    for (const slot of this.#slots) if (slot.bytes !== null) room += UPLOAD_SLOT_BYTES - slot.used;
    return room;
  }

  async #remap(slot: Slot): Promise<void> {
    try {
      await slot.buffer.mapAsync(GPUMapMode.WRITE);
    } catch {
      // The device is gone, and whoever uses it hears of it elsewhere.
      return;
    }
    if (this.#destroyed) return;
    slot.used = 0;
    slot.bytes = new Uint8Array(slot.buffer.getMappedRange());
    const room = this.#room();
    for (const waiting of this.#waiting.splice(0)) {
      if (waiting.bytes <= room) waiting.resolve();
      else this.#waiting.push(waiting);
    }
  }

  #open(): Slot | null {
    if (this.#current !== null) return this.#current;
    const slot = this.#slots.find((s) => s.bytes !== null && s.used === 0) ?? this.#make();
    if (slot === null) return null;
    this.#current = slot;
    this.#filled.push(slot);
    return slot;
  }

  #make(): Slot | null {
    if (this.#slots.length === SLOTS) return null;
    const buffer = this.#c.commands.createBuffer({
      label: `upload slot ${this.#slots.length}`,
      size: UPLOAD_SLOT_BYTES,
      usage: GPUBufferUsage.MAP_WRITE | GPUBufferUsage.COPY_SRC,
      mappedAtCreation: true,
    });
    const slot: Slot = { buffer, bytes: new Uint8Array(buffer.getMappedRange()), used: 0 };
    this.#slots.push(slot);
    return slot;
  }
}

/** Host to buffer through the ring, and by `writeBuffer` what the ring has no slot for. */
export class RingStager implements Stager {
  readonly #ring: UploadRing;
  readonly #writes: Stager;

  constructor(ring: UploadRing, writes: Stager) {
    this.#ring = ring;
    this.#writes = writes;
  }

  put(source: Uint8Array, from: number, bytes: number, target: GPUBuffer, at: number): void {
    for (let done = 0; done < bytes;) {
      const staged = this.#ring.stage(source, from + done, bytes - done, target, at + done);
      done += staged;
      if (staged > 0) continue;
      // The writes submit first, and with that record what the ring has staged.
      this.#writes.put(source, from + done, bytes - done, target, at + done);
      this.#writes.flush();
      return;
    }
  }

  flush(): void {
    this.#ring.record();
  }
}

import type { Commands } from "./commands.ts";

interface Slot {
  readonly buffer: GPUBuffer;
  /** Where JavaScript writes; null while the GPU has the slot. */
  bytes: Uint8Array | null;
  used: number;
}

/** A chunk of the largest size fits one slot. */
const SLOT_BYTES = 2 << 20;
/** As much as a round of faults moves on average, and half as much again. */
const SLOTS = 12;
/** The GPU starts on what has been written after this many bytes, while JavaScript writes on. */
const SUBMIT_BYTES = 4 << 20;

/**
 * Mapped staging buffers: the short way from host memory to the GPU for bulk data.
 *
 * `writeBuffer` copies the bytes twice more behind the scenes: with it, the faults of a cold pass over 64 MiB cost 3.8 times
 * the best raw upload, with the ring 2.4 (`npm run bench -- --filter svm`, SwiftShader on 2 cores). A slot is filled, unmapped right before the submission that copies out of it, and
 * mapped again by the time that submission is done. There is no waiting: where no slot is mapped, the caller takes
 * `writeBuffer`. Slots are made when they are first wanted.
 */
export class UploadRing {
  readonly #commands: Commands;
  readonly #slots: Slot[] = [];
  /** Slots with bytes that are recorded and not yet submitted. */
  #filled: Slot[] = [];
  #current: Slot | null = null;
  #unsubmitted = 0;
  #destroyed = false;

  constructor(commands: Commands) {
    this.#commands = commands;
  }

  /**
   * Stages a first part of `source[from, from + bytes)` and records its copy to `target` at `at`. Returns the length of
   * that part: a multiple of 4, 0 when no slot is mapped. `bytes` is a multiple of 4.
   */
  stage(source: Uint8Array, from: number, bytes: number, target: GPUBuffer, at: number): number {
    const slot = this.#open();
    if (slot === null) return 0;
    const n = Math.min(bytes, SLOT_BYTES - slot.used);
    slot.bytes!.set(source.subarray(from, from + n), slot.used);
    this.#commands.encoder().copyBufferToBuffer(slot.buffer, slot.used, target, at, n);
    slot.used += n;
    this.#unsubmitted += n;
    if (slot.used === SLOT_BYTES) this.#current = null;
    if (this.#unsubmitted >= SUBMIT_BYTES) this.#commands.submit();
    return n;
  }

  /** A mapped buffer may not be submitted. */
  beforeSubmit(): void {
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
    const buffer = this.#commands.createBuffer({
      label: `upload slot ${this.#slots.length}`,
      size: SLOT_BYTES,
      usage: GPUBufferUsage.MAP_WRITE | GPUBufferUsage.COPY_SRC,
      mappedAtCreation: true,
    });
    const slot: Slot = { buffer, bytes: new Uint8Array(buffer.getMappedRange()), used: 0 };
    this.#slots.push(slot);
    return slot;
  }
}

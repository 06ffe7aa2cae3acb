import { GpuError } from "../base/errors.ts";
import type { GpuCounters } from "../hal/gpu.ts";
import type { Commands } from "./commands.ts";
import type { Health } from "./health.ts";

/** A piece of a slot, and what to do with its bytes. */
interface Piece {
  readonly at: number;
  readonly bytes: number;
  readonly deliver: (data: Uint8Array<ArrayBuffer>) => void;
  readonly fail: (error: Error) => void;
}

interface Slot {
  readonly buffer: GPUBuffer;
  readonly capacity: number;
  used: number;
  pieces: Piece[];
  state: "filling" | "mapping" | "mapped";
}

/** Bytes of a buffer to read. */
interface Range {
  readonly source: GPUBuffer;
  readonly offset: number;
  readonly bytes: number;
}

export const SLOT_BYTES = 4 << 20;
/** Slots kept for reuse; a reused buffer maps twice as fast as a fresh one. */
const KEEP = 16;

/**
 * The way from the GPU to the host: slots that the GPU copies into and the host maps.
 *
 * All pieces of one submission share slots and their mappings. Pieces are delivered in the order in which they were
 * recorded, also across submissions, because two downloads may end in one host page. The memory a piece was copied from
 * may be overwritten by later commands at once; only the slots wait for the host.
 */
export class Readback {
  readonly #commands: Commands;
  readonly #health: Health;
  readonly #counters: GpuCounters;
  readonly #free: Slot[] = [];
  /** Slots in the order of their submissions; the last ones may be unsubmitted. */
  readonly #queue: Slot[] = [];
  #arrivals = 0;

  constructor(commands: Commands, health: Health, counters: GpuCounters) {
    this.#commands = commands;
    this.#health = health;
    this.#counters = counters;
  }

  /** Grows with every slot that arrives: all commands recorded before it are done then. */
  get arrivals(): number {
    return this.#arrivals;
  }

  /** Bytes that still fit the current slot; a new one begins when they do not suffice. */
  get room(): number {
    const slot = this.#current();
    return slot === null ? SLOT_BYTES : slot.capacity - slot.used;
  }

  /**
   * A place for `bytes` (multiple of 8) that commands recorded next copy to. `deliver` gets them when they have arrived, valid
   * only inside the call.
   */
  reserve(
    bytes: number,
    deliver: (data: Uint8Array<ArrayBuffer>) => void,
    fail: (error: Error) => void,
  ): { buffer: GPUBuffer; offset: number } {
    let slot = this.#current();
    if (slot === null || slot.capacity - slot.used < bytes) {
      slot = this.#take(bytes);
      this.#queue.push(slot);
    }
    const offset = slot.used;
    slot.pieces.push({ at: offset, bytes, deliver, fail });
    slot.used += bytes;
    return { buffer: slot.buffer, offset };
  }

  /** Makes the slots for `bytes` now. */
  prepare(bytes: number): void {
    const slots: Slot[] = [];
    for (let made = 0; made < Math.min(bytes, KEEP * SLOT_BYTES); made += SLOT_BYTES)
      slots.push(this.#take(SLOT_BYTES));
    this.#free.push(...slots);
  }

  /** Records the read of one range; resolves with a copy of its bytes. `bytes` is a multiple of 4. */
  read(source: GPUBuffer, offset: number, bytes: number): Promise<Uint8Array<ArrayBuffer>> {
    return this.readParts([{ source, offset, bytes }]);
  }

  /** Records the read of several ranges, which arrive one behind the other. */
  readParts(parts: readonly Range[]): Promise<Uint8Array<ArrayBuffer>> {
    return this.readAs(parts, (data) => data.slice());
  }

  /** As `readParts`, and resolves with what `take` makes of the bytes, which are valid only inside the call. It does not throw. */
  readAs<T>(parts: readonly Range[], take: (data: Uint8Array<ArrayBuffer>) => T): Promise<T> {
    if (this.#health.error !== null) return Promise.reject(this.#health.error);
    const bytes = parts.reduce((sum, part) => sum + part.bytes, 0);
    const arrival = new Promise<T>((resolve, reject) => {
      const to = this.reserve(Math.ceil(bytes / 8) * 8, (data) => resolve(take(data.subarray(0, bytes))), reject);
      let at = to.offset;
      for (const part of parts) {
        this.#commands.encoder().copyBufferToBuffer(part.source, part.offset, to.buffer, at, part.bytes);
        at += part.bytes;
      }
    });
    return this.#health.guard(arrival);
  }

  /** Starts mapping what the submission just made carries. */
  afterSubmit(): void {
    for (const slot of this.#queue) {
      if (slot.state !== "filling") continue;
      slot.state = "mapping";
      this.#counters.readbacks += 1;
      this.#health.nudge.during(slot.buffer.mapAsync(GPUMapMode.READ, 0, slot.used)).then(
        () => {
          slot.state = "mapped";
          this.#deliver();
        },
        (error: unknown) => this.#abandon(slot, error),
      );
    }
  }

  /** Fails everything that waits: the device is gone. */
  destroy(error: Error): void {
    for (const slot of this.#queue.splice(0)) {
      for (const piece of slot.pieces) piece.fail(error);
      slot.buffer.destroy();
    }
    for (const slot of this.#free.splice(0)) slot.buffer.destroy();
  }

  #current(): Slot | null {
    const last = this.#queue.at(-1);
    return last !== undefined && last.state === "filling" ? last : null;
  }

  #take(bytes: number): Slot {
    if (bytes <= SLOT_BYTES) {
      const free = this.#free.pop();
      if (free !== undefined) return free;
    }
    const capacity = Math.max(bytes, SLOT_BYTES);
    const buffer = this.#commands.createBuffer({
      label: "readback",
      size: capacity,
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
    });
    return { buffer, capacity, used: 0, pieces: [], state: "filling" };
  }

  /** Delivers finished slots from the head of the queue, so that order is kept. */
  #deliver(): void {
    while (this.#queue.length > 0 && this.#queue[0]!.state === "mapped") {
      const slot = this.#queue.shift()!;
      this.#arrivals += 1;
      const error = this.#health.error;
      const data = error === null ? slot.buffer.getMappedRange(0, slot.used) : null;
      for (const piece of slot.pieces) {
        if (data !== null) piece.deliver(new Uint8Array(data, piece.at, piece.bytes));
        else piece.fail(error!);
      }
      slot.buffer.unmap();
      slot.used = 0;
      slot.pieces = [];
      slot.state = "filling";
      if (slot.capacity === SLOT_BYTES && this.#free.length < KEEP) this.#free.push(slot);
      else slot.buffer.destroy();
    }
  }

  /** A mapping fails when the device goes, which may be told a moment later; else its slot is unusable. */
  async #abandon(slot: Slot, reason: unknown): Promise<void> {
    if (this.#health.error === null) {
      await this.#commands.device.queue.onSubmittedWorkDone().catch(() => undefined);
      const message = reason instanceof Error ? reason.message : String(reason);
      this.#health.declareBroken(new GpuError("internal", "readback", message));
    }
    const at = this.#queue.indexOf(slot);
    if (at >= 0) this.#queue.splice(at, 1);
    for (const piece of slot.pieces) piece.fail(this.#health.error!);
    slot.buffer.destroy();
    this.#deliver();
  }
}

import { FAULTQ_HEADER_WORDS, FAULTQ_WORD, faultQueueType } from "../abi/tables.ts";
import { FAULT_RECORD_WORDS } from "../abi/fault.ts";
import type { DeviceShape } from "../abi/preamble.ts";
import type { RoundResult } from "../hal/gpu.ts";
import type { Commands } from "./commands.ts";
import type { Readback } from "./readback.ts";

const HEADER_BYTES = FAULTQ_HEADER_WORDS * 4;
const RECORD_BYTES = FAULT_RECORD_WORDS * 4;

/** The fault queue as the host sees it: emptied before a round, read back after it (spec/device.md 3.5, 5.5). */
export class FaultQueue {
  readonly buffer: GPUBuffer;
  readonly #commands: Commands;
  readonly #readback: Readback;
  readonly #capacity: number;
  readonly #recordsOffset: number;
  readonly #resetBytes: number;
  readonly #start: number;
  #epoch = 0;

  /** `start`: what both counters of an empty queue are; they wrap at 2^32. */
  constructor(commands: Commands, readback: Readback, shape: DeviceShape, start = 0) {
    const type = faultQueueType(shape.faultQueueCapacity, shape.dedupSlots);
    this.#commands = commands;
    this.#readback = readback;
    this.#start = start;
    this.#capacity = shape.faultQueueCapacity;
    this.#recordsOffset = type.offset.records;
    this.#resetBytes = type.offset.records;
    this.buffer = commands.device.createBuffer({
      label: "faultq",
      size: type.size,
      usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
    });
  }

  /** The epoch of the records being produced. */
  get epoch(): number {
    return this.#epoch;
  }

  /** Records the reset: an empty queue, an empty dedup table, a new epoch. */
  reset(): void {
    this.#epoch = (this.#epoch + 1) >>> 0;
    const header = new Uint32Array(FAULTQ_HEADER_WORDS);
    header[FAULTQ_WORD.head] = this.#start;
    header[FAULTQ_WORD.tail] = this.#start;
    header[FAULTQ_WORD.cap] = this.#capacity;
    header[FAULTQ_WORD.epoch] = this.#epoch;
    this.#commands.encoder().clearBuffer(this.buffer, 0, this.#resetBytes);
    this.#commands.write(this.buffer, 0, header);
  }

  destroy(): void {
    this.buffer.destroy();
  }

  /** Records the read of header and records as one piece; resolves when it has arrived. */
  read(): Promise<RoundResult> {
    const recordBytes = this.#capacity * RECORD_BYTES;
    // The oldest record is in slot tail mod capacity; what lies before it follows the last slot.
    const before = (this.#start % this.#capacity) * RECORD_BYTES;
    const parts = [
      { source: this.buffer, offset: 0, bytes: HEADER_BYTES },
      { source: this.buffer, offset: this.#recordsOffset + before, bytes: recordBytes - before },
    ];
    if (before > 0) parts.push({ source: this.buffer, offset: this.#recordsOffset, bytes: before });
    return this.#readback.readAs(parts, (data) => this.#take(data));
  }

  /** Of the records only those that there are: mostly none, and the queue is long. */
  #take(data: Uint8Array<ArrayBuffer>): RoundResult {
    const header = new Uint32Array(data.buffer, data.byteOffset, FAULTQ_HEADER_WORDS);
    const produced = (header[FAULTQ_WORD.head]! - header[FAULTQ_WORD.tail]!) >>> 0;
    const count = Math.min(produced, this.#capacity);
    return {
      remaining: header[FAULTQ_WORD.remaining]!,
      dropped: header[FAULTQ_WORD.dropped]!,
      dedupHits: header[FAULTQ_WORD.dedup_hits]!,
      fatal: header[FAULTQ_WORD.fatal]!,
      count,
      records: new Uint32Array(data.buffer, data.byteOffset + HEADER_BYTES, count * FAULT_RECORD_WORDS).slice(),
    };
  }
}

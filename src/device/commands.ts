import { assert } from "../base/assert.ts";
import type { GpuCounters } from "../hal/gpu.ts";
import type { Health } from "./health.ts";
import { QueueWrites } from "./queue-writes.ts";

/** Where small data lies for the commands that are being recorded. */
export interface Staged {
  readonly buffer: GPUBuffer;
  readonly offset: number;
}

/** Told of every command buffer: before its first command and behind its last. */
export interface CommandClock {
  before(encoder: GPUCommandEncoder): void;
  behind(encoder: GPUCommandEncoder): void;
}

/** Bytes of small data per submission. */
const STAGE_BYTES = 1 << 20;
/** A job list is bound with this size, whatever its length. */
export const JOB_BINDING_BYTES = 1 << 16;
const ALIGN = 256;

/**
 * The one queue: records commands and submits them in order.
 *
 * `queue.writeBuffer` takes effect when it is called, before commands that are recorded but not yet submitted. Small data
 * (entries, parameters, job lists) therefore goes to a stage buffer, of which no two commands of one submission use the
 * same bytes, and is written once, right before the submission that reads it.
 */
export class Commands {
  readonly device: GPUDevice;
  readonly stage: GPUBuffer;
  /** What takes effect before the commands that are recorded next. Only while nothing is recorded. */
  readonly writes: QueueWrites;
  readonly #health: Health;
  readonly #counters: GpuCounters;
  readonly #clock: CommandClock | null;
  readonly #bytes = new Uint8Array(STAGE_BYTES);
  readonly #words = new Uint32Array(this.#bytes.buffer);
  #used = 0;
  #encoder: GPUCommandEncoder | null = null;
  #pass: GPUComputePassEncoder | null = null;
  #beforeSubmit: () => void = () => undefined;
  #afterSubmit: () => void = () => undefined;

  constructor(device: GPUDevice, health: Health, counters: GpuCounters, clock: CommandClock | null = null) {
    this.device = device;
    this.#health = health;
    this.#counters = counters;
    this.#clock = clock;
    this.writes = new QueueWrites(device, health);
    this.stage = device.createBuffer({
      label: "stage",
      // Job lists are bound with a fixed size, so the last one needs room behind it.
      size: STAGE_BYTES + JOB_BINDING_BYTES,
      usage: GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST | GPUBufferUsage.STORAGE | GPUBufferUsage.UNIFORM,
    });
  }

  /** `before` records what is pending elsewhere, `after` starts what a submission makes possible. */
  hook(before: () => void, after: () => void): void {
    this.#beforeSubmit = before;
    this.#afterSubmit = after;
  }

  /**
   * A buffer that the GPU needs for its own work, used at once. Without memory for it the submissions that name it would do
   * nothing, so the GPU stops, and says what for.
   */
  createBuffer(descriptor: GPUBufferDescriptor): GPUBuffer {
    this.device.pushErrorScope("out-of-memory");
    const buffer = this.device.createBuffer(descriptor);
    this.#health.awaitMemory(descriptor.label ?? "buffer", this.device.popErrorScope());
    return buffer;
  }

  /** Runs `use`, which names buffers of `createBuffer` outside a submission: in a bind group, in a write of the queue. */
  inDoubt<T>(use: () => T): T {
    return this.#health.inDoubt(this.device, use);
  }

  get isEmpty(): boolean {
    return this.#encoder === null;
  }

  /** For copies. Ends the open compute pass. */
  encoder(): GPUCommandEncoder {
    this.#pass?.end();
    this.#pass = null;
    return this.#open();
  }

  /** For dispatches; consecutive ones share a pass. */
  pass(): GPUComputePassEncoder {
    this.#pass ??= this.#open().beginComputePass();
    return this.#pass;
  }

  /**
   * Makes room for `bytes` of small data in `count` pieces, submitting first if need be. The pieces that follow stay valid
   * until the next submission, so a command that needs several reserves them together.
   */
  reserve(bytes: number, count = 1): void {
    assert(bytes + count * ALIGN <= STAGE_BYTES, () => `${bytes} bytes are no small data`);
    if (this.#used + bytes + count * ALIGN > STAGE_BYTES) this.submit();
  }

  /** Stages words for commands recorded next. Room must have been reserved. */
  put(words: Uint32Array): Staged {
    const offset = this.#used;
    this.#words.set(words, offset / 4);
    this.#used = Math.ceil((offset + words.byteLength) / ALIGN) * ALIGN;
    assert(this.#used <= STAGE_BYTES, "the stage overflows: nothing was reserved");
    return { buffer: this.stage, offset };
  }

  /** Records a write of a few words to `buffer`. */
  write(buffer: GPUBuffer, offset: number, words: Uint32Array): void {
    this.reserve(words.byteLength);
    const staged = this.put(words);
    this.encoder().copyBufferToBuffer(staged.buffer, staged.offset, buffer, offset, words.byteLength);
  }

  /** The same with bytes of `source` from byte `from` on; offsets and `bytes` are multiples of 4. */
  writeBytes(buffer: GPUBuffer, offset: number, source: Uint8Array, from: number, bytes: number): void {
    this.reserve(bytes);
    const at = this.#used;
    this.#bytes.set(source.subarray(from, from + bytes), at);
    this.#used = Math.ceil((at + bytes) / ALIGN) * ALIGN;
    this.encoder().copyBufferToBuffer(this.stage, at, buffer, offset, bytes);
  }

  /** Submits what is recorded; when that is nothing, only what was to take effect before it goes. */
  submit(): void {
    this.#beforeSubmit();
    this.writes.flush();
    if (this.#encoder === null) return;
    const encoder = this.#encoder;
    const used = this.#used;
    this.#pass?.end();
    this.#pass = null;
    this.#encoder = null;
    this.#used = 0;
    // The WebGPU device may outlive this GPU, and would report the destroyed buffers as an error.
    if (this.#health.isLost) return;
    if (used > 0) this.device.queue.writeBuffer(this.stage, 0, this.#bytes, 0, used);
    this.#counters.submissions += 1;
    this.#clock?.behind(encoder);
    this.#health.inDoubt(this.device, () => {
      this.device.queue.submit([encoder.finish()]);
      this.#afterSubmit();
    });
  }

  destroy(): void {
    this.stage.destroy();
  }

  #open(): GPUCommandEncoder {
    if (this.#encoder === null) {
      this.writes.flush();
      this.#encoder = this.device.createCommandEncoder();
      this.#clock?.before(this.#encoder);
    }
    return this.#encoder;
  }
}

/** Workgroups for `count`, as a grid that respects the limit of 65535 per dimension. */
export function gridOf(count: number): [number, number] {
  return [Math.min(count, 32768), Math.ceil(count / 32768)];
}

export function newCounters(): GpuCounters {
  return {
    submissions: 0,
    readbacks: 0,
    rounds: 0,
    uploadBytes: 0,
    downloadBytes: 0,
    fillBytes: 0,
    pteWrites: 0,
    tlbInvalidations: 0,
  };
}

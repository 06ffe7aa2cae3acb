import { ConfigError } from "../base/errors.ts";
import type { GpuError } from "../base/errors.ts";
import type { Commands } from "./commands.ts";
import { LaunchParams } from "../abi/tables.ts";
import { ErrorScopes } from "./health.ts";
import type { Pipelines } from "./pipelines.ts";

/** A launch's private buffer and its bind group. */
export interface PrivateBuffer {
  readonly buffer: GPUBuffer;
  readonly group: GPUBindGroup;
  readonly bytes: number;
  /** Of a fresh buffer: what WebGPU says of it, null when all is well. Until then it must not be in a submission. */
  checked: Promise<GpuError | null> | null;
}

const SMALLEST = 65536;
const KEEP = 8;

/** Private buffers by size, reused: making and zeroing a big buffer costs more than a launch. */
export class PrivatePool {
  readonly #commands: Commands;
  readonly #pipelines: Pipelines;
  readonly #maxBytes: number;
  readonly #free: PrivateBuffer[] = [];

  constructor(commands: Commands, pipelines: Pipelines, maxBytes: number) {
    this.#commands = commands;
    this.#pipelines = pipelines;
    this.#maxBytes = maxBytes;
  }

  /** A buffer of at least `words`; its content is unknown. */
  take(words: number): PrivateBuffer {
    if (words * 4 > this.#maxBytes) {
      throw new ConfigError(
        "items",
        `the launch needs ${words * 4} private bytes; this device binds ${this.#maxBytes}`,
      );
    }
    const bytes = Math.min(2 ** Math.ceil(Math.log2(Math.max(words * 4, SMALLEST))), this.#maxBytes);
    const at = this.#free.findIndex((free) => free.bytes === bytes);
    if (at >= 0) return this.#free.splice(at, 1)[0]!;
    return this.#create(bytes);
  }

  /** Commands recorded before may still use the buffer; the queue's order keeps later users apart. */
  give(buffer: PrivateBuffer): void {
    // Never used, or refused: its successor is made anew.
    if (buffer.checked !== null) buffer.buffer.destroy();
    else if (this.#free.length < KEEP) this.#free.push(buffer);
    else this.#retire(buffer);
  }

  destroy(): void {
    for (const free of this.#free.splice(0)) free.buffer.destroy();
  }

  /** A destroyed buffer may not be in a later submission. */
  #retire(buffer: PrivateBuffer): void {
    this.#commands.submit();
    buffer.buffer.destroy();
  }

  #create(bytes: number): PrivateBuffer {
    const { device, stage } = this.#commands;
    const scopes = new ErrorScopes(device, "the launch's private buffer");
    const buffer = device.createBuffer({
      label: "launch",
      size: bytes,
      usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
    });
    const group = device.createBindGroup({
      layout: this.#pipelines.kernelLaunch,
      entries: [
        { binding: 0, resource: { buffer: stage, size: LaunchParams.size } },
        { binding: 1, resource: { buffer } },
      ],
    });
    return { buffer, group, bytes, checked: scopes.close() };
  }
}

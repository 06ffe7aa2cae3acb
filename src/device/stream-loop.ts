import { PAGE_SIZE } from "../base/addr.ts";
import { requestGpuDevice } from "./acquire.ts";
import { Health, inErrorScopes } from "./health.ts";

/**
 * Sums of pages by hand: the loop that a WebGPU developer writes for data larger than VRAM, without this project.
 *
 * Two buffers of VRAM of one piece each, plain bindings, and a ring of mapped staging buffers, the quickest way up for bulk
 * data: while the kernel works on piece n, JavaScript and the queue bring piece n + 1. The data is only read, so nothing
 * goes back but the sums. What shared virtual memory makes of the same job is compared with this.
 */
export interface StreamLoop {
  /** The sum of the words of every page, modulo 2^32. `data` is whole pages, at most as many as the loop was opened for. */
  run(data: Uint8Array): Promise<Uint32Array>;
  close(): void;
}

export interface StreamLoopOptions {
  /** The most data of one run. */
  readonly bytes: number;
  /** Bytes of a piece, a multiple of 256 KiB: where a piece's sums begin, a binding can begin. */
  readonly pieceBytes: number;
}

/** Buffers of VRAM, and staging buffers. */
const PIECES = 2;
const SLOTS = 4;
const WORKGROUP = 64;

const PAGE_SUMS = `
@group(0) @binding(0) var<storage, read_write> data: array<u32>;
@group(0) @binding(1) var<storage, read_write> sums: array<u32>;
@compute @workgroup_size(${WORKGROUP})
fn main(@builtin(global_invocation_id) id: vec3u) {
  let first = id.x * ${PAGE_SIZE / 4}u;
  if (first >= arrayLength(&data) || id.x >= arrayLength(&sums)) { return; }
  var sum = 0u;
  for (var w = 0u; w < ${PAGE_SIZE / 4}u; w++) { sum += data[first + w]; }
  sums[id.x] = sum;
}`;

interface Slot {
  readonly buffer: GPUBuffer;
  /** Resolves when it is mapped and may be written. */
  mapped: Promise<undefined>;
}

/** @throws UnsupportedError without WebGPU. */
export async function openStreamLoop(options: StreamLoopOptions): Promise<StreamLoop> {
  const { device } = await requestGpuDevice();
  return inErrorScopes(device, "stream loop", () => Loop.make(device, options));
}

class Loop implements StreamLoop {
  readonly #device: GPUDevice;
  readonly #health: Health;
  readonly #pipeline: GPUComputePipeline;
  readonly #pieceBytes: number;
  readonly #vram: readonly GPUBuffer[];
  readonly #sums: GPUBuffer;
  readonly #readback: GPUBuffer;
  readonly #slots: readonly Slot[];
  /** By piece. */
  readonly #groups: readonly GPUBindGroup[];
  #turn = 0;

  static async make(device: GPUDevice, options: StreamLoopOptions): Promise<Loop> {
    const module = device.createShaderModule({ label: "page sums", code: PAGE_SUMS });
    const pipeline = await device.createComputePipelineAsync({ layout: "auto", compute: { module } });
    return new Loop(device, pipeline, options);
  }

  private constructor(device: GPUDevice, pipeline: GPUComputePipeline, { bytes, pieceBytes }: StreamLoopOptions) {
    this.#device = device;
    this.#health = new Health(device);
    this.#pipeline = pipeline;
    this.#pieceBytes = pieceBytes;
    const { STORAGE, COPY_SRC, COPY_DST, MAP_READ, MAP_WRITE } = GPUBufferUsage;
    const make = (label: string, size: number, usage: number, mappedAtCreation = false) =>
      device.createBuffer({ label: `stream loop: ${label}`, size, usage, mappedAtCreation });
    this.#vram = Array.from({ length: PIECES }, () => make("piece", pieceBytes, STORAGE | COPY_DST));
    this.#sums = make("sums", (bytes / PAGE_SIZE) * 4, STORAGE | COPY_SRC);
    this.#readback = make("readback", this.#sums.size, COPY_DST | MAP_READ);
    this.#slots = Array.from({ length: SLOTS }, () => ({
      buffer: make("slot", pieceBytes, MAP_WRITE | COPY_SRC, true),
      mapped: Promise.resolve(undefined),
    }));
    const sumBytes = (pieceBytes / PAGE_SIZE) * 4;
    this.#groups = Array.from({ length: Math.ceil(bytes / pieceBytes) }, (_, i) => {
      const size = Math.min(sumBytes, this.#sums.size - i * sumBytes);
      const sums = { buffer: this.#sums, offset: i * sumBytes, size };
      const data = { buffer: this.#vram[i % PIECES]! };
      const entries = [data, sums].map((resource, binding) => ({ binding, resource }));
      return device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries });
    });
  }

  async run(data: Uint8Array): Promise<Uint32Array> {
    const pieces = Math.ceil(data.length / this.#pieceBytes);
    for (let i = 0; i < pieces; i++) {
      const slot = this.#slots[this.#turn++ % SLOTS]!;
      await this.#health.guard(slot.mapped);
      this.#send(i, data.subarray(i * this.#pieceBytes, (i + 1) * this.#pieceBytes), slot);
    }
    return this.#read((data.length / PAGE_SIZE) * 4);
  }

  /** Queues the upload of piece `i` and the kernel on it. */
  #send(i: number, piece: Uint8Array, slot: Slot): void {
    new Uint8Array(slot.buffer.getMappedRange()).set(piece);
    slot.buffer.unmap();
    const encoder = this.#device.createCommandEncoder();
    encoder.copyBufferToBuffer(slot.buffer, 0, this.#vram[i % PIECES]!, 0, piece.length);
    const pass = encoder.beginComputePass();
    pass.setPipeline(this.#pipeline);
    pass.setBindGroup(0, this.#groups[i]!);
    pass.dispatchWorkgroups(Math.ceil(piece.length / PAGE_SIZE / WORKGROUP));
    pass.end();
    this.#device.queue.submit([encoder.finish()]);
    slot.mapped = slot.buffer.mapAsync(GPUMapMode.WRITE);
    // Closing the loop aborts mappings that nobody waits for any more.
    slot.mapped.catch(() => {});
  }

  async #read(bytes: number): Promise<Uint32Array> {
    const encoder = this.#device.createCommandEncoder();
    encoder.copyBufferToBuffer(this.#sums, 0, this.#readback, 0, bytes);
    this.#device.queue.submit([encoder.finish()]);
    await this.#health.guard(this.#readback.mapAsync(GPUMapMode.READ, 0, bytes));
    const sums = new Uint32Array(this.#readback.getMappedRange(0, bytes)).slice();
    this.#readback.unmap();
    return sums;
  }

  close(): void {
    this.#device.destroy();
  }
}

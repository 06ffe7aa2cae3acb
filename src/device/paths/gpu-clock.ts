/**
 * The GPU's own time of what is submitted: a timestamp before and one behind each command buffer's commands, in empty
 * compute passes, because copies take no timestamps themselves.
 *
 * Known of timestamps: a later one may be smaller than an earlier one where the GPU was reset or changed its clock in
 * between (such a reading is void), and a browser without --enable-unsafe-webgpu rounds them to 100 microseconds. What
 * `writeBuffer` does is in no command buffer and is not counted.
 */
export class GpuClock {
  readonly #device: GPUDevice;
  readonly #queries: GPUQuerySet;
  readonly #resolved: GPUBuffer;
  readonly #mappable: GPUBuffer;
  #running = false;
  #used = 0;

  /** Null where the device has no timestamp queries. */
  static of(device: GPUDevice): GpuClock | null {
    return device.features.has("timestamp-query") ? new GpuClock(device) : null;
  }

  private constructor(device: GPUDevice) {
    this.#device = device;
    const size = MAX_QUERIES * 8;
    this.#queries = device.createQuerySet({ label: "path: clock", type: "timestamp", count: MAX_QUERIES });
    const label = "path: clock";
    const usage = GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC;
    this.#resolved = device.createBuffer({ label, size, usage });
    this.#mappable = device.createBuffer({ label, size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
  }

  start(): void {
    this.#running = true;
    this.#used = 0;
  }

  /** Before the first command of an encoder. */
  before(encoder: GPUCommandEncoder): void {
    if (!this.#running || this.#used >= MAX_QUERIES) return;
    const beginningOfPassWriteIndex = this.#used;
    encoder.beginComputePass({ timestampWrites: { querySet: this.#queries, beginningOfPassWriteIndex } }).end();
  }

  /** Behind its last. */
  behind(encoder: GPUCommandEncoder): void {
    if (!this.#running) return;
    if (this.#used < MAX_QUERIES) {
      const endOfPassWriteIndex = this.#used + 1;
      encoder.beginComputePass({ timestampWrites: { querySet: this.#queries, endOfPassWriteIndex } }).end();
    }
    this.#used += 2;
  }

  /** Milliseconds of all command buffers since `start`; null when nothing was submitted or the reading is void. */
  async stop(): Promise<number | null> {
    this.#running = false;
    if (this.#used === 0 || this.#used > MAX_QUERIES) return null;
    const bytes = this.#used * 8;
    const encoder = this.#device.createCommandEncoder({ label: "path: clock" });
    encoder.resolveQuerySet(this.#queries, 0, this.#used, this.#resolved, 0);
    encoder.copyBufferToBuffer(this.#resolved, 0, this.#mappable, 0, bytes);
    this.#device.queue.submit([encoder.finish()]);
    await this.#mappable.mapAsync(GPUMapMode.READ, 0, bytes);
    const stamps = new BigUint64Array(this.#mappable.getMappedRange(0, bytes).slice(0));
    this.#mappable.unmap();
    let total = 0;
    for (let at = 0; at < stamps.length; at += 2) {
      if (stamps[at + 1]! < stamps[at]!) return null;
      total += Number(stamps[at + 1]! - stamps[at]!);
    }
    return total / 1e6;
  }
}

/** Two per command buffer: enough for 256 MiB in pieces of 2 MiB, there and back. */
const MAX_QUERIES = 1024;

import type { AcquiredDevice } from "../acquire.ts";
import { Health, inErrorScopes } from "../health.ts";

/** What the GPU is given to do: next to nothing, so that the wait is what is measured. */
export const WAIT_WORKS = ["copy", "dispatch"] as const;
export type WaitWork = (typeof WAIT_WORKS)[number];
/** How its end is heard of. */
export const WAIT_ENDS = ["onSubmittedWorkDone", "mapAsync"] as const;
export type WaitEnd = (typeof WAIT_ENDS)[number];

/** The same submission and wait again and again; see Nudge (nudge.ts) for what `nudged` does. */
export interface WaitProbe {
  /**
   * Submits the work, which adds 1 to a word or copies it, and resolves when the end is heard of: with the word for "mapAsync",
   * else null. @throws DeviceLostError
   */
  run(work: WaitWork, end: WaitEnd, nudged: boolean): Promise<number | null>;
  close(): void;
}

const ADD_ONE = `
@group(0) @binding(0) var<storage, read_write> word: array<u32>;
@compute @workgroup_size(1)
fn main() { word[0] += 1u; }`;

/** A probe on a device that the probe destroys. @throws GpuError */
export function openWaitProbe({ device }: AcquiredDevice): Promise<WaitProbe> {
  return inErrorScopes(device, "wait probe", async () => {
    const module = device.createShaderModule({ label: "add one", code: ADD_ONE });
    const pipeline = await device.createComputePipelineAsync({ layout: "auto", compute: { module } });
    return new Probe(device, pipeline);
  });
}

class Probe implements WaitProbe {
  readonly #device: GPUDevice;
  readonly #health: Health;
  readonly #pipeline: GPUComputePipeline;
  readonly #word: GPUBuffer;
  readonly #readback: GPUBuffer;
  readonly #group: GPUBindGroup;

  constructor(device: GPUDevice, pipeline: GPUComputePipeline) {
    const { STORAGE, COPY_SRC, COPY_DST, MAP_READ } = GPUBufferUsage;
    this.#device = device;
    this.#health = new Health(device);
    this.#pipeline = pipeline;
    this.#word = device.createBuffer({ label: "wait probe: word", size: 4, usage: STORAGE | COPY_SRC });
    this.#readback = device.createBuffer({ label: "wait probe: readback", size: 4, usage: COPY_DST | MAP_READ });
    this.#group = device.createBindGroup({
      layout: pipeline.getBindGroupLayout(0),
      entries: [{ binding: 0, resource: { buffer: this.#word } }],
    });
  }

  async run(work: WaitWork, end: WaitEnd, nudged: boolean): Promise<number | null> {
    const encoder = this.#device.createCommandEncoder({ label: "wait probe" });
    if (work === "dispatch") {
      const pass = encoder.beginComputePass();
      pass.setPipeline(this.#pipeline);
      pass.setBindGroup(0, this.#group);
      pass.dispatchWorkgroups(1);
      pass.end();
    }
    if (work === "copy" || end === "mapAsync") encoder.copyBufferToBuffer(this.#word, 0, this.#readback, 0, 4);
    const { queue } = this.#device;
    queue.submit([encoder.finish()]);
    const over = end === "mapAsync" ? this.#readback.mapAsync(GPUMapMode.READ) : queue.onSubmittedWorkDone();
    await (nudged ? this.#health.guardWork(over) : this.#health.guard(over));
    if (end !== "mapAsync") return null;
    const word = new Uint32Array(this.#readback.getMappedRange())[0]!;
    this.#readback.unmap();
    return word;
  }

  close(): void {
    this.#device.destroy();
  }
}

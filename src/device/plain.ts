import type { AcquiredDevice } from "./acquire.ts";

/**
 * Kernels on plain storage buffers, with nothing in between: what the emulated GPU is measured against. Group 0, binding i
 * is buffer i, read_write; the entry point is `main`.
 */
export interface PlainKernel {
  /** One dispatch; resolves when the GPU has done it. */
  run(): Promise<void>;
  dispose(): void;
}

export interface PlainKernelOptions {
  readonly wgsl: string;
  readonly buffers: readonly Uint32Array[];
  readonly workgroups: number;
}

export async function makePlainKernel({ device }: AcquiredDevice, o: PlainKernelOptions): Promise<PlainKernel> {
  const buffers = o.buffers.map((words) => {
    const buffer = device.createBuffer({
      label: "plain",
      size: words.byteLength,
      usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
    });
    device.queue.writeBuffer(buffer, 0, words as Uint32Array<ArrayBuffer>);
    return buffer;
  });
  const done = device.createBuffer({ size: 16, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
  const module = device.createShaderModule({ label: "plain", code: o.wgsl });
  const pipeline = await device.createComputePipelineAsync({ layout: "auto", compute: { module, entryPoint: "main" } });
  const group = device.createBindGroup({
    layout: pipeline.getBindGroupLayout(0),
    entries: buffers.map((buffer, binding) => ({ binding, resource: { buffer } })),
  });
  return {
    async run() {
      const encoder = device.createCommandEncoder();
      const pass = encoder.beginComputePass();
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(o.workgroups);
      pass.end();
      // Waited for as a launch is: by a readback of the same submission.
      encoder.copyBufferToBuffer(buffers[0]!, 0, done, 0, 16);
      device.queue.submit([encoder.finish()]);
      await done.mapAsync(GPUMapMode.READ);
      done.unmap();
    },
    dispose() {
      for (const buffer of [...buffers, done]) buffer.destroy();
    },
  };
}

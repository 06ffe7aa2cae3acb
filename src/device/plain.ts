import type { AcquiredDevice } from "./acquire.ts";

/**
 * Kernels on plain storage buffers, with nothing in between: what the emulated GPU is measured against. Group 0, binding i
 * is buffer i, read_write; the entry point is `main`.
 */
export interface PlainKernel {
  /** One dispatch; resolves when the GPU has done it, with what is downloaded. */
  run(): Promise<Uint32Array>;
  dispose(): void;
}

export interface PlainKernelOptions {
  readonly wgsl: string;
  readonly buffers: readonly Uint32Array[];
  readonly workgroups: number;
  /** Buffers, by index, that a run takes from the host first, and gives back to it. By default none and four words. */
  readonly transfers?: { readonly upload: number; readonly download: number };
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
  const { upload, download = 0 } = o.transfers ?? {};
  const doneBytes = o.transfers === undefined ? 16 : o.buffers[download]!.byteLength;
  const done = device.createBuffer({ size: doneBytes, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
  const module = device.createShaderModule({ label: "plain", code: o.wgsl });
  const pipeline = await device.createComputePipelineAsync({ layout: "auto", compute: { module, entryPoint: "main" } });
  const group = device.createBindGroup({
    layout: pipeline.getBindGroupLayout(0),
    entries: buffers.map((buffer, binding) => ({ binding, resource: { buffer } })),
  });
  return {
    async run() {
      if (upload !== undefined) {
        device.queue.writeBuffer(buffers[upload]!, 0, o.buffers[upload]! as Uint32Array<ArrayBuffer>);
      }
      const encoder = device.createCommandEncoder();
      const pass = encoder.beginComputePass();
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(o.workgroups);
      pass.end();
      // Waited for as a launch is: by a readback of the same submission.
      encoder.copyBufferToBuffer(buffers[download]!, 0, done, 0, doneBytes);
      device.queue.submit([encoder.finish()]);
      await done.mapAsync(GPUMapMode.READ);
      const words = new Uint32Array(done.getMappedRange().slice(0));
      done.unmap();
      return words;
    },
    dispose() {
      for (const buffer of [...buffers, done]) buffer.destroy();
    },
  };
}

import pageCopySubgroupsWgsl from "../../../shaders/paths/page_copy_subgroups.wgsl?raw";
import pageCopyUnrolledWgsl from "../../../shaders/paths/page_copy_unrolled.wgsl?raw";
import pageCopyWordsWgsl from "../../../shaders/paths/page_copy_words.wgsl?raw";
import pageInvertWgsl from "../../../shaders/paths/page_invert.wgsl?raw";
import { pagePairs, type Transfer } from "./transfer.ts";

/** WebGPU's limit on workgroups in one dimension; the kernels take strides beyond it. */
const MAX_WORKGROUPS = 65535;

/** Kernels that are not the copy engine's, and how many pages one workgroup of each takes. */
const KERNELS = {
  copyWordsPerWorkgroup: { wgsl: pageCopyWordsWgsl, entryPoint: "page_per_workgroup", pagesPerGroup: 1 },
  copyWordsPerInvocation: { wgsl: pageCopyWordsWgsl, entryPoint: "page_per_invocation", pagesPerGroup: 64 },
  copyUnrolled: { wgsl: pageCopyUnrolledWgsl, entryPoint: "page_per_workgroup", pagesPerGroup: 1 },
  copySubgroups: { wgsl: pageCopySubgroupsWgsl, entryPoint: "page_per_workgroup", pagesPerGroup: 1 },
  invertInPlace: { wgsl: pageInvertWgsl, entryPoint: "page_per_workgroup", pagesPerGroup: 1 },
} as const;
export type PageKernelName = keyof typeof KERNELS;

/** One dispatch over a page list, ready to be encoded any number of times. */
export interface PageDispatch {
  encode(encoder: GPUCommandEncoder): void;
  dispose(): void;
}

/** `source` null for fills and for kernels that work in place. */
export async function pageDispatch(
  device: GPUDevice,
  name: PageKernelName,
  transfer: Transfer,
  source: GPUBuffer | null,
  destination: GPUBuffer,
): Promise<PageDispatch> {
  const kernel = KERNELS[name];
  const pipeline = await pipelineOf(device, name);
  const pairs = pagePairs(transfer);
  const list = device.createBuffer({
    label: "path: page list",
    size: pairs.byteLength,
    usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST,
  });
  device.queue.writeBuffer(list, 0, pairs);
  const group = device.createBindGroup({
    label: `path: ${name}`,
    layout: pipeline.getBindGroupLayout(0),
    entries: [
      ...(source === null ? [] : [{ binding: 0, resource: { buffer: source } }]),
      { binding: 1, resource: { buffer: destination } },
      { binding: 2, resource: { buffer: list } },
    ],
  });
  const workgroups = Math.min(Math.ceil(pairs.length / 2 / kernel.pagesPerGroup), MAX_WORKGROUPS);
  return {
    encode(encoder) {
      const pass = encoder.beginComputePass({ label: `path: ${name}` });
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(workgroups);
      pass.end();
    },
    dispose: () => list.destroy(),
  };
}

/** Compiling takes 100 ms on the software adapter, so a device keeps its pipelines. */
const pipelines = new WeakMap<GPUDevice, Map<PageKernelName, Promise<GPUComputePipeline>>>();

export function pagesPerGroup(name: PageKernelName): number {
  return KERNELS[name].pagesPerGroup;
}

export function pipelineOf(device: GPUDevice, name: PageKernelName): Promise<GPUComputePipeline> {
  const made = pipelines.get(device) ?? new Map<PageKernelName, Promise<GPUComputePipeline>>();
  pipelines.set(device, made);
  let pipeline = made.get(name);
  if (pipeline === undefined) {
    const { wgsl, entryPoint } = KERNELS[name];
    const module = device.createShaderModule({ label: `path: ${name}`, code: wgsl });
    pipeline = device.createComputePipelineAsync({
      label: `path: ${name}`,
      layout: "auto",
      compute: { module, entryPoint },
    });
    made.set(name, pipeline);
  }
  return pipeline;
}

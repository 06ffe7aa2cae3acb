import { create, globals } from "webgpu";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { inErrorScopes } from "../../src/device/health.ts";
import { createPipelines } from "../../src/device/pipelines.ts";
import { WebGpuKernel } from "../../src/device/kernel.ts";
import { planGeometry } from "../../src/device/geometry.ts";
import type { Geometry, MemoryLimits } from "../../src/device/geometry.ts";
import { bankCount } from "../../src/device/banks.ts";

/**
 * Every composed shader against Dawn's null backend: full WGSL compilation and pipeline validation, nothing executed.
 */
const MIB = 1 << 20;
const DEFAULT_LIMITS: MemoryLimits = {
  maxBufferSize: 256 * MIB,
  maxStorageBufferBindingSize: 128 * MIB,
  maxStorageBuffersPerShaderStage: 8,
};

const SHAPES = [
  { name: "one bank", vram: 64, sysw: 0, maxSeg: 512, banks: 1 },
  { name: "one bank with the window carved out", vram: 64, sysw: 32, maxSeg: 512, banks: 1 },
  { name: "one segment and a window of its own", vram: 128, sysw: 16, maxSeg: 512, banks: 2 },
  { name: "four segments and a window", vram: 62, sysw: 120, maxSeg: 16, banks: 5 },
  { name: "five segments without a window", vram: 80, sysw: 0, maxSeg: 16, banks: 5 },
];

/** Uses everything that svm.wgsl offers. */
const EVERYTHING = `
fn kernel(item: u32) {
  let va = addr_add(arg64(1u), arg(0u) * item);
  let r = svm_read(va);
  let w = svm_write(va);
  if (svm_missed()) { svm_set_cont(svm_cont() + 1u); return; }
  let four = svm_load4(r);
  svm_store(w, svm_load(r) + four.x + mix32(svm_in(item)));
  svm_out(item, four.w);
}`;
const ATOMICS = `
fn kernel(item: u32) {
  let a = svm_atomic(arg64(0u));
  if (svm_missed()) { return; }
  var old = svm_atomic_add(a, 1u) + svm_atomic_sub(a, 1u) + svm_atomic_min(a, 1u) + svm_atomic_max(a, 1u);
  old += svm_atomic_and(a, 1u) + svm_atomic_or(a, 1u) + svm_atomic_xor(a, 1u) + svm_atomic_exchange(a, 1u);
  svm_store(a, old + svm_atomic_compare_exchange(a, 0u, 1u).y + svm_load(a));
}`;

let device: GPUDevice;
let gpu: GPU | null;

beforeAll(async () => {
  Object.assign(globalThis, globals);
  gpu = create(["backend=null"]);
  const adapter = await gpu.requestAdapter();
  device = await adapter!.requestDevice();
});
afterAll(() => {
  device.destroy();
  gpu = null;
});

describe.each(SHAPES)("$name", ({ vram, sysw, maxSeg, banks }) => {
  const geometry = planGeometry(
    {
      vramBytes: vram * MIB,
      ptBytes: MIB,
      syswBytes: sysw * MIB,
      faultQueueCapacity: 4096,
      hostMemory: new Uint8Array(0),
    },
    DEFAULT_LIMITS,
    { maxSegBytes: maxSeg * MIB },
  );

  test("fits the number of banks it is made for", () => expect(bankCount(geometry)).toBe(banks));

  test.each(["p/wg", "p/inv"] as const)("the engines compile, %s", async (shape) => {
    const made = inErrorScopes(device, "engines", () => {
      const { pages } = createPipelines(device, geometry);
      return [pages.copy(shape, false), pages.copy(shape, true), pages.fill(shape)];
    });
    await expect(made).resolves.toBeDefined();
  });

  test.each([null, 0, 1, 15])("the batch translator compiles, TLB classes %s", async (classes) => {
    await expect(walksOn(geometry, 0, classes)).resolves.toBeUndefined();
  });

  test.each([
    ["plain", EVERYTHING, false],
    ["plain text in the atomic variant", EVERYTHING, true],
    ["atomic", ATOMICS, true],
  ])("a kernel that uses the whole interface compiles: %s", async (name, wgsl, atomics) => {
    const pipelines = createPipelines(device, geometry);
    const kernel = await WebGpuKernel.compile(device, geometry, pipelines, { name, wgsl, atomics });
    expect(kernel.pipeline(5)).toBeDefined();
    expect(kernel.usesCont).toBe(wgsl === EVERYTHING);
  });
});

describe("three tiles, the second of two segments", () => {
  const config = { vramBytes: 8 * MIB, moreTiles: [16 * MIB, 6 * MIB], ptBytes: MIB, syswBytes: MIB };
  const geometry = planGeometry(
    { ...config, faultQueueCapacity: 4096, hostMemory: new Uint8Array(0) },
    DEFAULT_LIMITS,
    { maxSegBytes: 8 * MIB },
  );

  test("fit the limits", () => expect(bankCount(geometry)).toBe(4));

  test.each([0, 1, 2])("a kernel that uses the whole interface compiles for tile %i", async (tile) => {
    const made = inErrorScopes(device, "tiles", async () => {
      const pipelines = createPipelines(device, geometry);
      const kernel = await WebGpuKernel.compile(device, geometry, pipelines, { name: "k", wgsl: EVERYTHING });
      return inErrorScopes(device, "pipeline", () => kernel.pipeline(5, "svm_main", tile));
    });
    await expect(made).resolves.toBeDefined();
  });

  test.each([0, 1, 2])("the batch translator compiles for tile %i", async (tile) => {
    await expect(walksOn(geometry, tile, 3)).resolves.toBeUndefined();
  });
});

/** Makes the pipelines of one form; rejects with what WebGPU says of them. */
async function walksOn(geometry: Geometry, tile: number, classes: number | null): Promise<void> {
  await inErrorScopes(device, "batch translator", () => {
    const { walk } = createPipelines(device, geometry);
    walk.dispatch(device.createCommandEncoder().beginComputePass(), { tile, requests: 4096, classes });
  });
}

const kernels = import.meta.glob<string>("../../shaders/kernels/*.wgsl", {
  query: "?raw",
  import: "default",
  eager: true,
});

describe("the project's own kernels", () => {
  const geometry = planGeometry(
    { vramBytes: 64 * MIB, ptBytes: MIB, syswBytes: 0, faultQueueCapacity: 4096, hostMemory: new Uint8Array(0) },
    DEFAULT_LIMITS,
  );
  test.each(Object.entries(kernels))("%s compiles", async (name, wgsl) => {
    const pipelines = createPipelines(device, geometry);
    const atomics = wgsl.includes("svm_atomic");
    await expect(WebGpuKernel.compile(device, geometry, pipelines, { name, wgsl, atomics })).resolves.toBeDefined();
  });
});

test("an atomic operation in a kernel that did not ask for atomics is refused with its line", async () => {
  const geometry = planGeometry(
    { vramBytes: 64 * MIB, ptBytes: MIB, syswBytes: 0, faultQueueCapacity: 64, hostMemory: new Uint8Array(0) },
    DEFAULT_LIMITS,
  );
  const pipelines = createPipelines(device, geometry);
  const wgsl = "fn kernel(item: u32) {\n  _ = svm_atomic_add(0u, 1u);\n}";
  await expect(WebGpuKernel.compile(device, geometry, pipelines, { name: "k", wgsl })).rejects.toThrow(/k\.wgsl:2:/);
});

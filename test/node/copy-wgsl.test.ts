import { create, globals } from "webgpu";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createCopyPipelines } from "../../src/device/copy-pipelines.ts";
import { planGeometry } from "../../src/device/geometry.ts";
import { inErrorScopes } from "../../src/device/health.ts";
import { createPipelines } from "../../src/device/pipelines.ts";

/** The shaders of copy jobs against Dawn's null backend, with WebGPU's default limits. */
const MIB = 1 << 20;
const LIMITS = { maxBufferSize: 256 * MIB, maxStorageBufferBindingSize: 128 * MIB, maxStorageBuffersPerShaderStage: 8 };

// Kept for as long as the device is: collected while work of the device is under way, the instance takes the process along.
let gpu: GPU | null;
let device: GPUDevice;
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

test.each([
  { name: "one bank", vram: 64, sysw: 0, maxSeg: 512 },
  { name: "the window carved out", vram: 64, sysw: 32, maxSeg: 512 },
  { name: "as many banks as fit", vram: 62, sysw: 120, maxSeg: 16 },
])("copy jobs compile, both shapes: $name", async ({ vram, sysw, maxSeg }) => {
  const hostMemory = new Uint8Array(0);
  const config = { vramBytes: vram * MIB, ptBytes: MIB, syswBytes: sysw * MIB, faultQueueCapacity: 4096, hostMemory };
  const geometry = planGeometry(config, LIMITS, { maxSegBytes: maxSeg * MIB });
  for (const pagePerWorkgroup of [true, false]) {
    const made = inErrorScopes(device, "copy jobs", () =>
      createCopyPipelines(device, geometry, createPipelines(device, geometry), pagePerWorkgroup),
    );
    await expect(made).resolves.toBeDefined();
  }
});

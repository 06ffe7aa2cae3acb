import { expect, test } from "vitest";
import { createGpu, describeAdapter } from "../../src/device/index.ts";

const MIB = 1 << 20;

function config(vramMib: number, syswMib = 0) {
  return {
    vramBytes: vramMib * MIB,
    ptBytes: MIB,
    syswBytes: syswMib * MIB,
    faultQueueCapacity: 4096,
    hostMemory: new Uint8Array(new SharedArrayBuffer(8 * MIB)),
  };
}

test("the adapter describes itself", async () => {
  const { adapter, limits } = await describeAdapter();
  expect(adapter.vendor).toBeTypeOf("string");
  expect(limits.maxBufferSize).toBeGreaterThanOrEqual(256 * MIB);
});

test("the device boots at the adapter's limits and is one bank", async () => {
  const gpu = await createGpu(config(16, 8));
  expect(gpu.info.nseg).toBe(1);
  await gpu.idle();
  gpu.destroy();
});

import { describe, expect, test } from "vitest";
import { createGpu, describeAdapter } from "../../src/device/index.ts";
import { AP_HOST, AP_VRAM, PageList } from "../../src/hal/gpu.ts";
import { LAYOUTS, MIB, bootGpu, expectedSegments } from "./support.ts";

test("the adapter describes itself without a device", async () => {
  const { adapter, limits } = await describeAdapter();
  expect(adapter.vendor).toBeTypeOf("string");
  expect(limits.maxBufferSize).toBeGreaterThanOrEqual(256 * MIB);
});

describe.each(LAYOUTS)("on $name", ({ config, options }) => {
  test("the device boots with the sizes that were asked for, and its last page is there", async () => {
    const { gpu, host } = await bootGpu(config, options);
    const vramBytes = config.vramBytes!;
    expect(gpu.info).toMatchObject({ engine: "webgpu", vramBytes, ptBytes: MIB, syswBytes: MIB });
    expect(gpu.info.nseg).toBe(expectedSegments(vramBytes, options));
    if (options.limits === "default") expect(gpu.info.limits.maxStorageBufferBindingSize).toBe(128 * MIB);
    host.fill(0x5a, 0, 4096);
    const list = new PageList();
    list.push(AP_HOST, 0, AP_VRAM, vramBytes / 4096 - 1, 1);
    gpu.copy(list);
    expect((await gpu.readVram(vramBytes - 4, 4))[3]).toBe(0x5a);
    await gpu.idle();
    gpu.destroy();
  });
});

test("VRAM beyond what the adapter can bind is refused by name, not tried", async () => {
  const config = { ptBytes: MIB, syswBytes: 0, faultQueueCapacity: 64, hostMemory: new Uint8Array(4096) };
  await expect(createGpu({ ...config, vramBytes: 1024 * MIB }, { limits: "default" })).rejects.toMatchObject({
    name: "ConfigError",
    path: "vramBytes",
  });
});

import { describe, expect, test } from "vitest";
import { planGeometry } from "../../src/device/geometry.ts";
import type { GpuConfig } from "../../src/hal/gpu.ts";

const MIB = 1 << 20;
const DEFAULT = {
  maxBufferSize: 256 * MIB,
  maxStorageBufferBindingSize: 128 * MIB,
  maxStorageBuffersPerShaderStage: 8,
};
const BIG = { maxBufferSize: 1024 * MIB, maxStorageBufferBindingSize: 1024 * MIB, maxStorageBuffersPerShaderStage: 10 };

function config(overrides: Partial<GpuConfig>): GpuConfig {
  const base = {
    vramBytes: 64 * MIB,
    ptBytes: MIB,
    syswBytes: 0,
    faultQueueCapacity: 4096,
    hostMemory: new Uint8Array(0),
  };
  return { ...base, ...overrides };
}

describe("how memory is laid out over buffers", () => {
  test("one segment as long as VRAM fits one binding, and the window behind it while both fit", () => {
    expect(planGeometry(config({ syswBytes: 64 * MIB }), DEFAULT)).toMatchObject({
      carveOut: true,
      shape: { nseg: 1 },
    });
    expect(planGeometry(config({ syswBytes: 64 * MIB + 4096 }), DEFAULT)).toMatchObject({
      carveOut: false,
      shape: { nseg: 1 },
    });
  });

  test("one segment of the adapter's size where the adapter has more", () => {
    expect(planGeometry(config({ vramBytes: 512 * MIB }), BIG)).toMatchObject({ shape: { nseg: 1, segShift: 29 } });
    expect(planGeometry(config({ vramBytes: 514 * MIB }), BIG)).toMatchObject({ shape: { nseg: 2 } });
  });

  test("at WebGPU's default limits VRAM may have 640 MiB, or 512 MiB and a window", () => {
    expect(planGeometry(config({ vramBytes: 640 * MIB }), DEFAULT).shape.nseg).toBe(5);
    expect(() => planGeometry(config({ vramBytes: 642 * MIB }), DEFAULT)).toThrow(/vramBytes/);
    expect(planGeometry(config({ vramBytes: 512 * MIB, syswBytes: MIB }), DEFAULT).shape.nseg).toBe(4);
    expect(() => planGeometry(config({ vramBytes: 514 * MIB, syswBytes: MIB }), DEFAULT)).toThrow(/vramBytes/);
  });

  test("a guard page follows where a binding has room for it", () => {
    expect(planGeometry(config({}), DEFAULT).bufferBytes).toEqual([64 * MIB + 4096]);
    expect(planGeometry(config({ vramBytes: 128 * MIB }), DEFAULT).bufferBytes).toEqual([128 * MIB]);
  });

  test("every tile has segments of its own, all of one size; the window lies in the first tile's", () => {
    const three = { vramBytes: 24 * MIB, moreTiles: [40 * MIB, 8 * MIB], syswBytes: MIB };
    const one = planGeometry(config(three), DEFAULT);
    expect(one).toMatchObject({
      carveOut: true,
      shape: { nseg: 3, segShift: 26, tileBytes: [24, 40, 8].map((n) => n * MIB) },
    });
    expect(one.bufferBytes).toEqual([25 * MIB + 4096, 40 * MIB + 4096, 8 * MIB + 4096]);
    const cut = planGeometry(config({ ...three, syswBytes: 0 }), BIG, { maxSegBytes: 16 * MIB });
    expect(cut.bufferBytes.map((bytes) => Math.floor(bytes / MIB))).toEqual([16, 8, 16, 16, 8, 8]);
  });

  test("tiles share what the adapter binds", () => {
    const tiles = (bytes: number) => ({ vramBytes: bytes, moreTiles: [bytes, bytes, bytes], syswBytes: 0 });
    expect(planGeometry(config(tiles(128 * MIB)), DEFAULT).shape.nseg).toBe(4);
    expect(() => planGeometry(config(tiles(130 * MIB)), DEFAULT)).toThrow(/vramBytes/);
  });

  test("the last segment may be a shorter buffer", () => {
    expect(planGeometry(config({ vramBytes: 38 * MIB }), DEFAULT, { maxSegBytes: 16 * MIB }).bufferBytes).toEqual([
      16 * MIB + 4096,
      16 * MIB + 4096,
      6 * MIB + 4096,
    ]);
  });
});

describe("sizes that break the rules are refused by name", () => {
  test.each<[string, Partial<GpuConfig>]>([
    ["vramBytes", { vramBytes: 3 * MIB }],
    ["vramBytes", { vramBytes: 0 }],
    ["vramBytes", { vramBytes: Number.NaN }],
    ["moreTiles", { moreTiles: [8, 8, 8, 8].map((n) => n * MIB) }],
    ["moreTiles[1]", { moreTiles: [8 * MIB, 3 * MIB] }],
    ["ptBytes", { ptBytes: 4 * MIB, moreTiles: [8 * MIB] }],
    ["ptBytes", { ptBytes: 32768 }],
    ["ptBytes", { ptBytes: 3 * MIB }],
    ["ptBytes", { ptBytes: 32 * MIB }],
    ["syswBytes", { syswBytes: 100 }],
    ["syswBytes", { syswBytes: -4096 }],
    ["faultQueueCapacity", { faultQueueCapacity: 100 }],
    ["faultQueueCapacity", { faultQueueCapacity: 131072 }],
  ])("%s: %o", (path, overrides) => {
    expect(() => planGeometry(config(overrides), DEFAULT)).toThrow(
      expect.objectContaining({ name: "ConfigError", path }),
    );
  });
});

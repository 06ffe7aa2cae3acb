import { describe, expect, test } from "vitest";
import {
  DMA_BIDIRECTIONAL,
  DMA_FROM_DEVICE,
  DMA_NONE,
  DMA_TO_DEVICE,
  DRM_INTERCONNECT_DRIVER,
  DRM_INTERCONNECT_SYSTEM,
  PAGEMAP_ADDR_BYTES,
  PagemapAddrArray,
  drmPagemapAddrEncode,
  packPagemapAddr,
  unpackPagemapAddr,
} from "../../src/pagemap/pagemap-addr.ts";

describe("the 16-byte layout of a device address", () => {
  test.each([
    ["all zero", 0n, 0n, 0, DMA_BIDIRECTIONAL, 0n],
    ["proto in bits 0 to 53", 1n, 1n, 0, DMA_BIDIRECTIONAL, 1n],
    ["largest proto", 1n, 2n ** 54n - 1n, 0, DMA_BIDIRECTIONAL, 2n ** 54n - 1n],
    ["order from bit 54", 1n, 0n, 1, DMA_BIDIRECTIONAL, 1n << 54n],
    ["largest order", 1n, 0n, 255, DMA_BIDIRECTIONAL, 255n << 54n],
    ["direction from bit 62", 1n, 0n, 0, DMA_TO_DEVICE, 1n << 62n],
    ["from device", 1n, 0n, 0, DMA_FROM_DEVICE, 2n << 62n],
    ["largest direction", 1n, 0n, 0, DMA_NONE, 3n << 62n],
    ["everything set", 2n ** 64n - 1n, 2n ** 54n - 1n, 255, DMA_NONE, 2n ** 64n - 1n],
  ] as const)("%s", (_name, addr, proto, order, dir, meta) => {
    const packed = new BigUint64Array(4).fill(0x5a5an);
    const entry = drmPagemapAddrEncode(addr, proto, order, dir);
    packPagemapAddr(packed, 1, entry);
    expect([...packed]).toEqual([0x5a5an, 0x5a5an, addr, meta]);
    expect(unpackPagemapAddr(packed, 1)).toEqual(entry);
    expect(packed.BYTES_PER_ELEMENT * 2).toBe(PAGEMAP_ADDR_BYTES);
  });

  test("a field too large does not spill into its neighbour", () => {
    const packed = new BigUint64Array(2);
    packPagemapAddr(packed, 0, { addr: 0n, proto: 2n ** 54n, order: 256, dir: DMA_BIDIRECTIONAL });
    expect(packed[1]).toBe(0n);
  });

  test("the protocols of the seed", () => {
    expect([DRM_INTERCONNECT_SYSTEM, DRM_INTERCONNECT_DRIVER]).toEqual([0, 1]);
  });
});

describe("the packed array", () => {
  test("gives back what was pushed, in order", () => {
    const addrs = new PagemapAddrArray(3);
    addrs.push(0x123456789000, DRM_INTERCONNECT_SYSTEM, 9, DMA_TO_DEVICE);
    addrs.push(0x7000, 2 ** 22 - 1, 255, DMA_NONE);
    expect(addrs.count).toBe(2);
    expect(addrs.entry(0)).toEqual({ addr: 0x123456789000n, proto: 0n, order: 9, dir: DMA_TO_DEVICE });
    expect(addrs.entry(1)).toEqual({ addr: 0x7000n, proto: 2n ** 22n - 1n, order: 255, dir: DMA_NONE });
    addrs.clear();
    expect(addrs.count).toBe(0);
  });

  test("holds one entry per page and not one more", () => {
    const addrs = new PagemapAddrArray(1);
    addrs.push(4096, 0, 0, DMA_BIDIRECTIONAL);
    expect(() => addrs.push(8192, 0, 0, DMA_BIDIRECTIONAL)).toThrow(/too many entries/);
  });

  test("rejects a protocol that it could not give back", () => {
    const addrs = new PagemapAddrArray(1);
    expect(() => addrs.push(4096, 2 ** 22, 0, DMA_BIDIRECTIONAL)).toThrow(/protocol/);
  });
});

import { gzipSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import { Random } from "../../src/base/random.ts";
import { mix32 } from "../../src/abi/mix32.ts";
import { countBytes, firstTransformError, gzipCrc32, joinCrc32 } from "../../src/worker/verify.ts";

const BLOCK = 4096;

function bytesOf(size: number): Uint8Array<ArrayBuffer> {
  const random = new Random(size + 1);
  return Uint8Array.from({ length: size }, () => random.u32() & 255);
}

/** CRC-32 by Node's zlib: the last eight bytes of a gzip stream are the checksum and the length. */
function zlibCrc32(bytes: Uint8Array): number {
  return gzipSync(bytes).subarray(-8).readUInt32LE(0);
}

describe.each([1, BLOCK - 1, BLOCK, BLOCK + 1, 25 * BLOCK + 7])("a file of %i bytes", (size) => {
  const file = bytesOf(size);

  test("its CRC-32 is that of its blocks, joined", () => {
    const sums = Uint32Array.from({ length: Math.ceil(size / BLOCK) }, (_, i) =>
      zlibCrc32(file.subarray(i * BLOCK, (i + 1) * BLOCK)),
    );
    expect(joinCrc32(sums, BLOCK, size)).toBe(zlibCrc32(file));
    sums[0]! ^= 1;
    expect(joinCrc32(sums, BLOCK, size)).not.toBe(zlibCrc32(file));
  });

  test("its CRC-32 is read from the end of the gzip stream", async () => {
    expect(await gzipCrc32(new Blob([file]))).toBe(zlibCrc32(file));
  });
});

test("bytes are counted across pieces", () => {
  const counts = new Uint32Array(256);
  countBytes(counts, Uint8Array.of(1, 1, 255));
  countBytes(counts, Uint8Array.of(1));
  expect([counts[0], counts[1], counts[255]]).toEqual([0, 3, 1]);
});

describe("the transform is checked byte for byte", () => {
  const original = bytesOf(1000);
  const changed = original.map((byte, i) => byte ^ ((mix32((i >>> 2) + 1) >>> ((i & 3) * 8)) & 255));

  test.each([0, 1, 2, 3, 500])("in a piece that begins at %i", (offset) => {
    expect(firstTransformError(original.subarray(offset), changed.subarray(offset), offset)).toBe(-1);
  });

  test.each([0, 1, 999])("a wrong byte at %i is found", (at) => {
    const wrong = changed.slice();
    wrong[at]! ^= 128;
    expect(firstTransformError(original, wrong, 0)).toBe(at);
  });

  test("a missing end is found", () => {
    expect(firstTransformError(original, changed.subarray(0, 900), 0)).toBe(900);
  });
});

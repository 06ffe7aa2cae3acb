import { createHash } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { FileOracle, keystreamXor, mix32 } from "../../scripts/demo-check.mjs";

const dir = mkdtempSync(join(tmpdir(), "demo-"));
afterAll(() => rmSync(dir, { recursive: true }));

/** 2 whole blocks and a short one, its last word partial. */
const CONTENT = Buffer.from(Array.from({ length: 2 * 4096 + 1003 }, (_, i) => (i * 31 + (i >> 8)) & 255));
const FILE = join(dir, "content");
writeFileSync(FILE, CONTENT);

/** The bytewise definition of CRC-32. */
function crcOf(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

function rightCrcs(): Buffer {
  const out = Buffer.alloc(12);
  for (let block = 0; block < 3; block++)
    out.writeUInt32LE(crcOf(CONTENT.subarray(block * 4096, (block + 1) * 4096)), block * 4);
  return out;
}

function rightHistogram(): number[] {
  const bins = Array.from({ length: 256 }, () => 0);
  for (const byte of CONTENT) bins[byte]!++;
  return bins;
}

const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

const withOracle = async <T>(body: (oracle: FileOracle) => T | Promise<T>): Promise<T> => {
  const oracle = await FileOracle.open(FILE);
  try {
    await oracle.ready;
    return await body(oracle);
  } finally {
    await oracle.close();
  }
};

describe("mix32", () => {
  it("has the values that the device specification gives", () => {
    expect(mix32(1)).toBe(0x688990c0);
    expect(mix32(0x12345678)).toBe(0xf5e71c96);
  });
});

describe("the demo's checks", () => {
  it("accept right results", () =>
    withOracle(async (oracle) => {
      expect(oracle.checkHistogram(rightHistogram())).toBeNull();
      expect(oracle.checkCrcs(rightCrcs())).toBeNull();
      const transformed = keystreamXor(CONTENT, 0);
      await oracle.receiveTransformed(4099, transformed.subarray(4099));
      await oracle.receiveTransformed(0, transformed.subarray(0, 4099));
      expect(oracle.checkTransformed()).toBeNull();
    }));

  it("see one count that is off by one", () =>
    withOracle((oracle) => {
      const bins = rightHistogram();
      bins[200]!++;
      expect(oracle.checkHistogram(bins)).toContain("byte value 200");
      expect(oracle.checkHistogram(bins.slice(1))).toContain("255 bins");
    }));

  it("see one wrong checksum, and a missing one", () =>
    withOracle((oracle) => {
      const crcs = rightCrcs();
      crcs[8]! ^= 1;
      expect(oracle.checkCrcs(crcs)).toContain("block 2");
      expect(oracle.checkCrcs(crcs.subarray(0, 8))).toContain("2 block checksums came, not 3");
    }));

  it("see one wrong byte of the transformed file", () =>
    withOracle(async (oracle) => {
      const transformed = keystreamXor(CONTENT, 0);
      transformed[5000]! ^= 0x10;
      await oracle.receiveTransformed(0, transformed);
      expect(oracle.checkTransformed()).toContain("byte 5000");
    }));

  it.each([
    { what: "nothing came", pieces: [], says: "only 0 of" },
    {
      what: "a hole",
      pieces: [
        [0, 100],
        [104, CONTENT.length],
      ],
      says: "100 to 104 came never",
    },
    {
      what: "an overlap",
      pieces: [
        [0, 104],
        [100, CONTENT.length],
      ],
      says: "100 to 104 came twice",
    },
    { what: "a short end", pieces: [[0, CONTENT.length - 1]], says: `only ${CONTENT.length - 1} of` },
  ])("see that transformed bytes are not all there: $what", ({ pieces, says }) =>
    withOracle(async (oracle) => {
      const transformed = keystreamXor(CONTENT, 0);
      for (const [start, end] of pieces) await oracle.receiveTransformed(start!, transformed.subarray(start, end));
      expect(oracle.checkTransformed()).toContain(says);
    }),
  );

  it("take pieces of the transformed file by their digests", () =>
    withOracle(async (oracle) => {
      const transformed = keystreamXor(CONTENT, 0);
      for (const [start, end] of [
        [5003, CONTENT.length],
        [0, 5003],
      ] as const)
        expect(await oracle.receiveDigest(start, end - start, sha256(transformed.subarray(start, end)))).toBe(true);
      expect(oracle.checkTransformed()).toBeNull();
    }));

  it.each([
    { what: "of bytes of which one bit is wrong", offset: 0, length: 4096, flipped: 77 },
    { what: "of another place", offset: 4, length: 4096, flipped: null },
    { what: "of fewer bytes", offset: 0, length: 4095, flipped: null },
    { what: "of bytes beyond the end of the file", offset: CONTENT.length - 4095, length: 4096, flipped: null },
  ])("want the piece itself for a digest $what", ({ offset, length, flipped }) =>
    withOracle(async (oracle) => {
      const piece = keystreamXor(Buffer.concat([CONTENT.subarray(0, 4096)]), 0);
      if (flipped !== null) piece[flipped]! ^= 1;
      expect(await oracle.receiveDigest(offset, length, sha256(piece))).toBe(false);
      expect(oracle.checkTransformed()).toContain("only 0 of");
    }),
  );

  it("see bytes beyond the end of the file", () =>
    withOracle(async (oracle) => {
      await oracle.receiveTransformed(0, Buffer.concat([keystreamXor(CONTENT, 0), Buffer.alloc(1)]));
      expect(oracle.checkTransformed()).toContain("beyond the file's end");
    }));
});

describe("the keystream", () => {
  it("is the little-endian bytes of mix32(k + 1), wherever a piece begins", () => {
    const whole = keystreamXor(Buffer.alloc(64), 0);
    for (let k = 0; k < 16; k++) expect(whole.readUInt32LE(k * 4)).toBe(mix32(k + 1));
    for (const offset of [1, 2, 3, 4, 7])
      expect(keystreamXor(Buffer.alloc(16), offset)).toEqual(whole.subarray(offset, offset + 16));
  });
});

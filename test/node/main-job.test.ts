import { crc32 } from "node:zlib";
import { expect, test } from "vitest";
import { ConfigError } from "../../src/base/errors.ts";
import { mix32 } from "../../src/abi/mix32.ts";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { Machine } from "../../src/machine/machine.ts";
import { mainJobRam, runMainJob } from "../../src/scenario/main-job.ts";

function setUp(size: number, vram: number) {
  const machine = new Machine({ engine: REFERENCE_ENGINE, ram: mainJobRam(size) });
  const process = machine.createProcess();
  return { process, vm: machine.createDevice({ vram }).vm(process) };
}

test.each([
  { size: 1, vram: 4 << 20 },
  { size: 4095, vram: 4 << 20 },
  { size: 4097, vram: 4 << 20 },
  { size: (3 << 20) + 2, vram: 4 << 20 },
  { size: 9_999_999, vram: 4 << 20 },
])("the results over $size bytes under $vram bytes of VRAM are those of independent code", async ({ size, vram }) => {
  const bytes = Uint8Array.from({ length: size }, (_, i) => Math.imul(i + 7, 2654435761) >>> 11);
  const { process, vm } = setUp(size, vram);
  const transformed = new Uint8Array(size);
  const result = await runMainJob(
    process,
    vm,
    { size, read: async (offset, n) => bytes.subarray(offset, offset + n) },
    { onTransformed: (offset, piece) => transformed.set(piece, offset) },
  );
  const histogram = new Uint32Array(256);
  for (const b of bytes) histogram[b]! += 1;
  expect(result.histogram).toEqual(histogram);
  const blocks = Array.from({ length: Math.ceil(size / 4096) }, (_, b) =>
    crc32(bytes.subarray(b * 4096, b * 4096 + 4096)),
  );
  expect(Array.from(result.crc32)).toEqual(blocks);
  const keystream = new Uint32Array(Math.ceil(size / 4)).map((_, k) => mix32(k + 1));
  const key = new Uint8Array(keystream.buffer);
  expect(
    Buffer.compare(
      transformed,
      bytes.map((b, i) => b ^ key[i]!),
    ),
  ).toBe(0);
});

test("an empty source is refused with a sentence", async () => {
  const { process, vm } = setUp(4096, 4 << 20);
  const job = runMainJob(
    process,
    vm,
    { size: 0, read: async () => new Uint8Array(0) },
    { onTransformed: () => undefined },
  );
  await expect(job).rejects.toThrow(ConfigError);
});

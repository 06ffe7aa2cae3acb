import { describe, expect, test } from "vitest";
import { ConfigError } from "../../src/base/errors.ts";
import { Machine, prepareEngine } from "../../src/machine/index.ts";

/** The example of machine.ts. */
test("a word goes to the GPU and back", async () => {
  const machine = new Machine({ engine: await prepareEngine("reference") });
  const process = machine.createProcess();
  const device = machine.createDevice({ vram: 16 << 20 });
  const vm = device.vm(process);
  const a = await process.mmap(1 << 20);
  await process.st(a, 7);
  await vm.ginc(a);
  expect(await process.ld(a)).toBe(8);
  await machine.close();
});

describe("bad configuration names its path and what would be right", async () => {
  const engine = await prepareEngine("reference");
  const machine = new Machine({ engine, ram: 16 << 20 });
  const process = machine.createProcess();
  const device = machine.createDevice({ vram: 4 << 20 });

  test.each([
    ["machine.ram", () => new Machine({ engine, ram: -1 })],
    ["machine.ram", () => new Machine({ engine, ram: 2 ** 50 })],
    ["device.vram", () => machine.createDevice({ vram: 3 << 20 })],
    ["device.vram", () => machine.createDevice({ vram: 1 << 20 })],
    ["config.chunks", () => device.vm(process, { chunks: [4096, 65536] })],
    ["config.chunks", () => device.vm(process, { chunks: [65536] })],
    ["config.notifier", () => device.vm(process, { notifier: 3 << 20 })],
    ["config.leafSizes", () => device.vm(process, { leafSizes: [8192] })],
    ["config.window", () => device.vm(process, { window: [1, 0] })],
  ])("%s", (path, make) => {
    expect(make).toThrow(ConfigError);
    expect(make).toThrow(path);
  });

  test("an engine that there is none of", async () => {
    await expect(prepareEngine("metal" as "webgpu")).rejects.toThrow('"webgpu" or "reference" is wanted, not "metal"');
  });
});

describe("bulk accesses of any alignment", async () => {
  const machine = new Machine({ engine: await prepareEngine("reference"), ram: 64 << 20 });
  const process = machine.createProcess();
  const vm = machine.createDevice({ vram: 8 << 20 }).vm(process);
  const size = 5 * 4096;
  const a = await process.mmap(2 * size + 8192);
  const b = a + size + 4096 + 4;

  test.each([
    { at: 0, to: 0, bytes: 4096 },
    { at: 1, to: 2, bytes: 1 },
    { at: 4093, to: 3, bytes: 6 },
    { at: 4095, to: 4094, bytes: 8200 },
    { at: 2, to: 0, bytes: 3 * 4096 + 1 },
    { at: 4, to: 8, bytes: 4092 },
  ])("$bytes bytes from offset $at to offset $to", async ({ at, to, bytes }) => {
    const source = Uint8Array.from({ length: size }, (_, i) => (i * 7 + (i >> 8)) & 255);
    const target = new Uint8Array(size).fill(0xcc);
    await process.write(a, source);
    await process.write(b, target);
    await vm.gcpy(b + to, a + at, bytes);
    target.set(source.subarray(at, at + bytes), to);
    expect(Buffer.compare(await process.read(b, size), target)).toBe(0);
    expect(Buffer.compare(await vm.gread(b + to, bytes), target.subarray(to, to + bytes))).toBe(0);

    const data = source.subarray(0, bytes).map((x) => 255 - x);
    await vm.gwrite(a + at, data);
    source.set(data, at);
    expect(Buffer.compare(await process.read(a, size), source)).toBe(0);

    await vm.gfill(a + at, bytes, 0x3c);
    source.fill(0x3c, at, at + bytes);
    expect(Buffer.compare(await process.read(a, size), source)).toBe(0);
  });
});

test("misuse of the verbs is refused before anything happens", async () => {
  const machine = new Machine({ engine: await prepareEngine("reference"), ram: 16 << 20 });
  const process = machine.createProcess();
  const vm = machine.createDevice({ vram: 4 << 20 }).vm(process);
  const a = await process.mmap(8192);
  for (const bad of [
    () => vm.gld(a + 1),
    () => vm.gfill(a, 0, 1),
    () => vm.gcpy(a, a + 4, 8),
    () => vm.gld(-4),
    () => process.read(a, 0),
    () => process.ld(Number.NaN),
    () => process.munmap(a + 1, 4096),
    () => process.mprotect(a, 0, "R"),
    () => process.dontneed(a, 0),
  ]) {
    await expect(bad()).rejects.toMatchObject({ code: "EINVAL" });
  }
  expect(vm.counters.gpuFault).toBe(0);
});

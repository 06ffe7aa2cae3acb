import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Machine } from "../../src/machine/machine.ts";
import type { Engine } from "../../src/machine/machine.ts";
import { BUILTIN_SCENARIOS } from "../../src/scenario/builtin.ts";
import { runScenarioModule } from "../../src/scenario/run.ts";
import { testEngine } from "./support.ts";

let engine: Engine;
beforeAll(async () => {
  engine = await testEngine();
});
afterAll(() => engine.destroy());

// p07 takes half a minute: part of it is in peer-races.test.ts.
const SCENARIOS = BUILTIN_SCENARIOS.filter(({ id }) => id !== "p07");
test.each(SCENARIOS)("$id on WebGPU: $title", async ({ module }) => {
  const result = await runScenarioModule(module, { engine });
  expect(result.error).toBeNull();
  expect(result.checks.filter((c) => !c.ok)).toEqual([]);
  expect(result.must.passed).toBeGreaterThan(0);
});

test("system memory mapped in place is shared word by word", async () => {
  const machine = new Machine({ engine, ram: 64 << 20, config: { migrate: false } });
  try {
    const device = machine.createDevice({ vram: 4 << 20 });
    const process = machine.createProcess();
    const vm = device.vm(process);
    const a = await process.mmap(2 << 20, { align: 2 << 20 });
    for (let turn = 0; turn < 4; turn++) {
      await process.st(a + 4096, turn);
      expect(await vm.ginc(a + 4096, 10)).toBe(turn);
      await vm.gst(a + 8, turn * 3);
      expect(await process.ld(a + 4096)).toBe(turn + 10);
      expect(await process.ld(a + 8)).toBe(turn * 3);
    }
    expect(device.driver.vramUsed).toBe(0);
  } finally {
    await machine.close();
  }
});

test("an item that needs more than VRAM reaches the rest in system memory", async () => {
  const machine = new Machine({ engine, ram: 64 << 20 });
  try {
    const device = machine.createDevice({ vram: 4 << 20 });
    const process = machine.createProcess();
    const vm = device.vm(process);
    const chunk = 2 << 20;
    const a = await process.mmap(4 * chunk, { align: chunk });
    for (let k = 0; k < 4; k++) await process.st(a + k * chunk, k + 1);
    await vm.kernel(
      `fn kernel(item: u32) {
        var at: array<u32, 4>;
        for (var k = 0u; k < 4u; k++) { at[k] = svm_write(addr_add(arg64(0u), k * ${chunk}u)); }
        if (svm_missed()) { return; }
        for (var k = 0u; k < 4u; k++) { svm_store(at[k], svm_load(at[k]) * 10u); }
      }`,
      { items: 1, args: [a % 2 ** 32, Math.floor(a / 2 ** 32)] },
    );
    for (let k = 0; k < 4; k++) expect(await process.ld(a + k * chunk)).toBe((k + 1) * 10);
  } finally {
    await machine.close();
  }
});

test("a mistake in the user's WGSL is reported with the user's own line", async () => {
  const machine = new Machine({ engine, ram: 16 << 20 });
  try {
    const vm = machine.createDevice({ vram: 4 << 20 }).vm(machine.createProcess());
    await expect(vm.kernel("fn kernel(item: u32) {\n  let x = nonsense;\n}", { items: 1 })).rejects.toThrow(
      /user\.wgsl:2/,
    );
  } finally {
    await machine.close();
  }
});

describe("bulk accesses of any alignment", () => {
  test.each([
    { at: 0, to: 0, bytes: 4096 },
    { at: 1, to: 2, bytes: 1 },
    { at: 4093, to: 3, bytes: 6 },
    { at: 4095, to: 4094, bytes: 8200 },
    { at: 2, to: 0, bytes: 3 * 4096 + 1 },
    { at: 3, to: 1, bytes: 4099 },
    { at: 4, to: 8, bytes: 4092 },
  ])("$bytes bytes from offset $at to offset $to", async ({ at, to, bytes }) => {
    const machine = new Machine({ engine, ram: 32 << 20 });
    try {
      const process = machine.createProcess();
      const vm = machine.createDevice({ vram: 4 << 20 }).vm(process);
      const size = 5 * 4096;
      const a = await process.mmap(2 * size + 8192);
      const b = a + size + 4096 + 4;
      const source = Uint8Array.from({ length: size }, (_, i) => (i * 7 + (i >> 8)) & 255);
      const target = new Uint8Array(size).fill(0xcc);
      await process.write(a, source);
      await process.write(b, target);
      await vm.gcpy(b + to, a + at, bytes);
      target.set(source.subarray(at, at + bytes), to);
      expect(await process.read(b, size)).toEqual(target);
      expect(await vm.gread(b + to, bytes)).toEqual(target.slice(to, to + bytes));

      const data = source.slice(0, bytes).map((x) => 255 - x);
      await vm.gwrite(a + at, data);
      source.set(data, at);
      expect(await process.read(a, size)).toEqual(source);

      await vm.gfill(a + at, bytes, 0x3c);
      source.fill(0x3c, at, at + bytes);
      expect(await process.read(a, size)).toEqual(source);
    } finally {
      await machine.close();
    }
  });
});

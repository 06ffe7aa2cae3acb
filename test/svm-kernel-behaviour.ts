import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Engine, type Machine, type Process, type Vm, createMachine } from "../src/machine/index.ts";

/** What the public entry point promises, on any engine: arrays, and kernels with named parameters. */
export function describeSvmKernels(prepare: () => Promise<Engine>): void {
  let engine: Engine;
  let machine: Machine;
  let process: Process;
  let vm: Vm;
  beforeAll(async () => {
    engine = await prepare();
    machine = await createMachine({ engine, ram: 96 << 20, devices: [{ vram: 4 << 20 }] });
    process = machine.createProcess();
    vm = machine.devices[0]!.vm(process);
  });
  afterAll(async () => {
    await machine.close();
    engine.destroy();
  });

  const SAXPY = {
    name: "saxpy",
    params: { x: "array<f32>", y: "array<f32, read_write>", a: "f32" },
    // An item per page: all that it touches is there, or nothing is stored.
    wgsl: `fn kernel(item: u32) {
      for (var i = item * 1024u; i < min(item * 1024u + 1024u, x_length()); i++) { y_store(i, a() * x_load(i) + y_load(i)); }
    }`,
  } as const;
  /** The same for the reference engine, which gives locations of words. */
  const f32 = new Float32Array(1);
  const bits = new Uint32Array(f32.buffer);
  const float = (word: number): number => {
    bits[0] = word;
    return f32[0]!;
  };
  const word = (value: number): number => {
    f32[0] = value;
    return bits[0]!;
  };

  test("saxpy over arrays in place, twice the VRAM", async () => {
    const n = (4 << 20) / 4;
    const x = await process.alloc(Float32Array, n);
    const y = await process.alloc(Float32Array, n);
    await x.write(Float32Array.from({ length: n }, (_, i) => i % 1000));
    await y.fill(0.5);
    const saxpy = await vm.createKernel({
      ...SAXPY,
      reference: (item, c) => {
        const from = c.at(0, item * 4096);
        const to = c.at(1, item * 4096);
        if (c.missed) return;
        for (let i = 0; i < 1024; i++) {
          c.store(to + i, word(float(c.args[2]!) * float(c.load(from + i)) + float(c.load(to + i))));
        }
      },
    });
    const { rounds, faults } = await saxpy.run({ x, y, a: 2 }, { items: n / 1024 });
    expect(rounds).toBeGreaterThan(1);
    expect(faults).toBeGreaterThan(0);
    const out = await y.read();
    expect(out.findIndex((value, i) => value !== 2 * (i % 1000) + 0.5)).toBe(-1);
    expect(await x.get(1001)).toBe(1);
    await x.free();
    await y.free();
    expect(machine.devices[0]!.driver.vramUsed).toBe(0);
  });

  test("resident data costs one round; evict and prefetch say how many pages went", async () => {
    const a = await process.alloc(Uint32Array, 4096);
    await a.fill(7);
    expect(await a.prefetch(vm)).toBe(4);
    const kernel = await vm.createKernel({
      params: { a: "array<u32, read_write>", by: "u32" },
      wgsl: "fn kernel(i: u32) { a_store(i, a_load(i) + by()); }",
      reference: (i, c) => {
        const at = c.at(0, i * 4);
        if (!c.missed) c.store(at, c.load(at) + c.args[1]!);
      },
    });
    expect(await kernel.run({ a, by: 3 }, { items: 4096 })).toMatchObject({ rounds: 1, faults: 0 });
    expect(await a.evict(vm)).toBe(4);
    expect((await a.read()).every((value) => value === 10)).toBe(true);
    await a.free();
  });

  describe("bad input names its place, and nothing happens", () => {
    test("arrays", async () => {
      const a = await process.alloc(Int32Array, 10);
      await expect(process.alloc(Float32Array, 0)).rejects.toThrow("a number of elements above 0 is wanted, not 0");
      await expect(process.alloc(5 as unknown as typeof Float32Array, 1)).rejects.toThrow("constructor is wanted");
      await expect(a.read(0, 11)).rejects.toThrow("not within 0 to 10");
      await expect(a.write([1, 2], 9)).rejects.toThrow("not within 0 to 10");
      await expect(a.set(-1, 0)).rejects.toThrow("not within 0 to 10");
      expect([...(await a.read())]).toEqual(Array.from({ length: 10 }, () => 0));
      await a.write([1, -2, 3.9], 7);
      expect([...(await a.read(6))]).toEqual([0, 1, -2, 3]);
      expect((await a.read(3, 3)).length).toBe(0);
      await a.free();
      await expect(a.read()).rejects.toThrow("the array has been freed");
      await expect(a.free()).rejects.toThrow("the array has been freed");
    });

    test.each([
      [{ "2x": "f32" }, "kernel.params.2x"],
      [{ svm_x: "f32" }, "does not begin with svm_"],
      [{ x: "f64" }, '"array<f32, read_write>"'],
      [{ x: "array<f32, write>" }, '"array<f32, read_write>"'],
      [Object.fromEntries(Array.from("abcdefghi", (name) => [name, "array<u32>"])), "at most 8 arrays"],
      [Object.fromEntries(Array.from({ length: 33 }, (_, i) => [`p${i}`, "u32"])), "at most 32 words"],
    ])("parameters %j", async (params, message) => {
      await expect(vm.createKernel({ wgsl: "", params: params as Record<string, "f32"> })).rejects.toThrow(message);
    });

    test("arguments", async () => {
      const x = await process.alloc(Float32Array, 4);
      const other = await machine.createProcess().alloc(Float32Array, 4);
      const words = await process.alloc(Uint32Array, 4);
      const saxpy = await vm.createKernel({ ...SAXPY, reference: () => undefined });
      const run = (args: object) => saxpy.run(args as Parameters<typeof saxpy.run>[0], { items: 4 });
      await expect(run({ x, a: 1 })).rejects.toThrow("kernel.args.y");
      await expect(run({ x, y: x, a: 1, b: 2 })).rejects.toThrow("kernel.args.b");
      await expect(run({ x, y: words, a: 1 })).rejects.toThrow("Float32Array is wanted, not Uint32Array");
      await expect(run({ x, y: other, a: 1 })).rejects.toThrow("an array of process 1 is wanted, this is one of 2");
      await expect(run({ x, y: x, a: "1" })).rejects.toThrow("kernel.args.a");
      await expect(saxpy.run({ x, y: x, a: 1 }, { items: 0 })).rejects.toThrow("kernel.items");
      await x.free();
      await expect(run({ x, y: words, a: 1 })).rejects.toThrow("this array has been freed");
      await words.free();
    });
  });

  test("a machine that cannot be is refused, and its engine stays the caller's", async () => {
    await expect(createMachine({ engine, devices: [{ vram: 1 }] })).rejects.toThrow("device.vram");
    await expect(createMachine({ engine, ram: -1 })).rejects.toThrow("machine.ram");
    const another = await createMachine({ engine, ram: 16 << 20, devices: [{ vram: 4 << 20 }, { vram: 4 << 20 }] });
    expect(another.devices.length).toBe(2);
    await another.close();
    expect(engine.isLost).toBe(false);
  });
}

import { expect, test } from "vitest";
import { createMachine } from "../../src/machine/index.ts";
import { describeSvmKernels } from "../svm-kernel-behaviour.ts";
import { testEngine } from "./support.ts";

describeSvmKernels(testEngine);

test("beyond its end an array reads zero and keeps what lies behind it; pointers and atomics", async () => {
  const machine = await createMachine({ engine: await testEngine(), ownsEngine: true, ram: 32 << 20 });
  const process = machine.createProcess();
  const vm = machine.devices[0]!.vm(process);
  const a = await process.alloc(Uint32Array, 100);
  const count = await process.alloc(Uint32Array, 1);
  const p = await process.alloc(Float32Array, 100);
  await process.st(a.address + 4 * 100, 77);
  const kernel = await vm.createKernel({
    params: { a: "array<u32, read_write>", count: "array<u32, atomic>", p: "ptr", shift: "i32" },
    wgsl: `
fn kernel(i: u32) {
  let at = a_at(i);
  let f = svm_write(addr_add(p(), (i % 100u) * 4u));
  let c = count_at(0u);
  if (svm_missed()) { return; }
  svm_atomic_add(c, 1u + a_load(i));
  svm_store(at, u32(i32(i) + shift()));
  svm_store_f32(f, f32(a_length()));
}`,
  });
  await kernel.run({ a, count, p, shift: -1 }, { items: 200 });
  expect([...(await a.read())]).toEqual(Array.from({ length: 100 }, (_, i) => (i - 1) >>> 0));
  expect(await process.ld(a.address + 4 * 100)).toBe(77);
  expect(await count.get(0)).toBe(200);
  expect(await p.get(99)).toBe(100);
  await machine.close();
});

test("elements one by one, far beyond VRAM: fewer items run together until their pages fit", async () => {
  const machine = await createMachine({
    engine: await testEngine(),
    ownsEngine: true,
    ram: 64 << 20,
    devices: [{ vram: 4 << 20 }],
  });
  const process = machine.createProcess();
  const vm = machine.devices[0]!.vm(process);
  const n = (8 << 20) / 4;
  const x = await process.alloc(Float32Array, n);
  const y = await process.alloc(Float32Array, n);
  await x.write(Float32Array.from({ length: n }, (_, i) => i % 1000));
  await y.fill(0.5);
  const saxpy = await vm.createKernel({
    params: { x: "array<f32>", y: "array<f32, read_write>", a: "f32" },
    wgsl: "fn kernel(i: u32) { y_store(i, a() * x_load(i) + y_load(i)); }",
  });
  const { rounds } = await saxpy.run({ x, y, a: 2 }, { items: n });
  expect(rounds).toBeLessThan(60);
  const out = await y.read();
  expect(out.findIndex((value, i) => value !== 2 * (i % 1000) + 0.5)).toBe(-1);
  await machine.close();
});

test("an error in the WGSL names the caller's line", async () => {
  const engine = await testEngine();
  const machine = await createMachine({ engine, ram: 16 << 20, devices: [{ vram: 4 << 20 }] });
  const vm = machine.devices[0]!.vm(machine.createProcess());
  const wgsl = "fn kernel(i: u32) {\n  let v = a_lod(i);\n}";
  await expect(vm.createKernel({ name: "mine", params: { a: "array<f32>" }, wgsl })).rejects.toThrow(
    /mine\.wgsl:2:\d+/,
  );
  await machine.close();
  engine.destroy();
});

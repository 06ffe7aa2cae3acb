/** Memory advice and policies on WebGPU: entries without the right to do atomics, memory in place, the density prefetcher. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { KernelError } from "../../src/base/errors.ts";
import type { PresetName } from "../../src/driver/policy/presets.ts";
import { Machine } from "../../src/machine/machine.ts";
import type { Engine, VmConfig } from "../../src/machine/machine.ts";
import type { Process } from "../../src/machine/process.ts";
import { testEngine } from "./support.ts";

let engine: Engine;
beforeAll(async () => {
  engine = await testEngine();
});
afterAll(() => engine.destroy());

const KIB = 1 << 10;
const MIB = 1 << 20;

/** "SYS", "NONE", or the name of the device: a device itself is too much to print where a test fails. */
function placeOf(machine: Machine, process: Process, a: number): string {
  const place = machine.where(process, a);
  return typeof place === "string" ? place : place.name;
}

async function withMachine(config: Partial<VmConfig>, body: (m: Machine) => Promise<void>): Promise<void> {
  const machine = new Machine({ engine, ram: 32 * MIB, config });
  try {
    await body(machine);
  } finally {
    await machine.close();
  }
}

function setUp(machine: Machine) {
  const gpu = machine.createDevice({ vram: 4 * MIB, window: MIB });
  const process = machine.createProcess();
  return { gpu, process, vm: gpu.vm(process) };
}

test("global atomics come to VRAM, the CPU's take the page back, and every one counts", () =>
  withMachine({ policy: { migrate: "never" } }, async (machine) => {
    const { process, vm } = setUp(machine);
    const a = await process.mmap(64 * KIB, { align: 64 * KIB, populate: true });
    await vm.attr(a, 64 * KIB, { atomic: "GLOBAL" });
    await vm.gst(a + 4, 1);
    expect(placeOf(machine, process, a)).toBe("SYS");
    for (let i = 0; i < 3; i++) {
      await vm.ginc(a);
      expect(placeOf(machine, process, a)).toBe("gpu0");
      await process.inc(a);
    }
    expect(await process.ld(a)).toBe(6);
  }));

test("atomics that only the CPU may do are refused by the entries, stores are not", () =>
  withMachine({}, async (machine) => {
    const { process, vm } = setUp(machine);
    const a = await process.mmap(64 * KIB);
    await vm.gst(a, 5);
    await vm.attr(a, 64 * KIB, { atomic: "CPU" });
    await vm.gst(a + 4, 6);
    const error = await vm.ginc(a).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(KernelError);
    expect((error as KernelError).fault).toEqual({ kind: "PERM", addr: a, access: "atomic" });
    expect([await vm.gld(a), await vm.gld(a + 4)]).toEqual([5, 6]);
  }));

test("memory that had better be in RAM comes home with the next access", () =>
  withMachine({}, async (machine) => {
    const { process, vm } = setUp(machine);
    const a = await process.mmap(64 * KIB, { align: 64 * KIB, populate: true });
    await vm.gst(a, 7);
    expect(placeOf(machine, process, a)).toBe("gpu0");
    await vm.attr(a, 64 * KIB, { loc: "SYS" });
    await vm.gst(a + 4, 8);
    expect(placeOf(machine, process, a)).toBe("SYS");
    expect([await process.ld(a), await process.ld(a + 4)]).toEqual([7, 8]);
  }));

test.each<PresetName>(["xe", "nvidia-uvm", "nouveau"])("preset %s fills more than the VRAM right", (policy) =>
  withMachine({ policy }, async (machine) => {
    const { process, vm } = setUp(machine);
    const bytes = 6 * MIB;
    const a = await process.mmap(bytes, { align: 2 * MIB });
    for (let at = 0; at < bytes; at += 2 * MIB) await vm.gfill(a + at, 2 * MIB, 1 + at / (2 * MIB));
    for (let at = 0; at < bytes; at += 2 * MIB) {
      const piece = await process.read(a + at, 2 * MIB);
      expect(piece.every((byte) => byte === 1 + at / (2 * MIB))).toBe(true);
    }
  }),
);

test("the density prefetcher brings a block in six faults", () =>
  withMachine({ policy: "nvidia-uvm" }, async (machine) => {
    const { process, vm } = setUp(machine);
    const a = await process.mmap(2 * MIB, { align: 2 * MIB });
    await process.fill(a, 2 * MIB, 4);
    for (let i = 0; i < 32; i++) await vm.gst(a + i * 64 * KIB, i);
    expect(vm.counters.gpuFault).toBe(6);
    expect(vm.counters.toDevBytes).toBe(2 * MIB);
    const words = new Uint32Array((await process.read(a, 2 * MIB)).buffer);
    for (let i = 0; i < 32; i++) expect([words[i * 16384], words[i * 16384 + 1]]).toEqual([i, 0x04040404]);
  }));

import { describe, expect, test } from "vitest";
import { KernelError } from "../../src/base/errors.ts";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { Machine } from "../../src/machine/machine.ts";
import type { VmConfig } from "../../src/machine/machine.ts";
import { checkInvariants } from "../../src/mm/invariants.ts";

const MIB = 1 << 20;
const SEEDS = Array.from({ length: 24 }, (_, i) => i + 1);

function setUp(config: Partial<VmConfig> = {}) {
  const machine = new Machine({ engine: REFERENCE_ENGINE, ram: 64 * MIB, config });
  const gpu = machine.createDevice({ vram: 4 * MIB });
  const process = machine.createProcess();
  return { machine, gpu, process, vm: gpu.vm(process) };
}

/** Everything back where it came from: no VRAM held, no page locked, and the memory manager in order. */
async function settleAndCheck({ machine, gpu, process }: ReturnType<typeof setUp>): Promise<void> {
  await machine.settle();
  checkInvariants(machine.phys);
  await process.exit();
  await machine.settle();
  expect(gpu.driver.vramUsed).toBe(0);
  checkInvariants(machine.phys);
  await machine.close();
}

describe.each([{ migrate: true }, { migrate: false }])("with $migrate migration", (config) => {
  test.each(SEEDS)("CPU and GPU increments of one word all count (seed %i)", async (seed) => {
    const m = setUp(config);
    const a = await m.process.mmap(2 * MIB, { align: 2 * MIB });
    const each = 6;
    await m.machine.sched.race(seed, [
      async () => {
        for (let i = 0; i < each; i++) await m.vm.ginc(a + 4);
      },
      async () => {
        for (let i = 0; i < each; i++) await m.process.inc(a + 4);
      },
    ]);
    expect(await m.process.ld(a + 4)).toBe(2 * each);
    await settleAndCheck(m);
  });

  test.each(SEEDS)("a GPU read beside munmap gives right data or an error in the hole (seed %i)", async (seed) => {
    const m = setUp(config);
    const a = await m.process.mmap(4 * MIB, { align: 2 * MIB });
    const words = Uint32Array.from({ length: MIB }, (_, i) => i);
    await m.process.write(a, words);
    const [read] = await m.machine.sched.race<Uint8Array | KernelError | null>(seed, [
      () => m.vm.gread(a, 4 * MIB).catch((e: KernelError) => e),
      async () => {
        for (let i = 0; i < seed % 7; i++) await m.machine.sched.point("delay");
        await m.process.munmap(a + 2 * MIB, 2 * MIB);
        return null;
      },
    ]);
    if (read instanceof KernelError) {
      expect(read.code).toBe("GPUFAULT");
      expect(read.fault!.addr).toBeGreaterThanOrEqual(a + 2 * MIB);
    } else {
      expect(Buffer.compare(read!, new Uint8Array(words.buffer))).toBe(0);
    }
    await m.machine.settle();
    expect(m.vm.svm.ranges(a + 2 * MIB, a + 4 * MIB)).toEqual([]);
    const lower = await m.vm.gread(a, 2 * MIB);
    expect(Buffer.compare(lower, new Uint8Array(words.buffer, 0, 2 * MIB))).toBe(0);
    await settleAndCheck(m);
  });
});

test.each(SEEDS)("eviction, CPU reads, dontneed and GPU stores leave every byte explained (seed %i)", async (seed) => {
  const m = setUp();
  const chunk = 2 * MIB;
  const a = await m.process.mmap(4 * chunk, { align: chunk });
  await m.process.fill(a, 4 * chunk, 1);
  await m.machine.sched.race(seed, [
    async () => {
      for (let i = 0; i < 4; i++) await m.vm.gst(a + i * chunk, 100 + i);
      for (let i = 3; i >= 0; i--) await m.vm.gst(a + i * chunk + 4, 200 + i);
    },
    async () => {
      for (let i = 0; i < 4; i++) expect(await m.process.ld(a + i * chunk + 8)).toBe(0x01010101);
    },
    async () => {
      await m.process.dontneed(a + 3 * chunk + 4096, 4096);
      await m.vm.toSys(a, 2 * chunk);
    },
  ]);
  for (let i = 0; i < 4; i++) {
    expect(await m.process.ld(a + i * chunk)).toBe(100 + i);
    expect(await m.process.ld(a + i * chunk + 4)).toBe(200 + i);
  }
  expect(await m.process.ld(a + 3 * chunk + 4096)).toBe(0);
  expect(await m.vm.gld(a + 3 * chunk + 8192)).toBe(0x01010101);
  await settleAndCheck(m);
});

test.each(SEEDS)("two address spaces over one process and one VRAM (seed %i)", async (seed) => {
  const m = setUp();
  const other = m.gpu.vm(m.process);
  const chunk = 2 * MIB;
  const a = await m.process.mmap(3 * chunk, { align: chunk });
  const each = 3;
  const work = (vm: typeof other) => async () => {
    for (let i = 0; i < each; i++) for (let k = 0; k < 3; k++) await vm.ginc(a + k * chunk);
  };
  await m.machine.sched.race(seed, [work(m.vm), work(other)]);
  for (let k = 0; k < 3; k++) expect(await m.process.ld(a + k * chunk)).toBe(2 * each);
  await settleAndCheck(m);
});

test.each(SEEDS)("closing an address space while its kernel runs loses nothing (seed %i)", async (seed) => {
  const m = setUp();
  const a = await m.process.mmap(4 * MIB, { align: 2 * MIB });
  await m.process.fill(a, 4 * MIB, 9);
  await m.machine.sched.race(seed, [
    () => m.vm.gfill(a, MIB, 7).catch(() => undefined),
    async () => {
      for (let i = 0; i < seed % 5; i++) await m.machine.sched.point("delay");
      await m.vm.close();
    },
  ]);
  const bytes = await m.process.read(a, 4 * MIB);
  expect(bytes.subarray(0, MIB).every((b) => b === 7 || b === 9)).toBe(true);
  expect(bytes.subarray(MIB).every((b) => b === 9)).toBe(true);
  await settleAndCheck(m);
});

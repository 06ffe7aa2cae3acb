/** Placement on request beside others who fault, move, pin and swap the same memory: tried again, within bounds. */
import { describe, expect, test } from "vitest";
import type { KernelError } from "../../src/base/errors.ts";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { Machine } from "../../src/machine/machine.ts";
import { checkInvariants } from "../../src/mm/invariants.ts";

const MIB = 1 << 20;
const CHUNK = 2 * MIB;
const UNIT = 65536;
const SEEDS = Array.from({ length: 16 }, (_, i) => i + 1);

function setUp() {
  const machine = new Machine({ engine: REFERENCE_ENGINE, ram: 48 * MIB });
  const gpu = machine.createDevice({ vram: 16 * MIB });
  const process = machine.createProcess();
  return { machine, gpu, process, vm: gpu.vm(process) };
}

async function settle({ machine, process }: ReturnType<typeof setUp>): Promise<void> {
  await machine.settle();
  checkInvariants(machine.phys);
  await process.exit();
  await machine.settle();
  checkInvariants(machine.phys);
  await machine.close();
}

test.each(SEEDS)(
  "prefetches of several threads, with faults of CPU and GPU beside them, all succeed (seed %i)",
  async (seed) => {
    const m = setUp();
    const { machine, gpu, process, vm } = m;
    const other = gpu.vm(process);
    const a = await process.mmap(CHUNK, { align: CHUNK });
    await process.fill(a, CHUNK, 1);
    await machine.sched.race(seed, [
      async () => {
        for (let i = 0; i < 3; i++) await vm.prefetch(a, CHUNK, "DEV");
      },
      async () => {
        for (let i = 0; i < 3; i++) await other.prefetch(a + (i % 2) * MIB, MIB, "DEV");
      },
      async () => {
        for (let i = 0; i < 6; i++) await process.inc(a + i * UNIT);
      },
      async () => {
        for (let i = 0; i < 3; i++) await vm.ginc(a + i * UNIT);
        await vm.prefetch(a, MIB, "SYS");
      },
    ]);
    for (let i = 0; i < 6; i++) expect(await process.ld(a + i * UNIT)).toBe(0x01010101 + (i < 3 ? 2 : 1));
    await settle(m);
  },
);

test.each(SEEDS)("toVram beside CPU faults moves everything (seed %i)", async (seed) => {
  const m = setUp();
  const { machine, gpu, process, vm } = m;
  const a = await process.mmap(CHUNK, { align: CHUNK });
  await process.fill(a, CHUNK, 1);
  await machine.sched.race(seed, [
    async () => void (await vm.toVram(a, CHUNK)),
    async () => {
      for (let i = 0; i < 5; i++) await process.inc(a + i * UNIT);
    },
  ]);
  await vm.toVram(a, CHUNK);
  expect([machine.where(process, a), machine.where(process, a + CHUNK - 4096)]).toEqual([gpu, gpu]);
  for (let i = 0; i < 5; i++) expect(await process.ld(a + i * UNIT)).toBe(0x01010102);
  await settle(m);
});

test("swapped pages come in for a prefetch", async () => {
  const m = setUp();
  const { machine, gpu, process, vm } = m;
  const a = await process.mmap(CHUNK, { align: CHUNK });
  await process.fill(a, CHUNK, 1);
  expect(await process.mm.madvise(a, 64 * 4096, "pageout")).toBe(0);
  await vm.prefetch(a, CHUNK, "DEV");
  expect(machine.where(process, a + 4096)).toBe(gpu);
  const faults = vm.counters.gpuFault;
  expect(await vm.gld(a)).toBe(0x01010101);
  expect(vm.counters.gpuFault).toBe(faults);
  await settle(m);
});

describe("a page that is pinned for good", () => {
  test("is passed over by a prefetch, which is advice, and ends toVram with EBUSY after some tries", async () => {
    const m = setUp();
    const { machine, gpu, process, vm } = m;
    const a = await process.mmap(2 * CHUNK, { align: CHUNK });
    await process.fill(a, 2 * CHUNK, 1);
    const pin = await process.pin(a + 4096, 4096, { write: true });
    expect(await vm.prefetch(a, 2 * CHUNK, "DEV")).toBe(512);
    expect([machine.where(process, a), machine.where(process, a + CHUNK)]).toEqual(["SYS", gpu]);
    const tries = vm.stats.get("wgsvm_prefetch_retry_count");
    expect(tries).toBeGreaterThan(4);
    expect(tries).toBeLessThan(64);
    const error = await vm.toVram(a, CHUNK).catch((e: unknown) => e);
    expect((error as KernelError).code).toBe("EBUSY");
    pin.release();
    expect(await vm.toVram(a, CHUNK)).toBe(512);
    await settle(m);
  });
});

test("memory that a fork has left common is the process's own when it arrives, so that the GPU may write it", async () => {
  const m = setUp();
  const { process, vm } = m;
  const a = await process.mmap(CHUNK, { align: CHUNK });
  await process.fill(a, CHUNK, 1);
  const child = await process.fork();
  expect(await vm.prefetch(a, CHUNK, "DEV")).toBe(512);
  const faults = vm.counters.gpuFault;
  await vm.gst(a, 5);
  expect(vm.counters.gpuFault).toBe(faults);
  expect([await process.ld(a), await child.ld(a)]).toEqual([5, 0x01010101]);
  await child.exit();
  await settle(m);
});

/** GPU accesses after fork: the share is broken before memory moves, so that it can move, and be written where it lies. */
import { describe, expect, test } from "vitest";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { Machine } from "../../src/machine/machine.ts";
import type { Process } from "../../src/machine/process.ts";
import { checkInvariants } from "../../src/mm/invariants.ts";

const MIB = 1 << 20;
const CHUNK = 2 * MIB;
const PAGES = CHUNK / 4096;

function setUp(window: number) {
  const machine = new Machine({ engine: REFERENCE_ENGINE, ram: 64 * MIB });
  const gpu = machine.createDevice({ vram: 16 * MIB, window });
  const process = machine.createProcess();
  return { machine, gpu, process, vm: gpu.vm(process) };
}
type Rig = ReturnType<typeof setUp>;

function inVram({ machine, gpu }: Rig, process: Process, a: number): number {
  let pages = 0;
  for (let i = 0; i < PAGES; i++) if (machine.where(process, a + i * 4096) === gpu) pages += 1;
  return pages;
}

async function settle({ machine, process }: Rig, ...others: Process[]): Promise<void> {
  await machine.settle();
  checkInvariants(machine.phys);
  for (const one of [...others, process]) await one.exit();
  await machine.settle();
  checkInvariants(machine.phys);
  await machine.close();
}

describe.each([
  ["with a system window", 16 * MIB],
  ["without one", 0],
])("%s", (_name, window) => {
  test.each([
    ["in RAM", false],
    ["in VRAM", true],
  ])(
    "a store to a chunk that lies %s and was forked brings it to VRAM, and the child keeps what it had",
    async (_where, isThere) => {
      const m = setUp(window);
      const { process, vm } = m;
      const a = await process.mmap(CHUNK, { align: CHUNK });
      await process.fill(a, CHUNK, 1);
      if (isThere) await vm.gst(a + 4, 2);
      const child = await process.fork();
      const before = vm.counters.toDevBytes;
      await vm.gst(a, 3);
      expect(inVram(m, process, a)).toBe(PAGES);
      // Moved once, and only once.
      expect(vm.counters.toDevBytes - before).toBe(CHUNK);
      expect(vm.counters.retries).toBe(0);
      expect(inVram(m, child, a)).toBe(0);
      expect([await child.ld(a), await child.ld(a + 4)]).toEqual([0x01010101, isThere ? 2 : 0x01010101]);
      expect([await vm.gld(a), await vm.gld(a + 4)]).toEqual([3, isThere ? 2 : 0x01010101]);
      // After a CPU access it goes there again, at the same price.
      expect(await process.ld(a)).toBe(3);
      await vm.gst(a, 4);
      expect(inVram(m, process, a)).toBe(PAGES);
      expect(vm.counters.toDevBytes - before).toBe(2 * CHUNK);
      await settle(m, child);
    },
  );

  test("one page of a chunk is still common: that is enough to break it, and the rest stays as it is", async () => {
    const m = setUp(window);
    const { machine, process, vm } = m;
    const a = await process.mmap(CHUNK, { align: CHUNK });
    await process.fill(a, CHUNK, 1);
    const child = await process.fork();
    for (let i = 0; i < PAGES; i++) if (i !== 7) await process.st(a + i * 4096, i);
    const free = machine.phys.freePages;
    await vm.gst(a + 4, 9);
    // All of it is in VRAM now; the child has the one page that was common.
    expect(inVram(m, process, a)).toBe(PAGES);
    expect(machine.phys.freePages - free).toBe(PAGES - 1);
    expect([await child.ld(a + 7 * 4096), await vm.gld(a + 7 * 4096), await vm.gld(a + 8 * 4096)]).toEqual([
      0x01010101, 0x01010101, 8,
    ]);
    await settle(m, child);
  });

  test("what the child has left is taken over without a copy", async () => {
    const m = setUp(window);
    const { machine, process, vm } = m;
    const a = await process.mmap(CHUNK, { align: CHUNK });
    await process.fill(a, CHUNK, 1);
    const child = await process.fork();
    await child.exit();
    const free = machine.phys.freePages;
    await vm.gst(a, 2);
    expect(inVram(m, process, a)).toBe(PAGES);
    expect(machine.phys.freePages - free).toBe(PAGES);
    await settle(m);
  });

  test("swapped and common pages in one chunk", async () => {
    const m = setUp(window);
    const { process, vm } = m;
    const a = await process.mmap(CHUNK, { align: CHUNK });
    await process.fill(a, CHUNK, 1);
    const child = await process.fork();
    expect(await process.mm.madvise(a + MIB, 64 * 4096, "pageout")).toBe(0);
    await vm.gfill(a, CHUNK, 2);
    const bytes = await process.read(a, CHUNK);
    expect(bytes.every((byte) => byte === 2)).toBe(true);
    expect((await child.read(a, CHUNK)).every((byte) => byte === 1)).toBe(true);
    await settle(m, child);
  });

  test.each(Array.from({ length: 6 }, (_, i) => i + 1))(
    "stores of parent and child, by CPU and GPU, around a fork stay apart (seed %i)",
    async (seed) => {
      const m = setUp(window);
      const { machine, gpu, process, vm } = m;
      const a = await process.mmap(CHUNK, { align: CHUNK });
      for (let i = 0; i < 16; i++) await process.st(a + i * 65536, 1000 + i);
      await vm.ginc(a + 8);
      const [child] = await machine.sched.race<Process | undefined>(seed, [
        () => process.fork(),
        async () => {
          for (let i = 0; i < 6; i++) await vm.ginc(a + 4);
          return undefined;
        },
        async () => {
          for (let i = 0; i < 6; i++) await process.inc(a + 4);
          return undefined;
        },
      ]);
      const theirs = gpu.vm(child!);
      const seen = await child!.ld(a + 4);
      await machine.sched.race(seed, [
        async () => {
          for (let i = 0; i < 5; i++) await vm.ginc(a + 4);
        },
        async () => {
          for (let i = 0; i < 5; i++) await theirs.ginc(a + 4);
        },
        async () => {
          for (let i = 0; i < 5; i++) await child!.inc(a + 4);
        },
      ]);
      expect([await process.ld(a + 4), await child!.ld(a + 4)]).toEqual([17, seen + 10]);
      for (const i of [1, 7, 15]) {
        expect([await vm.gld(a + i * 65536), await theirs.gld(a + i * 65536)]).toEqual([1000 + i, 1000 + i]);
      }
      await settle(m, child!);
    },
  );
});

test("memory that has only been read is nobody's to copy", async () => {
  const m = setUp(16 * MIB);
  const { machine, process, vm } = m;
  const a = await process.mmap(CHUNK, { align: CHUNK });
  expect(await process.ld(a)).toBe(0);
  expect(process.mm.mustUnshare(a, a + CHUNK)).toBe(false);
  const free = machine.phys.freePages;
  await vm.gst(a, 1);
  expect(machine.phys.freePages).toBeGreaterThanOrEqual(free);
  await settle(m);
});

test("memory that may only be read stays common: the GPU reads it where it lies", async () => {
  const m = setUp(16 * MIB);
  const { machine, process, vm } = m;
  const a = await process.mmap(CHUNK, { align: CHUNK });
  await process.fill(a, CHUNK, 5);
  await process.mprotect(a, CHUNK, "R");
  const child = await process.fork();
  const free = machine.phys.freePages;
  expect(await vm.gld(a + 8)).toBe(0x05050505);
  expect(machine.phys.freePages).toBeGreaterThanOrEqual(free);
  expect(await child.ld(a + 8)).toBe(0x05050505);
  await settle(m, child);
});

test("without RAM for the copies the store fails as such, and nobody loses anything", async () => {
  const machine = new Machine({ engine: REFERENCE_ENGINE, ram: 3 * MIB });
  const process = machine.createProcess();
  const vm = machine.createDevice({ vram: 4 * MIB, window: MIB }).vm(process);
  const a = await process.mmap(CHUNK, { align: CHUNK });
  await process.fill(a, CHUNK, 1);
  const child = await process.fork();
  await vm.gst(a, 2).catch((error: unknown) => expect(String(error)).toMatch(/GPUFAULT/));
  expect((await child.read(a, CHUNK)).every((byte) => byte === 1)).toBe(true);
  await child.exit();
  await vm.gst(a, 3);
  expect([await process.ld(a), await process.ld(a + 8)]).toEqual([3, 0x01010101]);
  await machine.close();
});

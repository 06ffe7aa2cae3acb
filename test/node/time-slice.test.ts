import { expect, test } from "vitest";
import { EVENT_KINDS, TRACE_STRIDE } from "../../src/base/trace.ts";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { Machine } from "../../src/machine/machine.ts";
import { hostPlatform } from "../../src/machine/platform.ts";

const MIB = 1 << 20;
const CHUNK = 2 * MIB;

/** A machine whose clock moves only by `perChunk` ms for each chunk that migrates in. */
async function setUp(perChunk: number, vram = 16 * CHUNK) {
  const host = hostPlatform();
  const clock = { now: 0, turns: 0, onTurn: (): void => {} };
  const platform = {
    ...host,
    now: () => clock.now,
    turn: () => {
      clock.turns += 1;
      clock.onTurn();
      return host.turn();
    },
  };
  const machine = new Machine({ engine: REFERENCE_ENGINE, ram: 64 * MIB, platform });
  const gpu = machine.createDevice({ vram });
  const process = machine.createProcess();
  const vm = gpu.vm(process);
  const { driver } = gpu;
  const populate = driver.populateMm.bind(driver);
  driver.populateMm = (...args) => {
    clock.now += perChunk;
    return populate(...args);
  };
  const a = await process.mmap(8 * CHUNK, { align: CHUNK });
  await process.fill(a, 8 * CHUNK, 1);
  return { machine, gpu, process, vm, a, clock };
}
type Rig = Awaited<ReturnType<typeof setUp>>;

/** One launch that faults on all chunks in its first round. */
function touchAll({ vm, a }: Rig): Promise<unknown> {
  return vm.kernel("", {
    items: 8,
    reference(item, c) {
      const at = c.translate(a + item * CHUNK, 1);
      if (!c.missed) c.store(at, 100 + item);
    },
  });
}

/** Start addresses of GPU faults, in the order of their service. */
function faultsOf(machine: Machine): number[] {
  const events = machine.trace.since(1);
  const starts: number[] = [];
  for (let at = 0; at < events.length; at += TRACE_STRIDE) {
    if (EVENT_KINDS[events[at + 1]!]![0] === "gpu-fault") starts.push(events[at + 5]!);
  }
  return starts;
}

test.each([
  [0, 0],
  [1, 0],
  [2.8, 0],
  [2.9, 1],
  [9, 2],
  [19.9, 3],
  [20, 7],
  [500, 7],
])("at %d ms a chunk, a service of eight gives way %i times", async (perChunk, slices) => {
  const rig = await setUp(perChunk);
  await touchAll(rig);
  expect([rig.vm.counters.slices, rig.clock.turns]).toEqual([slices, slices]);
  for (let k = 0; k < 8; k++) expect(await rig.process.ld(rig.a + k * CHUNK)).toBe(100 + k);
});

test.each([
  [10, 2],
  [1, 8],
])("at %d ms a chunk, another launch is served after %i chunks", async (perChunk, before) => {
  const rig = await setUp(perChunk);
  const { vm, process, machine } = rig;
  const b = await process.mmap(4096);
  await process.st(b, 7);
  const all = touchAll(rig);
  while (faultsOf(machine).length === 0) await Promise.resolve();
  const other = vm.gld(b);
  expect(await other).toBe(7);
  await all;
  expect(faultsOf(machine).indexOf(b)).toBe(before);
});

test("nobody else gets a turn while entries are written and their invalidation is not queued", async () => {
  // Half of the chunks fit: the service evicts, and every eviction zaps.
  const rig = await setUp(20, 4 * CHUNK);
  const { vm, gpu, a, clock } = rig;
  const { tables } = vm.svm;
  let open = 0;
  clock.onTurn = () => tables.flush(() => void (open += 1));
  const ptWrite = gpu.gpu.ptWrite.bind(gpu.gpu);
  let written = 0;
  gpu.gpu.ptWrite = (...args) => {
    written += 1;
    ptWrite(...args);
  };
  await touchAll(rig);
  await touchAll(rig);
  expect([open, written > 0, vm.counters.slices > 0, vm.counters.evict > 0]).toEqual([0, true, true, true]);
  expect(await vm.gld(a)).toBe(100);
});

test("an address space may be closed in the meantime: its launch ends, and nothing of it stays", async () => {
  const rig = await setUp(20);
  const launch = touchAll(rig).catch((error: unknown) => error);
  let closing: Promise<void> | null = null;
  rig.clock.onTurn = () => {
    closing ??= rig.vm.close();
  };
  expect(await launch).toMatchObject({ code: "GPUFAULT" });
  await closing!;
  expect(rig.gpu.driver.vramUsed).toBe(0);
});

test.each([
  ["toVram", 1, 0],
  ["toVram", 10, 3],
  ["toVram", 20, 7],
  ["prefetch", 20, 7],
  ["ADVICE", 20, 7],
] as const)("%s at %d ms a chunk gives way %i times, and moves all", async (verb, perChunk, slices) => {
  const rig = await setUp(perChunk);
  const { vm, process, machine, a } = rig;
  const b = await process.mmap(4096);
  await process.st(b, 7);
  const length = 8 * CHUNK;
  const moving = verb === "toVram" ? vm.toVram(a, length) : vm.prefetch(a, length, verb === "ADVICE" ? verb : "DEV");
  const other = vm.gld(b);
  expect(await moving).toBe(length / 4096);
  expect([vm.counters.slices, rig.clock.turns]).toEqual([slices, slices]);
  expect(await other).toBe(7);
  expect(machine.where(process, a + length - 4096)).toBe(rig.gpu);
});

test("what is unmapped while a request has given way ends it, with what it has moved in its place", async () => {
  const rig = await setUp(20);
  const { vm, process, a } = rig;
  let unmapping: Promise<void> | null = null;
  rig.clock.onTurn = () => {
    unmapping ??= process.munmap(a + 6 * CHUNK, CHUNK);
  };
  expect(await vm.toVram(a, 8 * CHUNK).catch((error: unknown) => error)).toMatchObject({ code: "ENOENT" });
  await unmapping!;
  await rig.machine.settle();
  expect(rig.gpu.driver.vramUsed % CHUNK).toBe(0);
  for (const k of [0, 1, 5, 7]) expect(await process.ld(a + k * CHUNK)).toBe(0x01010101);
});

/** The driver's use of the VRAM manager: SVM buffers, evicted many at once. */
import { expect, test } from "vitest";
import { ENOSPC } from "../../src/base/errno.ts";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { Machine } from "../../src/machine/machine.ts";

const MIB = 1 << 20;
const CHUNK = 2 * MIB;

async function filled() {
  const machine = new Machine({ engine: REFERENCE_ENGINE, ram: 64 * MIB });
  const gpu = machine.createDevice({ vram: 4 * CHUNK });
  const process = machine.createProcess();
  const vm = gpu.vm(process);
  const a = await process.mmap(4 * CHUNK, { align: CHUNK });
  await vm.gfill(a, 4 * CHUNK, 0x5a);
  const device = gpu.driver;
  const buffers = [...device.region.buffers];
  expect([buffers.length, device.region.free]).toEqual([4, 0]);
  return { process, vm, a, device, buffers };
}

test("the least recently used buffers leave together, and their bytes are home", async () => {
  const { process, vm, a, device, buffers } = await filled();
  device.region.touch(buffers[0]!);
  expect(await device.evict(CHUNK + 1)).toBe(2 * CHUNK);
  expect([...device.region.buffers]).toEqual([buffers[3], buffers[0]]);
  expect([device.vramUsed, vm.counters.evict]).toEqual([2 * CHUNK, 2]);
  expect(Buffer.compare(await process.read(a, 4 * CHUNK), Buffer.alloc(4 * CHUNK, 0x5a))).toBe(0);
});

test("who finds only buffers that others evict waits for them", async () => {
  const { vm, device } = await filled();
  const [all, more] = await Promise.all([device.evict(4 * CHUNK), device.evict(CHUNK)]);
  expect([all, device.vramUsed, vm.counters.evict]).toEqual([4 * CHUNK, 0, 4]);
  // What has come free meanwhile.
  expect(more).toBeGreaterThanOrEqual(CHUNK);
});

test("a buffer that two evict at once goes once, and both know that it has gone", async () => {
  const { device, buffers, vm } = await filled();
  expect(await Promise.all([device.evictBuffers(buffers), device.evictBuffers(buffers)])).toEqual([
    4 * CHUNK,
    4 * CHUNK,
  ]);
  expect([device.vramUsed, [...device.region.buffers], vm.counters.migrationsOut]).toEqual([0, [], 4]);
});

test("a pinned buffer stays where it is, and its place in the order too", async () => {
  const { device, buffers } = await filled();
  for (const bo of buffers) bo.pin();
  expect([device.region.evictable, await device.evict(1)]).toEqual([0, ENOSPC]);
  for (const bo of buffers) bo.unpin();
  expect([device.region.evictable, device.region.pickVictims(1)]).toEqual([4 * CHUNK, [buffers[0]]]);
});

/** Pipelined eviction of SVM buffers: memory is given out with the fence of the copies that take the last tenant home. */
import { describe, expect, test } from "vitest";
import { EIO, ENOSPC } from "../../src/base/errno.ts";
import { DeviceLostError } from "../../src/base/errors.ts";
import type { SvmBo } from "../../src/driver/svm-bo.ts";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { Machine } from "../../src/machine/machine.ts";
import { checkInvariants } from "../../src/mm/invariants.ts";
import { USAGE_KERNEL } from "../../src/vram/fence.ts";

const MIB = 1 << 20;
const CHUNK = 2 * MIB;

/** VRAM of two chunks, both full, and a copy engine whose bytes reach RAM when the test says so. */
async function setUp(window = MIB) {
  const machine = new Machine({ engine: REFERENCE_ENGINE, ram: 64 * MIB });
  const device = machine.createDevice({ vram: 2 * CHUNK, window });
  const process = machine.createProcess();
  const vm = device.vm(process);
  const a = await process.mmap(4 * CHUNK, { align: CHUNK });
  for (let k = 0; k < 4; k++) await process.fill(a + k * CHUNK, CHUNK, 0x10 + k);
  await vm.gst(a, 100);
  await vm.gst(a + CHUNK, 101);

  const { gpu, driver } = device;
  const held: (() => void)[] = [];
  const copy = gpu.copy.bind(gpu);
  let isHeld = true;
  gpu.copy = (list) => {
    const arrived = copy(list);
    if (arrived === null || !isHeld) return arrived;
    return Promise.all([arrived, new Promise<void>((release) => held.push(release))]).then(() => {
      if (gpu.isLost) throw new DeviceLostError("destroyed", "while its bytes were on their way");
    });
  };
  /** The copy that was queued n-th arrives. */
  const arrive = async (n: number): Promise<void> => {
    held[n]!();
    await turn();
  };
  const arriveAll = async (): Promise<void> => {
    isHeld = false;
    for (const release of held) release();
    await machine.settle();
  };
  return { machine, device, driver, region: driver.region, process, vm, a, held, arrive, arriveAll };
}

function turn(): Promise<void> {
  return new Promise((resolve) => void setImmediate(resolve));
}

async function until(holds: () => boolean): Promise<void> {
  for (let i = 0; i < 100 && !holds(); i++) await turn();
  expect(holds()).toBe(true);
}

function fencesOf(bo: SvmBo): number {
  return bo.mem.resv.fences(USAGE_KERNEL).length;
}

describe("an eviction", () => {
  test("is over when its copies are queued; the next tenant gets the fence, and the frames when it has signalled", async () => {
    const { driver, region, vm, process, a, held, arrive, arriveAll, machine } = await setUp();
    const [first] = [...region.buffers];
    expect(await driver.evict(CHUNK)).toBe(CHUNK);
    expect([held.length, region.free, first!.departure!.isDone, vm.counters.evict]).toEqual([1, CHUNK, false, 1]);
    const next = region.allocBo(vm.svm, a + 2 * CHUNK, CHUNK) as SvmBo;
    expect(next.blocks.map((block) => block.offset)).toEqual(first!.blocks.map((block) => block.offset));
    expect(fencesOf(next)).toBe(1);
    let vacant: number | null = null;
    void Promise.resolve(region.whenVacant(next)).then((err) => {
      vacant = err;
    });
    await turn();
    expect([vacant, driver.phys.refcount(region.pgmap.firstPfn + next.blocks[0]!.offset / 4096) > 0]).toEqual([
      null,
      true,
    ]);
    await arrive(0);
    expect([vacant, first!.departure!.isDone, first!.detached.isDone, fencesOf(next)]).toEqual([0, true, true, 0]);
    region.discard(next);
    await arriveAll();
    expect(await process.ld(a)).toBe(100);
    checkInvariants(machine.phys);
  });

  test("of another buffer does not hold up a tenant, whichever copies arrive first", async () => {
    const { driver, region, vm, process, a, held, arrive, arriveAll, machine } = await setUp();
    const [first, second] = [...region.buffers];
    expect(await driver.evict(2 * CHUNK)).toBe(2 * CHUNK);
    expect(held).toHaveLength(2);
    const tenants = [2, 3].map((k) => region.allocBo(vm.svm, a + k * CHUNK, CHUNK) as SvmBo);
    const placeOf = (bo: SvmBo) => bo.blocks[0]!.offset;
    const behindFirst = tenants.find((bo) => placeOf(bo) === placeOf(first!))!;
    const behindSecond = tenants.find((bo) => placeOf(bo) === placeOf(second!))!;
    const vacant: string[] = [];
    void Promise.resolve(region.whenVacant(behindFirst)).then(() => vacant.push("behind the first"));
    void Promise.resolve(region.whenVacant(behindSecond)).then(() => vacant.push("behind the second"));
    await arrive(1);
    expect([vacant, first!.detached.isDone, second!.detached.isDone]).toEqual([["behind the second"], false, true]);
    await arrive(0);
    expect(vacant).toEqual(["behind the second", "behind the first"]);
    for (const bo of tenants) region.discard(bo);
    await arriveAll();
    expect([await process.ld(a), await process.ld(a + CHUNK)]).toEqual([100, 101]);
    checkInvariants(machine.phys);
  });

  test("whose memory a launch takes: the launch waits for it, and both keep their bytes", async () => {
    const { vm, process, a, held, arriveAll, machine } = await setUp();
    const launch = vm.gst(a + 2 * CHUNK, 102);
    await until(() => held.length > 0);
    let done = false;
    void launch.then(() => {
      done = true;
    });
    for (let i = 0; i < 5; i++) await turn();
    expect(done).toBe(false);
    await arriveAll();
    await launch;
    for (let k = 0; k < 3; k++) {
      expect([await process.ld(a + k * CHUNK), await process.ld(a + k * CHUNK + 4)]).toEqual([
        100 + k,
        0x01010101 * (0x10 + k),
      ]);
    }
    checkInvariants(machine.phys);
  });

  test("on request is over when the pages are home", async () => {
    const { vm, a, held, arriveAll } = await setUp();
    let moved = -1;
    const request = vm.toSys(a, CHUNK).then((pages) => {
      moved = pages;
    });
    await until(() => held.length > 0);
    await turn();
    expect(moved).toBe(-1);
    await arriveAll();
    await request;
    expect(moved).toBe(512);
  });

  test("of a buffer that is on its way already waits for that", async () => {
    const { driver, region, vm, held, arriveAll } = await setUp();
    const buffers = [...region.buffers];
    await driver.evict(2 * CHUNK);
    const again = driver.evictBuffers(buffers);
    await turn();
    expect(held).toHaveLength(2);
    await arriveAll();
    expect(await again).toBe(2 * CHUNK);
    expect(vm.counters.migrationsOut).toBe(2);
  });

  test("that cannot collect every page is waited for as a whole, and gives nothing away before", async () => {
    const { driver, region, process, a, machine, arriveAll } = await setUp();
    const [first] = [...region.buffers];
    const pfn = process.mm.devicePfnAt(a + 8 * 4096);
    expect(driver.phys.tryLockPage(pfn)).toBe(true);
    const evicted = region.evict(first!);
    await arriveAll();
    await turn();
    expect([first!.departure?.isDone ?? false, region.free]).toEqual([false, 0]);
    driver.phys.unlockPage(pfn);
    await evicted;
    await machine.settle();
    expect([...region.buffers].includes(first!)).toBe(!first!.detached.isDone);
    expect(await process.ld(a)).toBe(100);
    checkInvariants(machine.phys);
  });
});

test("the fences signal in the order of the copies: the last one stands for all", async () => {
  const { driver, region, vm, a, held, arrive, arriveAll } = await setUp();
  const buffers = [...region.buffers];
  await driver.evict(2 * CHUNK);
  expect(held).toHaveLength(2);
  const next = region.allocBo(vm.svm, a + 2 * CHUNK, CHUNK) as SvmBo;
  expect(fencesOf(next)).toBe(1);
  await arrive(1);
  expect(buffers.map((bo) => bo.departure!.isDone)).toEqual([false, false]);
  expect(fencesOf(next)).toBe(1);
  await arrive(0);
  expect(buffers.map((bo) => bo.departure!.isDone)).toEqual([true, true]);
  expect(fencesOf(next)).toBe(0);
  region.discard(next);
  await arriveAll();
});

describe("who may not wait", () => {
  test("finds no room in memory that others are leaving, and finds it when they have gone", async () => {
    const { driver, region, vm, a, arriveAll } = await setUp();
    await driver.evict(CHUNK);
    expect(region.allocBo(vm.svm, a, CHUNK, { noWaitGpu: true })).toBe(ENOSPC);
    expect(region.free).toBe(CHUNK);
    await arriveAll();
    const bo = region.allocBo(vm.svm, a, CHUNK, { noWaitGpu: true }) as SvmBo;
    expect([fencesOf(bo), region.free]).toEqual([0, 0]);
    region.discard(bo);
  });

  test("prefetches nothing there, and evicts nobody", async () => {
    const { driver, vm, a, process, machine, device, held, arriveAll } = await setUp();
    expect(await vm.prefetch(a + 2 * CHUNK, CHUNK, "DEV", { noWait: true })).toBe(0);
    await driver.evict(CHUNK);
    expect(await vm.prefetch(a + 2 * CHUNK, CHUNK, "DEV", { noWait: true })).toBe(0);
    expect([held.length, machine.where(process, a + 2 * CHUNK)]).toEqual([1, "SYS"]);
    await arriveAll();
    expect(await vm.prefetch(a + 2 * CHUNK, CHUNK, "DEV", { noWait: true })).toBe(512);
    expect(machine.where(process, a + 2 * CHUNK)).toBe(device);
  });
});

test("the device is lost while pages are on their way: who waits for their memory hears of it, and nothing hangs", async () => {
  const { device, driver, region, vm, a, process, held, machine } = await setUp();
  await driver.evict(CHUNK);
  const next = region.allocBo(vm.svm, a + 2 * CHUNK, CHUNK) as SvmBo;
  const vacant = Promise.resolve(region.whenVacant(next));
  const launch = vm.gst(a + 3 * CHUNK, 1).catch((error: { code?: string }) => error.code);
  await turn();
  device.gpu.destroy();
  for (const release of held) release();
  expect(await vacant).toBe(EIO);
  region.discard(next);
  expect(await launch).toBe("EIO");
  await machine.settle();
  const { vram } = device.lostPages(process);
  expect([vram.length, vram[0], vram.at(-1)]).toEqual([1024, a, a + 2 * CHUNK - 4096]);
  await expect(process.ld(a)).rejects.toMatchObject({ code: "BUS" });
  expect(await process.ld(a + 2 * CHUNK)).toBe(0x12121212);
  await process.exit();
  await machine.settle();
  expect(driver.vramUsed).toBe(0);
  checkInvariants(machine.phys);
});

test("an address space that is closed waits for what is on its way", async () => {
  const { driver, vm, device, machine, arriveAll } = await setUp();
  await driver.evict(2 * CHUNK);
  let isClosed = false;
  const closed = vm.close().then(() => {
    isClosed = true;
  });
  for (let i = 0; i < 5; i++) await turn();
  expect(isClosed).toBe(false);
  await arriveAll();
  await closed;
  await machine.settle();
  await machine.close();
  expect(device.driver.vramUsed).toBe(0);
});

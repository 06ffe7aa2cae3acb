import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { GpuError } from "../../src/base/errors.ts";
import { AP_HOST, AP_VRAM, PageList } from "../../src/hal/gpu.ts";
import type { WebGpuEngine } from "../../src/device/index.ts";
import { Machine } from "../../src/machine/machine.ts";
import { MIB, TestTables, bootGpu, starvableEngine } from "./support.ts";

/**
 * Errors of the real world (spec/device.md 7.4, X10): an allocation for which there is no memory, wherever it is, and an
 * error outside all scopes, are clear errors, and the machine goes on.
 */
let engine: WebGpuEngine;
let machine: Machine;

beforeEach(async () => {
  engine = await starvableEngine();
  machine = new Machine({ engine, ram: 64 * MIB });
});
afterEach(async () => {
  await machine.close();
  engine.destroy();
});

/** Allocations that `isVictim` picks ask for more than there is; WebGPU says that of them which it always says. */
function starve(isVictim: (descriptor: GPUBufferDescriptor, index: number) => boolean): { end: () => number } {
  const { device } = engine.acquired;
  const create = device.createBuffer.bind(device);
  let count = 0;
  device.createBuffer = (descriptor) => {
    const hit = isVictim(descriptor, count++);
    return create(hit ? { ...descriptor, size: device.limits.maxBufferSize } : descriptor);
  };
  return {
    end: () => {
      device.createBuffer = create;
      return count;
    },
  };
}

/** Everything that allocates: a device, kernels, a launch with input and output, transfers each way. */
async function work(vram = 4 * MIB): Promise<void> {
  const device = await machine.openDevice({ vram, window: MIB });
  const process = machine.createProcess();
  const vm = device.vm(process);
  const a = await process.mmap(MIB);
  await process.fill(a, MIB, 0x61);
  await vm.gfill(a, MIB / 2, 0x62);
  expect(await vm.ginc(a, 1)).toBe(0x62626262);
  const bytes = await vm.gread(a, MIB);
  expect([bytes[0], bytes[4], bytes[MIB - 1]]).toEqual([0x63, 0x62, 0x61]);
  expect(await process.ld(a)).toBe(0x62626263);
  await process.exit();
}

describe("out of memory", () => {
  test("at any allocation: a clear error or none, and the machine is as usable as before", async () => {
    const keep = machine.createProcess();
    const kept = await keep.mmap(MIB);
    await keep.fill(kept, MIB, 0x77);
    let failures = 0;
    for (let k = 0, allocations = Infinity; k < allocations; k++) {
      const hunger = starve((_descriptor, index) => index === k);
      const failure: unknown = await work().then(
        () => null,
        (error: unknown) => error,
      );
      const asked = hunger.end();
      // One more than there are: everything was made.
      if (k >= asked) allocations = k;
      if (failure !== null) {
        expect(String(failure)).toMatch(/memory/i);
        failures += 1;
      }
      expect(await keep.ld(kept + 4096)).toBe(0x77777777);
    }
    expect(failures).toBeGreaterThan(5);
    await work();
  }, 60000);

  test("for VRAM: the device gets by with less", async () => {
    let asked = 0;
    const hunger = starve(({ label, size }) => {
      if (label?.startsWith("bank") !== true) return false;
      asked = label === "bank 0" ? size : asked + size;
      return asked > 12 * MIB;
    });
    const device = await machine.openDevice({ vram: 32 * MIB, window: MIB });
    hunger.end();
    expect(device.driver.heapBytes).toBe(8 * MIB);
    expect(machine.devices).toEqual([device]);
    const process = machine.createProcess();
    const a = await process.mmap(MIB);
    expect(await device.vm(process).ginc(a, 3)).toBe(0);
    expect(await process.ld(a)).toBe(3);
  });

  test("for all VRAM there could be: the error says so, and nothing of the attempt stays", async () => {
    const hunger = starve(({ label }) => label?.startsWith("bank") === true);
    await expect(machine.openDevice({ vram: 8 * MIB })).rejects.toMatchObject({
      name: "GpuError",
      kind: "out-of-memory",
    });
    hunger.end();
    expect(machine.devices).toEqual([]);
    await work();
  });

  test("for a launch: it fails alone, and what was queued with it takes effect", async () => {
    const { gpu, host } = await bootGpu();
    const kernel = await gpu.compile({ name: "k", wgsl: "fn kernel(item: u32) { svm_out(item, item + 1u); }" });
    const tables = new TestTables(gpu, 1);
    host.fill(9, 0, 4096);
    const up = new PageList();
    up.push(AP_HOST, 0, AP_VRAM, 300, 1);
    const inside = new PageList();
    inside.push(AP_VRAM, 300, AP_VRAM, 301, 1);
    gpu.copy(up);
    gpu.copy(inside);
    // A private buffer of 1 GiB: allowed by the limits, more than this adapter gives.
    const outWords = gpu.info.limits["maxStorageBufferBindingSize"]! / 4 - 64;
    const greedy = gpu.launch(kernel, { asid: tables.asid, items: 4, outWords });
    const failure: unknown = await greedy.round().catch((error: unknown) => error);
    // Where there is so much memory, nothing fails.
    if (!("count" in (failure as object))) expect(failure).toMatchObject({ name: "GpuError", kind: "out-of-memory" });
    greedy.end();
    expect(gpu.isLost).toBe(false);
    expect((await gpu.readVram(301 * 4096, 4))[0]).toBe(9);
    const modest = gpu.launch(kernel, { asid: tables.asid, items: 4, outWords: 4 });
    expect((await modest.round()).remaining).toBe(0);
    expect([...(await modest.readOut())]).toEqual([1, 2, 3, 4]);
    modest.end();
    gpu.destroy();
  });
});

describe("an error that nobody expected", () => {
  test("stops the GPU with what WebGPU said; what lay in VRAM is lost, and a new device works", async () => {
    const device = await machine.openDevice({ vram: 4 * MIB, window: MIB });
    const process = machine.createProcess();
    const vm = device.vm(process);
    const a = await process.mmap(MIB);
    await process.fill(a, MIB, 0x61);
    await vm.gst(a, 5);
    const waiting = vm.gread(a, 4096).catch((error: unknown) => error);
    // Such a usage is a validation error.
    engine.acquired.device.createBuffer({
      label: "nobody's",
      size: 16,
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.STORAGE,
    });
    const { reason, message } = await device.gpu.lost;
    expect(reason).toBe("error");
    expect(message).toMatch(/nobody's|usage/i);
    await waiting;
    await expect(vm.gld(a)).rejects.toBeInstanceOf(GpuError);
    await expect(vm.gld(a)).rejects.toThrow(message);
    await expect(process.ld(a)).rejects.toMatchObject({ code: "BUS", addr: a });
    expect(device.lostPages(process).vram).toContain(a);
    expect(engine.isLost).toBe(false);
    await work();
    await process.munmap(a, MIB);
    await process.exit();
  });
});

import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { DeviceLostError } from "../../src/base/errors.ts";
import type { WebGpuEngine } from "../../src/device/index.ts";
import type { Device } from "../../src/machine/device.ts";
import { Machine } from "../../src/machine/machine.ts";
import type { Process } from "../../src/machine/process.ts";
import type { Vm } from "../../src/machine/vm.ts";
import { MIB, testEngine } from "./support.ts";

/**
 * The WebGPU device goes in every state of the machine (spec/device.md 7.5, X10): nothing hangs, what lies in RAM survives,
 * what lay in VRAM is lost page by page, the process goes on, and the same machine gets a new device.
 */
const AREA = 2 * MIB;

let engine: WebGpuEngine;
let machine: Machine;
let device: Device;
let process: Process;
let vm: Vm;
/** In VRAM, and in RAM. */
let inVram: number;
let inRam: number;

beforeEach(async () => {
  engine = await testEngine();
  machine = new Machine({ engine, ram: 96 * MIB });
  device = machine.createDevice({ vram: 8 * MIB, window: MIB });
  process = machine.createProcess();
  vm = device.vm(process);
  inVram = await process.mmap(AREA, { align: AREA });
  inRam = await process.mmap(AREA, { align: AREA });
  await process.fill(inVram, AREA, 0x11);
  await process.fill(inRam, AREA, 0x22);
  await vm.toVram(inVram, AREA);
});
afterEach(async () => {
  await machine.close();
  engine.destroy();
});

/** WebGPU's own device goes, for all that it carries. */
function lose(): void {
  engine.acquired.device.destroy();
}

/** Adds 1 to the first word of every page of `[a, a + bytes)`. */
function touch(a: number, bytes: number): Promise<unknown> {
  return vm.kernel(
    `fn kernel(item: u32) {
      let at = svm_write(addr_add(arg64(0u), item * 4096u));
      if (svm_missed()) { return; }
      svm_store(at, svm_load(at) + 1u);
    }`,
    { items: bytes / 4096, args: [a % 2 ** 32, Math.floor(a / 2 ** 32)] },
  );
}

function pages(a: number, bytes: number): number[] {
  return Array.from({ length: bytes / 4096 }, (_, i) => a + i * 4096);
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => "ok",
    (error: { code?: string }) => error.code ?? String(error),
  );
}

/** What must hold after a loss, whatever was going on. `lost` are the pages that VRAM alone had. */
async function expectAftermath(lost: readonly number[]): Promise<void> {
  await device.gpu.lost;
  expect(device.gpu.isLost).toBe(true);
  await machine.settle();

  const isLost = new Set(lost);
  expect(new Set(device.lostPages(process).vram)).toEqual(isLost);
  for (const page of lost) {
    expect(await codeOf(process.ld(page + 8))).toBe("BUS");
    expect(await codeOf(process.st(page + 8, 1))).toBe("BUS");
  }
  for (const page of pages(inVram, AREA)) if (!isLost.has(page)) expect(await process.ld(page + 8)).toBe(0x11111111);
  for (const page of pages(inRam, AREA)) if (!isLost.has(page)) expect(await process.ld(page + 8)).toBe(0x22222222);
  await expect(vm.gld(inRam)).rejects.toBeInstanceOf(DeviceLostError);

  // The process goes on, and a page that is discarded is a fresh one.
  if (lost.length > 0) {
    await process.dontneed(lost[0]!, 4096);
    expect(await process.ld(lost[0]! + 8)).toBe(0);
  }
  const fresh = await machine.openDevice({ vram: 8 * MIB, window: MIB });
  const next = fresh.vm(process);
  const area = await process.mmap(AREA, { align: AREA });
  await next.gfill(area, AREA, 0x5a);
  expect(await process.ld(area + AREA - 4)).toBe(0x5a5a5a5a);
  if (!isLost.has(inRam)) expect(await next.ginc(inRam + 8, 5)).toBe(0x22222222);
  if (lost.length > 1) {
    const failed = await next.gld(lost[1]! + 8).catch((error: unknown) => error);
    expect(failed).toMatchObject({ code: "GPUFAULT", fault: { kind: "BUS" } });
  }
  await vm.close();
  await process.munmap(inVram, AREA);
  expect(device.lostPages(process).vram.filter((page) => page >= inVram && page < inVram + AREA)).toEqual([]);
  await process.exit();
}

describe("the device is lost", () => {
  test("while the machine is idle", async () => {
    lose();
    await expectAftermath(pages(inVram, AREA));
  });

  test("while a launch is in flight", async () => {
    const launch = codeOf(touch(inVram, AREA));
    await Promise.resolve();
    lose();
    expect(await launch).toBe("EIO");
    await expectAftermath(pages(inVram, AREA));
  });

  test("between two rounds of a launch", async () => {
    let rounds = 0;
    machine.sched.gate = (name) => {
      if (name !== "round" || ++rounds !== 2) return undefined;
      lose();
      return device.gpu.lost.then(() => undefined);
    };
    expect(await codeOf(touch(inRam, AREA))).toBe("EIO");
    machine.sched.gate = null;
    expect(rounds).toBe(2);
    await expectAftermath([...pages(inVram, AREA), ...pages(inRam, AREA)]);
  });

  test("while a download is pending", async () => {
    const moved = vm.toSys(inVram, AREA).catch(() => -1);
    await Promise.resolve();
    lose();
    // Nothing moved, or that much is said to have moved as did.
    const home = (await moved) > 0 ? AREA : 0;
    await expectAftermath(pages(inVram + home, AREA - home));
  });

  test("during an eviction", async () => {
    const big = await process.mmap(12 * MIB, { align: AREA });
    await process.fill(big, 12 * MIB, 0x33);
    let atEviction = false;
    const unwatch = machine.sched.watch(() => {
      if (atEviction || ![...device.driver.region.buffers].some((bo) => bo.isLeaving)) return;
      atEviction = true;
      lose();
    });
    expect(await codeOf(touch(big, 12 * MIB))).toBe("EIO");
    unwatch();
    expect(atEviction).toBe(true);
    await device.gpu.lost;
    const lost = device.lostPages(process).vram;
    expect(lost.length).toBeGreaterThan(0);
    for (const page of pages(big, 12 * MIB)) {
      expect(await codeOf(process.ld(page + 8))).toBe(lost.includes(page) ? "BUS" : "ok");
    }
    await process.munmap(big, 12 * MIB);
    await expectAftermath(lost.filter((page) => page < big || page >= big + 12 * MIB));
  });

  test("during a CPU fault", async () => {
    const read = codeOf(process.read(inVram, AREA));
    await Promise.resolve();
    lose();
    expect(await read).toBe("BUS");
    await expectAftermath(pages(inVram, AREA));
  });

  test("with system memory that the GPU has written in place: it keeps its older bytes and is reported", async () => {
    const direct = device.vm(process, { migrate: false });
    const area = await process.mmap(8 * 4096, { align: 65536 });
    await process.fill(area, 8 * 4096, 0x44);
    await direct.gst(area + 4096, 7);
    expect(await process.ld(area + 4096)).toBe(7);
    await direct.gst(area + 4096, 8);
    lose();
    await device.gpu.lost;
    expect(await process.ld(area + 4096)).toBe(7);
    expect(await process.ld(area)).toBe(0x44444444);
    const { stale } = device.lostPages(process);
    expect(stale).toContainEqual({ addr: area + 4096, round: null });
    await direct.close();
    await expectAftermath(pages(inVram, AREA));
  });
});

import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { WebGpuEngine } from "../../src/device/index.ts";
import type { Device } from "../../src/machine/device.ts";
import { Machine } from "../../src/machine/machine.ts";
import type { Process } from "../../src/machine/process.ts";
import type { Vm } from "../../src/machine/vm.ts";
import { MIB, testEngine } from "./support.ts";

/**
 * Write-back mode bounds what a loss can cost: whatever the machine is doing when the WebGPU device goes, a page in VRAM is
 * as one refresh left it, and the machine says which and for which pages that is older than the page was.
 */
const AREA = 2 * MIB;

let engine: WebGpuEngine;
let machine: Machine;
let device: Device;
let process: Process;
let vm: Vm;
let area: number;

beforeEach(async () => {
  engine = await testEngine();
  machine = new Machine({ engine, ram: 64 * MIB });
  device = machine.createDevice({ vram: 8 * MIB, window: MIB, writeBack: { rounds: 1 } });
  process = machine.createProcess();
  vm = device.vm(process);
  area = await process.mmap(AREA, { align: AREA });
  await process.fill(area, AREA, 0x11);
});
afterEach(async () => {
  await machine.close();
  engine.destroy();
});

async function lose(): Promise<void> {
  engine.acquired.device.destroy();
  await device.gpu.lost;
  await machine.settle();
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => "ok",
    (error: { code?: string }) => error.code ?? String(error),
  );
}

/** Adds 1 to every word of the area: all its words are equal, before and after. */
function addOne(): Promise<unknown> {
  return vm.kernel(
    `fn kernel(item: u32) {
      let at = svm_write(addr_add(arg64(0u), item * 4096u));
      if (svm_missed()) { return; }
      for (var w = 0u; w < 1024u; w++) { svm_store(at + w, svm_load(at + w) + 1u); }
    }`,
    { items: AREA / 4096, args: [area % 2 ** 32, Math.floor(area / 2 ** 32)] },
  );
}

async function expectWords(value: number): Promise<void> {
  const words = new Uint32Array((await process.read(area, AREA)).buffer);
  expect(words.findIndex((word) => word !== value)).toBe(-1);
}

/** The process goes on with another device. */
async function expectGoesOn(value: number): Promise<void> {
  const fresh = await machine.openDevice({ vram: 8 * MIB, window: MIB });
  const next = fresh.vm(process);
  expect(await next.ginc(area, 5)).toBe(value);
  expect(await process.ld(area)).toBe(value + 5);
  await vm.close();
  await process.exit();
}

describe("with write-back, the device is lost", () => {
  test("before a kernel has written: every byte is there", async () => {
    await vm.toVram(area, AREA);
    await lose();
    expect(device.lostPages(process)).toEqual({ vram: [], stale: [] });
    await expectWords(0x11111111);
    await expectGoesOn(0x11111111);
  });

  test("after a refresh: every byte is there", async () => {
    for (let i = 0; i < 3; i++) await addOne();
    await machine.settle();
    expect(device.writeBack!.copiedBytes).toBeGreaterThanOrEqual(AREA);
    await lose();
    expect(device.lostPages(process)).toEqual({ vram: [], stale: [] });
    await expectWords(0x11111114);
    await expectGoesOn(0x11111114);
  });

  test("while a round is in flight: the pages are as the refresh before it left them, and are listed with it", async () => {
    await addOne();
    await machine.settle();
    const { round } = device.driver.region.writeBack!;
    const launch = codeOf(addOne());
    while (device.driver.region.writeBack!.round === round) await Promise.resolve();
    await lose();
    expect(await launch).toBe("EIO");
    const { vram, stale } = device.lostPages(process);
    expect([vram, stale.length]).toEqual([[], AREA / 4096]);
    expect(stale.every((page, i) => page.addr === area + i * 4096 && page.round === round)).toBe(true);
    await expectWords(0x11111112);
    expect(device.lostPages(process).stale).toEqual(stale);
    await expectGoesOn(0x11111112);
  });

  test("while a refresh is under way: the copy before it counts", async () => {
    await addOne();
    await machine.settle();
    const { refreshes } = device.writeBack!;
    const launch = codeOf(addOne());
    while (device.writeBack!.refreshes === refreshes) await new Promise((resolve) => setTimeout(resolve, 0));
    await lose();
    await launch;
    const { vram, stale } = device.lostPages(process);
    expect(vram).toEqual([]);
    // The copies may have arrived just before.
    const value = stale.length === 0 ? 0x11111113 : 0x11111112;
    await expectWords(value);
    await expectGoesOn(value);
  });

  test("between two rounds, with pages on their way in: every byte is there", async () => {
    let rounds = 0;
    machine.sched.gate = (name) => {
      if (name !== "round" || ++rounds !== 2) return undefined;
      return lose();
    };
    expect(await codeOf(addOne())).toBe("EIO");
    machine.sched.gate = null;
    expect(device.lostPages(process)).toEqual({ vram: [], stale: [] });
    await expectWords(0x11111111);
    await expectGoesOn(0x11111111);
  });

  test("while an eviction brings pages home: they come home as their copies", async () => {
    await addOne();
    await machine.settle();
    const moving = vm.toSys(area, AREA);
    await Promise.resolve();
    await lose();
    await moving;
    expect(device.lostPages(process)).toEqual({ vram: [], stale: [] });
    await expectWords(0x11111112);
    await expectGoesOn(0x11111112);
  });

  test("while a CPU fault is served: the access gets the copy", async () => {
    await addOne();
    await machine.settle();
    const reading = process.read(area, AREA);
    await Promise.resolve();
    await lose();
    expect(new Uint32Array((await reading).buffer).every((word) => word === 0x11111112)).toBe(true);
    await expectGoesOn(0x11111112);
  });

  test("with a shadow given up for want of RAM: those pages are lost, and no others", async () => {
    const other = await process.mmap(AREA, { align: AREA });
    await process.fill(other, AREA, 0x22);
    await vm.toVram(other, AREA);
    await vm.toVram(area, AREA);
    const { dropped } = device.writeBack!;
    device.driver.region.writeBack!.shrink(1);
    expect(device.writeBack!.dropped).toBe(dropped + 1);
    await lose();
    const { vram, stale } = device.lostPages(process);
    expect([vram.length, vram[0], stale]).toEqual([AREA / 4096, other, []]);
    expect(await codeOf(process.ld(other))).toBe("BUS");
    await expectWords(0x11111111);
    await expectGoesOn(0x11111111);
  });
});

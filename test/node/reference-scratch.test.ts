import { describe, expect, test } from "vitest";
import { EINVAL, isErr } from "../../src/base/errno.ts";
import { Machine, prepareEngine } from "../../src/machine/index.ts";
import { createReferenceGpu } from "../../src/reference/reference-gpu.ts";
import { requestWords } from "../gpu/support.ts";
import { scratchBehaviour } from "../scratch-behaviour.ts";

const MIB = 1 << 20;

describe("scratch on the reference engine", () => {
  scratchBehaviour(async () => {
    const host = new Uint8Array(MIB);
    const config = { vramBytes: 8 * MIB, ptBytes: MIB, syswBytes: MIB, faultQueueCapacity: 256, hostMemory: host };
    return { gpu: createReferenceGpu(config), host };
  });
});

describe("an address space of the driver with scratch", () => {
  async function setUp(options: { readonly faultMode: boolean; readonly scratch: boolean }) {
    const machine = new Machine({ engine: await prepareEngine("reference"), ram: 16 * MIB });
    const device = machine.createDevice({ vram: 4 * MIB });
    const { chunks, notifier, checkPages, leafSizes, migrate } = machine.config;
    const vm = device.driver.createVm(machine.createProcess().mm, {
      chunkSizes: chunks,
      notifierSize: notifier,
      checkPagesThreshold: checkPages,
      leafSizes,
      migrate,
      window: [0, 2 ** 47],
      ...options,
    });
    return { machine, device, vm };
  }

  test.each([
    [true, 2],
    [false, 3],
  ])("scratch %s: what is not mapped translates with status %i", async (scratch, status) => {
    const { machine, device, vm } = await setUp({ faultMode: false, scratch });
    if (isErr(vm)) throw new Error("no address space");
    const requests = requestWords([{ asid: vm.asid, va: 0x7f00_0000_0000, access: 1, flags: 1 << 5 }]);
    expect((await device.gpu.translate(requests))[0]).toBe(status);
    await vm.close();
    expect((await device.gpu.translate(requests))[0]).toBe(3);
    await machine.close();
  });

  test("excludes faults", async () => {
    const { machine, vm } = await setUp({ faultMode: true, scratch: true });
    expect(vm).toBe(EINVAL);
    await machine.close();
  });
});

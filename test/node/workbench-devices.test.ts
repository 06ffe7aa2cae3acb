import { expect, test } from "vitest";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { Machine } from "../../src/machine/machine.ts";
import { MachineProbe } from "../../src/worker/machine-probe.ts";
import { BLOCK_STRIDE, PAGE_RANGE, PAGE_TABLE } from "../../src/worker/protocol.ts";

const MIB = 1 << 20;
const PAGES = (6 * MIB) / 4096;

test("the workbench sees the VRAM of every device, one behind the other", async () => {
  const machine = new Machine({ engine: REFERENCE_ENGINE, ram: 24 * MIB });
  const [first, second] = [true, true].map((p2p) => machine.createDevice({ vram: 4 * MIB, p2p }));
  const process = machine.createProcess();
  const vms = [first!.vm(process), second!.vm(process)];
  const probe = new MachineProbe(machine);
  expect(probe.devices()).toEqual([
    { name: "gpu0", pages: PAGES },
    { name: "gpu1", pages: PAGES },
  ]);
  expect(probe.vramPages).toBe(2 * PAGES);
  const a = await process.mmap(2 * MIB, { align: 2 * MIB });
  const vram = new Uint8Array(2 * PAGES);
  const counts = (kind: number) =>
    [0, PAGES].map((at) => vram.subarray(at, at + PAGES).filter((page) => page === kind).length);
  for (const [i, vm] of vms.entries()) {
    await vm.gst(a, i);
    probe.vram(vram);
    expect(counts(PAGE_RANGE)).toEqual(i === 0 ? [512, 0] : [0, 512]);
    expect(counts(PAGE_TABLE).every((tables) => tables > 0)).toBe(true);
    const blocks = probe.blocks();
    expect(blocks.length).toBe(BLOCK_STRIDE);
    expect(Math.floor(blocks[0]! / PAGES)).toBe(i);
    expect([...blocks.subarray(1)]).toEqual([512, a, process.pid]);
  }
  await first!.unbind();
  expect(probe.devices()).toEqual([{ name: "gpu1", pages: PAGES }]);
  await machine.close();
});

import { expect, test } from "vitest";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { Machine } from "../../src/machine/machine.ts";

const MIB = 1 << 20;
const CHUNK = 2 * MIB;

/** A chunk of a process in the VRAM of a device that is gone, and an address space on the next one. */
async function setUp(window = MIB) {
  const machine = new Machine({ engine: REFERENCE_ENGINE, ram: 64 * MIB });
  const old = machine.createDevice({ vram: 2 * CHUNK });
  const process = machine.createProcess();
  const a = await process.mmap(CHUNK, { align: CHUNK });
  await old.vm(process).gfill(a, CHUNK, 7);
  old.gpu.destroy();
  await old.gpu.lost;
  return { process, a, vm: machine.createDevice({ vram: 2 * CHUNK, window }).vm(process) };
}

test.each([MIB, 0])(
  "a GPU access to a page that went with another device fails at once (window %i)",
  async (window) => {
    const { a, vm } = await setUp(window);
    const error = await vm.gst(a + 8, 1).catch((e: unknown) => e);
    expect(error).toMatchObject({
      code: "GPUFAULT",
      addr: a + 8,
      fault: { kind: "BUS", addr: a + 8, access: "write" },
    });
    expect((error as Error).message).toContain(`page 0x${a.toString(16)} went with a device that was lost`);
    expect((error as Error).message).toContain("EIO");
    expect(vm.counters.retries).toBe(0);
  },
);

test("a page beside it, in the same range, fails too, and the error names the page that is lost", async () => {
  const { process, a, vm } = await setUp();
  await process.dontneed(a, CHUNK - 4096);
  const error = await vm.gld(a).catch((e: unknown) => e);
  expect(error).toMatchObject({ code: "GPUFAULT", addr: a });
  expect((error as Error).message).toContain(
    `page 0x${(a + CHUNK - 4096).toString(16)}, in one range with 0x${a.toString(16)},`,
  );
  expect(vm.counters.retries).toBe(0);
});

test("once discarded, the page is served", async () => {
  const { process, a, vm } = await setUp();
  await expect(vm.gld(a)).rejects.toMatchObject({ code: "GPUFAULT" });
  await process.dontneed(a, CHUNK);
  await vm.gst(a + 4, 9);
  expect([await process.ld(a), await process.ld(a + 4)]).toEqual([0, 9]);
});

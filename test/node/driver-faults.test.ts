import { describe, expect, test } from "vitest";
import { KernelError } from "../../src/base/errors.ts";
import { EVENT_KINDS, TRACE_STRIDE } from "../../src/base/trace.ts";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { Machine } from "../../src/machine/machine.ts";
import type { DeviceOptions, MachineOptions } from "../../src/machine/machine.ts";

const MIB = 1 << 20;

function setUp(vram = 16 * MIB, options: Partial<MachineOptions> = {}, device: DeviceOptions = {}) {
  const machine = new Machine({ engine: REFERENCE_ENGINE, ram: 128 * MIB, ...options });
  const gpu = machine.createDevice({ vram, ...device });
  const process = machine.createProcess();
  const vm = gpu.vm(process);
  return { machine, gpu, process, vm };
}

async function gpuFault(access: Promise<unknown>): Promise<KernelError> {
  const error = await access.then(
    () => null,
    (e: unknown) => e,
  );
  expect(error).toBeInstanceOf(KernelError);
  expect((error as KernelError).code).toBe("GPUFAULT");
  return error as KernelError;
}

describe("faults that cannot be served", () => {
  test("name the word, the access and the kind, and leave the address space usable", async () => {
    const { process, vm } = setUp();
    const a = await process.mmap(MIB);
    const nowhere = await gpuFault(vm.gst(2 * a, 1));
    expect(nowhere.fault).toEqual({ kind: "NOENT", addr: 2 * a, access: "write" });
    await vm.gst(a + 8, 5);
    expect(await process.ld(a + 8)).toBe(5);
  });

  test("a store to a read-only area is refused, a load is served and nothing becomes writable", async () => {
    const { process, vm } = setUp();
    const a = await process.mmap(MIB);
    await process.st(a + 4, 77);
    await process.mprotect(a, MIB, "R");
    expect(await vm.gld(a + 4)).toBe(77);
    expect((await gpuFault(vm.gst(a + 4, 1))).fault).toEqual({ kind: "PERM", addr: a + 4, access: "write" });
    expect(await process.ld(a + 4)).toBe(77);
  });

  test("an area made writable again is written through a fresh mapping", async () => {
    const { process, vm } = setUp();
    const a = await process.mmap(MIB);
    await process.mprotect(a, MIB, "R");
    expect(await vm.gld(a)).toBe(0);
    await process.mprotect(a, MIB, "RW");
    await vm.gst(a, 3);
    expect(await process.ld(a)).toBe(3);
  });

  test("a range whose area was split by mprotect gives way to smaller ones that fit", async () => {
    const { process, vm } = setUp();
    const a = await process.mmap(2 * MIB, { align: 2 * MIB });
    await process.fill(a, 2 * MIB, 1);
    await vm.gst(a, 2);
    await process.mprotect(a + MIB, 4096, "R");
    await vm.gst(a + 8, 3);
    await vm.gst(a + MIB + 4096, 4);
    expect((await gpuFault(vm.gst(a + MIB, 5))).fault?.kind).toBe("PERM");
    expect(await vm.gld(a + MIB)).toBe(0x01010101);
    expect([await process.ld(a), await process.ld(a + 8), await process.ld(a + MIB + 4096)]).toEqual([2, 3, 4]);
  });

  test("no access is refused for reading", async () => {
    const { process, vm } = setUp();
    const a = await process.mmap(MIB, { prot: "NONE" });
    expect((await gpuFault(vm.gld(a))).fault).toEqual({ kind: "PERM", addr: a, access: "read" });
    await process.mprotect(a, MIB, "RW");
    expect(await vm.gld(a)).toBe(0);
  });

  test("what a job did before its failing operation stays done", async () => {
    const { process, vm } = setUp();
    const a = await process.mmap(4096);
    const error = await gpuFault(
      vm.job([
        ["st", a, 1],
        ["st", a + 4096 + 8, 2],
        ["st", a + 4, 3],
      ]),
    );
    expect(error.fault?.addr).toBe(a + 4096 + 8);
    expect(await process.ld(a)).toBe(1);
    expect(await process.ld(a + 4)).toBe(0);
  });

  test("a bulk store into a hole fails at the hole, with all before it stored", async () => {
    const { process, vm } = setUp();
    const a = await process.mmap(MIB);
    await process.munmap(a + 512 * 1024, 4096);
    const error = await gpuFault(vm.gfill(a, MIB, 0x11));
    expect(error.fault).toEqual({ kind: "NOENT", addr: a + 512 * 1024, access: "write" });
    const before = await process.read(a, 512 * 1024);
    expect(before.every((b) => b === 0x11)).toBe(true);
  });
});

describe("VRAM under pressure", () => {
  test("never holds more than the budget and loses nothing", async () => {
    const { machine, gpu, process, vm } = setUp(4 * MIB);
    const bytes = 24 * MIB;
    const a = await process.mmap(bytes, { align: 2 * MIB });
    const words = Uint32Array.from({ length: bytes / 4 }, (_, i) => Math.imul(i, 2654435761));
    await process.write(a, words);
    let highest = 0;
    const unwatch = machine.sched.watch(() => {
      highest = Math.max(highest, gpu.driver.vramUsed);
    });
    expect(Buffer.compare(await vm.gread(a, bytes), new Uint8Array(words.buffer))).toBe(0);
    await vm.gfill(a, 8, 0xff);
    unwatch();
    expect(highest).toBeGreaterThan(0);
    expect(highest).toBeLessThanOrEqual(4 * MIB);
    expect(vm.counters.evict).toBeGreaterThan(0);
    words.fill(0xffffffff, 0, 2);
    expect(Buffer.compare(await process.read(a, bytes), new Uint8Array(words.buffer))).toBe(0);
  });

  test("a sequential pass moves every byte in once", async () => {
    const { process, vm } = setUp(8 * MIB);
    const bytes = 24 * MIB;
    const a = await process.mmap(bytes, { align: 2 * MIB });
    await process.fill(a, bytes, 3);
    await vm.gfill(a, bytes, 4);
    expect(vm.counters.toDevBytes).toBe(bytes);
  });

  test("an item whose pages fit only together with nothing else finishes item by item", async () => {
    const { process, vm } = setUp(4 * MIB);
    const chunk = 2 * MIB;
    const items = 6;
    const a = await process.mmap(items * 2 * chunk, { align: chunk });
    // Item i adds one word of chunk i to one word of chunk items + i: two chunks are all of VRAM.
    for (let i = 0; i < items; i++) await process.st(a + i * chunk, i + 1);
    await vm.kernel("", {
      items,
      reference(item, c) {
        const from = c.translate(a + item * chunk, 0);
        const to = c.translate(a + (items + item) * chunk, 1);
        if (!c.missed) c.store(to, c.load(to) + c.load(from));
      },
    });
    for (let i = 0; i < items; i++) expect(await process.ld(a + (items + i) * chunk)).toBe(i + 1);
  });

  test("an item whose pages do not fit into VRAM together reaches the rest in system memory", async () => {
    const { process, vm, machine, gpu } = setUp(4 * MIB);
    const chunk = 2 * MIB;
    const a = await process.mmap(4 * chunk, { align: chunk });
    for (let k = 0; k < 4; k++) await process.st(a + k * chunk, k + 1);
    await vm.kernel("", {
      items: 1,
      reference(_item, c) {
        const at = [0, 1, 2, 3].map((k) => c.translate(a + k * chunk, 1));
        if (!c.missed) for (const location of at) c.store(location, c.load(location) * 10);
      },
    });
    const places = [0, 1, 2, 3].map((k) => machine.where(process, a + k * chunk));
    expect(places.filter((p) => p === gpu)).toHaveLength(2);
    for (let k = 0; k < 4; k++) expect(await process.ld(a + k * chunk)).toBe((k + 1) * 10);
  });

  test("an item that fits neither into VRAM nor into the window is refused with the reason", async () => {
    const { process, vm } = setUp(4 * MIB, {}, { window: 0 });
    const chunk = 2 * MIB;
    const a = await process.mmap(3 * chunk, { align: chunk });
    const error = await gpuFault(
      vm.kernel("", {
        items: 1,
        reference(_item, c) {
          for (let k = 0; k < 3; k++) c.translate(a + k * chunk, 0);
        },
      }),
    );
    expect(error.message).toContain("does not fit into VRAM");
    expect(error.message).toContain("ENOSPC");
    await vm.gst(a, 1);
    expect(await process.ld(a)).toBe(1);
  });
});

describe("system memory mapped in place", () => {
  test("is read and written by GPU and CPU in turns, with every store seen by the other", async () => {
    const machine = new Machine({ engine: REFERENCE_ENGINE, ram: 128 * MIB, config: { migrate: false } });
    const gpu = machine.createDevice({ vram: 4 * MIB });
    const process = machine.createProcess();
    const vm = gpu.vm(process);
    const a = await process.mmap(64 * 1024, { align: 64 * 1024 });
    for (let turn = 0; turn < 5; turn++) {
      await process.st(a + 4, turn);
      expect(await vm.ginc(a + 4, 10)).toBe(turn);
      expect(await process.ld(a + 4)).toBe(turn + 10);
      await vm.gst(a + 8, turn * 3);
      expect(await process.ld(a + 8)).toBe(turn * 3);
    }
    expect(gpu.driver.vramUsed).toBe(0);
    expect(machine.where(process, a)).toBe("SYS");
    await process.munmap(a, 64 * 1024);
    await machine.close();
  });
});

describe("the life of an address space", () => {
  test("close brings all data home and frees all VRAM", async () => {
    const { gpu, process, vm } = setUp();
    const a = await process.mmap(4 * MIB, { align: 2 * MIB });
    await vm.gfill(a, 4 * MIB, 0x5a);
    expect(gpu.driver.vramUsed).toBe(4 * MIB);
    await vm.close();
    expect(gpu.driver.vramUsed).toBe(0);
    expect((await process.read(a, 4 * MIB)).every((b) => b === 0x5a)).toBe(true);
    await expect(vm.gld(a)).rejects.toThrow();
  });

  test("munmap frees the VRAM behind it, and the collector removes the ranges", async () => {
    const { machine, gpu, process, vm } = setUp();
    const a = await process.mmap(4 * MIB, { align: 2 * MIB });
    await vm.gfill(a, 4 * MIB, 1);
    await process.munmap(a, 4 * MIB);
    await machine.settle();
    expect(gpu.driver.vramUsed).toBe(0);
    expect(vm.svm.ranges(a, a + 4 * MIB)).toEqual([]);
    expect(vm.svm.notifiers()).toEqual([]);
  });

  test("exit of the process closes what mirrors it and frees its memory", async () => {
    const { machine, gpu, process, vm } = setUp();
    const free = machine.phys.freePages;
    const a = await process.mmap(2 * MIB, { align: 2 * MIB });
    await process.fill(a, 2 * MIB, 1);
    await vm.gst(a, 2);
    await process.exit();
    await machine.settle();
    expect(gpu.driver.vramUsed).toBe(0);
    expect(machine.phys.freePages).toBe(free);
  });

  test("fresh VRAM reads zero whatever was there before", async () => {
    const { process, vm } = setUp(4 * MIB);
    const a = await process.mmap(2 * MIB, { align: 2 * MIB });
    await vm.gfill(a, 2 * MIB, 0xee);
    await process.munmap(a, 2 * MIB);
    const b = await process.mmap(2 * MIB, { align: 2 * MIB });
    expect((await vm.gread(b, 2 * MIB)).every((x) => x === 0)).toBe(true);
  });
});

test("every event says what caused it: a bind leads back to its fault", async () => {
  const { machine, process, vm } = setUp();
  const a = await process.mmap(2 * MIB, { align: 2 * MIB });
  await vm.gst(a, 1);
  const events = machine.trace.since(1);
  const rows = Array.from({ length: events.length / TRACE_STRIDE }, (_, i) => {
    const [seq, kind, cause] = events.subarray(i * TRACE_STRIDE);
    return { seq: seq!, kind: EVENT_KINDS[kind!]![0], cause: cause! };
  });
  const bind = rows.find((r) => r.kind === "bind")!;
  expect(rows.find((r) => r.seq === bind.cause)?.kind).toBe("gpu-fault");
});

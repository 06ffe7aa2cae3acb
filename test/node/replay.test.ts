import { describe, expect, test } from "vitest";
import { ENOENT, ETIME } from "../../src/base/errno.ts";
import { KernelError } from "../../src/base/errors.ts";
import type { KernelDesign, ReferenceKernelContext } from "../../src/hal/gpu.ts";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { Machine } from "../../src/machine/machine.ts";
import type { DeviceOptions, VmConfig } from "../../src/machine/machine.ts";
import type { KernelOptions } from "../../src/machine/vm.ts";

/** The replay designs under the driver: service, pins, limits and what a fatal fault costs. */
const MIB = 1 << 20;
const CHUNK = 2 * MIB;

function setUp(vram: number, config: Partial<VmConfig> = {}, device: DeviceOptions = {}) {
  const machine = new Machine({ engine: REFERENCE_ENGINE, ram: 64 * MIB, config });
  const gpu = machine.createDevice({ vram, ...device });
  const process = machine.createProcess();
  return { machine, gpu, process, vm: gpu.vm(process) };
}

async function failure(work: Promise<unknown>): Promise<KernelError> {
  const error: unknown = await work.then(
    () => null,
    (e: unknown) => e,
  );
  expect(error).toBeInstanceOf(KernelError);
  return error as KernelError;
}

/** Item i adds word 0 of chunk i to word 0 of chunk items + i, by the rules of `design`. */
function addChunks(a: number, items: number, design: KernelDesign): KernelOptions {
  return {
    items,
    design,
    reference(item: number, c: ReferenceKernelContext) {
      const source = c.translate(a + item * CHUNK, 0);
      const target = c.translate(a + (items + item) * CHUNK, 1);
      if (design === "idempotent" || !c.missed) c.store(target, c.load(source) * 3);
    },
  };
}

describe.each(["item", "workgroup", "idempotent"] as const)("design %s", (design) => {
  test.each([16, 4])("finishes with %i MiB of VRAM for 16 MiB of data", async (vram) => {
    const { process, vm, machine } = setUp(vram * MIB);
    const a = await process.mmap(8 * CHUNK, { align: CHUNK });
    for (let i = 0; i < 4; i++) await process.st(a + i * CHUNK, i + 1);
    await vm.kernel("", addChunks(a, 4, design));
    for (let i = 0; i < 4; i++) expect(await process.ld(a + (4 + i) * CHUNK)).toBe((i + 1) * 3);
    await machine.close();
  });
});

describe("design prefault", () => {
  const sum = (a: number, chunks: number): KernelOptions => ({
    items: 1,
    design: "prefault",
    buffers: [{ at: a, bytes: chunks * CHUNK, access: "write" }],
    reference(_item, c) {
      let total = 0;
      for (let i = 0; i < chunks; i++) total += c.load(c.at(0, i * CHUNK));
      c.store(c.at(0, 4), total);
    },
  });

  test("runs once, when all of its buffers are there", async () => {
    const { process, vm } = setUp(8 * MIB);
    const a = await process.mmap(4 * CHUNK, { align: CHUNK });
    for (let i = 0; i < 4; i++) await process.st(a + i * CHUNK, i + 1);
    await vm.kernel("", sum(a, 4));
    expect(await process.ld(a + 4)).toBe(10);
  });

  test("what does not fit into VRAM is reached in system memory", async () => {
    const { process, vm } = setUp(4 * MIB);
    const a = await process.mmap(4 * CHUNK, { align: CHUNK });
    for (let i = 0; i < 4; i++) await process.st(a + i * CHUNK, i + 1);
    await vm.kernel("", sum(a, 4));
    expect(await process.ld(a + 4)).toBe(10);
  });

  test("is refused before the first round where it can fit nowhere", async () => {
    const { process, vm } = setUp(4 * MIB, {}, { window: 0 });
    const a = await process.mmap(4 * CHUNK, { align: CHUNK });
    const error = await failure(vm.kernel("", sum(a, 4)));
    expect(error.message).toContain("ENOSPC");
    expect(vm.counters.rounds).toBe(0);
    await vm.kernel("", sum(a, 2));
  });

  test("a page that no buffer names ends the launch", async () => {
    const { process, vm } = setUp(8 * MIB);
    const a = await process.mmap(4 * CHUNK, { align: CHUNK });
    const o = {
      ...sum(a, 1),
      reference: (_i: number, c: ReferenceKernelContext) => void c.translate(a + 3 * CHUNK, 0),
    };
    const error = await failure(vm.kernel("", o));
    expect(error.fault?.addr).toBe(a + 3 * CHUNK);
    expect(error.message).toContain("EFAULT");
  });
});

test("buffers of a replaying kernel are brought in as hints: a hole in one does no harm", async () => {
  const { process, vm } = setUp(8 * MIB);
  const a = await process.mmap(2 * CHUNK, { align: CHUNK });
  await process.munmap(a + CHUNK, 4096);
  await process.st(a, 5);
  const out = await vm.kernel("", {
    items: 1,
    outWords: 1,
    buffers: [{ at: a, bytes: 2 * CHUNK, access: "read" }],
    reference(_item, c) {
      const at = c.at(0, 0);
      if (!c.missed) c.out[0] = c.load(at);
    },
  });
  expect([...out]).toEqual([5]);
  expect(vm.counters.hintDropped).toBe(1);
});

describe("a fault that cannot be served", () => {
  test("kills its launch only, unless the address space says otherwise", async () => {
    const { process, vm } = setUp(8 * MIB);
    const a = await process.mmap(MIB);
    expect((await failure(vm.gst(2 * a, 1))).fault?.kind).toBe("NOENT");
    await vm.gst(a, 1);
    expect(vm.svm.isBanned).toBe(false);
  });

  test("bans the address space where the policy is to ban; others of the process go on", async () => {
    const { process, vm, gpu } = setUp(8 * MIB, { onFatal: "ban" });
    const other = gpu.vm(process);
    const a = await process.mmap(MIB);
    await process.mprotect(a, MIB, "R");
    expect((await failure(vm.gst(a, 1))).fault?.kind).toBe("PERM");
    expect((await failure(vm.gld(a))).code).toBe("ENOENT");
    const kernel = await gpu.compile({ name: "none", wgsl: "", reference: () => undefined });
    expect((await vm.svm.launch(kernel, { items: 1 })).fault?.errno).toBe(ENOENT);
    expect(await other.gld(a)).toBe(0);
    await vm.close();
  });

  test("is no matter of a poisoned item's later addresses", async () => {
    const { process, vm } = setUp(8 * MIB, { onFatal: "ban" });
    const a = await process.mmap(MIB);
    await process.st(a, 9);
    const out = await vm.kernel("", {
      items: 1,
      outWords: 1,
      reference(_item, c) {
        const at = c.translate(a, 0);
        // Garbage while `a` misses: nothing is mapped there, and it is beyond 48 bits.
        if (c.missed) c.translate(2 ** 50, 1);
        else c.out[0] = c.load(at);
      },
    });
    expect([...out]).toEqual([9]);
    expect(vm.svm.isBanned).toBe(false);
  });
});

test("a launch ends after its rounds", async () => {
  const { process, vm, gpu } = setUp(8 * MIB);
  const a = await process.mmap(8 * CHUNK, { align: CHUNK });
  // Every round makes a new page resident, so that nothing but the limit ends it.
  const kernel = await gpu.compile({
    name: "chain",
    wgsl: "",
    reference(_item, c) {
      for (let i = 0; i < 4 && !c.missed; i++) c.translate(a + i * CHUNK, 0);
    },
  });
  const outcome = await vm.svm.launch(kernel, { items: 1, maxRounds: 3 });
  expect([outcome.rounds, outcome.fault?.errno]).toEqual([3, ETIME]);
  expect((await vm.svm.launch(kernel, { items: 1, maxRounds: 5 })).fault).toBeNull();
});

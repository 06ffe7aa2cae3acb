/** More memory reached in place than the system window holds: others give way, by use, and never what a round needs. */
import { describe, expect, test } from "vitest";
import { KernelError } from "../../src/base/errors.ts";
import { isErr } from "../../src/base/errno.ts";
import { EVENT_KINDS, TRACE_STRIDE } from "../../src/base/trace.ts";
import { Bo } from "../../src/driver/bo.ts";
import { makeWindowRoom } from "../../src/driver/window-room.ts";
import { UserPtr } from "../../src/machine/bind.ts";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { Machine } from "../../src/machine/machine.ts";
import type { DeviceOptions, Process, VmConfig } from "../../src/machine/index.ts";
import type { Vm } from "../../src/machine/vm.ts";
import { checkInvariants } from "../../src/mm/invariants.ts";
import { PL_SYSTEM, PL_TT } from "../../src/vram/place.ts";

const MIB = 1 << 20;
const CHUNK = 2 * MIB;
/** Room for four chunks; the window's first page is never given out, so this takes one more. */
const WINDOW = 4 * CHUNK + 4096;

function setUp(device: DeviceOptions = {}, config: Partial<VmConfig> = {}) {
  const machine = new Machine({ engine: REFERENCE_ENGINE, ram: 96 * MIB, config: { migrate: false, ...config } });
  const gpu = machine.createDevice({ vram: 4 * MIB, window: WINDOW, ...device });
  const process = machine.createProcess();
  return { machine, gpu, process, vm: gpu.vm(process) };
}

/** The device must go without a page mapped, or its window says so. */
async function settleAndClose({ machine, process }: ReturnType<typeof setUp>): Promise<void> {
  await machine.settle();
  checkInvariants(machine.phys);
  await process.exit();
  await machine.settle();
  checkInvariants(machine.phys);
  await machine.close();
}

const boundChunks = (vm: Vm, a: number, n: number): number[] =>
  Array.from({ length: n }, (_, i) => i).filter((i) => vm.svm.rangeAt(a + i * CHUNK)?.isBound === true);

async function refusal(work: Promise<unknown>): Promise<KernelError> {
  const error: unknown = await work.then(
    () => null,
    (e: unknown) => e,
  );
  expect(error).toBeInstanceOf(KernelError);
  return error as KernelError;
}

describe("a kernel over four times the window, in place", () => {
  test.each([
    ["chunks of 2 MiB", WINDOW, 16],
    ["a window smaller than a chunk", MIB, 2],
    ["a window of eight pages", 9 * 4096, 1],
  ])("%s: correct to the byte, and nothing moves", async (_name, window, chunks) => {
    const m = setUp({ window });
    const bytes = chunks * CHUNK;
    const a = await m.process.mmap(bytes, { align: CHUNK });
    const words = Uint32Array.from({ length: bytes / 4 }, (_, i) => Math.imul(i, 2654435761));
    await m.process.write(a, words);
    await m.vm.kernel("", {
      items: bytes / 4096,
      reference(item, c) {
        const at = c.translate(a + item * 4096 + 8, 1);
        if (!c.missed) c.store(at, c.load(at) + item);
      },
    });
    for (let item = 0; item < bytes / 4096; item++) words[item * 1024 + 2]! += item;
    expect(Buffer.compare(await m.process.read(a, bytes), new Uint8Array(words.buffer))).toBe(0);
    expect(m.vm.counters.toDevBytes).toBe(0);
    expect(m.vm.stats.get("wgsvm_window_reclaim_count")).toBeGreaterThan(0);
    await settleAndClose(m);
  });

  test("again and again, with the CPU's stores between the passes", async () => {
    const m = setUp();
    const chunks = 8;
    const a = await m.process.mmap(chunks * CHUNK, { align: CHUNK });
    for (let pass = 0; pass < 4; pass++) {
      for (let k = 0; k < chunks; k++) {
        expect(await m.vm.ginc(a + k * CHUNK + 4, k)).toBe(pass * (k + 100));
        await m.process.st(a + k * CHUNK + 4, (pass + 1) * (k + 100));
      }
    }
    expect(m.vm.counters.toDevBytes).toBe(0);
    await settleAndClose(m);
  });

  test("memory that is advised to stay in RAM does not migrate for want of window", async () => {
    const m = setUp({ vram: 32 * MIB }, { migrate: true });
    const a = await m.process.mmap(8 * CHUNK, { align: CHUNK });
    await m.vm.attr(a, 8 * CHUNK, { loc: "SYS" });
    await m.vm.gfill(a, 8 * CHUNK, 0x5a);
    expect(m.vm.counters.toDevBytes).toBe(0);
    expect((await m.process.read(a, 8 * CHUNK)).every((byte) => byte === 0x5a)).toBe(true);
    await settleAndClose(m);
  });
});

describe("who gives way", () => {
  test("the mappings used the longest ago, and they come back by a fault", async () => {
    const m = setUp();
    const a = await m.process.mmap(6 * CHUNK, { align: CHUNK });
    for (let k = 0; k < 4; k++) await m.vm.gst(a + k * CHUNK, k + 1);
    expect(boundChunks(m.vm, a, 6)).toEqual([0, 1, 2, 3]);
    // The CPU takes chunk 0 away, so that its next use is a fault, and the newest of all.
    await m.process.dontneed(a + MIB, 4096);
    expect(await m.vm.gld(a)).toBe(1);
    await m.vm.gst(a + 4 * CHUNK, 5);
    expect(boundChunks(m.vm, a, 6)).toEqual([0, 2, 3, 4]);
    expect(await m.process.ld(a + CHUNK)).toBe(2);
    expect(await m.vm.gld(a + CHUNK)).toBe(2);
    expect(boundChunks(m.vm, a, 6)).toEqual([0, 1, 3, 4]);
    await settleAndClose(m);
  });

  test("none that is pinned; when all are, nobody, and it is said", async () => {
    const m = setUp();
    const a = await m.process.mmap(5 * CHUNK, { align: CHUNK });
    for (let k = 0; k < 4; k++) await m.vm.gst(a + k * CHUNK, k + 1);
    const ranges = [0, 1, 2, 3].map((k) => m.vm.svm.rangeAt(a + k * CHUNK)!);
    for (const range of ranges) range.pin();
    expect(await makeWindowRoom(m.gpu.driver, CHUNK)).toBe(false);
    const error = await refusal(m.vm.gst(a + 4 * CHUNK, 5));
    expect([error.code, error.fault?.addr]).toEqual(["GPUFAULT", a + 4 * CHUNK]);
    expect(error.message).toMatch(/system window/);
    expect(error.message).toMatch(/ENOSPC/);
    ranges[2]!.unpin();
    await m.vm.gst(a + 4 * CHUNK, 5);
    expect(boundChunks(m.vm, a, 5)).toEqual([0, 1, 3, 4]);
    for (const k of [0, 1, 3]) ranges[k]!.unpin();
    await settleAndClose(m);
  });

  test("as many go as the caller needs together, or none at all", async () => {
    const m = setUp();
    const a = await m.process.mmap(4 * CHUNK, { align: CHUNK });
    for (let k = 0; k < 4; k++) await m.vm.gst(a + k * CHUNK, 1);
    const pinned = m.vm.svm.rangeAt(a)!;
    pinned.pin();
    expect(await makeWindowRoom(m.gpu.driver, 4 * CHUNK)).toBe(false);
    expect(boundChunks(m.vm, a, 4)).toEqual([0, 1, 2, 3]);
    expect(await makeWindowRoom(m.gpu.driver, 3 * CHUNK)).toBe(true);
    expect(boundChunks(m.vm, a, 4)).toEqual([0]);
    pinned.unpin();
    await settleAndClose(m);
  });

  test("what the GPU wrote is home before its place is another's, in one transfer", async () => {
    const m = setUp();
    const a = await m.process.mmap(4 * CHUNK, { align: CHUNK });
    await m.vm.gfill(a, 4 * CHUNK, 7);
    const before = m.gpu.gpu.counters.readbacks;
    expect(await makeWindowRoom(m.gpu.driver, 4 * CHUNK)).toBe(true);
    expect(m.gpu.gpu.counters.readbacks - before).toBeLessThanOrEqual(1);
    expect(m.gpu.driver.window!.available).toBe(4 * CHUNK);
    expect((await m.process.read(a, 4 * CHUNK)).every((byte) => byte === 7)).toBe(true);
    await settleAndClose(m);
  });

  test("the TLB forgets them at once, also where nothing is bound afterwards", async () => {
    const m = setUp();
    const a = await m.process.mmap(4 * CHUNK, { align: CHUNK });
    await m.vm.gfill(a, 4 * CHUNK, 7);
    const before = m.vm.counters.tlbInval;
    expect(await makeWindowRoom(m.gpu.driver, CHUNK)).toBe(true);
    expect(m.vm.counters.tlbInval).toBe(before + 1);
    await settleAndClose(m);
  });

  test("mappings of other address spaces too, and what they have written is there", async () => {
    const m = setUp();
    const other = m.gpu.vm(m.process);
    const a = await m.process.mmap(8 * CHUNK, { align: CHUNK });
    for (let k = 0; k < 4; k++) await m.vm.gst(a + k * CHUNK, k + 1);
    for (let k = 4; k < 8; k++) await other.gst(a + k * CHUNK, k + 1);
    expect([boundChunks(m.vm, a, 8), boundChunks(other, a, 8)]).toEqual([[], [4, 5, 6, 7]]);
    for (let k = 0; k < 8; k++) expect(await m.vm.gld(a + k * CHUNK)).toBe(k + 1);
    await settleAndClose(m);
  });

  test("is said in the trace, with the fault that wanted the room as its cause", async () => {
    const m = setUp();
    const a = await m.process.mmap(5 * CHUNK, { align: CHUNK });
    for (let k = 0; k < 5; k++) await m.vm.gst(a + k * CHUNK, 1);
    const events = m.machine.trace.since(1);
    const rows = Array.from({ length: events.length / TRACE_STRIDE }, (_, i) => [
      ...events.subarray(i * TRACE_STRIDE, (i + 1) * TRACE_STRIDE),
    ]);
    const reclaims = rows.filter((row) => EVENT_KINDS[row[1]!]![0] === "window-reclaim");
    expect(reclaims.map(([, , , , , start, end, pages]) => [start, end, pages])).toEqual([[a, a + CHUNK, 512]]);
    const cause = rows.find((row) => row[0] === reclaims[0]![2])!;
    expect([EVENT_KINDS[cause[1]!]![0], cause[5]]).toEqual(["gpu-fault", a + 4 * CHUNK]);
    await settleAndClose(m);
  });
});

describe("launches larger than the window", () => {
  test("an item whose chunks just fit together finishes, item by item", async () => {
    const m = setUp();
    const items = 6;
    const a = await m.process.mmap(items * 2 * CHUNK, { align: CHUNK });
    for (let i = 0; i < items; i++) await m.process.st(a + i * CHUNK, i + 1);
    await m.vm.kernel("", {
      items,
      reference(item, c) {
        const at = [0, 1, 2, 3].map((k) => c.translate(a + ((item + k * 3) % (2 * items)) * CHUNK, 0));
        const to = c.translate(a + item * CHUNK + 4, 1);
        if (!c.missed) c.store(to, c.load(to) + at.reduce((sum, from) => sum + c.load(from), 0));
      },
    });
    for (let i = 0; i < items; i++) {
      const sum = [0, 1, 2, 3].map((k) => (i + k * 3) % (2 * items)).reduce((s, n) => s + (n < items ? n + 1 : 0), 0);
      expect(await m.process.ld(a + i * CHUNK + 4)).toBe(sum);
    }
    await settleAndClose(m);
  });

  test("an item that the window cannot hold is refused with the reason, and all is usable after", async () => {
    const m = setUp();
    const a = await m.process.mmap(5 * CHUNK, { align: CHUNK });
    const error = await refusal(
      m.vm.kernel("", {
        items: 1,
        reference(_item, c) {
          const at = [0, 1, 2, 3, 4].map((k) => c.translate(a + k * CHUNK, 1));
          if (!c.missed) for (const location of at) c.store(location, 1);
        },
      }),
    );
    expect(error.message).toMatch(/ENOSPC/);
    expect(error.message).toMatch(/working set does not fit/);
    for (let k = 0; k < 5; k++) await m.vm.gst(a + k * CHUNK, k);
    for (let k = 0; k < 5; k++) expect(await m.process.ld(a + k * CHUNK)).toBe(k);
    await settleAndClose(m);
  });
});

describe("beside buffer objects and bound process memory", () => {
  test("a buffer object in the window takes the place of idle mappings", async () => {
    const m = setUp();
    const a = await m.process.mmap(4 * CHUNK, { align: CHUNK });
    await m.vm.gfill(a, 4 * CHUNK, 3);
    const bo = await Bo.create(m.gpu.driver, { size: 3 * CHUNK, placement: "system" });
    if (isErr(bo)) throw new Error("no object");
    expect(bo.memType).toBe(PL_TT);
    expect(boundChunks(m.vm, a, 4)).toEqual([3]);
    expect((await m.process.read(a, 4 * CHUNK)).every((byte) => byte === 3)).toBe(true);
    // And the other way round.
    await m.vm.gst(a, 4);
    expect(bo.memType).toBe(PL_SYSTEM);
    bo.close();
    await settleAndClose(m);
  });

  test("process memory bound elsewhere gives way and faults again; what the GPU stored stays", async () => {
    const m = setUp();
    const va = 2 ** 40;
    const [a, b] = [await m.process.mmap(CHUNK, { align: CHUNK }), await m.process.mmap(4 * CHUNK, { align: CHUNK })];
    await m.vm.mirrorUnbind(va, CHUNK);
    await m.vm.bind(va, CHUNK, new UserPtr(m.process, a));
    await m.vm.gst(va + 8, 77);
    await m.vm.gfill(b, 4 * CHUNK, 1);
    expect(m.vm.svm.binds.at(va)!.isValid).toBe(false);
    expect(await m.process.ld(a + 8)).toBe(77);
    await m.process.st(a + 12, 78);
    expect([await m.vm.gld(va + 8), await m.vm.gld(va + 12)]).toEqual([77, 78]);
    expect(m.vm.svm.binds.at(va)!.isValid).toBe(true);
    await settleAndClose(m);
  });
});

const SEEDS = Array.from({ length: 12 }, (_, i) => i + 1);
/** Chunks of the races, so that they are quick. */
const SMALL = 65536;
const setUpSmall = () => setUp({ window: 4 * SMALL + 4096 }, { chunks: [SMALL, 4096], checkPages: 0 });

describe("under other orders", () => {
  const work = async (process: Process, vms: readonly Vm[], machine: Machine, seed: number): Promise<void> => {
    const chunks = 7;
    const a = await process.mmap(chunks * SMALL, { align: SMALL });
    await machine.sched.race(seed, [
      ...vms.map((vm, n) => async () => {
        for (let i = 0; i < 9; i++) await vm.ginc(a + ((i * (n + 1) + seed) % chunks) * SMALL);
      }),
      async () => {
        for (let i = 0; i < 9; i++) await process.inc(a + ((i * 3 + seed) % chunks) * SMALL);
      },
      async () => {
        for (let i = 0; i < 4; i++) await process.dontneed(a + ((seed + i) % chunks) * SMALL + 4096, 4096);
      },
    ]);
    let sum = 0;
    for (let k = 0; k < chunks; k++) sum += await process.ld(a + k * SMALL);
    expect(sum).toBe(9 * (vms.length + 1));
  };

  test.each(SEEDS)("CPU and GPU increments over twice the window all count (seed %i)", async (seed) => {
    const m = setUpSmall();
    await work(m.process, [m.vm], m.machine, seed);
    expect(m.vm.counters.toDevBytes).toBe(0);
    await settleAndClose(m);
  });

  test.each(SEEDS)("two address spaces that take the window from each other lose nothing (seed %i)", async (seed) => {
    const m = setUpSmall();
    const other = m.gpu.vm(m.process);
    await work(m.process, [m.vm, other], m.machine, seed);
    expect(m.gpu.driver.stats.get("wgsvm_window_reclaim_count")).toBeGreaterThan(0);
    await settleAndClose(m);
  });

  test.each(SEEDS)("closing one address space while another takes its places (seed %i)", async (seed) => {
    const m = setUpSmall();
    const other = m.gpu.vm(m.process);
    const a = await m.process.mmap(8 * SMALL, { align: SMALL });
    await m.process.fill(a, 8 * SMALL, 9);
    await other.gfill(a, 4 * SMALL, 9);
    await m.machine.sched.race(seed, [
      () => m.vm.gfill(a + 4 * SMALL, 4 * SMALL, 7),
      async () => {
        for (let i = 0; i < seed % 9; i++) await m.machine.sched.point("delay");
        await other.close();
      },
      async () => {
        for (let i = 0; i < seed % 5; i++) await m.machine.sched.point("delay");
        await m.process.munmap(a + SMALL, SMALL);
      },
    ]);
    expect((await m.process.read(a + 4 * SMALL, 4 * SMALL)).every((byte) => byte === 7)).toBe(true);
    await settleAndClose(m);
  });
});

/** Memory advice: the structure that keeps it, and who honours it. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { KernelError } from "../../src/base/errors.ts";
import {
  ATOMIC_CPU,
  ATOMIC_DEVICE,
  ATOMIC_GLOBAL,
  ATOMIC_UNDEFINED,
  DEFAULT_ATTR,
  MemAttributes,
} from "../../src/driver/attributes.ts";
import type { MemAttr } from "../../src/driver/attributes.ts";
import { REGION_SYSTEM } from "../../src/driver/vm-binds.ts";
import { VM_BIND_CPU_ADDR_MIRROR, VM_BIND_OP_UNMAP } from "../../src/gpuvm/bind-args.ts";
import { Bo } from "../../src/machine/bo.ts";
import type { Device } from "../../src/machine/device.ts";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { Machine } from "../../src/machine/machine.ts";
import type { DeviceOptions, VmConfig } from "../../src/machine/machine.ts";
import { leavesOf } from "../../src/machine/page-probes.ts";
import type { Process } from "../../src/machine/process.ts";
import type { Vm } from "../../src/machine/vm.ts";

const KIB = 1 << 10;
const MIB = 1 << 20;

/** "SYS", "NONE", or the name of the device: a device itself is too much to print where a test fails. */
function placeOf(machine: Machine, process: Process, a: number): string {
  return nameOf(machine.where(process, a));
}
function nameOf(place: string | Device): string {
  return typeof place === "string" ? place : place.name;
}
const PAGE = 4096;

describe("the structure", () => {
  const attr = fc.record(
    {
      loc: fc.constantFrom<MemAttr["loc"]>("device", "system"),
      tile: fc.constantFrom<MemAttr["tile"]>(null, 0, 1),
      atomic: fc.constantFrom(ATOMIC_UNDEFINED, ATOMIC_DEVICE, ATOMIC_GLOBAL, ATOMIC_CPU),
      pat: fc.constantFrom<MemAttr["pat"]>(null, 0, 3),
    },
    { requiredKeys: [] },
  );
  const wordOf = ({ loc, tile, atomic, pat }: MemAttr): string => `${String(loc)} ${tile} ${atomic} ${pat}`;
  const step = fc.record({ from: fc.nat(31), length: fc.integer({ min: 1, max: 32 }), change: attr });

  test("holds after any series of advice what a flat array holds, in pieces that tile and differ", () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 20 }), (steps) => {
        const attributes = new MemAttributes();
        const flat: MemAttr[] = Array.from({ length: 64 }, () => ({ ...DEFAULT_ATTR }));
        for (const { from, length, change } of steps) {
          const changed = attributes.set(from * PAGE, (from + length) * PAGE, change);
          const differing: number[] = [];
          for (let page = from; page < from + length; page++) {
            const old = flat[page]!;
            // A tile is one of the place that is named with it.
            const tile = change.loc === undefined ? old.tile : (change.tile ?? null);
            const fresh = { ...old, ...change, tile };
            if (wordOf(fresh) !== wordOf(old)) differing.push(page);
            flat[page] = fresh;
          }
          const told = changed.flatMap(({ start, end }) =>
            Array.from({ length: (end - start) / PAGE }, (_, i) => start / PAGE + i),
          );
          expect(told).toEqual(differing);
        }
        const seen = flat.map((_, page) => attributes.at(page * PAGE));
        expect(seen.map(wordOf)).toEqual(flat.map(wordOf));
        const tiles = attributes.pieces(0, 64 * PAGE);
        expect(tiles[0]!.start).toBe(0);
        expect(tiles.at(-1)!.end).toBe(64 * PAGE);
        for (let i = 1; i < tiles.length; i++) {
          expect(tiles[i]!.start).toBe(tiles[i - 1]!.end);
          expect(wordOf(tiles[i]!)).not.toBe(wordOf(tiles[i - 1]!));
        }
        expect(attributes.isEmpty).toBe(flat.every((a) => wordOf(a) === wordOf(DEFAULT_ATTR)));
      }),
      { numRuns: 100 },
    );
  });
});

function setUp(config: Partial<VmConfig> = {}, device: DeviceOptions = {}) {
  const machine = new Machine({ engine: REFERENCE_ENGINE, ram: 128 * MIB, config });
  const gpu = machine.createDevice({ vram: 16 * MIB, ...device });
  const process = machine.createProcess();
  return { machine, gpu, process, vm: gpu.vm(process) };
}

async function codeOf(action: Promise<unknown>): Promise<string> {
  const error = await action.then(
    () => null,
    (e: unknown) => e,
  );
  return error instanceof KernelError ? (error.fault?.kind ?? error.code) : String(error);
}

describe("attr and attrs", () => {
  test("set parts of what holds, tile the area that is asked for, and are clipped to it", async () => {
    const { process, vm, gpu } = setUp();
    const a = await process.mmap(16 * PAGE);
    await vm.attr(a + 4 * PAGE, 4 * PAGE, { loc: "SYS" });
    await vm.attr(a + 6 * PAGE, 4 * PAGE, { atomic: "CPU" });
    await vm.attr(a + 8 * PAGE, PAGE, { loc: gpu });
    const pieces = vm.attrs(a + PAGE, 14 * PAGE);
    expect(pieces.map((piece) => ({ ...piece, loc: nameOf(piece.loc) }))).toEqual([
      { start: a + PAGE, end: a + 4 * PAGE, loc: "DEFAULT", atomic: "UNDEFINED" },
      { start: a + 4 * PAGE, end: a + 6 * PAGE, loc: "SYS", atomic: "UNDEFINED" },
      { start: a + 6 * PAGE, end: a + 8 * PAGE, loc: "SYS", atomic: "CPU" },
      { start: a + 8 * PAGE, end: a + 9 * PAGE, loc: "gpu0", atomic: "CPU" },
      { start: a + 9 * PAGE, end: a + 10 * PAGE, loc: "DEFAULT", atomic: "CPU" },
      { start: a + 10 * PAGE, end: a + 15 * PAGE, loc: "DEFAULT", atomic: "UNDEFINED" },
    ]);
  });

  test.each([
    ["neither of the two", {}, "EINVAL"],
    ["an unknown place", { loc: "MOON" }, "EINVAL"],
    ["an unknown atomic", { atomic: "SOMETIMES" }, "EINVAL"],
  ])("refuse %s", async (_name, change, code) => {
    const { process, vm } = setUp();
    const a = await process.mmap(PAGE);
    expect(await codeOf(vm.attr(a, PAGE, change as never))).toBe(code);
    expect(vm.attrs(a, PAGE)).toHaveLength(1);
  });

  test("refuse a length of 0, a device of another machine and one without a link, and an area outside of the window", async () => {
    const { machine, process, vm } = setUp({ window: [0, 2 ** 40] });
    const other = machine.createDevice({ vram: 4 * MIB });
    const foreign = setUp().gpu;
    const a = await process.mmap(PAGE);
    expect(await codeOf(vm.attr(a, 0, { loc: "SYS" }))).toBe("EINVAL");
    expect(await codeOf(vm.attr(a, PAGE, { loc: foreign }))).toBe("EINVAL");
    expect(await codeOf(vm.attr(a, PAGE, { loc: other }))).toBe("ENOLINK");
    expect(await codeOf(vm.attr(2 ** 40, PAGE, { loc: "SYS" }))).toBe("EINVAL");
    expect(vm.svm.attributes.isEmpty).toBe(true);
  });

  test("of a closed address space are refused", async () => {
    const { process, vm } = setUp();
    const a = await process.mmap(PAGE);
    await vm.close();
    expect(await codeOf(vm.attr(a, PAGE, { loc: "SYS" }))).toBe("ENOENT");
  });

  test("outlive the ranges of the memory, and its being unmapped", async () => {
    const { machine, process, vm } = setUp();
    const a = await process.mmap(2 * MIB, { align: 2 * MIB });
    await vm.attr(a, 2 * MIB, { loc: "SYS" });
    await vm.gst(a, 1);
    await process.munmap(a, MIB);
    await machine.settle();
    expect(vm.svm.ranges(a, a + 2 * MIB)).toEqual([]);
    expect(vm.attrs(a, 2 * MIB)).toEqual([{ start: a, end: a + 2 * MIB, loc: "SYS", atomic: "UNDEFINED" }]);
    await vm.gst(a + MIB, 2);
    expect(placeOf(machine, process, a + MIB)).toBe("SYS");
  });

  test("go with the collected range where attrAutoReset is set", async () => {
    const { machine, process, vm } = setUp({ attrAutoReset: true });
    const a = await process.mmap(4 * MIB, { align: 2 * MIB });
    await vm.attr(a, 4 * MIB, { loc: "SYS" });
    await vm.gst(a, 1);
    await process.munmap(a, 2 * MIB);
    await machine.settle();
    expect(vm.attrs(a, 4 * MIB).map((piece) => piece.loc)).toEqual(["DEFAULT", "SYS"]);
  });

  test("go with the mirror mapping that they were said of", async () => {
    const { process, vm } = setUp();
    const a = await process.mmap(4 * MIB, { align: 2 * MIB });
    await vm.attr(a, 4 * MIB, { loc: "SYS" });
    const op = {
      op: VM_BIND_OP_UNMAP,
      obj: 0,
      objOffset: 0,
      addr: a,
      range: MIB,
      flags: 0,
      prefetchRegion: REGION_SYSTEM,
    };
    expect(await vm.svm.binds.bind([{ ...op, patIndex: 0 } as never])).toBe(0);
    expect(vm.attrs(a, 4 * MIB).map(({ start, loc }) => [start - a, loc])).toEqual([
      [0, "DEFAULT"],
      [MIB, "SYS"],
    ]);
  });
});

describe("the preferred location", () => {
  test("system: the next access finds the data in RAM, and maps it there", async () => {
    const { machine, process, vm } = setUp();
    const a = await process.mmap(64 * KIB, { align: 64 * KIB });
    await process.fill(a, 64 * KIB, 5);
    await vm.gst(a, 7);
    expect(placeOf(machine, process, a)).toBe("gpu0");
    await vm.attr(a, 64 * KIB, { loc: "SYS" });
    expect(placeOf(machine, process, a)).toBe("gpu0");
    await vm.gst(a + 4, 8);
    expect(placeOf(machine, process, a)).toBe("SYS");
    expect([await process.ld(a), await process.ld(a + 4), await process.ld(a + 8)]).toEqual([7, 8, 0x05050505]);
  });

  test("system, then default again: the next access moves it back", async () => {
    const { machine, process, vm } = setUp();
    const a = await process.mmap(64 * KIB, { align: 64 * KIB, populate: true });
    await vm.attr(a, 64 * KIB, { loc: "SYS" });
    await vm.gst(a, 1);
    await vm.attr(a, 64 * KIB, { loc: "DEFAULT" });
    await vm.gst(a, 2);
    expect(placeOf(machine, process, a)).toBe("gpu0");
    expect(await process.ld(a)).toBe(2);
  });

  test("of one page within a range: the range gives way, and only that page stays in RAM", async () => {
    const { machine, process, vm } = setUp();
    const a = await process.mmap(2 * MIB, { align: 2 * MIB });
    await process.fill(a, 2 * MIB, 3);
    await vm.gst(a, 1);
    await vm.attr(a + MIB, PAGE, { loc: "SYS" });
    for (const at of [a, a + MIB - PAGE, a + MIB, a + MIB + PAGE, a + 2 * MIB - PAGE]) await vm.gst(at + 8, 9);
    expect(placeOf(machine, process, a + MIB)).toBe("SYS");
    expect([a, a + MIB - PAGE, a + MIB + PAGE].map((at) => placeOf(machine, process, at))).toEqual([
      "gpu0",
      "gpu0",
      "gpu0",
    ]);
    for (const { start, end } of vm.svm.ranges(a, a + 2 * MIB)) {
      expect(end <= a + MIB || start >= a + MIB).toBe(true);
      expect(end <= a + MIB + PAGE || start >= a + MIB + PAGE).toBe(true);
    }
    const bytes = await process.read(a, 2 * MIB);
    expect(bytes[MIB + 4]).toBe(3);
    expect(bytes[MIB + 8]).toBe(9);
  });

  test("a device, where the policy never moves: it moves all the same", async () => {
    const { machine, process, vm, gpu } = setUp({ policy: { migrate: "never" } });
    const a = await process.mmap(128 * KIB, { align: 64 * KIB, populate: true });
    await vm.attr(a, 64 * KIB, { loc: gpu });
    await vm.gst(a, 1);
    await vm.gst(a + 64 * KIB, 1);
    expect(placeOf(machine, process, a)).toBe("gpu0");
    expect(placeOf(machine, process, a + 64 * KIB)).toBe("SYS");
  });

  test("system, where the window is full: it moves rather than fails", async () => {
    const { process, vm } = setUp({}, { window: 16 * PAGE });
    const a = await process.mmap(4 * MIB, { align: 2 * MIB });
    await vm.attr(a, 4 * MIB, { loc: "SYS" });
    await vm.gfill(a, 4 * MIB, 6);
    expect(new Set(await process.read(a, 4 * MIB))).toEqual(new Set([6]));
  });

  test("system, on a device without a window: it moves, for there is no other way", async () => {
    const { machine, process, vm } = setUp({}, { window: 0 });
    const a = await process.mmap(64 * KIB);
    await vm.attr(a, 64 * KIB, { loc: "SYS" });
    await vm.gst(a, 4);
    expect(placeOf(machine, process, a)).toBe("gpu0");
  });

  test("says where a prefetch that asks it brings each piece", async () => {
    const { machine, process, vm, gpu } = setUp();
    const a = await process.mmap(256 * KIB, { align: 64 * KIB, populate: true });
    await vm.toVram(a + 64 * KIB, 64 * KIB);
    await vm.attr(a + 64 * KIB, 64 * KIB, { loc: "SYS" });
    await vm.attr(a + 128 * KIB, 64 * KIB, { loc: gpu });
    expect(await vm.prefetch(a, 256 * KIB, "ADVICE")).toBe(64);
    const places = [0, 1, 2, 3].map((i) => placeOf(machine, process, a + i * 64 * KIB));
    expect(places).toEqual(["gpu0", "SYS", "gpu0", "gpu0"]);
    expect(vm.counters.gpuFault).toBe(0);
    await vm.gld(a + 192 * KIB);
    expect(vm.counters.gpuFault).toBe(0);
  });

  test("says who leaves VRAM first: what had better be in RAM, and last what was asked for there", async () => {
    const { machine, process, vm, gpu } = setUp({}, { vram: 8 * MIB });
    const chunk = 2 * MIB;
    const a = await process.mmap(5 * chunk, { align: chunk });
    for (let i = 0; i < 4; i++) await vm.gst(a + i * chunk, i);
    await vm.attr(a, chunk, { loc: gpu });
    await vm.attr(a + 3 * chunk, chunk, { loc: "SYS" });
    await vm.gst(a + 4 * chunk, 4);
    const places = [0, 1, 2, 3, 4].map((i) => placeOf(machine, process, a + i * chunk));
    expect(places).toEqual(["gpu0", "gpu0", "gpu0", "SYS", "gpu0"]);
    await vm.toVram(a + 3 * chunk, chunk);
    // Least recently used of those without advice.
    expect(placeOf(machine, process, a)).toBe("gpu0");
    expect(placeOf(machine, process, a + chunk)).toBe("SYS");
  });
});

describe("atomics", () => {
  test("of the device where only the CPU may do them are refused; loads and stores are served", async () => {
    const { process, vm } = setUp();
    const a = await process.mmap(64 * KIB);
    await vm.ginc(a);
    await vm.attr(a, 64 * KIB, { atomic: "CPU" });
    expect(await codeOf(vm.ginc(a))).toBe("PERM");
    await vm.gst(a + 4, 3);
    expect(await codeOf(vm.ginc(a + 4))).toBe("PERM");
    expect(await vm.gld(a)).toBe(1);
    await vm.attr(a, 64 * KIB, { atomic: "UNDEFINED" });
    expect(await vm.ginc(a + 4)).toBe(3);
  });

  test("global ones bring memory to the device that was mapped in RAM, and the CPU's are not lost", async () => {
    const { machine, process, vm } = setUp({ policy: { migrate: "never" } });
    const a = await process.mmap(64 * KIB, { align: 64 * KIB, populate: true });
    await vm.attr(a, 64 * KIB, { atomic: "GLOBAL" });
    await vm.gst(a + 4, 1);
    expect(placeOf(machine, process, a)).toBe("SYS");
    for (let i = 0; i < 5; i++) {
      await vm.ginc(a);
      expect(placeOf(machine, process, a)).toBe("gpu0");
      await process.inc(a);
      expect(placeOf(machine, process, a)).toBe("SYS");
    }
    expect(await process.ld(a)).toBe(10);
  });

  test("undefined and device ones are done in RAM where the hardware can", async () => {
    const { machine, process, vm } = setUp({ policy: { migrate: "never" } });
    const a = await process.mmap(64 * KIB, { align: 64 * KIB, populate: true });
    expect(await vm.ginc(a)).toBe(0);
    await vm.attr(a, 64 * KIB, { atomic: "DEVICE" });
    expect(await vm.ginc(a)).toBe(1);
    expect(placeOf(machine, process, a)).toBe("SYS");
  });

  test("global ones on shared memory, which cannot move, are done in RAM", async () => {
    const { machine, process, vm } = setUp();
    const a = await process.mmap(64 * KIB, { kind: "shanon" });
    await vm.attr(a, 64 * KIB, { atomic: "GLOBAL" });
    await process.st(a, 5);
    expect(await vm.ginc(a)).toBe(5);
    expect(await process.ld(a)).toBe(6);
    expect(placeOf(machine, process, a)).toBe("SYS");
  });

  test("keep the memory for a time slice, which a CPU access waits for", async () => {
    const { machine, process, vm } = setUp();
    const a = await process.mmap(64 * KIB, { align: 64 * KIB, populate: true });
    await vm.attr(a, 64 * KIB, { atomic: "GLOBAL" });
    await machine.sched.race(1, [
      async () => {
        await vm.ginc(a);
        const before = machine.sched.now();
        await process.ld(a);
        expect(machine.sched.now() - before).toBeGreaterThanOrEqual(4);
      },
    ]);
  });

  test.each([1, 2, 3, 4, 5, 6, 7, 8])("of CPU and GPU interleaved by seed %i all count", async (seed) => {
    const { machine, process, vm } = setUp();
    const a = await process.mmap(64 * KIB, { align: 64 * KIB, populate: true });
    await vm.attr(a, 64 * KIB, { atomic: "GLOBAL" });
    await machine.sched.race(seed, [
      async () => {
        for (let i = 0; i < 20; i++) await process.inc(a);
      },
      async () => {
        for (let i = 0; i < 3; i++) await vm.ginc(a);
      },
    ]);
    expect(await process.ld(a)).toBe(23);
  });
});

describe("the index of memory attributes (PAT)", () => {
  const patsOf = (vm: Vm, lo: number, hi: number): number[] => leavesOf(vm, lo, hi).map(({ pat }) => pat);

  test("is kept in the entries of what is advised, in VRAM and in place, and in nothing else", async () => {
    for (const migrate of [true, false]) {
      const machine = new Machine({ engine: REFERENCE_ENGINE, ram: 32 * MIB, config: { migrate } });
      const process = machine.createProcess();
      const vm = machine.createDevice({ vram: 8 * MIB }).vm(process);
      const a = await process.mmap(4 * MIB, { align: 2 * MIB });
      await vm.gfill(a, 4 * MIB, 1);
      expect(new Set(patsOf(vm, a, a + 4 * MIB))).toEqual(new Set([0]));
      await vm.attr(a, 2 * MIB, { pat: 3 });
      expect(vm.attrs(a, 4 * MIB).map(({ end, pat }) => [end, pat])).toEqual([
        [a + 2 * MIB, 3],
        [a + 4 * MIB, undefined],
      ]);
      expect(patsOf(vm, a, a + 2 * MIB)).toEqual([]);
      expect([await vm.gld(a), await vm.gld(a + 2 * MIB)]).toEqual([0x01010101, 0x01010101]);
      expect(new Set(patsOf(vm, a, a + 2 * MIB))).toEqual(new Set([3]));
      expect(new Set(patsOf(vm, a + 2 * MIB, a + 4 * MIB))).toEqual(new Set([0]));
      await machine.close();
    }
  });

  test("of a mapping is that of its entries, and of the pieces that are left of it; 4 and more there is not", async () => {
    const machine = new Machine({ engine: REFERENCE_ENGINE, ram: 32 * MIB });
    const process = machine.createProcess();
    const device = machine.createDevice({ vram: 8 * MIB });
    const vm = device.vm(process, { mirror: false });
    const bo = await Bo.create(device, 64 * KIB, "VRAM");
    const va = 2 ** 32;
    await vm.bind(va, 64 * KIB, bo, 0, { pat: 2 });
    await vm.gst(va + 60 * KIB, 5);
    await vm.unbind(va + 16 * KIB, 4 * KIB);
    await vm.gst(va, 6);
    expect(new Set(patsOf(vm, va, va + 64 * KIB))).toEqual(new Set([2]));
    expect([await vm.gld(va), await vm.gld(va + 60 * KIB)]).toEqual([6, 5]);
    await expect(vm.bind(va, 64 * KIB, bo, 0, { pat: 4 })).rejects.toMatchObject({ code: "EINVAL" });
    const mirrored = device.vm(process);
    const a = await process.mmap(64 * KIB);
    for (const pat of [4, -1, 0.5])
      await expect(mirrored.attr(a, 64 * KIB, { pat })).rejects.toMatchObject({ code: "EINVAL" });
    await machine.close();
  });

  test("of a mirror holds for what nothing is advised about", async () => {
    const machine = new Machine({ engine: REFERENCE_ENGINE, ram: 32 * MIB });
    const process = machine.createProcess();
    const vm = machine.createDevice({ vram: 8 * MIB }).vm(process, { mirror: false });
    const a = await process.mmap(128 * KIB, { align: 64 * KIB, populate: true });
    const mirror = { op: 0, addr: a, range: 128 * KIB, flags: VM_BIND_CPU_ADDR_MIRROR, patIndex: 1 };
    expect(await vm.svm.binds.bind([mirror])).toBe(0);
    await vm.attr(a, 64 * KIB, { pat: 0 });
    await vm.gfill(a, 128 * KIB, 1);
    expect(new Set(patsOf(vm, a, a + 64 * KIB))).toEqual(new Set([0]));
    expect(new Set(patsOf(vm, a + 64 * KIB, a + 128 * KIB))).toEqual(new Set([1]));
    await machine.close();
  });
});

import { describe, expect, test } from "vitest";
import { InvariantError } from "../../src/base/assert.ts";
import { EEXIST, EINVAL } from "../../src/base/errno.ts";
import { ConfigError } from "../../src/base/errors.ts";
import { U64 } from "../../src/gpuvm/arithmetic.ts";
import { GpuVa } from "../../src/gpuvm/gpuva.ts";
import { GpuVm, gpuvmInit } from "../../src/gpuvm/gpuvm.ts";
import { REFERENCE_BEHAVIOUR } from "../../src/gpuvm/hardening.ts";
import { opsFree, prefetchOpsCreate, smMapOpsCreate, smUnmapOpsCreate } from "../../src/gpuvm/ops.ts";
import { smMap, smUnmap } from "../../src/gpuvm/sm.ts";
import { GPUVA_OP_REMAP, remapToUnmapRange } from "../../src/gpuvm/steps.ts";
import { Model } from "./gpuvm-model.ts";

describe("find", () => {
  const model = new Model();
  model.insertAll("X[10,20)+0 Y[21,30)+0 Z[30,40)+0");
  const name = (va: GpuVa | null): string => (va === null ? "-" : model.vaText(va)[0]!);

  test.each([
    [10, "X", "-"],
    [15, "X", "-"],
    [20, "X", "X"],
    [21, "Y", "-"],
    [30, "Y", "Y"],
    [41, "-", "-"],
    [0, "-", "-"],
    [90, "k", "-"],
  ])("findPrev(%i) is %s as in the kernel, exactly adjacent is %s", (start, reference, exact) => {
    expect(name(model.vm.findPrev(start))).toBe(reference);
    expect(name(model.vm.findPrevExact(start))).toBe(exact);
  });

  test.each([
    [9, "X", "-"],
    [15, "X", "-"],
    [20, "Y", "-"],
    [30, "Z", "Z"],
    [40, "-", "-"],
    [89, "k", "-"],
    [90, "-", "-"],
  ])("findNext(%i) is %s as in the kernel, exactly adjacent is %s", (end, reference, exact) => {
    expect(name(model.vm.findNext(end))).toBe(reference);
    expect(name(model.vm.findNextExact(end))).toBe(exact);
  });

  test("finds the lowest that intersects, the exact one only by address and range", () => {
    expect(name(model.vm.findFirst(5, 100))).toBe("X");
    expect(name(model.vm.findFirst(20, 1))).toBe("-");
    expect(name(model.vm.find(10, 10))).toBe("X");
    expect(name(model.vm.find(10, 9))).toBe("-");
    expect(model.vm.intervalEmpty(20, 1)).toBe(true);
    expect(model.vm.intervalEmpty(40, 50)).toBe(true);
    expect(model.vm.intervalEmpty(40, 51)).toBe(false);
  });

  test("a range of 0 asks what contains the boundary; at address 0, whether there is anything", () => {
    expect(name(model.vm.findFirst(15, 0))).toBe("X");
    expect(name(model.vm.findFirst(10, 0))).toBe("-");
    expect(name(model.vm.findFirst(0, 0))).toBe("X");
    expect([...model.vm.vasIn(0, 0)]).toEqual([]);
  });

  test("range iteration gives whole mappings and survives replacing the one given", () => {
    const own = new Model();
    own.insertAll("A[0,10)+0 A[10,20)+10 A[20,30)+20");
    const seen: string[] = [];
    for (const va of own.vm.vasIn(5, 25)) {
      seen.push(own.vaText(va));
      own.vm.remove(va);
      own.insertAll(`B[${va.addr},${va.addr + 5})+0 B[${va.addr + 5},${va.addr + 10})+5`);
    }
    expect(seen).toEqual(["A[0,10)+0", "A[10,20)+10", "A[20,30)+20"]);
    expect(own.state().split(" ")).toHaveLength(6);
  });
});

describe("bad input is refused before anything changes", () => {
  const bad: [string, number, number][] = [
    ["a fraction", 0.5, 1],
    ["a fractional range", 10, 1.5],
    ["a negative address", -1, 10],
    ["a negative range", 10, -1],
    ["not a number", NaN, 1],
    ["infinity", Infinity, 1],
    ["an address of 2^53", 2 ** 53, 1],
    ["a range of 2^53", 0, 2 ** 53],
    ["an end behind 2^53 - 1", 2 ** 53 - 1, 1],
    ["an end behind the window", 95, 6],
    ["an empty range", 10, 0],
  ];
  test.each(bad)("%s", (_name, addr, range) => {
    const receive = (): never => {
      throw new Error("a callback was called");
    };
    const model = new Model({
      reserveRange: 0,
      ops: { smStepMap: receive, smStepRemap: receive, smStepUnmap: receive },
    });
    model.insertAll("A[0,20)+0");
    const req = { addr, range, obj: model.object("A"), offset: 0 };
    expect(smMap(model.vm, null, req)).toBe(EINVAL);
    expect(smUnmap(model.vm, null, addr, range)).toBe(EINVAL);
    expect(smMapOpsCreate(model.vm, req)).toBe(EINVAL);
    expect(smUnmapOpsCreate(model.vm, addr, range)).toBe(EINVAL);
    expect(model.vm.insert(new GpuVa(addr, range, null, 0))).toBe(EINVAL);
    expect(model.state()).toBe("A[0,20)+0");
  });

  test.each([-1, 0.5, NaN, 2 ** 53, 2 ** 53 - 5])("an object offset of %d", (offset) => {
    const model = new Model();
    const req = { addr: 10, range: 10, obj: model.object("A"), offset };
    expect(smMapOpsCreate(model.vm, req)).toBe(EINVAL);
    expect(model.vm.insert(new GpuVa(10, 10, req.obj, offset))).toBe(EINVAL);
  });

  test("find and prefetch", () => {
    const model = new Model();
    model.insertAll("A[0,20)+0");
    for (const addr of [-1, 0.5, NaN, 2 ** 53]) {
      expect(model.vm.findFirst(addr, 10)).toBeNull();
      expect(model.vm.findPrevExact(addr)).toBeNull();
      expect(model.vm.findNextExact(addr)).toBeNull();
      expect(model.vm.findPrev(addr)).toBeNull();
      expect(model.vm.findNext(addr)).toBeNull();
      expect(prefetchOpsCreate(model.vm, addr, 10)).toBe(EINVAL);
      expect(model.vm.rangeValid(addr, 1)).toBe(false);
    }
  });

  test.each([
    ["an overflowing window", { start: 2 ** 53 - 10, range: 20 }, "gpuvm.range"],
    ["a fractional window", { start: 0.5, range: 20 }, "gpuvm.range"],
    [
      "a reserved range outside the window",
      { start: 0, range: 20, reserveStart: 15, reserveRange: 10 },
      "gpuvm.reserveRange",
    ],
  ])("%s", (_name, options, path) => {
    expect(() => gpuvmInit(options)).toThrow(ConfigError);
    expect(() => gpuvmInit(options)).toThrow(path);
  });

  test("the kernel takes such windows with a warning, and keeps an overflowing reserved range out of the tree", () => {
    const vm = new GpuVm({
      arithmetic: U64,
      start: 0n,
      range: 2n ** 48n,
      reserveStart: 2n ** 64n - 4096n,
      reserveRange: 8192n,
      hardening: REFERENCE_BEHAVIOUR,
    });
    expect(vm.warnings.count).toBe(1);
    expect(vm.size).toBe(0);
    expect(vm.rangeValid(0n, 4096n)).toBe(true);
  });
});

describe("rules", () => {
  test("callbacks that are missing are -EINVAL, before the range is looked at", () => {
    const model = new Model({ ops: { smStepUnmap: () => 0, smStepRemap: () => 0 } });
    expect(smMap(model.vm, null, model.parse("A[10,20)"))).toBe(EINVAL);
    expect(smUnmap(model.vm, null, 10, 10)).toBe(0);
    expect(smUnmap(new Model().vm, null, 10, 10)).toBe(EINVAL);
  });

  test("-EINVAL comes before -EEXIST, and a failed insertion leaves the mapping free", () => {
    const model = new Model();
    model.insertAll("A[80,90)+0");
    const va = new GpuVa(85, 10, null, 0);
    expect(model.vm.insert(va)).toBe(EINVAL);
    va.range = 5;
    expect(model.vm.insert(va)).toBe(EEXIST);
    expect(va.vm).toBeNull();
    va.addr = 70;
    expect(model.vm.insert(va)).toBe(0);
  });

  test("the reserved node cannot be removed: a warning, and it stays", () => {
    const { vm } = new Model();
    vm.remove(vm.kernelNode);
    expect(vm.warnings.count).toBe(1);
    expect(vm.findFirst(95, 1) === vm.kernelNode).toBe(true);
  });

  test("inserting twice and removing twice are broken invariants", () => {
    const { vm } = new Model();
    const va = new GpuVa(10, 10, null, 0);
    vm.insert(va);
    expect(() => vm.insert(va)).toThrow(InvariantError);
    vm.remove(va);
    expect(() => vm.remove(va)).toThrow(InvariantError);
  });

  test("a second set of steps is not generated before the first is applied or freed", () => {
    const model = new Model();
    const first = smMapOpsCreate(model.vm, model.parse("A[10,20)+0"));
    expect(() => smUnmapOpsCreate(model.vm, 0, 5)).toThrow(/before the last ones were applied/);
    if (typeof first !== "number") opsFree(model.vm, first);
    const second = smMapOpsCreate(model.vm, model.parse("A[10,20)+0"));
    if (typeof second !== "number") for (const { step } of second) model.apply(step);
    expect(smUnmapOpsCreate(model.vm, 10, 5)).toBeTypeOf("object");
  });

  test("what a remap really takes away lies between its pieces", () => {
    const model = new Model();
    model.insertAll("A[10,30)+0");
    const ops = smUnmapOpsCreate(model.vm, 15, 5);
    const step = typeof ops === "number" ? null : ops.first!.step;
    expect(step?.kind === GPUVA_OP_REMAP && remapToUnmapRange(step)).toEqual({ start: 15, range: 5 });
  });

  test("a mapping holds its VM; the last reference frees it, and leftovers are warned of", () => {
    const freed: GpuVm[] = [];
    const { vm } = new Model({ ops: { vmFree: (gone) => freed.push(gone) } });
    const va = new GpuVa(10, 10, null, 0);
    vm.insert(va);
    vm.put();
    expect(freed).toEqual([]);
    vm.remove(va);
    expect(freed.map((gone) => gone === vm)).toEqual([true]);
    expect(vm.warnings.count).toBe(0);
    const leaky = new Model().vm;
    leaky.insert(new GpuVa(10, 10, null, 0));
    leaky.destroy();
    expect(leaky.warnings.countOf("gpuvm_destroy")).toBe(1);
  });

  test("flags: the manager leaves them alone, INVALIDATED has its own switch", () => {
    const va = new GpuVa(10, 10, null, 0);
    va.flags = 8;
    va.invalidated = true;
    expect([va.flags, va.invalidated]).toEqual([9, true]);
    va.initFromOp({ addr: 20, range: 5, obj: null, offset: 3 });
    expect([va.flags, va.addr, va.range, va.offset]).toEqual([9, 20, 5, 3]);
    va.invalidated = false;
    expect(va.flags).toBe(8);
  });
});

import { expect, test } from "vitest";
import { type Errno, isErr } from "../../src/base/errno.ts";
import { gpuvaMap, gpuvaRemap, gpuvaUnmap } from "../../src/gpuvm/apply.ts";
import { GemObject } from "../../src/gpuvm/gem-object.ts";
import { GpuVa } from "../../src/gpuvm/gpuva.ts";
import { type GpuVm, gpuvmInit } from "../../src/gpuvm/gpuvm.ts";
import { opsFree, smMapOpsCreate } from "../../src/gpuvm/ops.ts";
import { GPUVA_OP_MAP, GPUVA_OP_REMAP, GPUVA_OP_UNMAP } from "../../src/gpuvm/steps.ts";

/** The example at the top of gpuvm.ts. */
function mapExample(vm: GpuVm, bo: GemObject, addr: number): 0 | Errno {
  const ops = smMapOpsCreate(vm, { addr, range: 0x4000, obj: bo, offset: 0 });
  if (isErr(ops)) return ops;
  for (const { step } of ops) {
    if (step.kind === GPUVA_OP_MAP) gpuvaMap(vm, new GpuVa(0, 0, null, 0), step);
    else if (step.kind === GPUVA_OP_UNMAP) gpuvaUnmap(step);
    else if (step.kind === GPUVA_OP_REMAP) gpuvaRemap(new GpuVa(0, 0, null, 0), new GpuVa(0, 0, null, 0), step);
  }
  opsFree(vm, ops);
  return 0;
}

test("the example of the VA manager maps, and maps over what it mapped", () => {
  const vm = gpuvmInit({ name: "vm", start: 0, range: 2 ** 47 });
  const bo = new GemObject("bo", 0x10000);
  expect(mapExample(vm, bo, 0x10000)).toBe(0);
  expect(mapExample(vm, bo, 0x12000)).toBe(0);
  expect(Array.from(vm.vas(), (va) => [va.addr, va.range, va.offset])).toEqual([
    [0x10000, 0x2000, 0],
    [0x12000, 0x4000, 0],
  ]);
});

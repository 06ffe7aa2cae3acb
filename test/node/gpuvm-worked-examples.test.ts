import { describe, expect, test } from "vitest";
import { EEXIST, EINVAL, ENOMEM, type Errno, isErr } from "../../src/base/errno.ts";
import { REFERENCE_BEHAVIOUR } from "../../src/gpuvm/hardening.ts";
import {
  boUnmapOpsCreate,
  gemUnmapOpsCreate,
  type GpuVaOps,
  opsFree,
  prefetchOpsCreate,
  smMapOpsCreate,
  smUnmapOpsCreate,
} from "../../src/gpuvm/ops.ts";
import { smMap, smUnmap } from "../../src/gpuvm/sm.ts";
import type { Step } from "../../src/gpuvm/steps.ts";
import { boFind, boPut } from "../../src/gpuvm/vm-bo.ts";
import { EXAMPLES } from "./gpuvm-worked-examples.ts";
import { Model } from "./gpuvm-model.ts";

function createOps(model: Model, request: string): GpuVaOps | Errno {
  const [kind, what] = request.split(" ") as [string, string];
  const req = model.parse(what);
  if (kind === "map") return smMapOpsCreate(model.vm, req);
  if (kind === "unmap") return smUnmapOpsCreate(model.vm, req.addr, req.range);
  return prefetchOpsCreate(model.vm, req.addr, req.range);
}

function isSparse(request: string): boolean {
  return request.includes(" S[");
}

const ERRORS: Readonly<Record<string, number>> = { "none, -EINVAL": EINVAL, "-EINVAL": EINVAL, "-EEXIST": EEXIST };

describe("worked examples, as lists and in callbacks", () => {
  test.each(EXAMPLES)("%i %s: %s; %s", (_id, _name, before, request, ops, after) => {
    const model = new Model();
    model.insertAll(before);
    const expectedState = after === "unchanged" ? before : after;
    if (request.startsWith("insert")) {
      expect(model.insert(request.split(" ")[1]!)).toBe(ERRORS[ops]);
      expect(model.state()).toBe(expectedState);
      return;
    }
    const list = createOps(model, request);
    expect(isErr(list) ? list : model.opsText(list, isSparse(request))).toBe(ERRORS[ops] ?? ops);
    if (isErr(list)) return;
    for (const { step } of list) model.apply(step, isSparse(request));
    opsFree(model.vm, list);
    model.vm.checkInvariants();
    expect(model.state()).toBe(expectedState);
  });

  const inCallbacks = EXAMPLES.filter(([, , , request]) => /^(un)?map /.test(request));
  test.each(inCallbacks)(
    "%i %s, each step applied in its callback: %s; %s",
    (_id, _name, before, request, ops, after) => {
      const steps: string[] = [];
      const receive = (step: Step): 0 => {
        steps.push(model.stepText(step, isSparse(request)));
        model.apply(step, isSparse(request));
        return 0;
      };
      const model: Model = new Model({ ops: { smStepMap: receive, smStepRemap: receive, smStepUnmap: receive } });
      model.insertAll(before);
      const [kind, what] = request.split(" ") as [string, string];
      const req = model.parse(what);
      const ret = kind === "map" ? smMap(model.vm, null, req) : smUnmap(model.vm, null, req.addr, req.range);
      expect(ret).toBe(ERRORS[ops] ?? 0);
      expect(steps.join("; ")).toBe(ops in ERRORS ? "" : ops);
      expect(model.state()).toBe(after === "unchanged" ? before : after);
    },
  );

  test("65 prefetch gives the reserved node as the kernel does, unless hardened", () => {
    for (const [hardening, expected] of [
      [REFERENCE_BEHAVIOUR, "P A[80,85)+0; P kernel[90,100)"],
      [undefined, "P A[80,85)+0"],
    ] as const) {
      const model = new Model(hardening === undefined ? {} : { hardening });
      model.insertAll("A[80,85)+0");
      const ops = prefetchOpsCreate(model.vm, 70, 25);
      expect(isErr(ops) ? ops : model.opsText(ops)).toBe(expected);
    }
  });

  test("66, 67 an object's mappings are unmapped in the order in which they were linked; none gives an empty list", () => {
    const model = new Model();
    model.insertAll("A[30,40)+0 A[10,20)+0 B[50,60)+0");
    const empty = gemUnmapOpsCreate(model.vm, model.object("C"));
    expect(isErr(empty) ? empty : model.opsText(empty)).toBe("");
    const ofAllVms = gemUnmapOpsCreate(model.vm, model.object("A"));
    const vmBo = boFind(model.vm, model.object("A"))!;
    const ofThisVm = boUnmapOpsCreate(vmBo);
    boPut(vmBo);
    for (const ops of [ofAllVms, ofThisVm]) {
      expect(isErr(ops) ? ops : model.opsText(ops)).toBe("U A[30,40)+0 k=0; U A[10,20)+0 k=0");
    }
    if (!isErr(ofThisVm)) for (const { step } of ofThisVm) model.apply(step);
    expect(model.state()).toBe("B[50,60)+0");
  });

  test("an object's mappings in several VMs come in link order over all of them", () => {
    const one = new Model();
    const two = new Model();
    const shared = one.object("A");
    two.object = () => shared;
    one.insertAll("A[10,20)+0");
    two.insertAll("A[40,50)+0");
    one.insertAll("A[30,40)+0");
    const ops = gemUnmapOpsCreate(one.vm, shared);
    const addrs = isErr(ops) ? [] : Array.from(ops, ({ step }) => ("va" in step ? step.va.addr : -1));
    expect(addrs).toEqual([10, 40, 30]);
  });

  test("70 steps of a second request are computed from the state the first one left", () => {
    const model = new Model();
    model.insertAll("A[10,30)+0");
    for (const [request, expected] of [
      ["map B[12,14)+0", "R A[10,30)+0 k=0 p=A[10,12)+0 n=A[14,30)+4; M B[12,14)+0"],
      ["unmap [13,20)", "R B[12,14)+0 k=0 p=B[12,13)+0 n=-; R A[14,30)+4 k=0 p=- n=A[20,30)+10"],
    ] as const) {
      const ops = createOps(model, request) as GpuVaOps;
      expect(model.opsText(ops)).toBe(expected);
      for (const { step } of ops) model.apply(step);
      opsFree(model.vm, ops);
    }
    expect(model.state()).toBe("A[10,12)+0 B[12,13)+0 A[20,30)+10");
  });

  test("71 the result of a callback ends the walk, and what was applied stays applied", () => {
    const steps: string[] = [];
    const receive = (step: Step): 0 | Errno => {
      steps.push(model.stepText(step));
      if (steps.length === 2) return ENOMEM;
      model.apply(step);
      return 0;
    };
    const model: Model = new Model({ ops: { smStepMap: receive, smStepRemap: receive, smStepUnmap: receive } });
    model.insertAll("A[5,15)+0 B[15,20)+0");
    expect(smMap(model.vm, null, model.parse("C[10,30)+0"))).toBe(ENOMEM);
    expect(steps).toEqual(["R A[5,15)+0 k=0 p=A[5,10)+0 n=-", "U B[15,20)+0 k=0"]);
    expect(model.state()).toBe("A[5,10)+0 B[15,20)+0");
  });

  test("72 an empty request is refused, or splits the mapping as in the kernel", () => {
    const hardened = new Model();
    hardened.insertAll("A[10,20)+0");
    expect(smMapOpsCreate(hardened.vm, hardened.parse("B[15,15)+0"))).toBe(EINVAL);
    expect(smUnmapOpsCreate(hardened.vm, 15, 0)).toBe(EINVAL);
    expect(hardened.insert("B[50,50)+0")).toBe(EINVAL);
    const reference = new Model({ hardening: REFERENCE_BEHAVIOUR });
    reference.insertAll("A[10,20)+0");
    const ops = smMapOpsCreate(reference.vm, reference.parse("B[15,15)+0")) as GpuVaOps;
    expect(reference.opsText(ops)).toBe("R A[10,20)+0 k=0 p=A[10,15)+0 n=A[15,20)+5; M B[15,15)+0");
    for (const { step } of ops) reference.apply(step);
    expect(reference.state()).toBe("A[10,15)+0 A[15,20)+5 B[15,15)+0");
  });
});

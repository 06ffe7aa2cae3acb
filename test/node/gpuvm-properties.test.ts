import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ENOMEM, type Errno, isErr } from "../../src/base/errno.ts";
import {
  type GpuVaOp,
  type GpuVaOps,
  GpuVaOp as Op,
  madviseOpsCreate,
  opsFree,
  smMapOpsCreate,
  smUnmapOpsCreate,
} from "../../src/gpuvm/ops.ts";
import { smMap, smUnmap } from "../../src/gpuvm/sm.ts";
import { GPUVA_OP_MAP, GPUVA_OP_REMAP, GPUVA_OP_UNMAP, type MapRequest, type Step } from "../../src/gpuvm/steps.ts";
import { type Applied, Model } from "./gpuvm-model.ts";

const PAGES = 64;

interface Request {
  readonly kind: "map" | "unmap" | "madvise";
  readonly addr: number;
  readonly range: number;
  readonly object: string;
  /** Where the object's first page would be, so that contiguous requests are common. */
  readonly base: number;
}

const request: fc.Arbitrary<Request> = fc
  .record({
    kind: fc.constantFrom("map" as const, "map" as const, "unmap" as const, "madvise" as const),
    addr: fc.nat(PAGES - 1),
    length: fc.integer({ min: 1, max: 24 }),
    object: fc.constantFrom("A", "B", "N"),
    base: fc.constantFrom(0, 0, 100),
  })
  .map(({ addr, length, ...rest }) => ({ ...rest, addr, range: Math.min(length, PAGES - addr) }));

/** What every page shows: `"A+17"`, `"N"` or nothing. */
type Pages = (string | undefined)[];

function pageOf(req: Request, page: number): string {
  return req.object === "N" ? "N" : `${req.object}+${page + req.base}`;
}

function pagesOf(model: Model): Pages {
  const pages: Pages = new Array<string | undefined>(PAGES).fill(undefined);
  for (const va of model.vm.vas()) {
    for (let i = 0; i < va.range; i++) pages[va.addr + i] = va.obj === null ? "N" : `${va.obj.name}+${va.offset + i}`;
  }
  return pages;
}

function toMap(model: Model, req: Request): MapRequest {
  const obj = req.object === "N" || req.kind === "madvise" ? null : model.object(req.object);
  return { addr: req.addr, range: req.range, obj, offset: obj === null ? 0 : req.addr + req.base };
}

function create(model: Model, req: Request): GpuVaOps | Errno {
  if (req.kind === "map") return smMapOpsCreate(model.vm, toMap(model, req));
  if (req.kind === "unmap") return smUnmapOpsCreate(model.vm, req.addr, req.range);
  return madviseOpsCreate(model.vm, toMap(model, req));
}

function newModel(options: ConstructorParameters<typeof Model>[0] = {}): Model {
  return new Model({ range: PAGES, reserveStart: 0, reserveRange: 0, ...options });
}

/** Range that a step is about, without the part of a mapping that stays. */
function extent(step: Step): [number, number] {
  if (step.kind === GPUVA_OP_MAP) return [step.addr, step.addr + step.range];
  const va = step.kind === GPUVA_OP_REMAP ? step.unmap.va : step.va;
  return [va.addr, va.addr + va.range];
}

function checkSteps(steps: readonly Step[], req: Request, model: Model): void {
  const removals = steps.filter((s) => s.kind !== GPUVA_OP_MAP);
  const maps = steps.filter((s) => s.kind === GPUVA_OP_MAP);
  expect(steps.filter((s) => s.kind === GPUVA_OP_REMAP).length).toBeLessThanOrEqual(2);
  if (req.kind === "map") {
    expect(maps).toHaveLength(1);
    expect(steps.at(-1)!.kind).toBe(GPUVA_OP_MAP);
  } else if (req.kind === "unmap") expect(maps).toHaveLength(0);
  for (let i = 1; i < removals.length; i++)
    expect(extent(removals[i - 1]!)[1]).toBeLessThanOrEqual(extent(removals[i]!)[0]);
  for (const step of removals) checkRemoval(step, req, toMap(model, req));
}

/** `keep` is contiguity; pieces and the part that goes make up the old mapping. */
function checkRemoval(step: Step, req: Request, map: MapRequest): void {
  if (step.kind !== GPUVA_OP_REMAP && step.kind !== GPUVA_OP_UNMAP) return;
  const { va, keep } = step.kind === GPUVA_OP_REMAP ? step.unmap : step;
  const contiguous = va.obj !== null && va.obj === map.obj && va.offset - va.addr === map.offset - map.addr;
  expect(keep).toBe(req.kind === "map" && contiguous);
  if (step.kind !== GPUVA_OP_REMAP) return;
  const { prev, next } = step;
  expect(prev ?? next).not.toBeNull();
  if (prev !== null) expect(prev).toEqual({ addr: va.addr, range: req.addr - va.addr, obj: va.obj, offset: va.offset });
  if (next === null) return;
  const end = req.addr + req.range;
  expect(next).toEqual({ addr: end, range: va.addr + va.range - end, obj: va.obj, offset: va.offset + end - va.addr });
}

/** Runs the requests, comparing with one string per page after each. */
function runAgainstPages(requests: readonly Request[]): void {
  const model = newModel();
  const pages: Pages = new Array<string | undefined>(PAGES).fill(undefined);
  for (const req of requests) {
    const ops = create(model, req);
    if (isErr(ops)) throw new Error(`request failed: ${ops}`);
    const steps = Array.from(ops, (op) => op.step);
    checkSteps(steps, req, model);
    for (const step of steps) model.apply(step);
    opsFree(model.vm, ops);
    model.vm.checkInvariants();
    if (req.kind !== "madvise") {
      for (let p = req.addr; p < req.addr + req.range; p++) pages[p] = req.kind === "map" ? pageOf(req, p) : undefined;
    }
    expect(pagesOf(model)).toEqual(pages);
  }
}

/** Model after the requests; `ops` for its callbacks. */
function prepared(requests: readonly Request[], options: ConstructorParameters<typeof Model>[0] = {}): Model {
  const model = newModel(options);
  for (const req of requests) {
    const ops = create(model, req);
    if (isErr(ops)) throw new Error(`request failed: ${ops}`);
    for (const { step } of ops) model.apply(step);
    opsFree(model.vm, ops);
  }
  return model;
}

const requests = fc.array(request, { minLength: 1, maxLength: 40 });

describe("any sequence of requests", () => {
  test("leaves the space as one string per page says; steps are ordered, disjoint and few", () => {
    fc.assert(fc.property(requests, runAgainstPages), { numRuns: 300 });
  });

  test("cuts only mappings without object, at the ends of an advised range", () => {
    fc.assert(
      fc.property(requests, request, (before, last) => {
        const model = prepared(before);
        const boundaries = (obj: "with" | "without"): string[] =>
          [...model.vm.vas()].filter((va) => (va.obj !== null) === (obj === "with")).map((va) => model.vaText(va));
        const withObject = boundaries("with");
        const pages = pagesOf(model);
        const ops = create(model, { ...last, kind: "madvise" });
        if (isErr(ops)) throw new Error("request failed");
        for (const { step } of ops) model.apply(step);
        expect(boundaries("with")).toEqual(withObject);
        expect(pagesOf(model)).toEqual(pages);
        for (const va of model.vm.vas()) {
          const end = last.addr + last.range;
          const straddles = [last.addr, end].some((cut) => va.addr < cut && cut < va.addr + va.range);
          if (va.obj === null) expect(straddles).toBe(false);
        }
      }),
      { numRuns: 200 },
    );
  });

  test("gives equal steps as a list and in callbacks", () => {
    fc.assert(
      fc.property(requests, request, (before, last) => {
        const seen: string[] = [];
        const receive = (step: Step): 0 => {
          seen.push(model.stepText(step));
          return 0;
        };
        const model: Model = prepared(before, {
          ops: { smStepMap: receive, smStepRemap: receive, smStepUnmap: receive },
        });
        const req = last.kind === "madvise" ? { ...last, kind: "map" as const } : last;
        const ops = create(model, req);
        if (isErr(ops)) throw new Error("request failed");
        if (req.kind === "map") smMap(model.vm, null, toMap(model, req));
        else smUnmap(model.vm, null, req.addr, req.range);
        expect(seen.join("; ")).toBe(model.opsText(ops));
      }),
      { numRuns: 200 },
    );
  });

  test("undone from any step backwards, leaves the space as it was", () => {
    fc.assert(
      fc.property(requests, request, fc.nat(10), (before, last, failAt) => {
        const model = prepared(before);
        const state = model.state();
        const ops = create(model, last);
        if (isErr(ops)) throw new Error("request failed");
        const applied: Applied[] = [];
        for (const { step } of ops) {
          if (applied.length === failAt) break;
          applied.push(model.apply(step));
        }
        for (const done of applied.reverse()) model.undo(done);
        opsFree(model.vm, ops);
        model.vm.checkInvariants();
        expect(model.state()).toBe(state);
      }),
      { numRuns: 200 },
    );
  });

  test("with the n-th op not allocated, gives -ENOMEM, frees every op and changes nothing", () => {
    fc.assert(
      fc.property(requests, request, fc.nat(4), (before, last, failAt) => {
        const live = new Set<GpuVaOp>();
        let budget = Infinity;
        const ops = {
          opAlloc: () => {
            if (budget === 0) return null;
            budget -= 1;
            const op = new Op();
            live.add(op);
            return op;
          },
          opFree: (op: GpuVaOp) => {
            live.delete(op);
          },
        };
        const model = prepared(before, { ops });
        expect(live.size).toBe(0);
        const state = model.state();
        budget = failAt;
        const list = create(model, last);
        if (isErr(list)) expect(list).toBe(ENOMEM);
        else opsFree(model.vm, list);
        expect(live.size).toBe(0);
        expect(model.state()).toBe(state);
      }),
      { numRuns: 200 },
    );
  });
});

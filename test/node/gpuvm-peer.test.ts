import { describe, expect, test } from "vitest";
import { isErr } from "../../src/base/errno.ts";
import { opsFree, smMapOpsCreate, smUnmapOpsCreate } from "../../src/gpuvm/ops.ts";
import { Model } from "./gpuvm-model.ts";

/** Old mapping, request, operations, mappings afterwards; then the operations and mappings of unmapping the same range. */
const TABLE: readonly (readonly [
  name: string,
  old: string,
  request: string,
  ops: string,
  after: string,
  unmapOps: string,
  unmapAfter: string,
])[] = [
  ["equal, same offset", "A[4,8)+4", "A[4,8)+4", "U k=1", "A[4,8)+4", "U k=0", ""],
  ["equal, other offset", "A[4,8)+4", "A[4,8)+9", "U k=0", "A[4,8)+9", "U k=0", ""],
  ["equal, other object", "A[4,8)+4", "B[4,8)+4", "U k=0", "B[4,8)+4", "U k=0", ""],
  ["left-aligned, longer", "A[4,8)+4", "A[4,12)+4", "U k=1", "A[4,12)+4", "U k=0", ""],
  ["right-aligned, longer", "A[4,8)+4", "A[2,8)+2", "U k=1", "A[2,8)+2", "U k=0", ""],
  ["containing", "A[4,8)+4", "A[2,12)+2", "U k=1", "A[2,12)+2", "U k=0", ""],
  [
    "left-aligned, shorter, other",
    "A[4,8)+4",
    "B[4,6)+0",
    "R k=0 p=- n=A[6,8)+6",
    "B[4,6)+0 A[6,8)+6",
    "R k=0 p=- n=A[6,8)+6",
    "A[6,8)+6",
  ],
  [
    "left-aligned, shorter, same",
    "A[4,8)+4",
    "A[4,6)+4",
    "R k=1 p=- n=A[6,8)+6",
    "A[4,6)+4 A[6,8)+6",
    "R k=0 p=- n=A[6,8)+6",
    "A[6,8)+6",
  ],
  [
    "right-aligned, shorter, other",
    "A[4,8)+4",
    "B[6,8)+0",
    "R k=0 p=A[4,6)+4 n=-",
    "A[4,6)+4 B[6,8)+0",
    "R k=0 p=A[4,6)+4 n=-",
    "A[4,6)+4",
  ],
  [
    "right-aligned, shorter, same",
    "A[4,8)+4",
    "A[6,8)+6",
    "R k=1 p=A[4,6)+4 n=-",
    "A[4,6)+4 A[6,8)+6",
    "R k=0 p=A[4,6)+4 n=-",
    "A[4,6)+4",
  ],
  [
    "over the end, other",
    "A[4,8)+4",
    "B[6,12)+0",
    "R k=0 p=A[4,6)+4 n=-",
    "A[4,6)+4 B[6,12)+0",
    "R k=0 p=A[4,6)+4 n=-",
    "A[4,6)+4",
  ],
  [
    "over the end, same",
    "A[4,8)+4",
    "A[6,12)+6",
    "R k=1 p=A[4,6)+4 n=-",
    "A[4,6)+4 A[6,12)+6",
    "R k=0 p=A[4,6)+4 n=-",
    "A[4,6)+4",
  ],
  [
    "in the middle, other",
    "A[4,12)+4",
    "B[6,8)+0",
    "R k=0 p=A[4,6)+4 n=A[8,12)+8",
    "A[4,6)+4 B[6,8)+0 A[8,12)+8",
    "R k=0 p=A[4,6)+4 n=A[8,12)+8",
    "A[4,6)+4 A[8,12)+8",
  ],
  [
    "in the middle, same",
    "A[4,12)+4",
    "A[6,8)+6",
    "R k=1 p=A[4,6)+4 n=A[8,12)+8",
    "A[4,6)+4 A[6,8)+6 A[8,12)+8",
    "R k=0 p=A[4,6)+4 n=A[8,12)+8",
    "A[4,6)+4 A[8,12)+8",
  ],
  [
    "over the start, other",
    "A[4,8)+4",
    "B[2,6)+0",
    "R k=0 p=- n=A[6,8)+6",
    "B[2,6)+0 A[6,8)+6",
    "R k=0 p=- n=A[6,8)+6",
    "A[6,8)+6",
  ],
  [
    "over the start, same",
    "A[4,8)+4",
    "A[2,6)+2",
    "R k=1 p=- n=A[6,8)+6",
    "A[2,6)+2 A[6,8)+6",
    "R k=0 p=- n=A[6,8)+6",
    "A[6,8)+6",
  ],
];

/** Operations and mappings; the old mapping is left out of the text of the operations. */
function run(old: string, request: string, kind: "map" | "unmap"): [string, string] {
  const model = new Model();
  model.insertAll(old);
  const req = model.parse(request);
  const ops = kind === "map" ? smMapOpsCreate(model.vm, req) : smUnmapOpsCreate(model.vm, req.addr, req.range);
  if (isErr(ops)) return [String(ops), model.state()];
  const text = model.opsText(ops).replace(`${old} `, "");
  for (const { step } of ops) model.apply(step);
  opsFree(model.vm, ops);
  return [text, model.state()];
}

describe("P21 GPUVM split/merge table", () => {
  test.each(TABLE)("%s: %s, map %s", (_name, old, request, ops, after) => {
    expect(run(old, request, "map")).toEqual([`${ops}; M ${request}`, after]);
  });

  test.each(TABLE)("%s: %s, unmap %s", (_name, old, request, _ops, _after, ops, after) => {
    expect(run(old, request, "unmap")).toEqual([ops, after]);
  });
});

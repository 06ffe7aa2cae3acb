import { expect, test } from "vitest";
import { PageMarks } from "../../src/device/copy-marks.ts";
import { RUN_COPY, RUN_FILL, RUN_VA, Runs } from "../../src/device/copy-runs.ts";
import { planStages } from "../../src/device/copy-stages.ts";
import { AP_HOST, AP_VRAM, AP_WINDOW } from "../../src/hal/gpu.ts";

const PAGE = 4096;
const VA = 3;
const memories = [64, 64, 64, 0, 64].map((pages) => () => pages);
const written = new PageMarks(memories);
const read = new PageMarks(memories);

/** Stage of each run, and the host pages that need a slot. Runs: memory and page of source (fills: none) and target. */
function stagesOf(...moves: readonly [from: number, source: number, to: number, target: number, kind?: number][]) {
  const runs = new Runs();
  for (const [from, source, to, target, kind = RUN_COPY] of moves) {
    runs.push(kind, from, source * PAGE + 8, to, target * PAGE + 8, 16, 0, 0);
  }
  const { order, starts, shadowed } = planStages(runs, written, read);
  const stages = new Array<number>(runs.count);
  for (let stage = 0; stage + 1 < starts.length; stage++) {
    for (let k = starts[stage]!; k < starts[stage + 1]!; k++) stages[order[k]!] = stage;
  }
  return { stages, shadowed };
}

test("runs on different pages are one stage, in order", () => {
  expect(stagesOf([AP_VRAM, 0, AP_VRAM, 1], [AP_VRAM, 0, AP_VRAM, 2], [AP_WINDOW, 1, AP_WINDOW, 0]).stages).toEqual([
    0, 0, 0,
  ]);
});

test.each([
  ["read after write", [AP_VRAM, 0, AP_VRAM, 1], [AP_VRAM, 1, AP_WINDOW, 1]],
  ["write after write", [AP_VRAM, 0, AP_VRAM, 1], [AP_WINDOW, 0, AP_VRAM, 1]],
  ["write after read", [AP_VRAM, 0, AP_VRAM, 1], [AP_WINDOW, 0, AP_VRAM, 0]],
  ["fill after read", [AP_VRAM, 0, AP_VRAM, 1], [AP_VRAM, 5, AP_VRAM, 0, RUN_FILL]],
  ["two writes of a host page", [AP_VRAM, 0, AP_HOST, 1], [AP_VRAM, 9, AP_HOST, 1]],
] as const)("%s: two stages", (_name, first, second) => {
  expect(stagesOf([...first], [...second])).toEqual({ stages: [0, 1], shadowed: [] });
});

test("the source of a fill is none; a host page may be written once it is read", () => {
  expect(stagesOf([AP_VRAM, 0, AP_VRAM, 1], [AP_VRAM, 1, AP_VRAM, 2, RUN_FILL]).stages).toEqual([0, 0]);
  expect(stagesOf([AP_HOST, 0, AP_VRAM, 1], [AP_VRAM, 2, AP_HOST, 0])).toEqual({ stages: [0, 0], shadowed: [] });
});

test("stages are as few as the longest chain, and batches know nothing of each other", () => {
  const chain = [
    [AP_VRAM, 0, AP_VRAM, 1],
    [AP_VRAM, 1, AP_VRAM, 2],
    [AP_VRAM, 8, AP_VRAM, 9],
    [AP_VRAM, 2, AP_VRAM, 3],
  ] as const;
  for (let i = 0; i < 3; i++)
    expect(stagesOf(...chain.map((run) => [...run] as [number, number, number, number])).stages).toEqual([0, 1, 0, 2]);
});

test("a VA job is a stage of its own, and its host pages need slots", () => {
  const run = stagesOf([AP_VRAM, 0, AP_VRAM, 1], [AP_HOST, 7, VA, 3, RUN_VA], [AP_VRAM, 8, AP_VRAM, 9]);
  expect(run).toEqual({ stages: [0, 1, 2], shadowed: [7] });
});

test("a host page that is read after it was written needs a slot", () => {
  expect(stagesOf([AP_VRAM, 0, AP_HOST, 5], [AP_HOST, 5, AP_VRAM, 3]).shadowed).toEqual([5]);
});

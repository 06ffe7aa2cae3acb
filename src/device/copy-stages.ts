import { PAGE_SIZE } from "../base/addr.ts";
import { AP_HOST } from "../hal/gpu.ts";
import type { PageMarks } from "./copy-marks.ts";
import { RUN, RUN_COPY, RUN_STRIDE, RUN_VA } from "./copy-runs.ts";
import type { Runs } from "./copy-runs.ts";

/** The order in which runs may be done: all of a stage together, stages one after the other. */
export interface Stages {
  /** Indices of runs, by stage, in order within one. */
  readonly order: Uint32Array;
  /** Where each stage begins in `order`; one more at the end. */
  readonly starts: Uint32Array;
  /** Host pages whose bytes the batch needs on the GPU: read after they were written, or touched by a VA job. */
  readonly shadowed: readonly number[];
}

/**
 * Splits a batch where a run depends on another (spec/device.md 4.4): it reads a page that an earlier one writes, writes
 * one that an earlier one writes, or writes one that an earlier one reads. Pages are compared, not bytes.
 *
 * Host memory is different: it is read when the batch is submitted, so that only writes to it need an order, and a read
 * after a write cannot be had that way at all (`shadowed`). What a VA job touches is known to the GPU only; such a job is
 * a stage of its own.
 */
export function planStages(runs: Runs, written: PageMarks, read: PageMarks): Stages {
  const { fields, count } = runs;
  const stageOf = new Uint32Array(count);
  const shadowed: number[] = [];
  written.begin();
  read.begin();
  let stages = 0;
  let barrier = 0;
  for (let i = 0; i < count; i++) {
    const at = i * RUN_STRIDE;
    const from = fields[at + RUN.from]!;
    const source = fields[at + RUN.source]!;
    const to = fields[at + RUN.to]!;
    const target = fields[at + RUN.target]!;
    const bytes = fields[at + RUN.bytes]!;
    let stage = barrier;
    if (fields[at + RUN.kind] === RUN_VA) {
      stage = stages;
      barrier = stages + 1;
      if (from === AP_HOST) addPages(shadowed, source, bytes);
      if (to === AP_HOST) addPages(shadowed, target, bytes);
    } else {
      const copies = fields[at + RUN.kind] === RUN_COPY;
      if (copies && from === AP_HOST) {
        if (written.largest(AP_HOST, source, bytes) > 0) addPages(shadowed, source, bytes);
      } else if (copies) {
        stage = Math.max(stage, written.largest(from, source, bytes));
      }
      stage = Math.max(stage, written.largest(to, target, bytes), read.largest(to, target, bytes));
      if (copies && from !== AP_HOST) read.raise(from, source, bytes, stage + 1);
      written.raise(to, target, bytes, stage + 1);
    }
    stageOf[i] = stage;
    stages = Math.max(stages, stage + 1);
  }
  return { ...sortByStage(stageOf, stages), shadowed };
}

/** A counting sort: the order inside a stage stays. */
function sortByStage(stageOf: Uint32Array, stages: number): { order: Uint32Array; starts: Uint32Array } {
  const starts = new Uint32Array(stages + 1);
  for (const stage of stageOf) starts[stage + 1]! += 1;
  for (let stage = 0; stage < stages; stage++) starts[stage + 1]! += starts[stage]!;
  const next = starts.slice();
  const order = new Uint32Array(stageOf.length);
  for (let i = 0; i < stageOf.length; i++) order[next[stageOf[i]!]!++] = i;
  return { order, starts };
}

function addPages(pages: number[], at: number, bytes: number): void {
  const end = Math.ceil((at + bytes) / PAGE_SIZE);
  for (let page = Math.floor(at / PAGE_SIZE); page < end; page++) pages.push(page);
}

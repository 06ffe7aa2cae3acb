import { gridOf } from "./commands.ts";
import type { Pipelines } from "./pipelines.ts";

/** Invocations that look for what the straight-line walk has left: few, because a software adapter pays for each. */
const REST_INVOCATIONS = 2048;

/** What the batch translator is told (`job` of shaders/walk.wgsl). */
export function walkJob(requests: number): Uint32Array<ArrayBuffer> {
  return new Uint32Array([requests, restInvocations(requests), 0, 0]);
}

/** Records the batch translator of a tile over as many requests; groups 0 and 1 are those of `Pipelines.walk`. */
export function dispatchWalk(pass: GPUComputePassEncoder, pipelines: Pipelines, tile: number, requests: number): void {
  pass.setPipeline(pipelines.walk[tile]!);
  pass.dispatchWorkgroups(...gridOf(Math.ceil(requests / 64)));
  pass.setPipeline(pipelines.walkRest[tile]!);
  pass.dispatchWorkgroups(restInvocations(requests) / 64);
}

function restInvocations(requests: number): number {
  return Math.min(Math.ceil(requests / 64) * 64, REST_INVOCATIONS);
}

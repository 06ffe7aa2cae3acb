import { PAGE_SIZE } from "../../base/addr.ts";
import { chooseWay } from "../path-choice.ts";
import { copyBufferPerRun, computePagePerInvocation, computePagePerWorkgroup } from "./device-copies.ts";
import { clearBufferPerRun, computeFill, computeFillPerInvocation, writeZeros } from "./fills.ts";
import type { CopyPath, Direction, PathMemory } from "./path.ts";
import {
  copyMapPerRun,
  copyMapRing,
  gatherMapRing,
  gatherPagePerInvocation,
  gatherPagePerWorkgroup,
} from "./readbacks.ts";
import { RUN_STRIDE, type Transfer } from "./transfer.ts";
import {
  ringCopyPerRun,
  ringScatter,
  scatterPagePerInvocation,
  scatterPagePerWorkgroup,
  writeBufferPerRun,
} from "./uploads.ts";

/** The paths that the copy engine chooses from: the ways of path-choice.ts. */
export const ENGINE_PATHS: readonly CopyPath[] = [
  writeBufferPerRun,
  ringCopyPerRun,
  ringScatter,
  scatterPagePerWorkgroup,
  scatterPagePerInvocation,
  copyMapPerRun,
  copyMapRing,
  gatherMapRing,
  gatherPagePerWorkgroup,
  gatherPagePerInvocation,
  copyBufferPerRun,
  computePagePerWorkgroup,
  computePagePerInvocation,
  clearBufferPerRun,
  writeZeros,
  computeFill,
  computeFillPerInvocation,
];

/** Directions in which the engine chooses. */
type ChosenDirection = Exclude<Direction, "access">;

/** The path that the copy engine takes for a transfer. */
export function chosenPath({ paths }: Pick<PathMemory, "paths">, direction: ChosenDirection, t: Transfer): CopyPath {
  const way = chooseWay(paths, direction, t.bytes / PAGE_SIZE, t.runs.length / RUN_STRIDE);
  return ENGINE_PATHS.find((path) => path.direction === direction && path.name === way)!;
}

function auto(direction: ChosenDirection): CopyPath {
  return {
    name: `auto: ${direction}`,
    direction,
    how: "the path that the copy engine chooses for this size and shape",
    chosen: (lab, transfer) => chosenPath(lab, direction, transfer).name,
    prepare: (memory, transfer) => chosenPath(memory, direction, transfer).prepare(memory, transfer),
  };
}

export const autoUpload = auto("upload");
export const autoReadback = auto("readback");
export const autoDevice = auto("device");
export const autoFill = auto("fill");

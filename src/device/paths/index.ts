import { computePagePerInvocation, computePagePerWorkgroup } from "./compute-copy.ts";
import { copyBufferPerPage, copyBufferPerRun } from "./copy-buffer.ts";
import { clearBufferPerRun, computeFill } from "./fill.ts";
import { mappedAtCreation } from "./mapped-at-creation.ts";
import type { CopyPath } from "./path.ts";
import {
  copyMapPerPage,
  copyMapPerRun,
  copyMapRing,
  gatherPagePerInvocation,
  gatherPagePerWorkgroup,
} from "./readback.ts";
import { scatterPagePerInvocation, scatterPagePerWorkgroup } from "./scatter.ts";
import { ringCopyPerPage, ringCopyPerRun } from "./staging-ring.ts";
import { writeBufferPerPage, writeBufferPerRun } from "./write-buffer.ts";

export { openPathLab } from "./lab.ts";
export type { PathLab, PreparedCopy } from "./lab.ts";
export type { CopyPath, Direction } from "./path.ts";
export { copyRuns, makeTransfer } from "./transfer.ts";
export type { Layout, Transfer } from "./transfer.ts";

/** Every path there is, in the order in which tables show them. */
export const COPY_PATHS: readonly CopyPath[] = [
  writeBufferPerRun,
  writeBufferPerPage,
  mappedAtCreation,
  ringCopyPerRun,
  ringCopyPerPage,
  scatterPagePerWorkgroup,
  scatterPagePerInvocation,
  copyMapPerRun,
  copyMapPerPage,
  copyMapRing,
  gatherPagePerWorkgroup,
  gatherPagePerInvocation,
  copyBufferPerRun,
  copyBufferPerPage,
  computePagePerWorkgroup,
  computePagePerInvocation,
  clearBufferPerRun,
  computeFill,
];

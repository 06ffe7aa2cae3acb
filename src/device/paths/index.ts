import { migrateAccess, windowAccess } from "./access.ts";
import {
  computePagePerInvocation,
  computePagePerWorkgroup,
  computeSubgroups,
  computeUnrolled,
  computeWordsPerInvocation,
  computeWordsPerWorkgroup,
} from "./compute-copy.ts";
import { copyBufferPerPage, copyBufferPerRun } from "./copy-buffer.ts";
import { clearBufferPerPage, clearBufferPerRun, computeFill, computeFillPerInvocation, writeZeros } from "./fill.ts";
import { mappedAtCreation } from "./mapped-at-creation.ts";
import type { CopyPath } from "./path.ts";
import {
  copyMapPerPage,
  copyMapPerRun,
  copyMapRing,
  freshCopyMap,
  gatherMapRing,
  gatherPagePerInvocation,
  gatherPagePerWorkgroup,
  gatherWords,
} from "./readback.ts";
import { scatterPagePerInvocation, scatterPagePerWorkgroup, scatterWords } from "./scatter.ts";
import { ringCopyPerPage, ringCopyPerRun, ringScatter, ringScatterWords } from "./staging-ring.ts";
import { writeBufferPerPage, writeBufferPerRun } from "./write-buffer.ts";

export { openPathLab } from "./lab.ts";
export type { PathLab, PreparedCopy } from "./lab.ts";
export type { CopyPath, Direction } from "./path.ts";
export { copyRuns, makeTransfer, regionBytesOf } from "./transfer.ts";
export type { Layout, Transfer } from "./transfer.ts";

/** Every path there is, in the order in which tables show them. */
export const COPY_PATHS: readonly CopyPath[] = [
  writeBufferPerRun,
  writeBufferPerPage,
  mappedAtCreation,
  ringCopyPerRun,
  ringCopyPerPage,
  ringScatter,
  ringScatterWords,
  scatterPagePerWorkgroup,
  scatterPagePerInvocation,
  scatterWords,
  copyMapPerRun,
  copyMapPerPage,
  freshCopyMap,
  copyMapRing,
  gatherMapRing,
  gatherPagePerWorkgroup,
  gatherPagePerInvocation,
  gatherWords,
  copyBufferPerRun,
  copyBufferPerPage,
  computePagePerWorkgroup,
  computePagePerInvocation,
  computeWordsPerWorkgroup,
  computeWordsPerInvocation,
  computeUnrolled,
  computeSubgroups,
  clearBufferPerRun,
  clearBufferPerPage,
  writeZeros,
  computeFill,
  computeFillPerInvocation,
  windowAccess,
  migrateAccess,
];

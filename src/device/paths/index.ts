import { migrateAccess, windowAccess } from "./access.ts";
import { autoDevice, autoFill, autoReadback, autoUpload } from "./auto.ts";
import {
  computePagePerInvocation,
  computePagePerWorkgroup,
  computeSubgroups,
  computeUnrolled,
  computeWordsPerInvocation,
  computeWordsPerWorkgroup,
  copyBufferPerPage,
  copyBufferPerRun,
} from "./device-copies.ts";
import { clearBufferPerPage, clearBufferPerRun, computeFill, computeFillPerInvocation, writeZeros } from "./fills.ts";
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
} from "./readbacks.ts";
import {
  ringCopyPerPage,
  ringCopyPerRun,
  ringScatter,
  ringScatterWords,
  scatterPagePerInvocation,
  scatterPagePerWorkgroup,
  scatterWords,
  writeBufferPerPage,
  writeBufferPerRun,
} from "./uploads.ts";

export { openPathLab } from "./lab.ts";
export type { PathLab, PreparedCopy } from "./lab.ts";
export type { CopyPath, Direction } from "./path.ts";
export { copyRuns, makeTransfer, regionBytesOf } from "./transfer.ts";
export type { Layout, Transfer } from "./transfer.ts";
export { openWaitProbe, WAIT_ENDS, WAIT_WORKS } from "./waits.ts";
export type { WaitEnd, WaitProbe, WaitWork } from "./waits.ts";

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
  autoUpload,
  copyMapPerRun,
  copyMapPerPage,
  freshCopyMap,
  copyMapRing,
  gatherMapRing,
  gatherPagePerWorkgroup,
  gatherPagePerInvocation,
  gatherWords,
  autoReadback,
  copyBufferPerRun,
  copyBufferPerPage,
  computePagePerWorkgroup,
  computePagePerInvocation,
  computeWordsPerWorkgroup,
  computeWordsPerInvocation,
  computeUnrolled,
  computeSubgroups,
  autoDevice,
  clearBufferPerRun,
  clearBufferPerPage,
  writeZeros,
  computeFill,
  computeFillPerInvocation,
  autoFill,
  windowAccess,
  migrateAccess,
];

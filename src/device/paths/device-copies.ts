import { ComputeCopy } from "../ways/device-copies.ts";
import { listKernel } from "./list-kernel.ts";
import type { PageKernelName } from "./page-kernel.ts";
import type { CopyPath } from "./path.ts";
import { byPages, copyWay, devicePath } from "./way-path.ts";

export const copyBufferPerRun = copyWay(
  "copyBuffer per run",
  "one copyBufferToBuffer per run of pages, in one submission",
);
export const copyBufferPerPage = byPages(
  copyBufferPerRun,
  "copyBuffer per page",
  "one copyBufferToBuffer per page, in one submission",
);

/** In names: a page per workgroup, a page per invocation. Lanes are 16 bytes wide where the name does not say 4. */
export const computePagePerWorkgroup = copyWay(
  "compute, p/wg",
  "one dispatch, a page per workgroup, 256 lanes of 16 bytes",
);
export const computePagePerInvocation = copyWay(
  "compute, p/inv",
  "one dispatch, a page per invocation in a loop over 16 bytes",
);

/** By a kernel that is here only to be compared. */
function computeCopy(name: string, kernel: PageKernelName, how: string): CopyPath {
  return devicePath(name, "device", how, async (engine) => new ComputeCopy(await listKernel(engine, kernel)));
}

export const computeWordsPerWorkgroup = computeCopy(
  "compute 4 B, p/wg",
  "copyWordsPerWorkgroup",
  "one dispatch, a page per workgroup, 256 lanes of 4 bytes, four rounds",
);
export const computeWordsPerInvocation = computeCopy(
  "compute 4 B, p/inv",
  "copyWordsPerInvocation",
  "one dispatch, a page per invocation in a loop over 4 bytes",
);
export const computeUnrolled = computeCopy(
  "compute unrolled",
  "copyUnrolled",
  "one dispatch, a page per workgroup of 64, each lane loads four times 16 bytes before it stores any",
);
export const computeSubgroups: CopyPath = {
  ...computeCopy(
    "compute subgroups",
    "copySubgroups",
    "one dispatch, a page per workgroup, one lane of each subgroup reads the page list and broadcasts it",
  ),
  needs: "subgroups",
};

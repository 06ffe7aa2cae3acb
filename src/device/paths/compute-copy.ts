import { type PageKernelName, pageDispatch } from "./page-kernel.ts";
import type { CopyPath } from "./path.ts";

/** One dispatch over a page list, device memory to device memory. */
function computeCopy(name: string, kernel: PageKernelName, how: string): CopyPath {
  return {
    name,
    direction: "device",
    how,
    async prepare(memory, transfer) {
      const dispatch = await pageDispatch(memory.device, kernel, transfer, memory.vram, memory.vramOut);
      return {
        run() {
          const encoder = memory.encoder(`path: ${name}`);
          dispatch.encode(encoder);
          memory.submit(encoder);
          return memory.settled();
        },
        dispose: () => dispatch.dispose(),
      };
    },
  };
}

/** In names: a page per workgroup, a page per invocation. Lanes are 16 bytes wide where the name does not say 4. */
export const computePagePerWorkgroup = computeCopy(
  "compute, p/wg",
  "copyPagePerWorkgroup",
  "one dispatch, a page per workgroup, 256 lanes of 16 bytes",
);
export const computePagePerInvocation = computeCopy(
  "compute, p/inv",
  "copyPagePerInvocation",
  "one dispatch, a page per invocation in a loop over 16 bytes",
);
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

import { type PageKernelName, pageDispatch } from "./page-kernel.ts";
import type { CopyPath } from "./path.ts";

/** One dispatch over a page list, device memory to device memory. */
function computeCopy(name: string, kernel: PageKernelName): CopyPath {
  return {
    name,
    direction: "device",
    async prepare(memory, transfer) {
      const dispatch = await pageDispatch(memory.device, kernel, transfer, memory.vram, memory.vramOut);
      return {
        run() {
          const encoder = memory.device.createCommandEncoder({ label: `path: ${name}` });
          dispatch.encode(encoder);
          memory.device.queue.submit([encoder.finish()]);
          return memory.settled();
        },
        dispose: () => dispatch.dispose(),
      };
    },
  };
}

/** In names: a page per workgroup, a page per invocation. */
export const computePagePerWorkgroup = computeCopy("compute, p/wg", "copyPagePerWorkgroup");
export const computePagePerInvocation = computeCopy("compute, p/inv", "copyPagePerInvocation");

import { type PageKernelName, pageDispatch } from "./page-kernel.ts";
import type { CopyPath } from "./path.ts";
import { packed } from "./transfer.ts";
import { writeRuns } from "./write-buffer.ts";

/** `writeBuffer` packs the pages into a storage buffer; one dispatch spreads them over device memory. */
function writeAndScatter(name: string, kernel: PageKernelName, how: string): CopyPath {
  return {
    name,
    direction: "upload",
    how: `writeBuffer into a storage buffer, then one dispatch spreads the pages, ${how}`,
    async prepare(memory, transfer) {
      const { device } = memory;
      const staging = device.createBuffer({
        label: "path: storage staging",
        size: transfer.bytes,
        usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST,
      });
      const gather = packed(transfer, "destination");
      const spread = packed(transfer, "source");
      const dispatch = await pageDispatch(device, kernel, spread, staging, memory.vram);
      return {
        run() {
          writeRuns(device, gather, memory.host, staging);
          const encoder = memory.encoder(`path: ${name}`);
          dispatch.encode(encoder);
          memory.submit(encoder);
          return memory.settled();
        },
        dispose() {
          dispatch.dispose();
          staging.destroy();
        },
      };
    },
  };
}

export const scatterPagePerWorkgroup = writeAndScatter(
  "write + scatter, p/wg",
  "copyPagePerWorkgroup",
  "a page per workgroup",
);
export const scatterPagePerInvocation = writeAndScatter(
  "write + scatter, p/inv",
  "copyPagePerInvocation",
  "a page per invocation",
);
export const scatterWords = writeAndScatter(
  "write + scatter, 4 B",
  "copyWordsPerWorkgroup",
  "a page per workgroup in lanes of 4 bytes",
);

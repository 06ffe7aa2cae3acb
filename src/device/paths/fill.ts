import { PAGE_SIZE } from "../../base/addr.ts";
import { pageDispatch } from "./page-kernel.ts";
import type { CopyPath } from "./path.ts";
import { RUN_STRIDE } from "./transfer.ts";

/** One `clearBuffer` per run. */
export const clearBufferPerRun: CopyPath = {
  name: "clearBuffer per run",
  direction: "fill",
  async prepare(memory, { runs }) {
    return {
      run() {
        const encoder = memory.device.createCommandEncoder({ label: "path: clearBuffer" });
        for (let at = 0; at < runs.length; at += RUN_STRIDE) {
          encoder.clearBuffer(memory.vramOut, runs[at + 1]! * PAGE_SIZE, runs[at + 2]! * PAGE_SIZE);
        }
        memory.device.queue.submit([encoder.finish()]);
        return memory.settled();
      },
      dispose() {},
    };
  },
};

/** One dispatch over a page list. */
export const computeFill: CopyPath = {
  name: "compute fill",
  direction: "fill",
  async prepare(memory, transfer) {
    const dispatch = await pageDispatch(memory.device, "fillPagePerWorkgroup", transfer, null, memory.vramOut);
    return {
      run() {
        const encoder = memory.device.createCommandEncoder({ label: "path: compute fill" });
        dispatch.encode(encoder);
        memory.device.queue.submit([encoder.finish()]);
        return memory.settled();
      },
      dispose: () => dispatch.dispose(),
    };
  },
};

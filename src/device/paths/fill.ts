import { PAGE_SIZE } from "../../base/addr.ts";
import { type PageKernelName, pageDispatch } from "./page-kernel.ts";
import type { CopyPath, PathMemory } from "./path.ts";
import { perPage, RUN_STRIDE, type Transfer } from "./transfer.ts";

function clearing(memory: PathMemory, { runs }: Transfer) {
  return {
    run() {
      const encoder = memory.encoder("path: clearBuffer");
      for (let at = 0; at < runs.length; at += RUN_STRIDE) {
        encoder.clearBuffer(memory.vramOut, runs[at + 1]! * PAGE_SIZE, runs[at + 2]! * PAGE_SIZE);
      }
      memory.submit(encoder);
      return memory.settled();
    },
    dispose() {},
  };
}

export const clearBufferPerRun: CopyPath = {
  name: "clearBuffer per run",
  direction: "fill",
  how: "one clearBuffer per run of pages, in one submission",
  prepare: async (memory, transfer) => clearing(memory, transfer),
};

export const clearBufferPerPage: CopyPath = {
  name: "clearBuffer per page",
  direction: "fill",
  how: "one clearBuffer per page, in one submission",
  prepare: async (memory, transfer) => clearing(memory, perPage(transfer)),
};

/** What one has who does not know `clearBuffer`: zeros uploaded. */
export const writeZeros: CopyPath = {
  name: "writeBuffer of zeros",
  direction: "fill",
  how: "one writeBuffer of zeros per run of pages",
  async prepare(memory, { runs }) {
    let largest = 0;
    for (let at = 0; at < runs.length; at += RUN_STRIDE) largest = Math.max(largest, runs[at + 2]!);
    const zeros = new Uint8Array(largest * PAGE_SIZE);
    return {
      run() {
        for (let at = 0; at < runs.length; at += RUN_STRIDE) {
          const bytes = runs[at + 2]! * PAGE_SIZE;
          memory.device.queue.writeBuffer(memory.vramOut, runs[at + 1]! * PAGE_SIZE, zeros, 0, bytes);
        }
        return memory.settled();
      },
      dispose() {},
    };
  },
};

/** One dispatch over a page list. */
function computeFilling(name: string, kernel: PageKernelName, how: string): CopyPath {
  return {
    name,
    direction: "fill",
    how,
    async prepare(memory, transfer) {
      const dispatch = await pageDispatch(memory.device, kernel, transfer, null, memory.vramOut);
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

export const computeFill = computeFilling(
  "compute fill",
  "fillPagePerWorkgroup",
  "one dispatch, a page per workgroup, 256 lanes of 16 bytes",
);
export const computeFillPerInvocation = computeFilling(
  "compute fill, p/inv",
  "fillPagePerInvocation",
  "one dispatch, a page per invocation in a loop over 16 bytes",
);

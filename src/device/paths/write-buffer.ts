import { PAGE_SIZE } from "../../base/addr.ts";
import type { CopyPath, PathMemory } from "./path.ts";
import { perPage, RUN_STRIDE, type Transfer } from "./transfer.ts";

/** Queues one `writeBuffer` per run of host pages. */
export function writeRuns(device: GPUDevice, transfer: Transfer, host: Uint8Array, destination: GPUBuffer): void {
  const { runs } = transfer;
  for (let at = 0; at < runs.length; at += RUN_STRIDE) {
    const offset = host.byteOffset + runs[at]! * PAGE_SIZE;
    device.queue.writeBuffer(destination, runs[at + 1]! * PAGE_SIZE, host.buffer, offset, runs[at + 2]! * PAGE_SIZE);
  }
}

function writing(memory: PathMemory, transfer: Transfer) {
  return {
    run() {
      writeRuns(memory.device, transfer, memory.host, memory.vram);
      return memory.settled();
    },
    dispose() {},
  };
}

/** The browser stages the bytes by itself; the call returns when it has taken them. */
export const writeBufferPerRun: CopyPath = {
  name: "writeBuffer per run",
  direction: "upload",
  how: "one writeBuffer per run of pages; contiguous pages are one run",
  prepare: async (memory, transfer) => writing(memory, transfer),
};

export const writeBufferPerPage: CopyPath = {
  name: "writeBuffer per page",
  direction: "upload",
  how: "one writeBuffer per page",
  prepare: async (memory, transfer) => writing(memory, perPage(transfer)),
};

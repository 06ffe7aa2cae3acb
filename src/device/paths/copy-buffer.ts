import { PAGE_SIZE } from "../../base/addr.ts";
import type { CopyPath, PathMemory } from "./path.ts";
import { perPage, RUN_STRIDE, type Transfer } from "./transfer.ts";

/** Encodes one `copyBufferToBuffer` per run. */
export function encodeRuns(encoder: GPUCommandEncoder, transfer: Transfer, from: GPUBuffer, to: GPUBuffer): void {
  const { runs } = transfer;
  for (let at = 0; at < runs.length; at += RUN_STRIDE) {
    encoder.copyBufferToBuffer(from, runs[at]! * PAGE_SIZE, to, runs[at + 1]! * PAGE_SIZE, runs[at + 2]! * PAGE_SIZE);
  }
}

function copying(memory: PathMemory, transfer: Transfer) {
  return {
    run() {
      const encoder = memory.encoder("path: copyBufferToBuffer");
      encodeRuns(encoder, transfer, memory.vram, memory.vramOut);
      memory.submit(encoder);
      return memory.settled();
    },
    dispose() {},
  };
}

export const copyBufferPerRun: CopyPath = {
  name: "copyBuffer per run",
  direction: "device",
  how: "one copyBufferToBuffer per run of pages, in one submission",
  prepare: async (memory, transfer) => copying(memory, transfer),
};

export const copyBufferPerPage: CopyPath = {
  name: "copyBuffer per page",
  direction: "device",
  how: "one copyBufferToBuffer per page, in one submission",
  prepare: async (memory, transfer) => copying(memory, perPage(transfer)),
};

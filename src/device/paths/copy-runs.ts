import { PAGE_SIZE } from "../../base/addr.ts";
import { RUN_STRIDE, type Transfer } from "./transfer.ts";

/** Encodes one `copyBufferToBuffer` per run. */
export function encodeRuns(encoder: GPUCommandEncoder, transfer: Transfer, from: GPUBuffer, to: GPUBuffer): void {
  const { runs } = transfer;
  for (let at = 0; at < runs.length; at += RUN_STRIDE) {
    encoder.copyBufferToBuffer(from, runs[at]! * PAGE_SIZE, to, runs[at + 1]! * PAGE_SIZE, runs[at + 2]! * PAGE_SIZE);
  }
}

/** Queues one `writeBuffer` per run of host pages. */
export function writeRuns(device: GPUDevice, transfer: Transfer, host: Uint8Array, destination: GPUBuffer): void {
  const { runs } = transfer;
  for (let at = 0; at < runs.length; at += RUN_STRIDE) {
    const offset = host.byteOffset + runs[at]! * PAGE_SIZE;
    device.queue.writeBuffer(destination, runs[at + 1]! * PAGE_SIZE, host.buffer, offset, runs[at + 2]! * PAGE_SIZE);
  }
}

import { encodeRuns } from "./copy-runs.ts";
import type { CopyPath } from "./path.ts";
import { copyRuns, packed } from "./transfer.ts";

/** A fresh staging buffer per transfer, born mapped: no wait for a mapping, but creation and zeroing each time. */
export const mappedAtCreation: CopyPath = {
  name: "mappedAtCreation",
  direction: "upload",
  how: "a fresh staging buffer per transfer, filled as it was born mapped, then copyBufferToBuffer per run",
  async prepare(memory, transfer) {
    const gather = packed(transfer, "destination");
    const spread = packed(transfer, "source");
    return {
      async run() {
        const staging = memory.device.createBuffer({
          label: "path: born mapped",
          size: transfer.bytes,
          usage: GPUBufferUsage.COPY_SRC,
          mappedAtCreation: true,
        });
        copyRuns(gather, memory.host, new Uint8Array(staging.getMappedRange()));
        staging.unmap();
        const encoder = memory.encoder("path: mappedAtCreation");
        encodeRuns(encoder, spread, staging, memory.vram);
        memory.submit(encoder);
        await memory.settled();
        staging.destroy();
      },
      dispose() {},
    };
  },
};

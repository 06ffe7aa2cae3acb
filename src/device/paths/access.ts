import { writeRuns } from "./copy-runs.ts";
import { pageDispatch } from "./page-kernel.ts";
import type { CopyPath } from "./path.ts";
import { copyMapRing, mapAndSpread, mapReadBuffer } from "./readbacks.ts";
import { packed, RUN_STRIDE, type Transfer } from "./transfer.ts";
import { ringCopyPerRun } from "./uploads.ts";

/**
 * The GPU works on system memory once, in place. Through the system window the pages are copied into slots, used and
 * copied back with one submission and one wait; migration brings them to device memory, waits until they are there, as
 * the fault handler must before it binds, uses them, and brings them home. No page stays behind in either.
 */
export const windowAccess: CopyPath = {
  name: "window: in, use, out",
  direction: "access",
  how: "system window: writeBuffer into packed slots, a kernel in place, copied back and mapped in the same submission",
  async prepare(memory, transfer) {
    const { device } = memory;
    const gather = packed(transfer, "destination");
    const spread = packed(transfer, "source");
    const slots = device.createBuffer({
      label: "path: window",
      size: transfer.bytes,
      usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
    });
    const staging = mapReadBuffer(device, transfer.bytes);
    const use = await pageDispatch(device, "invertInPlace", gather, null, slots);
    return {
      run() {
        writeRuns(device, gather, memory.host, slots);
        const encoder = memory.encoder("path: window");
        use.encode(encoder);
        encoder.copyBufferToBuffer(slots, 0, staging, 0, transfer.bytes);
        memory.submit(encoder);
        return mapAndSpread(memory, staging, spread);
      },
      dispose() {
        use.dispose();
        slots.destroy();
        staging.destroy();
      },
    };
  },
};

export const migrateAccess: CopyPath = {
  name: "migrate: in, use, out",
  direction: "access",
  how: "migration: the upload ring to device memory, a kernel in place, the readback ring home",
  async prepare(memory, transfer) {
    // In at the source's places, so that the way home ends where the transfer does.
    const upload = await ringCopyPerRun.prepare(memory, inPlace(transfer));
    const use = await pageDispatch(memory.device, "invertInPlace", inPlace(transfer), null, memory.vram);
    const readback = await copyMapRing.prepare(memory, transfer);
    return {
      async run() {
        await upload.run();
        const encoder = memory.encoder("path: migrate, use");
        use.encode(encoder);
        memory.submit(encoder);
        await readback.run();
      },
      dispose() {
        upload.dispose();
        use.dispose();
        readback.dispose();
      },
    };
  },
};

/** From every source page to the page of the same number. */
function inPlace(transfer: Transfer): Transfer {
  const runs = transfer.runs.slice();
  for (let at = 0; at < runs.length; at += RUN_STRIDE) runs[at + 1] = runs[at]!;
  return { ...transfer, runs };
}

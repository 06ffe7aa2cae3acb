import { GatherFetch } from "../ways/fetch.ts";
import { encodeRuns } from "./copy-runs.ts";
import { listKernel } from "./list-kernel.ts";
import type { CopyPath, PathMemory } from "./path.ts";
import { copyRuns, packed, type Transfer } from "./transfer.ts";
import { byPages, readbackPath, readbackWay } from "./way-path.ts";

const GATHER = "one dispatch packs the pages";
const MAPPED = "copied whole to mappable buffers of 4 MiB, then mapAsync";

export const copyMapPerRun = readbackWay(
  "copy per run + map",
  "copyBufferToBuffer per run into mappable buffers of 4 MiB, then mapAsync",
);
export const copyMapRing = readbackWay(
  "ring: copy + map",
  "pieces of 4 MiB through mappable buffers, each submitted by itself: piece n is mapped while piece n + 1 is copied",
);
export const gatherMapRing = readbackWay(
  "ring: gather + map",
  "pieces of 4 MiB, each packed by a dispatch and submitted by itself, through mappable buffers that are mapped in turn",
);
export const gatherPagePerWorkgroup = readbackWay("gather + map, p/wg", `${GATHER}, a page per workgroup; ${MAPPED}`);
export const gatherPagePerInvocation = readbackWay(
  "gather + map, p/inv",
  `${GATHER}, a page per invocation; ${MAPPED}`,
);
export const copyMapPerPage = byPages(
  copyMapPerRun,
  "copy per page + map",
  "copyBufferToBuffer per page into mappable buffers of 4 MiB, then mapAsync",
);
export const gatherWords = readbackPath(
  "gather + map, 4 B",
  `${GATHER}, a page per workgroup in lanes of 4 bytes; ${MAPPED}`,
  "one",
  async (engine) => {
    const kernel = await listKernel(engine, "copyWordsPerWorkgroup");
    return new GatherFetch(engine.context, engine.ways.staging, kernel);
  },
);

/** What a buffer made for each readback costs. */
export const freshCopyMap: CopyPath = {
  name: "fresh: copy + map",
  direction: "readback",
  how: "a fresh mappable buffer per transfer, copyBufferToBuffer per run, then mapAsync",
  async prepare(memory, transfer) {
    const gather = packed(transfer, "destination");
    const spread = packed(transfer, "source");
    return {
      async run() {
        const staging = mapReadBuffer(memory.device, transfer.bytes);
        const encoder = memory.encoder("path: fresh");
        encodeRuns(encoder, gather, memory.vram, staging);
        memory.submit(encoder);
        await mapAndSpread(memory, staging, spread);
        staging.destroy();
      },
      dispose() {},
    };
  },
};

export function mapReadBuffer(device: GPUDevice, size: number): GPUBuffer {
  return device.createBuffer({
    label: "path: readback",
    size,
    usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
  });
}

/** Waits for the mapping and copies the packed pages to their places in host memory. */
export async function mapAndSpread(memory: PathMemory, buffer: GPUBuffer, spread: Transfer): Promise<void> {
  await memory.orLost(buffer.mapAsync(GPUMapMode.READ, 0, spread.bytes));
  copyRuns(spread, new Uint8Array(buffer.getMappedRange(0, spread.bytes)), memory.hostOut);
  buffer.unmap();
}

import { SZ_2M } from "../../base/addr.ts";
import { encodeRuns } from "./copy-buffer.ts";
import { type PageKernelName, pageDispatch } from "./page-kernel.ts";
import type { CopyPath, PathMemory } from "./path.ts";
import { copyRuns, packed, perPage, splitTransfer, type Transfer } from "./transfer.ts";

const PIECE_BYTES = SZ_2M;
const IN_FLIGHT = 4;

function mapReadBuffer(device: GPUDevice, size: number): GPUBuffer {
  return device.createBuffer({
    label: "path: readback",
    size,
    usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
  });
}

/** Waits for the mapping and copies the packed pages to their places in host memory. */
async function mapAndSpread(memory: PathMemory, buffer: GPUBuffer, spread: Transfer): Promise<void> {
  await memory.orLost(buffer.mapAsync(GPUMapMode.READ, 0, spread.bytes));
  copyRuns(spread, new Uint8Array(buffer.getMappedRange(0, spread.bytes)), memory.hostOut);
  buffer.unmap();
}

/** The whole transfer into one mappable buffer, then out of it. */
function copyAndMap(memory: PathMemory, transfer: Transfer) {
  const staging = mapReadBuffer(memory.device, transfer.bytes);
  const gather = packed(transfer, "destination");
  const spread = packed(transfer, "source");
  return {
    run() {
      const encoder = memory.device.createCommandEncoder({ label: "path: copy + map" });
      encodeRuns(encoder, gather, memory.vram, staging);
      memory.device.queue.submit([encoder.finish()]);
      return mapAndSpread(memory, staging, spread);
    },
    dispose: () => staging.destroy(),
  };
}

export const copyMapPerRun: CopyPath = {
  name: "copy per run + map",
  direction: "readback",
  prepare: async (memory, transfer) => copyAndMap(memory, transfer),
};

export const copyMapPerPage: CopyPath = {
  name: "copy per page + map",
  direction: "readback",
  prepare: async (memory, transfer) => copyAndMap(memory, perPage(transfer)),
};

/** One dispatch gathers the pages into a storage buffer, which is copied to a mappable one and mapped. */
function gatherAndMap(name: string, kernel: PageKernelName): CopyPath {
  return {
    name,
    direction: "readback",
    async prepare(memory, transfer) {
      const { device } = memory;
      const storage = device.createBuffer({
        label: "path: gathered",
        size: transfer.bytes,
        usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC,
      });
      const staging = mapReadBuffer(device, transfer.bytes);
      const spread = packed(transfer, "source");
      const dispatch = await pageDispatch(device, kernel, packed(transfer, "destination"), memory.vram, storage);
      return {
        run() {
          const encoder = device.createCommandEncoder({ label: `path: ${name}` });
          dispatch.encode(encoder);
          encoder.copyBufferToBuffer(storage, 0, staging, 0, transfer.bytes);
          device.queue.submit([encoder.finish()]);
          return mapAndSpread(memory, staging, spread);
        },
        dispose() {
          dispatch.dispose();
          storage.destroy();
          staging.destroy();
        },
      };
    },
  };
}

export const gatherPagePerWorkgroup = gatherAndMap("gather + map, p/wg", "copyPagePerWorkgroup");
export const gatherPagePerInvocation = gatherAndMap("gather + map, p/inv", "copyPagePerInvocation");

/** Pieces through a ring of mappable buffers: piece n is copied out while piece n + 1 is on its way. */
export const copyMapRing: CopyPath = {
  name: "ring: copy + map",
  direction: "readback",
  async prepare(memory, transfer) {
    const { device } = memory;
    const pieces = splitTransfer(transfer, PIECE_BYTES).map((piece) => ({
      gather: packed(piece, "destination"),
      spread: packed(piece, "source"),
    }));
    const size = Math.min(transfer.bytes, PIECE_BYTES);
    const slots = Array.from({ length: Math.min(IN_FLIGHT, pieces.length) }, () => mapReadBuffer(device, size));
    /** Every `slots.length`-th piece, one after the other, through one slot. */
    const through = async (slot: number) => {
      const buffer = slots[slot]!;
      for (let i = slot; i < pieces.length; i += slots.length) {
        const encoder = device.createCommandEncoder({ label: "path: readback ring" });
        encodeRuns(encoder, pieces[i]!.gather, memory.vram, buffer);
        device.queue.submit([encoder.finish()]);
        await mapAndSpread(memory, buffer, pieces[i]!.spread);
      }
    };
    return {
      async run() {
        await Promise.all(slots.map((_, slot) => through(slot)));
      },
      dispose() {
        for (const buffer of slots) buffer.destroy();
      },
    };
  },
};

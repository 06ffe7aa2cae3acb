import { SZ_2M } from "../../base/addr.ts";
import { encodeRuns } from "./copy-buffer.ts";
import { type PageDispatch, type PageKernelName, pageDispatch } from "./page-kernel.ts";
import type { CopyPath, PathMemory } from "./path.ts";
import { copyRuns, packed, perPage, splitTransfer, type Transfer } from "./transfer.ts";

const PIECE_BYTES = SZ_2M;
const IN_FLIGHT = 4;

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

/** The whole transfer into one mappable buffer, then out of it. */
function copyAndMap(memory: PathMemory, transfer: Transfer) {
  const staging = mapReadBuffer(memory.device, transfer.bytes);
  const gather = packed(transfer, "destination");
  const spread = packed(transfer, "source");
  return {
    run() {
      const encoder = memory.encoder("path: copy + map");
      encodeRuns(encoder, gather, memory.vram, staging);
      memory.submit(encoder);
      return mapAndSpread(memory, staging, spread);
    },
    dispose: () => staging.destroy(),
  };
}

export const copyMapPerRun: CopyPath = {
  name: "copy per run + map",
  direction: "readback",
  how: "copyBufferToBuffer per run into one mappable buffer, then mapAsync",
  prepare: async (memory, transfer) => copyAndMap(memory, transfer),
};

export const copyMapPerPage: CopyPath = {
  name: "copy per page + map",
  direction: "readback",
  how: "copyBufferToBuffer per page into one mappable buffer, then mapAsync",
  prepare: async (memory, transfer) => copyAndMap(memory, perPage(transfer)),
};

/** What a buffer made for each readback costs. */
export const freshCopyMap: CopyPath = {
  name: "fresh: copy + map",
  direction: "readback",
  how: "a fresh mappable buffer per transfer, copyBufferToBuffer per run, then mapAsync",
  async prepare(memory, transfer) {
    return {
      async run() {
        const once = copyAndMap(memory, transfer);
        await once.run();
        once.dispose();
      },
      dispose() {},
    };
  },
};

/** One dispatch gathers the pages into a storage buffer, which is copied to a mappable one and mapped. */
function gatherAndMap(name: string, kernel: PageKernelName, how: string): CopyPath {
  return {
    name,
    direction: "readback",
    how: `one dispatch packs the pages, ${how}; copied whole to a mappable buffer, then mapAsync`,
    async prepare(memory, transfer) {
      const { device } = memory;
      const storage = packedStorage(device, transfer.bytes);
      const staging = mapReadBuffer(device, transfer.bytes);
      const spread = packed(transfer, "source");
      const dispatch = await pageDispatch(device, kernel, packed(transfer, "destination"), memory.vram, storage);
      return {
        run() {
          const encoder = memory.encoder(`path: ${name}`);
          dispatch.encode(encoder);
          encoder.copyBufferToBuffer(storage, 0, staging, 0, transfer.bytes);
          memory.submit(encoder);
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

function packedStorage(device: GPUDevice, size: number): GPUBuffer {
  return device.createBuffer({
    label: "path: gathered",
    size,
    usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC,
  });
}

export const gatherPagePerWorkgroup = gatherAndMap(
  "gather + map, p/wg",
  "copyPagePerWorkgroup",
  "a page per workgroup",
);
export const gatherPagePerInvocation = gatherAndMap(
  "gather + map, p/inv",
  "copyPagePerInvocation",
  "a page per invocation",
);
export const gatherWords = gatherAndMap(
  "gather + map, 4 B",
  "copyWordsPerWorkgroup",
  "a page per workgroup in lanes of 4 bytes",
);

/** One piece of a transfer on its way into a slot of the ring. */
interface Piece {
  /** Records the way from device memory to the packed slot. */
  readonly fetch: (encoder: GPUCommandEncoder, slot: GPUBuffer) => void;
  /** The packed slot to host memory. */
  readonly spread: Transfer;
}

/** Pieces through a ring of mappable buffers: piece n is copied out while piece n + 1 is on its way. */
function ringing(memory: PathMemory, pieces: readonly Piece[], dispose: () => void) {
  const size = Math.max(...pieces.map(({ spread }) => spread.bytes));
  const slots = Array.from({ length: Math.min(IN_FLIGHT, pieces.length) }, () => mapReadBuffer(memory.device, size));
  /** Every `slots.length`-th piece, one after the other, through one slot. */
  const through = async (slot: number) => {
    const buffer = slots[slot]!;
    for (let i = slot; i < pieces.length; i += slots.length) {
      const encoder = memory.encoder("path: readback ring");
      pieces[i]!.fetch(encoder, buffer);
      memory.submit(encoder);
      await mapAndSpread(memory, buffer, pieces[i]!.spread);
    }
  };
  return {
    async run() {
      await Promise.all(slots.map((_, slot) => through(slot)));
    },
    dispose() {
      for (const buffer of slots) buffer.destroy();
      dispose();
    },
  };
}

export const copyMapRing: CopyPath = {
  name: "ring: copy + map",
  direction: "readback",
  how: "pieces of 2 MiB through four mappable buffers: piece n is mapped while piece n + 1 is copied",
  async prepare(memory, transfer) {
    const pieces = splitTransfer(transfer, PIECE_BYTES).map((piece): Piece => {
      const gather = packed(piece, "destination");
      return {
        fetch: (encoder, slot) => encodeRuns(encoder, gather, memory.vram, slot),
        spread: packed(piece, "source"),
      };
    });
    return ringing(memory, pieces, () => {});
  },
};

export const gatherMapRing: CopyPath = {
  name: "ring: gather + map",
  direction: "readback",
  how: "pieces of 2 MiB, each packed by a dispatch, through four mappable buffers that are mapped in turn",
  async prepare(memory, transfer) {
    const { device } = memory;
    const split = splitTransfer(transfer, PIECE_BYTES);
    const storage = packedStorage(device, Math.max(...split.map(({ bytes }) => bytes)));
    const dispatches: PageDispatch[] = [];
    const pieces: Piece[] = [];
    for (const piece of split) {
      const gather = packed(piece, "destination");
      const dispatch = await pageDispatch(device, "copyPagePerWorkgroup", gather, memory.vram, storage);
      dispatches.push(dispatch);
      pieces.push({
        fetch: (encoder, slot) => {
          dispatch.encode(encoder);
          encoder.copyBufferToBuffer(storage, 0, slot, 0, piece.bytes);
        },
        spread: packed(piece, "source"),
      });
    }
    return ringing(memory, pieces, () => {
      storage.destroy();
      for (const dispatch of dispatches) dispatch.dispose();
    });
  },
};

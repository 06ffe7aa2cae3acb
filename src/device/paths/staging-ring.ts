import { SZ_2M } from "../../base/addr.ts";
import { encodeRuns } from "./copy-buffer.ts";
import { type PageDispatch, type PageKernelName, pageDispatch } from "./page-kernel.ts";
import type { CopyPath, PathMemory, Runner } from "./path.ts";
import { copyRuns, packed, perPage, splitTransfer, type Transfer } from "./transfer.ts";

const SLOTS = 4;
const SLOT_BYTES = SZ_2M;

interface Slot {
  readonly buffer: GPUBuffer;
  /** Resolves when the buffer is mapped and may be written. */
  mapped: Promise<undefined>;
}

/** What one slot's load is, and how it gets from the slot to its place. */
interface Piece {
  /** Host memory to the packed slot. */
  readonly gather: Transfer;
  /** Records the way from the slot to device memory. */
  readonly land: (encoder: GPUCommandEncoder, slot: GPUBuffer) => void;
}

/**
 * Mapped staging buffers in a ring: while the GPU copies one piece out of its slot, JavaScript fills the next. A slot
 * is mapped again as soon as its copy is submitted, so the wait for the mapping is over when its turn comes.
 */
function ringing(memory: PathMemory, pieces: readonly Piece[], dispose: () => void): Runner {
  const { device } = memory;
  const size = Math.max(...pieces.map(({ gather }) => gather.bytes));
  const usage = GPUBufferUsage.MAP_WRITE | GPUBufferUsage.COPY_SRC;
  const slots: Slot[] = Array.from({ length: Math.min(SLOTS, pieces.length + 1) }, (_, i) => ({
    buffer: device.createBuffer({ label: `path: staging slot ${i}`, size, usage, mappedAtCreation: true }),
    mapped: Promise.resolve(undefined),
  }));
  let turn = 0;
  return {
    async run() {
      for (const { gather, land } of pieces) {
        const slot = slots[turn++ % slots.length]!;
        await memory.orLost(slot.mapped);
        copyRuns(gather, memory.host, new Uint8Array(slot.buffer.getMappedRange()));
        slot.buffer.unmap();
        const encoder = memory.encoder("path: staging ring");
        land(encoder, slot.buffer);
        memory.submit(encoder);
        slot.mapped = slot.buffer.mapAsync(GPUMapMode.WRITE);
        // Destroying the ring aborts mappings that nobody waits for any more.
        slot.mapped.catch(() => {});
      }
      await memory.settled();
    },
    dispose() {
      for (const slot of slots) slot.buffer.destroy();
      dispose();
    },
  };
}

function ringAndCopy(memory: PathMemory, transfer: Transfer): Runner {
  const pieces = splitTransfer(transfer, SLOT_BYTES).map((piece): Piece => {
    const spread = packed(piece, "source");
    return {
      gather: packed(piece, "destination"),
      land: (encoder, slot) => encodeRuns(encoder, spread, slot, memory.vram),
    };
  });
  return ringing(memory, pieces, () => {});
}

export const ringCopyPerRun: CopyPath = {
  name: "ring + copy per run",
  direction: "upload",
  how: "four mapped staging buffers of 2 MiB in turn, then copyBufferToBuffer per run",
  prepare: async (memory, transfer) => ringAndCopy(memory, transfer),
};

export const ringCopyPerPage: CopyPath = {
  name: "ring + copy per page",
  direction: "upload",
  how: "four mapped staging buffers of 2 MiB in turn, then copyBufferToBuffer per page",
  prepare: async (memory, transfer) => ringAndCopy(memory, perPage(transfer)),
};

/** A mapped buffer cannot be bound as storage, so a slot goes whole into a storage buffer that a dispatch spreads. */
function ringAndScatter(name: string, kernel: PageKernelName, how: string): CopyPath {
  return {
    name,
    direction: "upload",
    how: `four mapped staging buffers of 2 MiB in turn, copied whole to a storage buffer and spread by a dispatch, ${how}`,
    async prepare(memory, transfer) {
      const split = splitTransfer(transfer, SLOT_BYTES);
      const staging = memory.device.createBuffer({
        label: "path: storage staging",
        size: Math.max(...split.map(({ bytes }) => bytes)),
        usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST,
      });
      const dispatches: PageDispatch[] = [];
      const pieces: Piece[] = [];
      for (const piece of split) {
        const spread = packed(piece, "source");
        const dispatch = await pageDispatch(memory.device, kernel, spread, staging, memory.vram);
        dispatches.push(dispatch);
        pieces.push({
          gather: packed(piece, "destination"),
          land: (encoder, slot) => {
            encoder.copyBufferToBuffer(slot, 0, staging, 0, piece.bytes);
            dispatch.encode(encoder);
          },
        });
      }
      return ringing(memory, pieces, () => {
        staging.destroy();
        for (const dispatch of dispatches) dispatch.dispose();
      });
    },
  };
}

export const ringScatter = ringAndScatter("ring + scatter", "copyPagePerWorkgroup", "in lanes of 16 bytes");
export const ringScatterWords = ringAndScatter("ring + scatter, 4 B", "copyWordsPerWorkgroup", "in lanes of 4 bytes");

import { SZ_2M } from "../../base/addr.ts";
import { encodeRuns } from "./copy-buffer.ts";
import type { CopyPath, PathMemory } from "./path.ts";
import { copyRuns, packed, perPage, splitTransfer, type Transfer } from "./transfer.ts";

const SLOTS = 4;
const SLOT_BYTES = SZ_2M;

interface Slot {
  readonly buffer: GPUBuffer;
  /** Resolves when the buffer is mapped and may be written. */
  mapped: Promise<undefined>;
}

/**
 * Mapped staging buffers in a ring: while the GPU copies one piece out of its slot, JavaScript fills the next. A slot
 * is mapped again as soon as its copy is submitted, so the wait for the mapping is over when its turn comes.
 */
function ringing(memory: PathMemory, transfer: Transfer) {
  const { device } = memory;
  const pieces = splitTransfer(transfer, SLOT_BYTES).map((piece) => ({
    gather: packed(piece, "destination"),
    spread: packed(piece, "source"),
  }));
  const size = Math.min(transfer.bytes, SLOT_BYTES);
  const usage = GPUBufferUsage.MAP_WRITE | GPUBufferUsage.COPY_SRC;
  const slots: Slot[] = Array.from({ length: Math.min(SLOTS, pieces.length + 1) }, (_, i) => ({
    buffer: device.createBuffer({ label: `path: staging slot ${i}`, size, usage, mappedAtCreation: true }),
    mapped: Promise.resolve(undefined),
  }));
  let turn = 0;
  return {
    async run() {
      for (const { gather, spread } of pieces) {
        const slot = slots[turn++ % slots.length]!;
        await memory.orLost(slot.mapped);
        copyRuns(gather, memory.host, new Uint8Array(slot.buffer.getMappedRange()));
        slot.buffer.unmap();
        const encoder = device.createCommandEncoder({ label: "path: staging ring" });
        encodeRuns(encoder, spread, slot.buffer, memory.vram);
        device.queue.submit([encoder.finish()]);
        slot.mapped = slot.buffer.mapAsync(GPUMapMode.WRITE);
        // Destroying the ring aborts mappings that nobody waits for any more.
        slot.mapped.catch(() => {});
      }
      await memory.settled();
    },
    dispose() {
      for (const slot of slots) slot.buffer.destroy();
    },
  };
}

export const ringCopyPerRun: CopyPath = {
  name: "ring + copy per run",
  direction: "upload",
  prepare: async (memory, transfer) => ringing(memory, transfer),
};

export const ringCopyPerPage: CopyPath = {
  name: "ring + copy per page",
  direction: "upload",
  prepare: async (memory, transfer) => ringing(memory, perPage(transfer)),
};

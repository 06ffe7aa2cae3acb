import { afterEach, describe, expect, it } from "vitest";
import { AP_HOST, AP_VRAM, PageList } from "../../src/hal/gpu.ts";
import type { Gpu } from "../../src/hal/gpu.ts";
import { MIB, bootGpu } from "./support.ts";
import type { TestGpu } from "./support.ts";

const CHUNK_PAGES = 512;
/** More than any staging holds. */
const MOST_CHUNKS = 64;

let t: TestGpu;
afterEach(() => t.gpu.destroy());

function upload(gpu: Gpu, chunk: number): void {
  const list = new PageList();
  const first = gpu.info.ptBytes / 4096 + (chunk % 4) * CHUNK_PAGES;
  list.push(AP_HOST, (chunk % 4) * CHUNK_PAGES, AP_VRAM, first, CHUNK_PAGES);
  void gpu.copy(list);
}

/** Uploads without a wait until one would have to; the promise. */
function fill(gpu: Gpu): Promise<void> {
  for (let chunk = 0; chunk < MOST_CHUNKS; chunk++) {
    const ready = gpu.uploadReady(2 * MIB);
    if (ready !== undefined) return ready;
    upload(gpu, chunk);
  }
  throw new Error("staging never ran out");
}

describe("a stream of uploads", () => {
  it("finds room at once, later waits for it, and then finds it", async () => {
    t = await bootGpu();
    expect(t.gpu.uploadReady(2 * MIB)).toBeUndefined();
    await fill(t.gpu);
    expect(t.gpu.uploadReady(4096)).toBeUndefined();
  });

  it("that waits each time brings every byte", async () => {
    t = await bootGpu();
    for (let i = 0; i < t.hostWords.length; i++) t.hostWords[i] = Math.imul(i, 2654435761);
    for (let chunk = 0; chunk < MOST_CHUNKS; chunk++) {
      await t.gpu.uploadReady(2 * MIB);
      upload(t.gpu, chunk);
    }
    await t.gpu.idle();
    const at = t.gpu.info.ptBytes + 3 * 2 * MIB;
    const read = new Uint32Array((await t.gpu.readVram(at, 4096)).buffer);
    expect(read).toEqual(new Uint32Array(t.hostWords.slice((3 * 2 * MIB) / 4, (3 * 2 * MIB) / 4 + 1024).buffer));
  });

  it("is not left waiting when the device goes", async () => {
    t = await bootGpu();
    const ready = fill(t.gpu);
    t.gpu.destroy();
    await ready;
    expect(t.gpu.uploadReady(2 * MIB)).toBeUndefined();
  });
});

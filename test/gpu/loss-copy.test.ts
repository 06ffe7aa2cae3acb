import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { DeviceLostError, GpuError } from "../../src/base/errors.ts";
import { AP_VA, E_CANCELED, E_DEVICE, JOB_OK, JobBatch } from "../../src/hal/copy-job.ts";
import { AP_HOST, AP_VRAM, PageList } from "../../src/hal/gpu.ts";
import type { Gpu } from "../../src/hal/gpu.ts";
import { WebGpuEngine } from "../../src/device/index.ts";
import { pinWays } from "../../src/device/path-choice.ts";
import { MIB, TestTables, requestWords } from "./support.ts";

/** What the copy engine makes only when it is first wanted may be refused then; and a mapping may be cut short. */
const HEAP = MIB / 4096;
/** All that short lists can want. */
const PACKED = pinWays({ upload: "write + scatter, p/inv", readback: "gather + map, p/inv" });
const CONFIG = { vramBytes: 8 * MIB, ptBytes: MIB, syswBytes: 0, faultQueueCapacity: 64 };

let engine: WebGpuEngine;
let victim: Gpu;
let survivor: Gpu;
beforeEach(async () => {
  engine = await WebGpuEngine.prepare({ copyPaths: PACKED });
  const make = () => engine.createGpu({ ...CONFIG, hostMemory: new Uint8Array(new SharedArrayBuffer(4 * MIB)) });
  [victim, survivor] = [make(), make()];
  await Promise.all([victim.idle(), survivor.idle()]);
});
afterEach(() => engine.destroy());

/** There is no memory for buffers of this label. */
function starve(label: string): void {
  const { device } = engine.acquired;
  const create = device.createBuffer.bind(device);
  device.createBuffer = (descriptor) =>
    create(descriptor.label === label ? { ...descriptor, size: device.limits.maxBufferSize } : descriptor);
}

/** A batch that wants all that batches may want: a virtual side, and host memory that the GPU alone knows. */
function batchOf(gpu: Gpu): JobBatch {
  new TestTables(gpu, 1).map(0x1000, MIB, 0x802);
  const batch = new JobBatch();
  batch.copy({ from: AP_VA, source: 0x1000, to: AP_HOST, target: 0, bytes: 4096, asid: 1 });
  batch.fill({ to: AP_VRAM, at: 2 * MIB, bytes: 4096, pattern: 5 });
  return batch;
}

function pages(up: boolean): PageList {
  const list = new PageList();
  for (let i = 0; i < 8; i++) {
    if (up) list.push(AP_HOST, 2 * i, AP_VRAM, HEAP + 3 * i, 1);
    else list.push(AP_VRAM, HEAP + 3 * i, AP_HOST, 2 * i, 1);
  }
  return list;
}

async function expectStarved(label: string): Promise<void> {
  const { reason, message } = await victim.lost;
  expect(reason).toBe("error");
  expect(message).toMatch(/memory/i);
  const later: unknown = await victim.readVram(MIB, 4).catch((error: unknown) => error);
  expect(later).toBeInstanceOf(GpuError);
  expect(later).toMatchObject({ kind: "out-of-memory", label: expect.stringContaining(label) as string });
  // The other GPU on the same WebGPU device has not noticed.
  expect(survivor.isLost).toBe(false);
  await survivor.idle();
  expect((await survivor.readVram(MIB, 4))[0]).toBe(0);
  expect(survivor.isLost).toBe(false);
}

describe("no memory for what is made on first use: that GPU stops, and says what for", () => {
  test.each(["job entries", "job progress", "job outcomes", "copy slots", "va requests", "va results", "va work"])(
    "%s of a batch of jobs",
    async (label) => {
      starve(label);
      const results = await victim.submitJobs(batchOf(victim));
      expect(results.map((r) => r.status)).toEqual([E_DEVICE, E_DEVICE]);
      await expectStarved(label);
    },
  );

  test("upload staging of a page list", async () => {
    starve("upload staging");
    expect(victim.copy(pages(true))).toBeNull();
    victim.flush();
    await expectStarved("upload staging");
  });

  test("download staging of a page list", async () => {
    starve("download staging");
    await expect(victim.copy(pages(false))).rejects.toMatchObject({ name: "GpuError", kind: "out-of-memory" });
    await expectStarved("download staging");
  });

  test("requests of the batch translator", async () => {
    starve("requests");
    const asked = victim.translate(requestWords([{ asid: 1, va: 0 }]));
    await expect(asked).rejects.toMatchObject({ name: "GpuError", kind: "out-of-memory" });
    await expectStarved("requests");
  });

  test("the control case: with memory for all of it the same batch is done", async () => {
    const results = await victim.submitJobs(batchOf(victim));
    expect(results.map((r) => r.status)).toEqual([JOB_OK, JOB_OK]);
    void victim.copy(pages(true));
    await victim.copy(pages(false));
    expect(victim.isLost).toBe(false);
  });
});

describe("WebGPU's device goes while a mapping is pending", () => {
  /** The mapping is cut short before the loss is told: that is the loss all the same, not an error of the readback. */
  test.each<[string, (gpu: Gpu) => Promise<unknown>]>([
    ["a read of VRAM", (gpu) => gpu.readVram(MIB, 4096)],
    ["a translation", (gpu) => gpu.translate(requestWords([{ asid: 1, va: 0 }]))],
    ["a download", (gpu) => gpu.copy(pages(false))!],
  ])("%s rejects with the loss", async (_name, ask) => {
    const asked = ask(victim).catch((error: unknown) => error);
    victim.flush();
    engine.acquired.device.destroy();
    expect(await asked).toBeInstanceOf(DeviceLostError);
    expect(await asked).toMatchObject({ reason: "destroyed" });
    expect((await victim.lost).reason).toBe("destroyed");
    expect((await survivor.lost).reason).toBe("destroyed");
  });

  test("jobs are canceled", async () => {
    const asked = victim.submitJobs(batchOf(victim));
    victim.flush();
    engine.acquired.device.destroy();
    expect((await asked).map((r) => r.status)).toEqual([E_CANCELED, E_CANCELED]);
  });
});

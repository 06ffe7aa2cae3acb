import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Random } from "../../src/base/random.ts";
import { GpuError } from "../../src/base/errors.ts";
import { WAYS, pinWays } from "../../src/device/path-choice.ts";
import type { PathTable } from "../../src/device/path-choice.ts";
import { E_CANCELED, E_DEVICE, JOB_OK, JobBatch } from "../../src/hal/copy-job.ts";
import { AP_HOST, AP_VRAM, PageList } from "../../src/hal/gpu.ts";
import { MIB, bootGpu, testEngine } from "./support.ts";
import type { TestGpu } from "./support.ts";

const PAGE = 4096;

describe("jobs of up to 65536 pages, in segments of 128 MiB", () => {
  const SOURCE = 8 * MIB;
  const TARGET = 16 * MIB;
  let t: TestGpu;
  beforeAll(async () => {
    const hostMemory = new Uint8Array(new SharedArrayBuffer(MIB));
    t = await bootGpu({ vramBytes: 274 * MIB, syswBytes: 0, hostMemory }, { maxSegBytes: 128 * MIB });
  });
  afterAll(() => t.gpu.destroy());

  // One list reads the same 512 pages again and again, so that 256 MiB of destinations are all that is needed.
  test.each([1, 511, 65536])("%i pages, filled, marked and copied past all borders", async (pages) => {
    const batch = new JobBatch();
    const period = Math.min(pages, 512);
    batch.fill({ to: AP_VRAM, at: SOURCE, bytes: period * PAGE, pattern: pages });
    for (let page = 0; page < period; page++) {
      batch.fill({ to: AP_VRAM, at: SOURCE + page * PAGE + 8, bytes: 4, pattern: page + 7 });
    }
    const list = new PageList();
    for (let page = 0; page < pages; page += period) {
      list.push(AP_VRAM, SOURCE / PAGE, AP_VRAM, TARGET / PAGE + page, Math.min(period, pages - page));
    }
    batch.copySg(list);
    const results = await t.gpu.submitJobs(batch);
    expect(results.every((r) => r.status === JOB_OK)).toBe(true);
    expect(results.at(-1)!.bytesDone).toBe(pages * PAGE);
    // All borders of segments, and both ends.
    const borders = [128 * MIB, 256 * MIB].map((at) => (at - TARGET) / PAGE).filter((page) => page < pages);
    for (const page of [0, ...borders.flatMap((p) => [p - 1, p]), pages - 1]) {
      const got = new Uint32Array((await t.gpu.readVram(TARGET + page * PAGE, PAGE)).buffer);
      const wanted = new Uint32Array(1024).fill(pages);
      wanted[2] = (page % period) + 7;
      expect(got).toEqual(wanted);
    }
    expect((await t.gpu.readVram(TARGET + pages * PAGE, 4))[0]).toBe(0);
  });
});

/** Every way up with every way down that has its place in the list of ways. */
const UP_AND_DOWN: [name: string, copyPaths: PathTable][] = WAYS.upload.map((upload, i) => {
  const readback = WAYS.readback[i]!;
  return [`${upload}; ${readback}`, pinWays({ upload, readback })];
});

describe.each(UP_AND_DOWN)("lists between host and device: %s", (_name, copyPaths) => {
  let t: TestGpu;
  beforeAll(async () => {
    t = await bootGpu(
      { hostMemory: new Uint8Array(new SharedArrayBuffer(12 * MIB)) },
      { copyPaths, maxSegBytes: 4 * MIB },
    );
  });
  afterAll(() => t.gpu.destroy());

  test("1500 scattered pages and some runs go up and come back", async () => {
    const random = new Random(5);
    for (let i = 0; i < t.hostWords.length; i++) t.hostWords[i] = Math.imul(i, 0x9e3779b1);
    const before = t.hostWords.slice();
    const places = Array.from({ length: 1500 }, (_, i) => i);
    for (let i = places.length - 1; i > 0; i--) {
      const k = random.below(i + 1);
      [places[i], places[k]] = [places[k]!, places[i]!];
    }
    const up = new PageList();
    const down = new PageList();
    for (const [i, place] of places.entries()) {
      up.push(AP_HOST, i, AP_VRAM, 256 + 2 * place, 1);
      down.push(AP_VRAM, 256 + 2 * place, AP_HOST, 1499 - i, 1);
    }
    up.push(AP_HOST, 1600, AP_VRAM, 3400, 200);
    down.push(AP_VRAM, 3400, AP_HOST, 1700, 200);
    const { uploadBytes, downloadBytes } = t.gpu.counters;
    t.gpu.copy(up);
    t.hostWords.fill(0);
    await t.gpu.copy(down);
    expect(t.gpu.counters.uploadBytes - uploadBytes).toBe(1700 * PAGE);
    expect(t.gpu.counters.downloadBytes - downloadBytes).toBe(1700 * PAGE);
    const wanted = new Uint32Array(before.length);
    for (let i = 0; i < 1500; i++) wanted.set(before.subarray(i * 1024, (i + 1) * 1024), (1499 - i) * 1024);
    wanted.set(before.subarray(1600 * 1024, 1800 * 1024), 1700 * 1024);
    expect(t.hostWords.findIndex((word, i) => word !== wanted[i])).toBe(-1);
  });
});

describe("a device that fails", () => {
  const fill = (tag: number) => {
    const batch = new JobBatch();
    batch.fill({ to: AP_VRAM, at: 2 * MIB, bytes: PAGE, pattern: 1, tag });
    batch.copy({ from: AP_VRAM, source: 2 * MIB, to: AP_HOST, target: 0, bytes: PAGE, tag: tag + 1 });
    return batch;
  };
  const all = (status: number) => [5, 6].map((tag) => ({ tag, status, bytesDone: 0 }));

  test("destroyed with jobs under way: E_CANCELED, and for what comes later; RAM is left alone", async () => {
    const { gpu, host } = await bootGpu();
    const under = gpu.submitJobs(fill(5));
    gpu.destroy();
    expect(await under).toEqual(all(E_CANCELED));
    expect(await gpu.submitJobs(fill(5))).toEqual(all(E_CANCELED));
    expect(host[0]).toBe(0);
    await expect(gpu.readEngines()).rejects.toThrow(/lost/);
  });

  test("an error of WebGPU that nobody expected: E_DEVICE", async () => {
    const engine = await testEngine();
    const gpu = engine.createGpu({
      vramBytes: 8 * MIB,
      ptBytes: MIB,
      syswBytes: 0,
      faultQueueCapacity: 64,
      hostMemory: new Uint8Array(MIB),
    });
    await gpu.idle();
    engine.acquired.device.createBuffer({ size: 4, usage: 0 });
    // The browser reports it in a task of its own, before or after what was queued is done.
    const outcome = async () => {
      try {
        return await gpu.idle();
      } catch (error) {
        return error;
      }
    };
    await expect.poll(outcome).toBeInstanceOf(GpuError);
    expect(await gpu.submitJobs(fill(5))).toEqual(all(E_DEVICE));
    gpu.destroy();
    engine.destroy();
  });
});

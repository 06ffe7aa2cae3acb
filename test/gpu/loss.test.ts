import { describe, expect, test } from "vitest";
import { DeviceLostError } from "../../src/base/errors.ts";
import { AP_HOST, AP_VRAM, PageList } from "../../src/hal/gpu.ts";
import { MIB, bootGpu, requestWords, testEngine } from "./support.ts";

const HEAP = MIB / 4096;

function download(): PageList {
  const list = new PageList();
  list.push(AP_VRAM, HEAP, AP_HOST, 0, 50);
  return list;
}

describe("when the device goes", () => {
  test("everything that waits is rejected, nothing hangs, and the loss is announced", async () => {
    const { gpu } = await bootGpu();
    const kernel = await gpu.compile({ name: "k", wgsl: "fn kernel(item: u32) { _ = svm_read(vec2u(0u, 0u)); }" });
    const launch = gpu.launch(kernel, { asid: 1, items: 1, outWords: 4 });
    const waiting = [
      gpu.copy(download()),
      launch.round(),
      gpu.translate(requestWords([{ asid: 1, va: 0 }])),
      gpu.drainFaults(),
      gpu.readVram(0, 4096),
      gpu.idle(),
      gpu.compile({ name: "late", wgsl: "fn kernel(item: u32) {}" }),
    ];
    expect(gpu.isLost).toBe(false);
    gpu.destroy();
    expect(gpu.isLost).toBe(true);
    for (const outcome of await Promise.allSettled(waiting)) {
      expect(outcome.status).toBe("rejected");
      expect((outcome as PromiseRejectedResult).reason).toBeInstanceOf(DeviceLostError);
    }
    expect((await gpu.lost).reason).toBe("destroyed");
  });

  test("later work is refused or does nothing", async () => {
    const { gpu } = await bootGpu();
    const kernel = await gpu.compile({ name: "k", wgsl: "fn kernel(item: u32) {}" });
    const launch = gpu.launch(kernel, { asid: 1, items: 5, outWords: 1 });
    gpu.destroy();
    await expect(gpu.copy(download())).rejects.toBeInstanceOf(DeviceLostError);
    await expect(launch.round()).rejects.toBeInstanceOf(DeviceLostError);
    await expect(launch.readOut()).rejects.toBeInstanceOf(DeviceLostError);
    await expect(gpu.readVram(0, 4)).rejects.toBeInstanceOf(DeviceLostError);
    await expect(gpu.translate(requestWords([{ asid: 1, va: 0 }]))).rejects.toBeInstanceOf(DeviceLostError);
    const up = new PageList();
    up.push(AP_HOST, 0, AP_VRAM, HEAP, 1);
    expect(gpu.copy(up)).toBeNull();
    gpu.ptWrite(8192, new Uint32Array(2));
    gpu.asidSet(1, 8192, 1);
    gpu.tlbInvalidate(1, 0, 4095);
    gpu.flush();
    launch.end();
    gpu.destroy();
  });

  test("GPUs that share a WebGPU device: one goes with work pending, the other does not notice", async () => {
    const engine = await testEngine();
    const config = {
      vramBytes: 8 * MIB,
      ptBytes: MIB,
      syswBytes: 0,
      faultQueueCapacity: 64,
      hostMemory: new Uint8Array(MIB),
    };
    const [victim, survivor] = [engine.createGpu(config), engine.createGpu(config)];
    const kernel = await victim.compile({ name: "k", wgsl: "fn kernel(item: u32) { _ = svm_read(vec2u(0u, 0u)); }" });
    const launch = victim.launch(kernel, { asid: 1, items: 1, input: new Uint32Array(50000), outWords: 1 });
    const waiting = [victim.copy(download()), launch.round(), victim.translate(requestWords([{ asid: 1, va: 0 }]))];
    victim.destroy();
    for (const outcome of await Promise.allSettled(waiting)) expect(outcome.status).toBe("rejected");
    expect((await victim.lost).reason).toBe("destroyed");
    const up = new PageList();
    up.push(AP_HOST, 0, AP_VRAM, HEAP, 1);
    for (const gpu of [victim, survivor]) {
      gpu.copy(up);
      gpu.ptWrite(8192, new Uint32Array(2));
      gpu.asidSet(1, 8192, 1);
      gpu.tlbInvalidateAsid(1);
      gpu.flush();
    }
    launch.end();
    expect(survivor.isLost).toBe(false);
    expect((await survivor.readVram(HEAP * 4096, 4096)).every((b) => b === 0)).toBe(true);
    await survivor.idle();
    survivor.destroy();
    engine.destroy();
  });

  test("another device in the same page is not touched, and a new one can be brought up", async () => {
    const survivor = await bootGpu();
    const victim = await bootGpu();
    victim.gpu.destroy();
    const next = await bootGpu();
    for (const { gpu } of [survivor, next]) {
      expect(gpu.isLost).toBe(false);
      expect((await gpu.readVram(0, 4096)).every((b) => b === 0)).toBe(true);
      gpu.destroy();
    }
  });
});

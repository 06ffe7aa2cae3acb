import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { DeviceLostError } from "../../src/base/errors.ts";
import { requestGpuDevice } from "../../src/device/acquire.ts";
import { Health } from "../../src/device/health.ts";
import { Nudge } from "../../src/device/nudge.ts";
import { WAIT_ENDS, WAIT_WORKS, openWaitProbe } from "../../src/device/paths/index.ts";

let device: GPUDevice;

beforeAll(async () => {
  ({ device } = await requestGpuDevice());
});
afterAll(() => device.destroy());

/** Settles by hand. */
function pending(): { promise: Promise<void>; settle: () => void } {
  let settle = () => {};
  const promise = new Promise<void>((resolve) => {
    settle = resolve;
  });
  return { promise, settle };
}

/** Turns of the event loop, and answers of the GPU process, in which messages would be sent. */
async function answers(count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    device.pushErrorScope("internal");
    await device.popErrorScope();
  }
}

test("the GPU process gets messages while somebody waits, a few only, and none afterwards", async () => {
  const nudge = new Nudge(device);
  const messages = vi.spyOn(device, "pushErrorScope");
  const { promise, settle } = pending();
  expect(nudge.during(promise)).toBe(promise);
  await answers(40);
  expect(messages.mock.calls.length - 40).toBe(6);
  settle();
  await promise;
  messages.mockClear();
  await answers(5);
  expect(messages).toHaveBeenCalledTimes(5);
  messages.mockRestore();
});

test("a new wait is worth new messages, the end of one too, and two at a time share them", async () => {
  const nudge = new Nudge(device);
  const messages = vi.spyOn(device, "pushErrorScope");
  const [first, second] = [pending(), pending()];
  void nudge.during(first.promise);
  await answers(20);
  void nudge.during(second.promise);
  await answers(20);
  expect(messages.mock.calls.length - 40).toBe(12);
  first.settle();
  await answers(20);
  expect(messages.mock.calls.length - 60).toBe(18);
  second.settle();
  await answers(20);
  expect(messages.mock.calls.length - 80).toBe(18);
  messages.mockRestore();
});

test("errors of others, in and out of scopes, are reported as without", async () => {
  const health = new Health(device);
  device.pushErrorScope("validation");
  const wait = health.guardWork(device.queue.onSubmittedWorkDone());
  device.createBuffer({ size: 4, usage: 0 });
  const error = device.popErrorScope();
  await wait;
  expect(await error).toBeInstanceOf(GPUValidationError);
  const { promise, settle } = pending();
  const stopped = health.guardWork(promise);
  device.createBuffer({ size: 4, usage: 0 });
  await expect(stopped).rejects.toThrow(/usage/i);
  settle();
});

test("a lost device ends the messages and is nobody's unhandled rejection", async () => {
  const { device: own } = await requestGpuDevice();
  const nudge = new Nudge(own);
  const { promise, settle } = pending();
  void nudge.during(promise);
  own.destroy();
  await own.lost;
  await answers(5);
  settle();
  // A wait of later is no trouble either.
  await nudge.during(Promise.resolve());
});

describe("the probe of the benchmark", () => {
  test("hears of every dispatch, whichever way it waits", async () => {
    const probe = await openWaitProbe(await requestGpuDevice());
    const words: (number | null)[] = [];
    for (const nudged of [false, true]) {
      for (const work of WAIT_WORKS) {
        for (const end of WAIT_ENDS) words.push(await probe.run(work, end, nudged));
      }
    }
    expect(words).toEqual([null, 0, null, 2, null, 2, null, 4]);
    probe.close();
  });

  test("a wait ends with the device", async () => {
    const acquired = await requestGpuDevice();
    const probe = await openWaitProbe(acquired);
    acquired.device.destroy();
    await expect(probe.run("dispatch", "onSubmittedWorkDone", true)).rejects.toThrow(DeviceLostError);
  });
});

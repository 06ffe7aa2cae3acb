import { expect, test } from "vitest";
import { DeviceLostError } from "../../src/base/errors.ts";
import { describeStreams } from "../stream-behaviour.ts";
import { firstDifference, makeStreamWorld, makeTriple, runTriple, streamsOf, tripled } from "../stream-world.ts";
import { MIB, testEngine } from "./support.ts";

describeStreams(testEngine);

/** What nobody has caught while `work` ran, and in the turns of the event loop behind it. */
async function unhandledDuring(work: () => Promise<void>): Promise<unknown[]> {
  const unhandled: unknown[] = [];
  const note = (event: PromiseRejectionEvent) => {
    event.preventDefault();
    unhandled.push(event.reason);
  };
  addEventListener("unhandledrejection", note);
  try {
    await work();
    for (let i = 0; i < 3; i++) await new Promise((resolve) => setTimeout(resolve, 10));
  } finally {
    removeEventListener("unhandledrejection", note);
  }
  return unhandled;
}

test.each([
  { name: "before the third pass, two being on their way", atPoint: "driver:pass", nth: 3, passes: 2 },
  { name: "while a piece is brought", atPoint: "driver:fault", nth: 5, passes: 1 },
  { name: "before the round behind the passes", atPoint: "driver:round", nth: 1, passes: 3 },
])("the device is lost $name: the launch says so, and nothing is left unhandled", async ({ atPoint, nth, passes }) => {
  const engine = await testEngine();
  const m = makeStreamWorld(engine);
  const bytes = 8 * MIB;
  const triple = await makeTriple(m.process, bytes);
  let seen = 0;
  const { sched } = m.machine;
  const { point } = sched;
  sched.point = function (name) {
    if (name === atPoint && ++seen === nth) engine.acquired.device.destroy();
    return point.call(this, name);
  };
  const unhandled = await unhandledDuring(async () => {
    const error = await runTriple(m.vm, triple, bytes / 4096, { streams: streamsOf(triple) }).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(DeviceLostError);
    expect(m.vm.stats.get("wgsvm_stream_pass_count")).toBeGreaterThanOrEqual(passes);
    await m.machine.settle();
  });
  sched.point = point;
  expect(seen).toBeGreaterThanOrEqual(nth);
  expect(unhandled).toEqual([]);
  await expect(runTriple(m.vm, triple, 1, { streams: streamsOf(triple) })).rejects.toBeInstanceOf(DeviceLostError);

  // The process and the machine go on with another device.
  const next = (await m.machine.openDevice({ vram: 4 * MIB })).vm(m.process);
  const other = await makeTriple(m.process, 3 * MIB);
  await runTriple(next, other, 768, { streams: streamsOf(other) });
  expect(firstDifference(await m.process.read(other.y, 3 * MIB), tripled(other.source, 1024))).toBe(-1);
  await m.process.exit();
  await m.machine.close();
  engine.destroy();
});

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { CONFIG, PROGRAMS, RAM, REFUSED, ByteModel, batchForRefused, check } from "../copy-programs.ts";
import { copyBehaviour } from "../copy-behaviour.ts";
import { MIB, bootGpu } from "./support.ts";

const LAYOUTS = [
  { name: "one bank", options: {} },
  { name: "four segments", options: { maxSegBytes: 2 * MIB } },
  {
    name: "four segments and a window of its own, default limits",
    options: { maxSegBytes: 2 * MIB, separateWindow: true, limits: "default" as const },
  },
];

describe.each(LAYOUTS)("copy jobs on $name", ({ options }) => {
  let model: ByteModel;
  beforeAll(async () => {
    const t = await bootGpu({ ...CONFIG, hostMemory: new Uint8Array(new SharedArrayBuffer(RAM)) }, options);
    model = new ByteModel(t.gpu, t.host);
    await model.poison();
  });
  afterAll(() => model.gpu.destroy());

  test("every way to be refused: its state, and not a byte moves", async () => {
    const batch = batchForRefused();
    for (const [, words] of REFUSED) batch.push(words);
    const results = await model.gpu.submitJobs(batch);
    const wrong = REFUSED.filter(([, , status], i) => results[i]!.status !== status || results[i]!.bytesDone !== 0);
    expect(wrong.map(([name]) => name)).toEqual([]);
    expect(await model.difference()).toBeNull();
  });

  test.each(PROGRAMS)("$name", async (program) => expect(await check(model, program)).toBeNull());

  copyBehaviour(() => bootGpu({ ...CONFIG, hostMemory: new Uint8Array(new SharedArrayBuffer(RAM)) }, options));
});

import { beforeAll, describe, expect, test } from "vitest";
import { E_CANCELED, JobBatch } from "../../src/hal/copy-job.ts";
import { createReferenceGpu } from "../../src/reference/reference-gpu.ts";
import { CONFIG, PROGRAMS, RAM, REFUSED, ByteModel, batchForRefused, check } from "../copy-programs.ts";
import { copyBehaviour } from "../copy-behaviour.ts";

let model: ByteModel;
beforeAll(async () => {
  const host = new Uint8Array(RAM);
  model = new ByteModel(createReferenceGpu({ ...CONFIG, hostMemory: host }), host);
  await model.poison();
});

describe("copy jobs on the reference engine", () => {
  test.each(REFUSED)("%s", async (_name, words, status) => {
    const batch = batchForRefused();
    batch.push(words);
    expect((await model.gpu.submitJobs(batch)).map((r) => r.status)).toEqual([status]);
    expect(await model.difference()).toBeNull();
  });

  test.each(PROGRAMS)("$name", async (program) => expect(await check(model, program)).toBeNull());
});

describe("what jobs do on the reference engine", () => {
  copyBehaviour(async () => {
    const host = new Uint8Array(RAM);
    return { gpu: createReferenceGpu({ ...CONFIG, hostMemory: host }), host };
  });
});

test("what a destroyed device leaves undone is canceled", async () => {
  const batch = new JobBatch();
  batch.fill({ to: 2, at: 0, bytes: 4, pattern: 0x12345678, tag: 3 });
  const pending = model.gpu.submitJobs(batch);
  model.gpu.destroy();
  const canceled = { tag: 3, status: E_CANCELED, bytesDone: 0 };
  expect(await pending).toEqual([canceled]);
  expect(await model.gpu.submitJobs(batch)).toEqual([canceled]);
  expect(model.host[0]).toBe(model.memory[2]![0]);
});

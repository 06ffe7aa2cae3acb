import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { PAGE_SIZE } from "../../src/base/addr.ts";
import { mapBo } from "../../src/driver/bind-ops.ts";
import { readBo } from "../../src/driver/bo-access.ts";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import type { Engine } from "../../src/machine/machine.ts";
import { PL_SYSTEM } from "../../src/vram/place.ts";
import {
  BIND_EXAMPLES,
  BIND_SITES,
  ExampleSpace,
  RandomSpace,
  failEverywhere,
  randomCalls,
} from "../node/bind-conformance.ts";
import { BindSpace, wordOf } from "../node/bind-space.ts";
import { MIB, testEngine } from "./support.ts";

/**
 * Spec section 9, X9: the bind pipeline on WebGPU. Every page of the region is translated by the device and compared with a
 * flat model after each call, and with what the reference engine says after the same calls.
 */
let engine: Engine;
beforeAll(async () => {
  engine = await testEngine();
});
afterAll(() => engine.destroy());

describe.each([
  ["pages", 1, BIND_EXAMPLES],
  ["64 KiB", 16, BIND_EXAMPLES.filter(([id]) => id % 4 === 0)],
])("worked examples, units of %s", (_name, unit, list) => {
  let examples: ExampleSpace;
  beforeAll(async () => {
    examples = await ExampleSpace.create(engine, unit);
  });
  afterAll(() => examples.space.close());

  test.each(list)("%i %s: %s; %s", async (...example) => {
    await examples.run(example);
  });
});

test.each([
  [11, 48 as const],
  [12, 57 as const],
])("random calls, seed %i, %i bits: as on the reference engine, word by word", async (seed, vaBits) => {
  const mine = await RandomSpace.create(engine, seed, vaBits);
  const theirs = await RandomSpace.create(REFERENCE_ENGINE, seed, vaBits);
  try {
    const failed = await randomCalls(mine, 16, async () => {
      // The same seed draws the same call, and the same failure.
      const ops = theirs.call();
      theirs.maybeFail();
      await theirs.space.bind(...ops);
      theirs.space.checkQuiet();
      for (const access of [0, 1]) {
        const [a, b] = [await mine.space.translations(access), await theirs.space.translations(access)];
        expect(a.findIndex((word, i) => word !== b[i])).toBe(-1);
      }
    });
    expect(failed).toBeGreaterThan(0);
  } finally {
    await mine.space.close();
    await theirs.space.close();
  }
});

test("a call fails at each of its steps and leaves no trace", async () => {
  const failures = await failEverywhere(engine);
  for (const site of BIND_SITES) expect([site, (failures.get(site) ?? 0) > 0]).toEqual([site, true]);
});

test("objects beyond VRAM leave by way of the window for RAM and come back by faults, beside SVM, nothing lost", async () => {
  const space = new BindSpace(engine, { base: 2 ** 40, pages: 2048, vram: 4 * MIB, window: MIB, vm: { mirror: true } });
  try {
    const bos = [];
    for (let i = 0; i < 6; i++) bos.push(await space.bo({ size: MIB }));
    expect(await space.svm.binds.bind(bos.map((bo, i) => mapBo(space.va(i * 256), MIB, bo)))).toBe(0);
    const p = await space.process.mmap(2 * MIB, { align: 2 * MIB });
    for (const [i, bo] of bos.entries()) {
      await space.vm.gst(p + i * 4, i + 1);
      await space.vm.gst(space.va(i * 256 + 9) + 4, i + 10);
      expect(await space.vm.gld(space.va(i * 256 + 200))).toBe(wordOf(bo, 200));
    }
    expect(space.device.driver.vramUsed).toBeLessThanOrEqual(4 * MIB);
    expect(bos.some((bo) => bo.memType === PL_SYSTEM)).toBe(true);
    for (const [i, bo] of bos.entries()) {
      const words = new Uint32Array(((await readBo(bo, 9 * PAGE_SIZE, 8)) as Uint8Array).buffer);
      expect([...words]).toEqual([wordOf(bo, 9), i + 10]);
      expect(await space.process.ld(p + i * 4)).toBe(i + 1);
    }
    space.checkQuiet();
  } finally {
    await space.close();
  }
});

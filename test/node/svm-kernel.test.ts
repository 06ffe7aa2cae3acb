import { expect, test } from "vitest";
import { REFERENCE_ENGINE, createMachine } from "../../src/machine/index.ts";
import { describeSvmKernels } from "../svm-kernel-behaviour.ts";

describeSvmKernels(() => Promise.resolve(REFERENCE_ENGINE));

test("closing a machine destroys an engine that it owns, and no other", async () => {
  let destroyed = 0;
  const engine = { ...REFERENCE_ENGINE, destroy: () => (destroyed += 1) };
  await (await createMachine({ engine, ram: 16 << 20 })).close();
  expect(destroyed).toBe(0);
  const own = await createMachine({ engine: "reference", ram: 16 << 20, devices: [] });
  expect(own.devices).toEqual([]);
  await own.close();
  await (await createMachine({ engine, ownsEngine: true, ram: 16 << 20 })).close();
  expect(destroyed).toBe(1);
});

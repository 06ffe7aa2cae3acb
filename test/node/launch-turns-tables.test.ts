/** Launches of several address spaces over the same memory, whose page tables do not fit together. */
import { expect, test } from "vitest";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { TABLES, add } from "../launch-turns-behaviour.ts";
import { CHUNK, closeWorld, makeStreamWorld } from "../stream-world.ts";

/** A table each, in every address space; the aperture has 512 pages. */
const AREAS = 400;

test.each([
  ["in VRAM", 40, true],
  ["in VRAM", AREAS, true],
  ["in place", AREAS, false],
] as const)("%s, %i pieces for an item: all of them end", { timeout: 60000 }, async (_name, per, migrate) => {
  for (const seed of [1, 2]) {
    const m = makeStreamWorld(REFERENCE_ENGINE, { ...TABLES, config: { ...TABLES.config, migrate } });
    const vms = [m.vm, m.vm.device.vm(m.process), m.vm.device.vm(m.process)];
    const a = await m.process.mmap(AREAS * CHUNK, { align: CHUNK });
    await m.machine.sched.race(
      seed,
      vms.map((vm) => () => add(vm, a, AREAS, per, CHUNK)),
    );
    for (let i = 0; i < AREAS; i++) {
      expect(await m.process.ld(a + i * CHUNK + 4)).toBe(vms.length * (Math.floor(i / per) + 1));
    }
    await closeWorld(m);
  }
});

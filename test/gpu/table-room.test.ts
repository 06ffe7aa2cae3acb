/** More page tables than their aperture holds, on WebGPU. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { Machine } from "../../src/machine/machine.ts";
import type { Engine } from "../../src/machine/machine.ts";
import type { JobOp } from "../../src/machine/vm.ts";
import { testEngine } from "./support.ts";

let engine: Engine;
beforeAll(async () => {
  engine = await testEngine();
});
afterAll(() => engine.destroy());

const MIB = 1 << 20;
const PAGE = 4096;
/** A table each; the aperture of a small device has 512 pages. */
const AREAS = 700;

test.each([
  ["in VRAM", true],
  ["in place", false],
])("areas far apart take tables from each other, %s, and every word is right", async (_name, migrate) => {
  const machine = new Machine({ engine, ram: 16 * MIB, config: { migrate } });
  const process = machine.createProcess();
  const vm = machine.createDevice({ vram: 4 * MIB }).vm(process);
  const at = (i: number): number => 2 ** 40 + i * 2 * MIB;
  for (let i = 0; i < AREAS; i++) await process.mmap(PAGE, { at: at(i) });
  for (const round of [1, 2]) {
    for (let first = 0; first < AREAS; first += 100) {
      const adds = Array.from({ length: 100 }, (_, k): JobOp => ["inc", at(first + k), round * (first + k)]);
      // What stood there, of an earlier round, through tables that others have had meanwhile.
      expect(await vm.job(adds, { parallel: true })).toEqual(adds.map((_, k) => (round - 1) * (first + k)));
    }
  }
  expect(vm.stats.get("wgsvm_table_reclaim_count")).toBeGreaterThan(AREAS - 512);
  for (let i = 0; i < AREAS; i += 7) expect(await process.ld(at(i))).toBe(3 * i);
  await process.exit();
  await machine.close();
});
